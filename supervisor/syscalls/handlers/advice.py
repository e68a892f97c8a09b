# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program asks about memory that stays mapped: madvise, msync, mlock and mincore."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from supervisor.areas import READ, WRITE, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver.joint import ANONYMOUS
from supervisor.driver.operations import Native, Steps
from supervisor.syscalls.call import Acquire
from supervisor.units import PAGE_MASK, PAGE_SIZE, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

SYS_MADVISE: Final = 28

MADV_DONTNEED: Final = 4
MADV_REMOVE: Final = 9
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
POPULATE_RIGHTS: Final = {MADV_POPULATE_READ: READ, MADV_POPULATE_WRITE: WRITE}
MADV_HINTS: Final = frozenset((0, 1, 2, 3, 8, 12, 13, 14, 15, 16, 17, 20, 21))
FORK_ADVICE: Final = frozenset((10, 11, 18, 19))
"""MADV_DONTFORK, _DOFORK, _WIPEONFORK, _KEEPONFORK."""
KNOWN: Final = frozenset((MADV_DONTNEED, MADV_REMOVE, *POPULATE_RIGHTS, *MADV_HINTS, *FORK_ADVICE))

MLOCK_ONFAULT: Final = 1


def madvise(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """Of a range with holes, what is mapped is advised; then it is ENOMEM (mm/madvise.c)."""
    start, length, advice = args[0], round_up(args[1]), args[2]
    if start & PAGE_MASK or advice not in KNOWN:
        return -errno.EINVAL
    if not length:
        return 0
    end = start + length
    if advice in POPULATE_RIGHTS:
        return _populate(home, start, end, advice)
    pieces = [piece for piece in home.space.pieces(start, end) if piece.kind is not Kind.RESERVED]
    result = 0 if home.space.covers(start, end) else -errno.ENOMEM
    if advice in FORK_ADVICE:
        home.forks.advise(pieces, advice)
    for piece in pieces:
        failed = 0
        if advice == MADV_DONTNEED:
            failed = yield from _dont_need(home, piece)
        elif advice == MADV_REMOVE:
            failed = _remove(home, piece)
        if failed:
            return failed
    return result


def _by_kernel(home: Home, piece: Area, advice: int) -> int:
    """What the kernel says to advice about its own mapping."""
    return home.agent.run([(SYS_MADVISE, piece.start, piece.end - piece.start, advice)])[0]


def _dont_need(home: Home, piece: Area) -> Steps:
    if piece.kind is Kind.GUEST and piece.name != ANONYMOUS:
        yield from home.layout.copies.discard(piece)
    elif piece.kind is Kind.JOINT:
        return _by_kernel(home, piece, MADV_DONTNEED)
    return 0


def _remove(home: Home, piece: Area) -> int:
    if piece.kind is Kind.JOINT:
        return _by_kernel(home, piece, MADV_REMOVE)
    if piece.kind is not Kind.GUEST or piece.name != ANONYMOUS:
        return -errno.EINVAL
    home.layout.discard(piece.start, piece.end)
    home.pager.apply([piece])
    return 0


def _populate(home: Home, start: int, end: int, advice: int) -> int:
    """Nothing is to be had in advance; what is wrong about the range is told as it would be."""
    right, at = POPULATE_RIGHTS[advice], start
    for piece in home.space.pieces(start, end):
        if piece.start > at or piece.kind is Kind.RESERVED:
            return -errno.ENOMEM
        if not piece.protection & right:
            return -errno.EINVAL
        if piece.kind in (Kind.NATIVE, Kind.JOINT):
            result = _by_kernel(home, piece, advice)
            if result < 0:
                return result
        at = piece.end
    return 0 if at >= end else -errno.ENOMEM


def msync(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """What is mapped shared to be written is the kernel's own (Kind.JOINT): it writes it out."""
    start, length, flags = args[:3]
    if start & PAGE_MASK or flags & ~7 or flags & 5 == 5:
        return -errno.EINVAL
    end = start + round_up(length)
    for piece in home.space.pieces(start, end):
        if piece.kind is Kind.JOINT:
            written = [piece.start, piece.end - piece.start, flags]
            result = yield Native(thread.arch.numbers["msync"], written)
            if result < 0:
                return result
    return (yield from accepted(home, thread, args, call))


def mlockall(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """Nothing is swapped by us; the kernel's limit is not asked for memory that it has not."""
    return 0 if args[0] in (1, 2, 3, 5, 6, 7) else -errno.EINVAL
    yield


def munlockall(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    return 0
    yield


def accepted(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """mlock, munlock, ...: nothing to do for memory that is never swapped by us."""
    start, length = args[0], args[1]
    if length and not home.space.covers(start & ~PAGE_MASK, round_up(start + length)):
        return -errno.ENOMEM
    return 0
    yield


def mlock2(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    if args[2] & 0xFFFF_FFFF & ~MLOCK_ONFAULT:
        return -errno.EINVAL
    return (yield from accepted(home, thread, args, call))


def mincore(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    start, length, vector = args[0], round_up(args[1]), args[2]
    if start & PAGE_MASK:
        return -errno.EINVAL
    if not home.space.covers(start, start + length):
        return -errno.ENOMEM
    count = length // PAGE_SIZE
    if not home.check(vector, count, Access.WRITE):
        return -errno.EFAULT
    yield Acquire(((vector, count, Access.WRITE),))
    home.write(vector, b"\1" * count)
    return 0
