# SPDX-License-Identifier: GPL-2.0-or-later
"""Timers of processor time: ITIMER_PROF, ITIMER_VIRTUAL, timer_create(2) by such a clock,
clock_nanosleep(2) by one, and RLIMIT_CPU.

Home's kernel would count home's tasks only, so with several hosts home looks at the
clocks itself (`ProcessorTime`: the sum of all hosts), wherever the threads are: one
mechanism, since a timer that was handed to the kernel and taken back as threads move
would lose its pending signal at each change. It looks again when the time left could have
been used up, were every processor at work, and not sooner than a kernel's tick
(TICK_S): a kernel looks at such timers at its ticks as well. While no thread is
elsewhere nobody else is asked.

What the program sees of its timers is the kernel's doing, or like it:

- A timer of timer_create(2) has a kernel timer that is never set; it keeps the number.
- The signals are queued with the siginfo that the kernel's would have. (Only the kernel
  may queue SI_KERNEL, an interval timer's: it is put there when the signal is taken.)
- Who gets a process's signal says `signal_takers.py`. What expires while its thread is
  left in peace is merged with the signal to come: it counts as overrun, or, of an interval
  timer, as what the kernel drops while the signal is pending.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import struct
import time
from typing import TYPE_CHECKING, Final

from supervisor.driver.operations import Native, Steps
from supervisor.driver.processor_time import ALL, CPUCLOCK_PERTHREAD, CPUCLOCK_VIRT, named_by
from supervisor.driver.processor_timer import INFO_SIZE, SI_TIMER, TIMER_INFO, Clock, Timer
from supervisor.driver.signal_takers import SignalTakers
from supervisor.syscalls.call import Call, Result
from supervisor.syscalls.spec import Row
from supervisor.tracee import ptrace
from supervisor.tracee.usage import NS_PER_S
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

TICK_S: Final = 0.004
IDLE_LOOKS_MAX: Final = 4
"""While no time is used, it is looked half as often each time, so many times."""

ITIMER_VIRTUAL: Final = 1
ITIMER_PROF: Final = 2
INTERVAL_SIGNALS: Final = {
    ITIMER_VIRTUAL: signal.SIGVTALRM,
    ITIMER_PROF: signal.SIGPROF,
}
WAITS: Final = frozenset(("rt_sigtimedwait", "rt_sigtimedwait_time64"))
"""Calls that take a signal without a handler."""
TIMER_ABSTIME: Final = 1
CLOCK_MONOTONIC: Final = 1
CLOCK_SCHED: Final = 2

_OURS: Final = 0x6D75_7370
"""An interval timer's siginfo, until it is taken: its value; its timer is -1 - `which`."""


