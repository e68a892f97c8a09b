# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/self/mem, as the program reads and writes it: debuggers, Go, Java, crash reporters.

The kernel takes what home has mapped of the pages, and what another host holds it would
read stale or not at all. So home gets the pages first, and keeps them meanwhile.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Hold, Steps
from supervisor.syscalls.call import Acquire, Call
from supervisor.syscalls.marshal import PIECE, resolve
from supervisor.syscalls.spec import Data, Row, Vector

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

_FILE: Final = re.compile(r"/proc/(\d+)(?:/task/\d+)?/mem")

Range = tuple[int, int, Access]


def touched(home: Home, thread: Thread, row: Row, call: Call) -> tuple[Range, ...]:
    """What of its own memory a call of the program is to move as a file's."""
    row = resolve(row, call.args + [0] * (6 - len(call.args)))
    kind = row.args[1] if len(row.args) > 1 else None
    if not isinstance(kind, (Data, Vector)):
        return ()
    process = f"/proc/{thread.task}"
    number = call.args[0] & 0xFFFF_FFFF
    try:
        found = _FILE.fullmatch(os.readlink(f"{process}/fd/{number}"))
        if found is None or int(found[1]) != home.pid:
            return ()
        if kind.position is None:
            with open(f"{process}/fdinfo/{number}", encoding="ascii") as file:
                at = int(file.readline().split()[1])
        else:
            at = call.args[kind.position]
            if thread.arch.word == 4:
                at = at & 0xFFFF_FFFF | call.args[kind.position + 1] << 32
    except OSError:
        return ()  # no such descriptor: the kernel says so
    length = sum(segment.length for segment in call.segments)
    access = Access.READ if kind.out else Access.WRITE
    return tuple(
        (start, min(PIECE, piece.end - start), access)
        for piece in home.space.pieces(at, at + length)
        for start in range(piece.start, piece.end, PIECE)
    )


def keep(home: Home, ranges: tuple[Range, ...]) -> Steps:
    """Get them, and keep them until `Unhold`."""
    for each in ranges:  # together they may be more than a message can carry
        yield Acquire((each,))
    yield Hold(ranges)
    home.pager.reach(ranges)
