# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that put a mask of signals in force while they wait: ppoll(2), sigsuspend(2) and kin.

The kernel swaps the masks, but never blocks the forced signals (see signals.py), whose mask
is ours: it is swapped here. What has been kept of them and is not blocked for the time of
the call is sent again before it, so the kernel decides: a wait whose event is there already
is over, any other is interrupted. A handler runs with the mask of the wait and returns to
the one of before, which its frame has; where none runs, that is back at the call's end.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from supervisor.driver.interrupted import name_of
from supervisor.driver.messages import BringHome
from supervisor.driver.restarts import ERESTARTNOINTR, RESTART_CODES
from supervisor.driver.signals import FORCED_MASK, SIGSET_SIZE
from supervisor.syscalls.call import Call, Result, Segment
from supervisor.syscalls.spec import Row
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

MASKS: Final = {
    "rt_sigsuspend": 0, "ppoll": 3, "epoll_pwait": 4, "epoll_pwait2": 4, "pselect6": 5,
}  # fmt: skip
"""Calls that take a mask: which argument it is. That of pselect6 is the address of one."""


def takes_one(row: Row, args: list[int]) -> bool:
    """Does a call put a mask in force?"""
    at = MASKS.get(name_of(row))
    return at is not None and args[at] != 0


def swap(home: Home, thread: Thread, row: Row, call: Call) -> Result | None:
    """Before such a call: the outcome of one that is to be made again at home, where handlers
    run; None for one that is to be made now. (Of other calls, and without a mask, too.)"""
    segment = _segment_of(row, call)
    if segment is None:
        return None
    wanted = int.from_bytes(segment.data, "little")
    if thread.away != HOME and home.kept_signals.pending(thread) & ~wanted:
        home.send(thread.away, BringHome(thread.tid))
        return Result(ERESTARTNOINTR)
    segment.data = (wanted & ~FORCED_MASK).to_bytes(SIGSET_SIZE, "little")
    put(home, thread, wanted)
    return None


def put(home: Home, thread: Thread, mask: int) -> None:
    """Put the forced signals of a mask in force."""
    thread.mask_before, thread.virtual_mask = thread.virtual_mask, mask & FORCED_MASK
    while found := home.kept_signals.take(thread, ~thread.virtual_mask):
        home.misdirected.send(thread, *found)


def call_ended(thread: Thread, value: int) -> None:
    """Such a call has ended: of an interrupted one the handler is still to run."""
    interrupted = value == -errno.EINTR or value in RESTART_CODES
    if not interrupted or (thread.at_gadget and not thread.pending_signals):
        restore(thread)


def restore(thread: Thread) -> None:
    """The mask of before the wait is in force again."""
    if thread.mask_before is not None:
        thread.virtual_mask, thread.mask_before = thread.mask_before, None


def _segment_of(row: Row, call: Call) -> Segment | None:
    """The mask that a call takes."""
    at = MASKS.get(name_of(row))
    number = dict(call.pointers).get(at) if at is not None else None
    if number is None:
        return None
    segment = call.segments[number]
    if name_of(row) == "pselect6":
        inner = [target for offset, target, _ in segment.fixups if offset == 0]
        if not inner or not 0 <= inner[0] < len(call.segments):
            return None
        segment = call.segments[inner[0]]
    return segment if len(segment.data) == SIGSET_SIZE else None
