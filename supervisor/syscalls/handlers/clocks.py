# SPDX-License-Identifier: GPL-2.0-or-later
"""Clocks: read by the supervisor of the thread's host, corrected to home's.

Programs seldom come here: they have a vDSO (tracee/clock.py).

All threads read one monotonic clock: home's (driver/host_clock.py).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Steps
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.spec import Row

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

READABLE: Final = frozenset((0, 1, 4, 5, 6, 7, 11))
"""CLOCK_REALTIME, _MONOTONIC, _MONOTONIC_RAW, both _COARSE, _BOOTTIME, _TAI."""


def readable(args: list[int]) -> bool:
    """Is it a clock that the supervisor can read for the thread (not one of its CPU time)?"""
    return args[0] in READABLE


def _put(host: Supervisor, address: int, data: bytes) -> Steps:
    if not host.check(address, len(data), Access.WRITE):
        return -errno.EFAULT
    yield Acquire(((address, len(data), Access.WRITE),))
    host.write(address, data)
    return 0


def clock_gettime(host: Supervisor, row: Row, args: list[int]) -> Steps:
    now = row.timespec.pack(*divmod(host.clock.now_ns(args[0]), 1_000_000_000))
    return (yield from _put(host, args[1], now))


def gettimeofday(host: Supervisor, row: Row, args: list[int]) -> Steps:
    now = host.clock.now_ns(0)
    seconds, rest = divmod(now, 1_000_000_000)
    result = 0
    if args[0]:
        result = yield from _put(host, args[0], row.timespec.pack(seconds, rest // 1000))
    if args[1] and result == 0:
        result = yield from _put(host, args[1], bytes(8))
    return result


def time_(host: Supervisor, row: Row, args: list[int]) -> Steps:
    seconds = host.clock.now_ns(0) // 1_000_000_000
    if args[0]:
        result = yield from _put(host, args[0], row.arch.pointer.pack(seconds))
        if result < 0:
            return result
    return seconds


LOCAL: Final = {"clock_gettime": clock_gettime, "gettimeofday": gettimeofday, "time": time_}
"""Handlers (Row.handler) that any host's supervisor runs for its own threads."""


def _at_home(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    if row.handler == "clock_gettime" and not readable(args):
        return (yield from home.calls.run_marshalled(thread, row, args))
    return (yield from LOCAL[row.handler](home, row, args))


HANDLERS: Final = dict.fromkeys(LOCAL, _at_home)


def clock_id() -> str:
    """Names what this host's clocks count from: hosts that share it share their clocks.

    One boot of one kernel, and one time namespace of it (time_namespaces(7)).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    try:
        return f"{boot} {os.readlink('/proc/self/ns/time')}"
    except OSError:  # a kernel without them
        return boot
