# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of the address space: mmap, munmap, mprotect, mremap, brk, madvise and kin.

One owner, home: calls of all threads of all hosts are taken one at a time, home
chooses the addresses, and every host that has the area list hears of the
change on the same first-in first-out link as of the pages.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from supervisor.areas import EXEC, READ, WRITE, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver.joint import ANONYMOUS
from supervisor.driver.operations import Native, Steps
from supervisor.syscalls.call import Acquire
from supervisor.tracee import inject, ptrace
from supervisor.tracee.maps import read_maps
from supervisor.tracee.memory import FileBacking
from supervisor.units import PAGE_MASK, PAGE_SIZE, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

PROT_MASK: Final = READ | WRITE | EXEC
MAP_PRIVATE: Final = 0x02
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_GROWSDOWN: Final = 0x100
MAP_HUGETLB: Final = 0x40000
MAP_FIXED_NOREPLACE: Final = 0x100000

SYS_MREMAP: Final = 25
SYS_MADVISE: Final = 28
SYS_SHMAT: Final = 30
SYS_SHMDT: Final = 67

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4

MADV_DONTNEED: Final = 4
MADV_REMOVE: Final = 9
MADV_HINTS: Final = frozenset((0, 1, 2, 3, 8, 12, 13, 14, 15, 16, 17, 20, 21))
FORK_ADVICE: Final = frozenset((10, 11, 18, 19))
"""MADV_DONTFORK, _DOFORK, _WIPEONFORK, _KEEPONFORK."""

COPY_PIECE: Final = 1 << 20
DEV_ZERO: Final = os.makedev(1, 5)

Handler = Callable[["Home", "Thread", list[int], "SpecialCall | None"], Steps]


