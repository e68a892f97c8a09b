# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as the program sees it: one SMP with the processors of all hosts.

Virtual processors are numbered host by host: home's first.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Native, Steps
from supervisor.syscalls.call import Acquire

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

ARCH_SET_GS: Final = 0x1001
ARCH_SET_FS: Final = 0x1002
ARCH_GET_FS: Final = 0x1003
ARCH_GET_GS: Final = 0x1004
ARCH_GET_CPUID: Final = 0x1011
ARCH_SET_CPUID: Final = 0x1012


def sched_getaffinity(
    home: Home, thread: Thread, args: list[int], _: SpecialCall | None
) -> Steps:
    target, size, mask = args[0] & 0xFFFF_FFFF, args[1] & 0xFFFF_FFFF, args[2]
    found = thread if target == 0 else home.by_tid.get(target)
    if found is None:
        return -errno.ESRCH
    data = found.affinity if found.affinity is not None else home.machine.all
    word = thread.arch.word
    wanted = home.machine.mask_size(word)
    if size < wanted or size % word:
        return -errno.EINVAL
    if not home.check(mask, wanted, Access.WRITE):
        return -errno.EFAULT
    yield Acquire(((mask, wanted, Access.WRITE),))
    home.write(mask, data.to_bytes(wanted, "little"))
    return wanted


def sched_setaffinity(
    home: Home, thread: Thread, args: list[int], _: SpecialCall | None
) -> Steps:
    target, size, mask = args[0] & 0xFFFF_FFFF, args[1] & 0xFFFF_FFFF, args[2]
    found = thread if target == 0 else home.by_tid.get(target)
    if found is None:
        return -errno.ESRCH
    length = min(size, 1024)
    if not home.check(mask, length, Access.READ):
        return -errno.EFAULT
    yield Acquire(((mask, length, Access.READ),))
    wanted = int.from_bytes(home.read(mask, length), "little")
    wanted &= home.machine.all
    if not wanted:
        return -errno.EINVAL
    found.affinity = wanted
    going_to = found.away if found.destination is None else found.destination
    if not found.borrowed and going_to not in home.placement.hosts_of(wanted):
        home.away.move(found, home.placement.choose(wanted))
    return 0


def getcpu(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    host = thread.away if thread.destination is None else thread.destination
    cpu = home.placement.processor_of(host, thread.affinity, thread.tid)
    for address, value in ((args[0], cpu), (args[1], 0)):
        if address:
            if not home.check(address, 4, Access.WRITE):
                return -errno.EFAULT
            yield Acquire(((address, 4, Access.WRITE),))
            home.write(address, value.to_bytes(4, "little"))
    return 0


def arch_prctl(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    code, address = args[0], args[1]
    context = home.calls.context_of(thread, call)
    if code in (ARCH_GET_FS, ARCH_GET_GS):
        base = context.fs_base if code == ARCH_GET_FS else context.gs_base
        if not home.check(address, 8, Access.WRITE):
            return -errno.EFAULT
        yield Acquire(((address, 8, Access.WRITE),))
        home.write(address, int(base).to_bytes(8, "little"))
        return 0
    if code in (ARCH_SET_FS, ARCH_SET_GS) and call is None:
        if address >= 1 << 47:
            return -errno.EPERM
        if code == ARCH_SET_FS:
            thread.registers.fs_base = address
        else:
            thread.registers.gs_base = address
        return 0
    if code == ARCH_GET_CPUID:
        return 1
    if code == ARCH_SET_CPUID:
        return -errno.ENODEV  # as on a processor that cannot have CPUID fault
    return -errno.EINVAL


def plain(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """A call about the thread's own task, with no buffer that matters now."""
    return (yield Native(home.calls.row_of(thread, call).number, args))


def membarrier(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The kernel knows of home's processors only: those of other hosts are its barrier too."""
    result = yield from plain(home, thread, args, call)
    if result == 0:
        yield from home.fences.drained()
    return result


def marshalled(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    return (yield from home.calls.run_marshalled(thread, home.calls.row_of(thread, call), args))


HANDLERS: Final = {
    "sched_getaffinity": sched_getaffinity,
    "sched_setaffinity": sched_setaffinity,
    "getcpu": getcpu,
    "arch_prctl": arch_prctl,
    "membarrier": membarrier,
    "personality": plain,
    "get_robust_list": marshalled,
    "readlink": marshalled,
    "readlinkat": marshalled,
    "nanosleep": marshalled,
    "clock_nanosleep": marshalled,
    "clock_getres": marshalled,
}
