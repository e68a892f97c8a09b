# SPDX-License-Identifier: GPL-2.0-or-later
"""getrlimit(2) and its kin: the limits of memory are home's own (driver/memory_limits.py)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from supervisor.arch import Arch
from supervisor.driver.memory_limits import INFINITE, MemoryLimits
from supervisor.driver.operations import Steps
from supervisor.limits import Limit
from supervisor.syscalls.handlers import arguments

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

_WIDE: Final = struct.Struct("<QQ")
_NARROW: Final = struct.Struct("<II")
_NARROW_INFINITE: Final = 0xFFFF_FFFF
_OLD_MAX: Final = 0x7FFF_FFFF
"""The most that i386's first getrlimit tells."""


def _layout(arch: Arch) -> struct.Struct:
    return _WIDE if arch.word == 8 else _NARROW


def _limit(data: bytes, arch: Arch) -> Limit:
    """From a struct rlimit (compat_setrlimit of kernel/sys.c)."""
    soft, hard = _layout(arch).unpack(data)
    if arch.word == 8:
        return soft, hard
    return (
        INFINITE if soft == _NARROW_INFINITE else soft,
        INFINITE if hard == _NARROW_INFINITE else hard,
    )


def _told(home: Home, thread: Thread, address: int, limit: Limit, greatest: int) -> Steps:
    data = _layout(thread.arch).pack(*(min(each, greatest) for each in limit))
    return (yield from arguments.write(home, address, data))


def _marshalled(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    result = yield from home.calls.run_marshalled(thread, home.calls.row_of(thread, call), args)
    if result == 0:
        home.processor_timers.limited()
    return result


def getrlimit(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    limit = home.limits_of(thread).get(args[0] & 0xFFFF_FFFF)
    if limit is None:
        return (yield from home.calls.run_marshalled(thread, row, args))
    if thread.arch.word == 8:
        greatest = INFINITE
    else:
        greatest = _OLD_MAX if row.name == "getrlimit" else _NARROW_INFINITE
    return (yield from _told(home, thread, args[1], limit, greatest))


def setrlimit(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    which = args[0] & 0xFFFF_FFFF
    limits = home.limits_of(thread)
    if limits.get(which) is None:
        return (yield from _marshalled(home, thread, args, call))
    data = yield from arguments.read(home, args[1], _layout(thread.arch).size)
    if data is None:
        return -errno.EFAULT
    return limits.set(which, _limit(data, thread.arch), thread.task)


def prlimit64(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    target, which, new, old = args[0] & 0xFFFF_FFFF, args[1] & 0xFFFF_FFFF, args[2], args[3]
    limits = _limits_of_task(home, thread, target)
    before = None if limits is None else limits.get(which)
    if limits is None or before is None:
        return (yield from _marshalled(home, thread, args, call))
    if new:
        data = yield from arguments.read(home, new, _WIDE.size)
        if data is None:
            return -errno.EFAULT
        soft, hard = _WIDE.unpack(data)
        result = limits.set(which, (soft, hard), thread.task)
        if result < 0:
            return result
    if old:
        return (yield from arguments.write(home, old, _WIDE.pack(*before)))
    return 0


def _limits_of_task(home: Home, thread: Thread, tid: int) -> MemoryLimits | None:
    """Those of the process of one of the program's tasks; None of another's."""
    if not tid:
        return home.limits_of(thread)
    found = home.threads.get(tid)
    return None if found is None else home.limits_of(found)


OVERRIDDEN: Final = {
    "getrlimit": getrlimit,
    "ugetrlimit": getrlimit,
    "setrlimit": setrlimit,
    "prlimit64": prlimit64,
}
"""By the name of the call, whose row is marshalled."""
