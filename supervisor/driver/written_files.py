# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the program writes, or cuts off, by a call, and has mapped to be read.

At home the mapping is the kernel's own and shows what is written. Other hosts have copies
of its pages, which are taken back before the call returns; pages that the file has no more
are home's alone from then on, where touching them is SIGBUS.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from supervisor.syscalls.call import Call
from supervisor.syscalls.marshal import resolve
from supervisor.syscalls.spec import Data, Row, Vector
from supervisor.units import ADDRESS_SPACE_SIZE, PAGE_MASK, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

OFFSET_MAX: Final = ADDRESS_SPACE_SIZE
"""No mapping reaches as far, but for those of devices, which are not looked for."""

TARGETS: Final = {
    **dict.fromkeys(
        ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "sendfile64",
         "fallocate", "ftruncate", "ftruncate64"), 0
    ),
    "copy_file_range": 2,
    "splice": 2,
}
"""Calls that write files: which argument is the file's descriptor."""


def written(home: Home, thread: Thread, row: Row, call: Call, count: int) -> None:
    """A call has succeeded, and written so many bytes where it is one that tells."""
    number = call.args[TARGETS[row.name]] & 0xFFFF_FFFF
    try:
        status = os.stat(f"/proc/{thread.task}/fd/{number}")
        mappings = home.layout.file_mappings.of(status.st_dev, status.st_ino)
        if not mappings:
            return
        low, high = _range(thread, row, call, number, count, status.st_size)
    except OSError:
        return  # another thread has closed it meanwhile
    for start, end in mappings.places(home.space, low & ~PAGE_MASK, round_up(high)):
        home.layout.discard(start, end)
    for start, end in list(mappings.places(home.space, round_up(status.st_size), OFFSET_MAX)):
        home.layout.leave_to_kernel(start, end)


def _range(
    thread: Thread, row: Row, call: Call, number: int, count: int, size: int
) -> tuple[int, int]:
    """Where in the file, of so many bytes now, a call has written."""
    kind = resolve(row, call.args + [0] * (6 - len(call.args))).args[1]
    if not isinstance(kind, (Data, Vector)):
        return 0, OFFSET_MAX
    with open(f"/proc/{thread.task}/fdinfo/{number}", encoding="ascii") as file:
        position, flags = int(file.readline().split()[1]), int(file.readline().split()[1], 8)
    if flags & os.O_APPEND:
        return size - count, size
    if kind.position is None:
        return position - count, position
    at = call.args[kind.position]
    if thread.arch.word == 4:
        at = at & 0xFFFF_FFFF | call.args[kind.position + 1] << 32
    return at, at + count