def mmap(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    address, length, protection, flags, descriptor, offset = args
    protection &= PROT_MASK
    if length == 0 or length > home.space.top:
        return -errno.EINVAL if length == 0 else -errno.ENOMEM
    length = round_up(length)
    if flags & MAP_TYPE not in (1, 2, 3):
        return -errno.EINVAL
    if flags & MAP_HUGETLB:
        return -errno.ENOMEM  # as on a machine with no huge pages reserved
    if offset & PAGE_MASK:
        return -errno.EINVAL
    file = -1
    if not flags & MAP_ANONYMOUS:
        try:
            file = ptrace.borrow_descriptor(home.pidfd, descriptor & 0xFFFF_FFFF)
        except OSError as error:
            return -(error.errno or errno.EBADF)
        status = os.fstat(file)
        if flags & MAP_TYPE != MAP_PRIVATE and not stat.S_ISREG(status.st_mode):
            os.close(file)
            if status.st_rdev != DEV_ZERO or not stat.S_ISCHR(status.st_mode):
                return -errno.ENODEV
            file = -1  # mem(4): as MAP_ANONYMOUS
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        start = address
        if start & PAGE_MASK or start < 0x10000 or start + length > thread.arch.user_top:
            return -errno.EINVAL if start & PAGE_MASK else -errno.ENOMEM
        if home.layout.is_reserved(start, start + length):
            return -errno.EPERM
        if flags & MAP_FIXED_NOREPLACE and home.space.overlapping(start, start + length):
            return -errno.EEXIST
    else:
        found = home.layout.free_range(length, round_up(address))
        if found is None:
            return -errno.ENOMEM
        start = found
    if home.layout.is_full():
        if file >= 0:
            os.close(file)
        return -errno.ENOMEM
    if file < 0:
        name = ANONYMOUS if flags & MAP_TYPE != MAP_PRIVATE else ""
        area = Area(start, start + length, protection, Kind.GUEST, name)
        home.layout.replace(area)
        if flags & MAP_GROWSDOWN:
            home.layout.growing.add(area)
        return start
    if flags & MAP_TYPE == MAP_PRIVATE and protection & WRITE:
        return (yield from _map_private_copy(home, thread, args, start, length, file))
    return (yield from _map_file(home, thread, args, start, length, file))


def old_mmap(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """i386's first one, whose six arguments are in memory."""
    if not home.check(args[0], 24, Access.READ):
        return -errno.EFAULT
    yield Acquire(((args[0], 24, Access.READ),))
    return (yield from mmap(home, thread, [*struct.unpack("<6I", home.read(args[0], 24))], call))


def mmap2(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The offset is in pages."""
    return mmap(home, thread, [*args[:5], args[5] * PAGE_SIZE], call)


def _path_of(home: Home, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{home.pid}/fd/{descriptor & 0xFFFF_FFFF}")
    except OSError:
        return ""


def _map_private_copy(
    home: Home, thread: Thread, args: list[int], start: int, length: int, file: int
) -> Steps:
    """A private writable file mapping: its contents are copied onto guest memory."""
    _, _, protection, _, descriptor, offset = args
    try:
        # The kernel checks what is a mappable file with the right access mode.
        probe = yield Native(
            *thread.arch.map_call(0, length, READ, 2, descriptor, offset)
        )
        if probe < 0:
            return probe
        home.agent.check([(inject.SYS_MUNMAP, probe, length)])
        home.layout.replace(Area(start, start + length, protection & PROT_MASK, Kind.GUEST,
                            _path_of(home, descriptor)))
        at = 0
        while at < length:
            data = os.pread(file, min(COPY_PIECE, length - at), offset + at)
            if not data:
                break
            home.memory.write_bytes(start + at, data)
            at += len(data)
    finally:
        os.close(file)
    return start


def _map_file(
    home: Home, thread: Thread, args: list[int], start: int, length: int, file: int
) -> Steps:
    """A read-only private or a shared file mapping: the kernel's own, at home."""
    _, _, protection, flags, descriptor, offset = args
    shared = flags & MAP_TYPE != MAP_PRIVATE
    kept = False
    try:
        path = _path_of(home, descriptor)
        aliases = home.layout.file_mappings.add(
            home.space, file, offset, start, start + length, path, shared
        )
        if aliases and home.hosts > 1:
            home.stay_home("the program has mapped the same part of a file twice")
            yield Acquire(tuple((low, high - low, Access.WRITE) for low, high in aliases))
        fixed = flags & ~MAP_FIXED_NOREPLACE | MAP_FIXED
        result = yield Native(
            *thread.arch.map_call(start, length, protection, fixed, descriptor, offset)
        )
        if result < 0:
            return result
        kind = _kind_of_shared(home, file, path) if shared else Kind.NATIVE
        area = Area(start, start + length, protection & PROT_MASK, kind, path)
        home.layout.replace(area)
        if shared:
            home.memory.set_backing(start, start + length, FileBacking(file, start - offset))
            kept = True
        else:
            home.memory.set_backing(start, start + length, home.native_backing)
        if protection & EXEC:
            home.code_mapped(file, start, offset, area.name)
    finally:
        if not kept:
            os.close(file)
    return start


def _kind_of_shared(home: Home, file: int, path: str) -> Kind:
    """Does anybody else than the program's threads write to a file that is mapped shared?

    Surely not by this mapping if the file is open to be read only. But another
    mapping of it may be writable, and what lies in /dev/shm is there for others.
    """
    if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
        return Kind.JOINT
    if path.startswith("/dev/shm/") or any(
        area.kind is Kind.JOINT and area.name == path for area in home.space
    ):
        return Kind.JOINT
    return Kind.FILE


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
    start, length, protection = args[0], round_up(args[1]), args[2]
    if start & PAGE_MASK or protection & ~(PROT_MASK | 0x3000000):
        return -errno.EINVAL
    protection &= PROT_MASK
    end = start + length
    if length == 0:
        return 0
    if home.layout.is_reserved(start, end) or not home.space.covers(start, end):
        return -errno.ENOMEM
    if home.layout.is_full():
        return -errno.ENOMEM
    pieces = home.space.pieces(start, end)
    # Files of code are mapped executable at once; what becomes so later was written before.
    if protection & EXEC and any(
        piece.kind is not Kind.NATIVE or not piece.protection & EXEC for piece in pieces
    ):
        home.untrapped.found("the program makes code at run time")
    for piece in pieces:
        if protection & WRITE and piece.kind is Kind.FILE:
            return -errno.EACCES
        if protection & WRITE and piece.kind is Kind.NATIVE:
            _make_writable(home, piece)
        elif piece.kind in (Kind.NATIVE, Kind.JOINT):
            # The kernel knows with which rights the file is open.
            result = home.agent.run(
                [(inject.SYS_MPROTECT, piece.start, piece.end - piece.start, protection)]
            )[0]
            if result < 0:
                return result
    changed = home.space.protect(start, end, protection)
    home.pager.apply(piece for piece in changed if piece.kind is not Kind.NATIVE)
    home.decoder.forget()
    home.layout.tell([], [], changed)
    return 0
    yield


def _make_writable(home: Home, piece: Area) -> None:
    """Move a read-only file mapping onto guest memory: the program is to write it."""
    pages = []
    for at in range(piece.start, piece.end, COPY_PIECE):
        pages.append(home.memory.read_bytes(at, min(COPY_PIECE, piece.end - at)))
    home.memory.set_backing(piece.start, piece.end, None)
    home.memory.write_bytes(piece.start, b"".join(pages))
    area = Area(piece.start, piece.end, piece.protection, Kind.GUEST, piece.name)
    home.space.add(area)
    home.pager.forget(area.start, area.end)
    home.agent.check([home.agent.map_guest(area.start, area.end - area.start, area.protection)])
    home.pager.apply([area])


def brk(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    wanted = args[0]
    if wanted < home.layout.break_start:
        return home.layout.break_end
    old, new = round_up(home.layout.break_end), round_up(wanted)
    if new > old:
        if home.space.overlapping(old, new) or new > home.space.top:
            return home.layout.break_end
        home.layout.replace(Area(old, new, READ | WRITE, Kind.GUEST, "[heap]"))
    elif new < old:
        home.layout.unmap(new, old)
    home.layout.break_end = wanted
    return wanted
    yield


def mremap(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    old, old_length, new_length, flags, target, _ = args
    old_length, new_length = round_up(old_length), round_up(new_length)
    if old & PAGE_MASK or not new_length or flags & ~7:
        return -errno.EINVAL
    if flags & MREMAP_FIXED and (not flags & MREMAP_MAYMOVE or target & PAGE_MASK):
        return -errno.EINVAL
    area = home.space.find(old)
    if area is None or area.kind is Kind.RESERVED:
        return -errno.EFAULT
    if area.end < old + old_length:
        return -errno.EFAULT
    if not old_length and area.name == ANONYMOUS and area.kind is Kind.GUEST:
        yield from home.joint.share([area])
        area = home.space.find(old)
        if area is None:
            return -errno.EFAULT
    if flags & MREMAP_DONTUNMAP or area.kind is Kind.NATIVE:
        return -errno.EINVAL
    if area.kind is Kind.JOINT:
        return _mremap_joint(home, area, args)
    if not old_length:
        return -errno.EINVAL
    if not flags & MREMAP_FIXED:
        if new_length <= old_length:
            if new_length < old_length:
                home.layout.unmap(old + new_length, old + old_length)
            return old
        grown = (old + old_length, old + new_length)
        if area.kind is Kind.GUEST and area.end == grown[0] \
                and not home.space.overlapping(*grown) and grown[1] <= home.space.top:
            home.layout.replace(Area(*grown, area.protection, Kind.GUEST, area.name))
            return old
        if not flags & MREMAP_MAYMOVE:
            return -errno.ENOMEM
        found = home.layout.free_range(new_length)
        if found is None:
            return -errno.ENOMEM
        target = found
    elif target < old + old_length and old < target + new_length:
        return -errno.EINVAL
    if area.kind is Kind.FILE:
        return -errno.EINVAL
    if flags & MREMAP_FIXED:
        home.layout.unmap(target, target + new_length)
    home.layout.replace(Area(target, target + new_length, area.protection, Kind.GUEST, area.name))
    kept = min(old_length, new_length)
    for at in range(0, kept, COPY_PIECE):
        size = min(COPY_PIECE, kept - at)
        yield Acquire(((old + at, size, Access.READ), (target + at, size, Access.WRITE)))
        home.memory.copy(old + at, target + at, size)
    home.layout.unmap(old, old + old_length)
    return target


def _mremap_joint(home: Home, area: Area, args: list[int]) -> int:
    """The kernel's own mapping: it is moved or resized, its contents stay where they are."""
    old, old_length, new_length, flags, target, _ = args
    old_length, new_length = round_up(old_length), round_up(new_length)
    if not flags & MREMAP_FIXED:
        if 0 < new_length <= old_length:
            if new_length < old_length:
                home.layout.unmap(old + new_length, old + old_length)
            return old
        grown = (old + old_length, old + new_length)
        if old_length and area.end == grown[0] and not home.space.overlapping(*grown):
            target = old
        elif not flags & MREMAP_MAYMOVE:
            return -errno.ENOMEM
        else:
            found = home.space.free_range(new_length)
            if found is None:
                return -errno.ENOMEM
            target = found
    elif target < old + old_length and old < target + new_length:
        return -errno.EINVAL
    elif home.layout.is_reserved(target, target + new_length):
        return -errno.EPERM
    how = 0 if target == old else MREMAP_MAYMOVE | MREMAP_FIXED
    result = home.agent.run([(SYS_MREMAP, old, old_length, new_length, how, target)])[0]
    if result < 0:
        return result
    backing = home.memory.backing_at(old)
    if isinstance(backing, FileBacking):
        backing = backing.moved(target - old)
    if old_length and target != old:
        home.space.remove(old, old + old_length)
        home.layout.forget(old, old + old_length)
    home.layout.replace(Area(target, target + new_length, area.protection, Kind.JOINT, area.name))
    home.memory.set_backing(target, target + new_length, backing)
    return target


def shmat(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """The agent attaches: it shares the memory, and nothing else happens meanwhile."""
    identifier, address, flags = args[:3]
    if address and home.layout.is_reserved(address, address + 1):
        return -errno.EINVAL
    start = home.agent.run([(SYS_SHMAT, identifier & 0xFFFF_FFFF, address, flags)])[0]
    if start < 0:
        return start
    found = [mapping for mapping in read_maps(home.pid) if mapping.start == start]
    mapping = found[0]
    home.layout.replace(
        Area(start, mapping.end, mapping.protection, Kind.JOINT, mapping.path)
    )
    home.memory.set_backing(start, mapping.end, home.native_backing)
    home.joint.attached[start] = mapping.end - start
    return start
    yield


def shmdt(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    start = args[0]
    size = home.joint.attached.get(start)
    if size is None:
        return -errno.EINVAL
    result = home.agent.run([(SYS_SHMDT, start)])[0]
    if result == 0:
        del home.joint.attached[start]
        home.space.remove(start, start + size)
        home.layout.forget(start, start + size)
    return result
    yield


def pkey_mprotect(
    home: Home, thread: Thread, args: list[int], call: SpecialCall | None
) -> Steps:
    """With no key it is mprotect; there are no keys (pkey_alloc)."""
    if args[3] & 0xFFFF_FFFF != 0xFFFF_FFFF:
        return -errno.EINVAL
    return (yield from mprotect(home, thread, args, call))


def madvise(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    start, length, advice = args[0], round_up(args[1]), args[2]
    if start & PAGE_MASK:
        return -errno.EINVAL
    if not length:
        return 0
    if not home.space.covers(start, start + length):
        return -errno.ENOMEM
    pieces = home.space.pieces(start, start + length)
    if advice == MADV_DONTNEED:
        for piece in pieces:
            if piece.kind is Kind.GUEST and piece.name != ANONYMOUS:
                home.layout.discard(piece.start, piece.end)
                home.pager.apply([piece])
        return 0
    if advice == MADV_REMOVE:
        for piece in pieces:
            if piece.kind is Kind.JOINT:
                result = home.agent.run(
                    [(SYS_MADVISE, piece.start, piece.end - piece.start, advice)]
                )[0]
                if result < 0:
                    return result
            elif piece.kind is Kind.GUEST and piece.name == ANONYMOUS:
                home.layout.discard(piece.start, piece.end)
                home.pager.apply([piece])
            else:
                return -errno.EINVAL
        return 0
    if advice in FORK_ADVICE:
        home.forks.advise(pieces, advice)
        return 0
    return 0 if advice in MADV_HINTS else -errno.EINVAL
    yield


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


def _in_turn(handler: Handler) -> Handler:
    def steps(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
        return home.layout.turns.in_turn(handler(home, thread, args, call))

    return steps


HANDLERS: Final = {
    "mmap": _in_turn(mmap),
    "mmap2": _in_turn(mmap2),
    "old_mmap": _in_turn(old_mmap),
    "munmap": _in_turn(munmap),
    "mprotect": _in_turn(mprotect),
    "mremap": _in_turn(mremap),
    "brk": _in_turn(brk),
    "madvise": madvise,
    "mincore": mincore,
    "mlock": accepted,
    "mlock2": accepted,
    "munlock": accepted,
    "mlockall": mlockall,
    "munlockall": munlockall,
    "msync": msync,
    "shmat": shmat,
    "shmdt": shmdt,
    "pkey_mprotect": pkey_mprotect,
}
