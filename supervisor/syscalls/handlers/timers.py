# SPDX-License-Identifier: GPL-2.0-or-later
"""Timers of processor time: see supervisor/driver/processor_timers.py.

Other timers are the kernel's at home, which these calls then leave to it; so are all of
a process that only borrows the program's memory (vfork), and all with one host.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from supervisor.arch import Arch
from supervisor.coherence.messages import Access
from supervisor.driver.operations import Steps
from supervisor.driver.processor_timer import Timer
from supervisor.driver.processor_timers import CLOCK_MONOTONIC, INTERVAL_SIGNALS, TIMER_ABSTIME
from supervisor.syscalls.handlers import arguments
from supervisor.syscalls.spec import Row
from supervisor.tracee.usage import NS_PER_S

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

SIGALRM: Final = 14
SIGEV_NONE: Final = 1
SIGEV_THREAD_ID: Final = 4
TICK_NS: Final = 4_000_000
"""What getitimer(2) says of one that is about to expire: the kernel's TICK_NSEC."""


def _spans(layout: struct.Struct, data: bytes, per_s: int) -> tuple[int, int] | None:
    """Interval and value, nanoseconds, of a struct itimerval or itimerspec, whose seconds
    have so many parts; None where one is no time."""
    spans = []
    for at in (0, layout.size):
        seconds, rest = layout.unpack_from(data, at)
        if seconds < 0 or not 0 <= rest < per_s:
            return None
        spans.append(seconds * NS_PER_S + rest * (NS_PER_S // per_s))
    return spans[0], spans[1]


def _packed(layout: struct.Struct, interval_ns: int, value_ns: int, per_s: int) -> bytes:
    part = NS_PER_S // per_s
    return b"".join(
        layout.pack(span // NS_PER_S, span % NS_PER_S // part) for span in (interval_ns, value_ns)
    )


def _interval_timer(home: Home, thread: Thread, which: int) -> Timer | None:
    timers = home.processor_timers
    if timers.in_kernel or thread.borrowed or which & 0xFFFF_FFFF not in INTERVAL_SIGNALS:
        return None
    return timers.interval(which & 0xFFFF_FFFF)


def _timeval(row: Row, left_ns: int, interval_ns: int) -> bytes:
    if left_ns:
        left_ns = left_ns if left_ns > 0 else TICK_NS
        left_ns = -(-left_ns // 1000) * 1000  # set, it is not shown as if it were not
    return _packed(row.timespec, interval_ns, left_ns, 1_000_000)


def getitimer(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    timer = _interval_timer(home, thread, args[0])
    if timer is None:
        return (yield from home.calls.run_marshalled(thread, row, args))
    left = yield from home.processor_timers.get(timer)
    return (yield from arguments.write(home, args[1], _timeval(row, *left)))


def setitimer(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    timer = _interval_timer(home, thread, args[0])
    if timer is None:
        return (yield from home.calls.run_marshalled(thread, row, args))
    spans: tuple[int, int] | None = (0, 0)
    if args[1]:
        data = yield from arguments.read(home, args[1], 2 * row.timespec.size)
        if data is None:
            return -errno.EFAULT
        spans = _spans(row.timespec, data, 1_000_000)
        if spans is None:
            return -errno.EINVAL
    assert spans is not None
    interval_ns, value_ns = spans
    before = yield from home.processor_timers.set(timer, value_ns, interval_ns, False)
    if args[2]:
        return (yield from arguments.write(home, args[2], _timeval(row, *before)))
    return 0


class Event:
    """struct sigevent: what happens when a timer expires."""

    def __init__(self, data: bytes, arch: Arch) -> None:
        self.value = int.from_bytes(data[: arch.word], "little")
        number, notify, tid = struct.unpack_from("<iii", data, arch.word)
        self.signal = 0 if notify & SIGEV_NONE else number
        self.target = tid if notify & SIGEV_THREAD_ID else 0


SIGEVENT_SIZE: Final = 64


def timer_create(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The number is that of a kernel timer, by another clock, that is never set."""
    timers = home.processor_timers
    row = home.calls.row_of(thread, call)
    clock = timers.named(thread, args[0])
    if timers.in_kernel or thread.borrowed or clock is None:
        return (yield from home.calls.run_marshalled(thread, row, args))
    event = None
    if args[1] and home.check(args[1], SIGEVENT_SIZE, Access.READ):
        data = yield from arguments.read(home, args[1], SIGEVENT_SIZE)
        event = data and Event(data, thread.arch)
    result = yield from home.calls.run_marshalled(thread, row, [CLOCK_MONOTONIC, *args[1:]])
    if result < 0:
        return result
    data = yield from arguments.read(home, args[2], 4)
    number = int.from_bytes(data or b"", "little")
    if event is None:
        timers.add(Timer(number, clock, SIGALRM, number, 0))
    else:
        timers.add(Timer(number, clock, event.signal, event.value, event.target))
    return result


def _timer(home: Home, thread: Thread, number: int) -> Timer | None:
    return None if thread.borrowed else home.processor_timers.find(number & 0xFFFF_FFFF)


def timer_settime(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    timer = _timer(home, thread, args[0])
    if timer is None:
        return (yield from home.calls.run_marshalled(thread, row, args))
    if not args[2]:
        return -errno.EINVAL
    data = yield from arguments.read(home, args[2], 2 * row.timespec.size)
    if data is None:
        return -errno.EFAULT
    spans = _spans(row.timespec, data, NS_PER_S)
    if spans is None:
        return -errno.EINVAL
    absolute = bool(args[1] & TIMER_ABSTIME)
    before = yield from home.processor_timers.set(timer, spans[1], spans[0], absolute)
    if args[3]:
        return (yield from arguments.write(home, args[3], _timespec(row, *before)))
    return 0


def _timespec(row: Row, left_ns: int, interval_ns: int) -> bytes:
    return _packed(row.timespec, interval_ns, left_ns and max(left_ns, 1), NS_PER_S)


def timer_gettime(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    timer = _timer(home, thread, args[0])
    if timer is None:
        return (yield from home.calls.run_marshalled(thread, row, args))
    left = yield from home.processor_timers.get(timer)
    return (yield from arguments.write(home, args[1], _timespec(row, *left)))


def timer_getoverrun(
    home: Home, thread: Thread, args: list[int], call: SpecialCall | None
) -> Steps:
    timer = _timer(home, thread, args[0])
    if timer is None:
        return (yield from home.calls.run_marshalled(thread, home.calls.row_of(thread, call), args))
    return timer.overruns_told


def timer_delete(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    result = yield from home.calls.run_marshalled(thread, home.calls.row_of(thread, call), args)
    if result == 0 and not thread.borrowed:
        home.processor_timers.drop(args[0] & 0xFFFF_FFFF)
    return result


OVERRIDDEN: Final = {
    "getitimer": getitimer,
    "setitimer": setitimer,
    "timer_create": timer_create,
    "timer_settime": timer_settime,
    "timer_settime64": timer_settime,
    "timer_gettime": timer_gettime,
    "timer_gettime64": timer_gettime,
    "timer_getoverrun": timer_getoverrun,
    "timer_delete": timer_delete,
}
"""By the name of the call, whose row is marshalled."""
