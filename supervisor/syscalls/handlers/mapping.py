# SPDX-License-Identifier: GPL-2.0-or-later
"""New mappings: mmap, which copies files, shares them or has the kernel map them, and shmat."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from supervisor.areas import EXEC, READ, WRITE, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver import machine
from supervisor.driver.joint import ANONYMOUS
from supervisor.driver.memory_limits import length_of_original
from supervisor.driver.operations import Native, Steps
from supervisor.syscalls.call import Acquire
from supervisor.tracee import ptrace
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
MAP_SHARED_VALIDATE: Final = 0x03
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_32BIT: Final = 0x40
MAP_GROWSDOWN: Final = 0x100
MAP_HUGETLB: Final = 0x40000
MAP_FIXED_NOREPLACE: Final = 0x100000

SYS_SHMAT: Final = 30
SYS_SHMDT: Final = 67

LOW_END: Final = 1 << 31
"""Where MAP_32BIT ends (arch/x86/kernel/sys_x86_64.c)."""
LOWEST: Final = 0x10000
"""The kernel's usual vm.mmap_min_addr."""
DEV_ZERO: Final = os.makedev(1, 5)


def mmap(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    address, length, protection, flags, descriptor, offset = args
    protection &= PROT_MASK
    if length == 0 or length > home.space.top:
        return -errno.EINVAL if length == 0 else -errno.ENOMEM
    length = round_up(length)
    anonymous = flags & MAP_ANONYMOUS
    if flags & MAP_TYPE not in (1, 2, 3) or (anonymous and flags & MAP_TYPE == MAP_SHARED_VALIDATE):
        return -errno.EINVAL
    if flags & MAP_HUGETLB:
        return -errno.ENOMEM  # as on a machine with no huge pages reserved
    if offset & PAGE_MASK:
        return -errno.EINVAL
    file = -1
    if not anonymous:
        try:
            file = ptrace.borrow_from_task(
                thread.task, descriptor & 0xFFFF_FFFF, home.pidfd
            )
        except OSError as error:
            return -(error.errno or errno.EBADF)
        if unmappable := machine.why_unmappable(file):
            os.close(file)
            return -unmappable
        status = os.fstat(file)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == DEV_ZERO:
            os.close(file)
            file = -1  # mem(4): as MAP_ANONYMOUS
        elif flags & MAP_TYPE != MAP_PRIVATE and not stat.S_ISREG(status.st_mode):
            os.close(file)
            return -errno.ENODEV
    start = _place(home, thread, address, length, flags)
    private = flags & MAP_TYPE == MAP_PRIVATE
    data = length if private and protection & WRITE and not flags & MAP_GROWSDOWN else 0
    counted = length
    if file >= 0:
        counted = length_of_original(home, _path_of(thread, descriptor), length)
    if start >= 0 and not home.limits_of(thread).fits(
        home, counted, data, (start, start + length)
    ):
        start = -errno.ENOMEM
    if start < 0:
        if file >= 0:
            os.close(file)
        return start
    if file < 0:
        name = "" if private else ANONYMOUS
        area = Area(start, start + length, protection, Kind.GUEST, name)
        home.layout.replace(area)
        if flags & MAP_GROWSDOWN:
            home.layout.growing.add(area)
        return start
    return (yield from _map_file(home, thread, args, start, length, file))


def _place(home: Home, thread: Thread, address: int, length: int, flags: int) -> int:
    """Where a mapping goes, or why not."""
    if home.layout.is_full():
        return -errno.ENOMEM
    if not flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        ceiling = LOW_END if flags & MAP_32BIT else 0
        return home.layout.free_range(length, round_up(address), ceiling) or -errno.ENOMEM
    end = address + length
    if address & PAGE_MASK:
        return -errno.EINVAL
    if address < LOWEST or end > thread.arch.user_top:
        return -errno.ENOMEM
    if home.layout.is_reserved(address, end):
        return -errno.EPERM
    if flags & MAP_FIXED_NOREPLACE and home.space.overlapping(address, end):
        return -errno.EEXIST
    return address


def old_mmap(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """i386's first one, whose six arguments are in memory."""
    if not home.check(args[0], 24, Access.READ):
        return -errno.EFAULT
    yield Acquire(((args[0], 24, Access.READ),))
    return (yield from mmap(home, thread, [*struct.unpack("<6I", home.read(args[0], 24))], call))


def mmap2(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The offset is in pages."""
    return mmap(home, thread, [*args[:5], args[5] * PAGE_SIZE], call)


def _path_of(thread: Thread, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{thread.task}/fd/{descriptor & 0xFFFF_FFFF}")
    except OSError:
        return ""


def _map_file(
    home: Home, thread: Thread, args: list[int], start: int, length: int, file: int
) -> Steps:
    """The kernel maps it, at home: with its own rights and errors, and to raise SIGBUS beyond
    the end of the file. What is private and writable is then copied onto guest memory."""
    _, _, protection, flags, descriptor, offset = args
    shared = flags & MAP_TYPE != MAP_PRIVATE
    end = start + length
    path = _path_of(thread, descriptor)
    backing = FileBacking(file, start - offset)
    copied = not shared and protection & WRITE
    if not copied:
        aliases = home.layout.file_mappings.add(
            home.space, file, offset, start, end, path, shared
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
    kind = Kind.GUEST if copied else Kind.NATIVE
    if shared:
        kind = _kind_of_shared(home, file, path)
    area = Area(start, end, protection & PROT_MASK, kind, path)
    file_end = backing.end_within(start, end)
    if start < file_end:
        home.layout.replace(area.cut(start, file_end))
    map_beyond_end(home, area.cut(file_end, end))
    if shared:
        home.memory.set_backing(start, end, backing)
    else:
        home.layout.copies.add(start, end, backing)
        if copied:
            yield from home.layout.copies.fill(start, file_end)
        elif start < file_end:
            home.memory.set_backing(start, file_end, home.native_backing)
    if protection & EXEC and not copied:
        home.code_mapped(file, start, offset, area.name)
    return start


def map_beyond_end(home: Home, area: Area) -> None:
    """Pages of a mapping beyond the end of its file: they stay the kernel's, which raises
    SIGBUS, at home, where threads go that touch them."""
    if area.start < area.end:
        home.layout.replace(msgspec.structs.replace(area, kind=Kind.JOINT))
        home.memory.set_backing(area.start, area.end, home.native_backing)


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


def shmat(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """The agent attaches: it shares the memory, and nothing else happens meanwhile."""
    identifier, address, flags = args[:3]
    if address and home.layout.is_reserved(address, address + 1):
        return -errno.EINVAL
    start = home.agent.run([(SYS_SHMAT, identifier & 0xFFFF_FFFF, address, flags)])[0]
    if start < 0:
        return start
    found = [mapping for mapping in read_maps(home.agent.tid) if mapping.start == start]
    mapping = found[0]
    if not home.limits_of(thread).fits(home, mapping.end - start, 0, (start, mapping.end)):
        home.agent.check([(SYS_SHMDT, start)])
        return -errno.ENOMEM
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
