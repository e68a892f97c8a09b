# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of the address space: munmap, mprotect, brk; and the table of them and their kin.

One owner, home: calls of all threads of all hosts are taken one at a time, home
chooses the addresses, and every host that has the area list hears of the
change on the same first-in first-out link as of the pages (driver/layout.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from supervisor.areas import EXEC, READ, WRITE, Area, Kind
from supervisor.driver.copies import COPY_PIECE
from supervisor.driver.memory_limits import is_private
from supervisor.driver.operations import Pause, Steps
from supervisor.syscalls.handlers import advice, mapping, remap
from supervisor.syscalls.handlers.mapping import PROT_MASK
from supervisor.tracee import inject
from supervisor.units import PAGE_MASK, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

PROT_GROWSDOWN: Final = 0x0100_0000
PROT_GROWSUP: Final = 0x0200_0000

Handler = Callable[["Home", "Thread", list[int], "SpecialCall | None"], Steps]


def munmap(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    start, length = args[0], round_up(args[1])
    if start & PAGE_MASK or not length or start + length > thread.arch.user_top:
        return -errno.EINVAL
    if home.layout.is_reserved(start, start + length):
        return -errno.EINVAL
    home.layout.unmap(start, start + length)
    return 0
    yield


def mprotect(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """As the kernel, from the start on up to what cannot be changed (mm/mprotect.c)."""
    start, length, protection = args[0], round_up(args[1]), args[2]
    grows = protection & (PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start & PAGE_MASK:
        return -errno.EINVAL
    if length == 0:
        return 0
    end = start + length
    if protection & ~(PROT_MASK | PROT_GROWSDOWN | PROT_GROWSUP):
        return -errno.EINVAL
    protection &= PROT_MASK
    if home.layout.is_reserved(start, end) or home.layout.is_full():
        return -errno.ENOMEM
    if grows:
        found = home.space.overlapping(start, end)
        if not found:
            return -errno.ENOMEM
        if grows == PROT_GROWSUP or not home.layout.grows(found[0]):
            return -errno.EINVAL
        start = found[0].start
    pieces = home.space.pieces(start, end)
    failure = 0
    mapped_end = _contiguous_end(pieces, start)
    if mapped_end < end:
        failure, end = -errno.ENOMEM, mapped_end
        pieces = [piece for piece in pieces if piece.start < end]
    if protection & WRITE:
        becomes = sum(
            piece.end - piece.start for piece in pieces
            if is_private(home, piece) and not piece.protection & WRITE
        )  # fmt: skip
        if becomes and not home.limits_of(thread).fits(home, 0, becomes):
            return -errno.ENOMEM
    # Files of code are mapped executable at once; what becomes so later was written before.
    if protection & EXEC and any(
        piece.kind is not Kind.NATIVE or not piece.protection & EXEC for piece in pieces
    ):
        home.untrapped.found("the program makes code at run time")
    for piece in pieces:
        result = 0
        if protection & WRITE and piece.kind is Kind.FILE:
            result = -errno.EACCES
        elif protection & WRITE and piece.kind is Kind.NATIVE:
            yield from _make_writable(home, piece)
        elif piece.kind in (Kind.NATIVE, Kind.JOINT):
            # The kernel knows with which rights the file is open.
            result = home.agent.run(
                [(inject.SYS_MPROTECT, piece.start, piece.end - piece.start, protection)]
            )[0]
        if result < 0:
            failure, end = result, piece.start
            break
    if start == end:
        return failure
    taken = any(piece.protection & ~protection for piece in pieces if piece.start < end)
    changed = home.space.protect(start, end, protection)
    home.pager.apply(piece for piece in changed if piece.kind is not Kind.NATIVE)
    home.decoder.forget()
    home.layout.tell([], [], changed)
    if taken:
        yield from home.fences.drained()
    return failure


def _contiguous_end(pieces: list[Area], start: int) -> int:
    """Where the first hole behind `start` begins."""
    for piece in pieces:
        if piece.start > start or piece.kind is Kind.RESERVED:
            break
        start = piece.end
    return start


def _make_writable(home: Home, piece: Area) -> Steps:
    """Copy a read-only file mapping onto guest memory: the program is to write it.

    The guest goes on with the kernel's mapping until all is copied; other hosts get
    what they ask for from either, for it is the same.
    """
    copies, memory = home.layout.copies, home.memory
    end = copies.end_of_file(piece.start, piece.end)
    for low, high in copies.extents(piece.start, end):
        for at in range(low, high, COPY_PIECE):
            data = memory.read_bytes(at, min(COPY_PIECE, high - at))
            memory.set_backing(at, at + len(data), None)
            memory.write_bytes(at, data)
            yield Pause()
    file = copies.file_at(piece.start)
    if piece.start < end:
        area = Area(piece.start, end, piece.protection, Kind.GUEST, piece.name)
        memory.set_backing(area.start, area.end, None)
        home.space.add(area)
        home.pager.forget(area.start, area.end)
        home.agent.check([home.agent.map_guest(area.start, end - area.start, area.protection)])
        home.pager.apply([area])
    mapping.map_beyond_end(home, piece.cut(end, piece.end))
    if file is not None:
        copies.add(piece.start, piece.end, file)


def brk(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    wanted = args[0]
    if wanted < home.layout.break_start:
        return home.layout.break_end
    limits = home.limits_of(thread)
    if not limits.allows_break(home, wanted):
        return home.layout.break_end
    old, new = round_up(home.layout.break_end), round_up(wanted)
    if new > old:
        if not limits.fits(home, new - old, new - old):
            return home.layout.break_end
        if not home.layout.is_free(old, new):
            return home.layout.break_end
        home.layout.replace(Area(old, new, READ | WRITE, Kind.GUEST, "[heap]"))
    elif new < old:
        home.layout.unmap(new, old)
    home.layout.break_end = wanted
    return wanted
    yield


def pkey_mprotect(
    home: Home, thread: Thread, args: list[int], call: SpecialCall | None
) -> Steps:
    """With no key it is mprotect; there are no keys (pkey_alloc)."""
    if args[3] & 0xFFFF_FFFF != 0xFFFF_FFFF:
        return -errno.EINVAL
    return (yield from mprotect(home, thread, args, call))


def _in_turn(handler: Handler) -> Handler:
    def steps(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
        return home.layout.turns.in_turn(handler(home, thread, args, call))

    return steps


HANDLERS: Final = {
    "mmap": _in_turn(mapping.mmap),
    "mmap2": _in_turn(mapping.mmap2),
    "old_mmap": _in_turn(mapping.old_mmap),
    "munmap": _in_turn(munmap),
    "mprotect": _in_turn(mprotect),
    "mremap": _in_turn(remap.mremap),
    "brk": _in_turn(brk),
    "madvise": _in_turn(advice.madvise),
    "mincore": advice.mincore,
    "mlock": advice.accepted,
    "mlock2": advice.mlock2,
    "munlock": advice.accepted,
    "mlockall": advice.mlockall,
    "munlockall": advice.munlockall,
    "msync": advice.msync,
    "shmat": mapping.shmat,
    "shmdt": mapping.shmdt,
    "pkey_mprotect": pkey_mprotect,
}