class ProcessorTimers:
    """Home's part, and there is no other."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._timers: dict[int, Timer] = {}
        self._deleted: dict[int, Timer] = {}
        """Those whose signal was under way when they were."""
        self._due: float | None = None
        """When it is to look next, by time.monotonic()."""
        self._looking = self._again = False
        self._idle = 0
        self._seen: dict[Clock, int] = {}
        self._in_peace_until = 0.0
        """When the first thread may be fetched that a signal waits for; 0 for none."""
        self.takers = SignalTakers(home)

    @property
    def in_kernel(self) -> bool:
        """Has home's kernel all that there is to count?"""
        return self.home.hosts == 1

    def executed(self) -> None:
        """execve(2): interval timers go on, the others are gone."""
        self._timers = {number: t for number, t in self._timers.items() if number < 0}
        self._deleted.clear()
        for timer in self._timers.values():
            timer.sent_to = 0

    # What the program's calls come to -----------------------------------------------------

    def named(self, thread: Thread, clock: int) -> Clock | None:
        """The clock of an id; None for one that is not of the program's processor time."""
        whose, kind = named_by(clock & 0xFFFF_FFFF, thread.tid)
        user = kind & 3 == CPUCLOCK_VIRT
        if kind & CPUCLOCK_PERTHREAD:
            return Clock(whose, user) if whose in self.home.by_tid else None
        return Clock(ALL, user) if whose in (ALL, self.home.pid) else None

    def find(self, number: int) -> Timer | None:
        return self._timers.get(number)

    def interval(self, which: int) -> Timer:
        """ITIMER_VIRTUAL or ITIMER_PROF."""
        number = -1 - which
        if number not in self._timers:
            clock = Clock(ALL, which == ITIMER_VIRTUAL)
            self._timers[number] = Timer(number, clock, INTERVAL_SIGNALS[which], _OURS, 0)
        return self._timers[number]

    def add(self, timer: Timer) -> None:
        self._timers[timer.number] = timer
        self._deleted.pop(timer.number, None)

    def drop(self, number: int) -> None:
        timer = self._timers.pop(number, None)
        if timer is not None and timer.sent_to:
            timer.over = True
            self._deleted[number] = timer

    def read(self, clock: Clock) -> Steps:
        """A clock's time; 0 where its thread has ended."""
        times, kind = self.home.processor_time, 1 if clock.user else CLOCK_SCHED
        if clock.tid == ALL:
            return (yield from times.of_clock(kind))
        thread = self.home.by_tid.get(clock.tid)
        if thread is None:
            return 0
        used = yield from times.of_thread(thread)
        at_home = times.at_home(thread)
        return at_home.user_ns + used.user_ns if clock.user else at_home.sum_ns + used.sum_ns

    def get(self, timer: Timer) -> Steps:
        """Nanoseconds until a timer expires (0: it is not set), and its interval."""
        now_ns = yield from self.read(timer.clock)
        self._expired(timer, now_ns)
        left_ns = timer.expiry_ns - now_ns if timer.expiry_ns else 0
        return left_ns, timer.interval_ns

    def set(self, timer: Timer, value_ns: int, interval_ns: int, absolute: bool) -> Steps:
        """Set a timer; what it was set to, as `get` says it."""
        now_ns = yield from self.read(timer.clock)
        self._expired(timer, now_ns)
        before = (timer.expiry_ns - now_ns if timer.expiry_ns else 0), timer.interval_ns
        timer.expiry_ns = value_ns and (max(value_ns, 1) if absolute else now_ns + value_ns)
        timer.interval_ns = interval_ns if value_ns else 0
        timer.wanted = False
        timer.overruns = timer.overruns_told = 0
        # A timer of timer_create(2) begins anew when it is set: Linux 6.13 and later drop the
        # signal that is still to be taken.
        timer.over = timer.number >= 0 and bool(timer.sent_to)
        self._expired(timer, now_ns)
        self._idle = 0
        self._look_at_once()
        return before

    def limited(self) -> None:
        """RLIMIT_CPU may have changed."""
        if self._limits() != (resource.RLIM_INFINITY, resource.RLIM_INFINITY):
            self._look_at_once()

    def sleep(self, thread: Thread, row: Row, call: Call) -> Steps:
        """clock_nanosleep by a clock of processor time; None where it is another clock's."""
        clock = self.named(thread, call.args[0])
        if self.in_kernel or thread.borrowed or clock is None or clock.tid == thread.tid:
            return None  # of one's own thread's clock the kernel says EINVAL
        segments = dict(call.pointers)
        if 2 not in segments:
            return None
        seconds, rest = row.timespec.unpack(call.segments[segments[2]].data)
        if seconds < 0 or not 0 <= rest < NS_PER_S:
            return None
        absolute = call.args[1] & TIMER_ABSTIME
        until_ns = seconds * NS_PER_S + rest
        now_ns = yield from self.read(clock)
        if not absolute:
            until_ns += now_ns
        parallel = self.home.machine.cpus if clock.tid == ALL else 1
        arch, lease, idle = thread.arch, self.home.scratch.lease(), 0
        try:
            at = lease.allocate(arch.timespec.size)
            while now_ns < until_ns:
                wait_ns = max((until_ns - now_ns) // parallel, int(TICK_S * NS_PER_S)) << idle
                lease.write(at, arch.timespec.pack(*divmod(wait_ns, NS_PER_S)))
                value = yield Native(arch.numbers["clock_nanosleep"], [CLOCK_MONOTONIC, 0, at, 0])
                before_ns, now_ns = now_ns, (yield from self.read(clock))
                idle = min(idle + 1, IDLE_LOOKS_MAX) if now_ns == before_ns else 0
                if value < 0:
                    outs = []
                    if not absolute and 3 in segments:
                        left = divmod(max(until_ns - now_ns, 1), NS_PER_S)
                        outs.append((segments[3], 0, row.timespec.pack(*left)))
                    return Result(value, outs)
        finally:
            lease.release()
        return Result(0, [])

    # Looking at the clocks ----------------------------------------------------------------

    def _look_at_once(self) -> None:
        if not self.in_kernel:
            self._look_at(time.monotonic())

    def _look_at(self, when: float) -> None:
        if self._due is None or when < self._due:
            self._due = when
            self.home.events.at(when, lambda: self._alarm(when))

    def _alarm(self, when: float) -> None:
        if when != self._due:
            return  # an earlier look has been asked for since, and been taken
        self._due = None
        if self._looking:
            self._again = True  # a timer has been set since that look began
        elif not self.home.finished:
            self._looking = True
            self.home.operations.begin(
                "processor timers", None, self._look(), lambda _: self._looked()
            )

    def _looked(self) -> None:
        self._looking = False
        if self._again:
            self._again = False
            self._look_at_once()

    def _set(self) -> list[Timer]:
        return [t for t in self._timers.values() if t.signal and (t.expiry_ns or t.wanted)]

    def _look(self) -> Steps:
        clocks = {timer.clock for timer in self._set() if timer.expiry_ns}
        limits = self._limits()
        if limits[0] != resource.RLIM_INFINITY or limits[1] != resource.RLIM_INFINITY:
            clocks.add(Clock(ALL, False))
        now_ns = {}
        for clock in clocks:
            now_ns[clock] = yield from self.read(clock)
        self.takers.have_used(self.home.processor_time.by_host)
        wait_ns = []
        for timer in self._set():
            now = now_ns.get(timer.clock)
            if now is not None:
                self._expired(timer, now)
            if timer.wanted:
                self._send(timer)
            if timer.expiry_ns and now is not None and not timer.wanted:
                wait_ns.append(self._earliest(timer.clock, timer.expiry_ns - now))
        whole = now_ns.get(Clock(ALL, False), 0)
        left_ns = self._keep_to_limits(whole)
        if left_ns is not None:
            wait_ns.append(self._earliest(Clock(ALL, False), left_ns))
        if wait_ns:
            unused = all(self._seen.get(clock) == now for clock, now in now_ns.items())
            self._idle = min(self._idle + 1, IDLE_LOOKS_MAX) if unused else 0
            self._seen = now_ns
            wait_s = max(min(wait_ns) / NS_PER_S, TICK_S * 2**self._idle)
            self._look_at(time.monotonic() + wait_s)
        if self._in_peace_until:
            self._look_at(self._in_peace_until)
            self._in_peace_until = 0.0

    def _earliest(self, clock: Clock, left_ns: int) -> int:
        """How soon, in nanoseconds, a clock may have advanced by so much."""
        return left_ns // (self.home.machine.cpus if clock.tid == ALL else 1)

    def _expired(self, timer: Timer, now_ns: int) -> None:
        expirations = timer.expire(now_ns)
        if expirations and timer.signal:
            if timer.sent_to and not self._is_pending(timer):
                timer.overruns_told, timer.sent_to, timer.over = timer.overruns, 0, False
            timer.count(expirations)
            if timer.wanted and not self._looking:
                self._look_at_once()

    def _is_pending(self, timer: Timer) -> bool:
        """Is the signal that was sent still to be taken? (sigtimedwait and signalfd take it
        unseen.)"""
        home, tid = self.home, timer.sent_to
        thread = home.by_tid.get(tid)
        if thread is not None and any(n == timer.signal for n, _ in thread.pending_signals):
            return True
        try:
            with open(f"/proc/{home.pid}/task/{tid}/status", encoding="ascii",
                      errors="replace") as file:
                return any(
                    int(line.split()[1], 16) >> (timer.signal - 1) & 1
                    for line in file if line.startswith(("SigPnd:", "ShdPnd:"))
                )  # fmt: skip
        except OSError:
            return False  # its thread is gone, and the signal with it

    # Signals --------------------------------------------------------------------------------

    def _send(self, timer: Timer) -> None:
        """Send an expired timer's signal, unless its thread is to be left in peace now."""
        home, number = self.home, timer.signal
        if timer.target:
            threads = [home.by_tid[timer.target]] if timer.target in home.by_tid else []
            if not threads:
                timer.wanted = False
                return
        elif not home.actions.runs_handler(number):
            threads = []
        else:
            threads = self.takers.by_use()
        waits_for = None
        for thread in threads:
            if waits_for is not None and thread.away != waits_for:
                return
            blocked = self._blocks(thread, number)
            if blocked and not timer.target:
                continue
            fetch = thread.away != HOME and thread.native is None and not blocked
            until = self.takers.in_peace_until(thread) if fetch else 0.0
            if time.monotonic() < until:
                waits_for = thread.away
                self._in_peace_until = min(until, self._in_peace_until or until)
                continue
            self._queue(timer, thread.tid)
            self.takers.has_got(thread)
            if thread.away != HOME and not blocked:
                self.takers.fetch(thread, fetch)
            return
        if waits_for is None:
            self._queue(timer, ALL)

    def _queue(self, timer: Timer, tid: int) -> None:
        """Queue the signal for a thread, or the process."""
        pid = self.home.pid
        timer.wanted, timer.sent_to = False, tid or pid
        with contextlib.suppress(OSError):  # it is ending, or may queue no more
            ptrace.queue_signal(pid, tid, timer.signal, timer.info())

    def _blocks(self, thread: Thread, number: int) -> bool:
        try:
            with open(f"/proc/{self.home.pid}/task/{thread.tid}/status", encoding="ascii",
                      errors="replace") as file:  # fmt: skip
                for line in file:
                    if line.startswith("SigBlk:"):
                        mask = int(line.split()[1], 16) | thread.virtual_mask
                        return bool(mask >> (number - 1) & 1)
        except OSError:
            pass
        return True

    def discards(self, thread: Thread) -> bool:
        """Does a thread stand at a signal that nobody is to get?"""
        if not self._deleted and not any(timer.over for timer in self._timers.values()):
            return False
        timer = self._of(ptrace.get_siginfo_bytes(thread.task))
        return timer is not None and self._forget(timer)

    def _of(self, info: bytes) -> Timer | None:
        """The timer whose signal this is, if it is one's."""
        number, _, code, identity, _, value = TIMER_INFO.unpack_from(info)
        if code == SI_TIMER:
            for timer in (self._timers.get(identity), self._deleted.get(identity)):
                if timer is not None and (timer.signal, timer.value) == (number, value):
                    return timer
        return None

    def _forget(self, timer: Timer) -> bool:
        """If the signal that has been seen is of a setting that is over: its timer has none now."""
        if not timer.over:
            return False
        timer.sent_to, timer.over = 0, False
        self._deleted.pop(timer.number, None)
        return True

    def taken(self, info: bytes) -> bytes:
        """The siginfo of a signal that a thread has got, as the program is to see it."""
        timer = self._of(info)
        if timer is None:
            return info
        number, identity, value = timer.signal, timer.number, timer.value
        timer.sent_to = 0
        timer.overruns_told, timer.overruns = timer.overruns, 0
        if identity < 0:
            return struct.pack("<iii", number, 0, ptrace.SI_KERNEL).ljust(INFO_SIZE, b"\0")
        told = TIMER_INFO.pack(number, 0, SI_TIMER, identity, timer.overruns_told, value)
        return told.ljust(INFO_SIZE, b"\0")

    def waited_for(self, thread: Thread, result: Result) -> Result | None:
        """The result of one of WAITS, with the siginfo that it brought as `taken`.

        None where the signal is one that nobody is to get.
        """
        if result.ret <= 0 or not result.outs:
            return result
        segment, at, data = result.outs[0]
        wide = thread.arch.word == 8  # struct compat_siginfo has no gap behind the code
        info = data if wide else data[:12] + bytes(4) + data[12:24] + bytes(4)
        timer = self._of(info)
        if timer is not None and self._forget(timer):
            return None
        told = self.taken(info)
        if told is info:
            return result
        if not wide:
            told = told[:12] + told[16:28]
        return Result(result.ret, [(segment, at, told[: len(data)]), *result.outs[1:]])

    # RLIMIT_CPU -----------------------------------------------------------------------------

    def _limits(self) -> tuple[int, int]:
        """Soft and hard, seconds; RLIM_INFINITY where nobody may ask."""
        try:
            return resource.prlimit(self.home.pid, resource.RLIMIT_CPU)
        except OSError:
            return resource.RLIM_INFINITY, resource.RLIM_INFINITY

    def _keep_to_limits(self, now_ns: int) -> int | None:
        """Do what the kernel does at the limits (check_process_timers of
        kernel/time/posix-cpu-timers.c); nanoseconds to the nearer one, None without any."""
        soft, hard = self._limits()
        limits = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
        if not limits:
            return None
        if hard != resource.RLIM_INFINITY and now_ns >= hard * NS_PER_S:
            self.home.endings.kill_program()
            return None
        if soft != resource.RLIM_INFINITY and now_ns >= soft * NS_PER_S:
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(self.home.pid, resource.RLIMIT_CPU, (soft + 1, hard))
            self.home.endings.signal_program(signal.SIGXCPU)
            limits[0] = soft + 1
        return min(limits) * NS_PER_S - now_ns
