# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time of threads that run, or have run, on other hosts.

Home's kernel counts what the program's tasks use at home. What a thread uses
elsewhere is counted by that host's kernel, for its worker: home asks when the
program reads a clock of processor time, and adds it to what its own kernel
says. Other hosts keep the sum of all workers that they ever had; a worker's own
comes home with the thread. The agent, which is ours, is left out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from supervisor.driver.messages import TimesAsked
from supervisor.driver.operations import Steps, Wait
from supervisor.errors import PeerError
from supervisor.syscalls.call import Call
from supervisor.syscalls.marshal import Result
from supervisor.syscalls.spec import Row
from supervisor.tracee.usage import NS_PER_S, TICKS_PER_S, Meter, Times
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

CLOCK_PROCESS_CPUTIME_ID: Final = 2
CLOCK_THREAD_CPUTIME_ID: Final = 3
CPUCLOCK_PERTHREAD: Final = 4
CPUCLOCK_VIRT: Final = 1
CLOCKFD: Final = 3
"""The kinds of a negative clock id (linux/posix-timers_types.h); its rest is ~pid << 3."""
RUSAGE_SELF: Final = 0
RUSAGE_THREAD: Final = 1
ALL: Final = 0
"""In place of a thread: what a host has used for the program in all."""


class ProcessorTime:
    """Home's part."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._numbers = itertools.count()
        self._open: dict[int, _Question] = {}
        self._agent = Meter()
        self._agents_before = Times()
        self.by_host: dict[HostId, Times] = {}
        """What each host, home too, has used in all, as far as it was last heard."""
        self._busy: set[HostId] = set()
        """Hosts with threads since they were last asked."""
        self._shown: dict[str, int] = {}
        """What the process's clocks have told: they never go back."""

    def executed(self) -> None:
        """The program's image is a new one, with an agent of its own."""
        self._agents_before = self._agents()
        self._agent = Meter()

    # What hosts have used -----------------------------------------------------------

    def of_thread(self, thread: Thread) -> Steps:
        """Times that a thread has used elsewhere than at home."""
        while True:
            host = thread.away
            if host == HOME:
                return thread.spent
            used = yield from self._ask((host,), thread.tid)
            if thread.away == host:
                return thread.spent.plus(used)

    def of_others(self) -> Steps:
        """Times that all threads have used elsewhere, those that have ended as well.

        Nobody is asked who has had no thread since he was last asked.
        """
        asked = [host for host in self.home.links.by_host if host in self._busy]
        self._busy &= {thread.away for thread in self.home.by_tid.values()}
        yield from self._ask(asked, ALL)
        used = Times()
        for host, told in self.by_host.items():
            if host != HOME:
                used = used.plus(told)
        return used

    def of_clock(self, kind: int) -> Steps:
        """Nanoseconds of a clock of the process, of a kind: CPUCLOCK_VIRT, or 2 for all."""
        used, agents = (yield from self.of_others()), self._agents()
        here = time.clock_gettime_ns(~self.home.pid << 3 | kind)
        if kind == CPUCLOCK_VIRT:
            return self._forward(f"clock {kind}", here + used.user_ns - agents.user_ns)
        self.by_host[HOME] = Times(max(here - agents.sum_ns, 0))
        return self._forward(f"clock {kind}", here + used.sum_ns - agents.sum_ns)

    def at_home(self, thread: Thread) -> Times:
        """What a thread's own task has used."""
        return thread.meter.read(self.home.pid, thread.tid)

    def placed(self, host: HostId) -> None:
        """A thread is sent to a host."""
        self._busy.add(host)

    def _ask(self, hosts: Iterable[HostId], tid: int) -> Steps:
        number = next(self._numbers)
        question = self._open[number] = _Question(hosts, tid)
        for host in question.hosts:
            self.home.send(host, TimesAsked(number, tid))
        if question.hosts:
            yield Wait(("times", number))
        del self._open[number]
        return question.used

    def told(self, host: HostId, number: int, used: Times) -> None:
        """A host's answer."""
        question = self._open.get(number)
        if question is None or host not in question.hosts:
            raise PeerError(f"host {host} told processor times that it was not asked for")
        question.hosts.discard(host)
        question.used = question.used.plus(used)
        if question.tid == ALL:
            self.by_host[host] = used
        if not question.hosts and not self.home.operations.wake(("times", number), None):
            del self._open[number]  # who asked is gone

    def _agents(self) -> Times:
        home = self.home
        return self._agents_before.plus(self._agent.read(home.pid, home.agent.tid))

    # What the program is told -------------------------------------------------------

    def amend(self, thread: Thread, row: Row, call: Call, result: Result) -> Steps:
        """A call's result, where it is of processor time, with what other hosts know."""
        tell = _CALLS.get(row.handler or row.name)
        if tell is None or not result.outs or result.ret < 0 or thread.borrowed:
            return result
        number, offset, data = result.outs[0]
        told = bytearray(data)
        yield from tell(self, thread, row, call, told)
        return Result(result.ret, [(number, offset, bytes(told)), *result.outs[1:]])

    def of_process(self, user_ns: int, system_ns: int) -> Steps:
        """The process's times: those that home's kernel tells, put right."""
        used, agents = (yield from self.of_others()), self._agents()
        return (
            self._forward("user", user_ns + used.user_ns - agents.user_ns),
            self._forward("system", system_ns + used.system_ns - agents.system_ns),
        )

    def _forward(self, what: str, now: int) -> int:
        self._shown[what] = max(now, self._shown.get(what, 0))
        return self._shown[what]

    def _clock(self, thread: Thread, row: Row, call: Call, told: bytearray) -> Steps:
        whose, kind = named_by(call.args[0] & 0xFFFF_FFFF, thread.tid)
        seconds, rest = row.timespec.unpack_from(told)
        now = seconds * NS_PER_S + rest
        if whose == ALL or (whose == self.home.pid and not kind & CPUCLOCK_PERTHREAD):
            used, less, what = (yield from self.of_others()), self._agents(), f"clock {kind}"
        elif whose in self.home.by_tid and kind & CPUCLOCK_PERTHREAD:
            used, less, what = (yield from self.of_thread(self.home.by_tid[whose])), Times(), ""
        else:
            return  # another process's, or none of processor time
        more, fewer = (
            (used.user_ns, less.user_ns)
            if kind & 3 == CPUCLOCK_VIRT
            else (used.sum_ns, less.sum_ns)
        )
        now = now + more - fewer
        if what:
            now = self._forward(what, now)
        row.timespec.pack_into(told, 0, *divmod(now, NS_PER_S))

    def _getrusage(self, thread: Thread, row: Row, call: Call, told: bytearray) -> Steps:
        who, layout = call.args[0] & 0xFFFF_FFFF, row.timespec
        user_ns, system_ns = (
            seconds * NS_PER_S + rest * 1000
            for seconds, rest in (layout.unpack_from(told, at) for at in (0, layout.size))
        )
        if who == RUSAGE_SELF:
            user_ns, system_ns = yield from self.of_process(user_ns, system_ns)
        elif who == RUSAGE_THREAD:
            used = yield from self.of_thread(thread)
            user_ns, system_ns = user_ns + used.user_ns, system_ns + used.system_ns
        else:
            return
        for at, now in ((0, user_ns), (layout.size, system_ns)):
            seconds, rest = divmod(now, NS_PER_S)
            layout.pack_into(told, at, seconds, rest // 1000)

    def _times(self, _thread: Thread, row: Row, _call: Call, told: bytearray) -> Steps:
        word = row.arch.pointer
        ticks = [word.unpack_from(told, at)[0] for at in (0, word.size)]
        for at, now in zip((0, word.size), (yield from self.of_ticks(*ticks)), strict=True):
            word.pack_into(told, at, now)

    def of_ticks(self, user: int, system: int, thread: Thread | None = None) -> Steps:
        """As `of_process` (or of a thread), in ticks, which are what times(2) and stat tell."""
        tick_ns = NS_PER_S // TICKS_PER_S
        if thread is None:
            told = yield from self.of_process(user * tick_ns, system * tick_ns)
        else:
            used = yield from self.of_thread(thread)
            told = (user * tick_ns + used.user_ns, system * tick_ns + used.system_ns)
        return [now // tick_ns for now in told]


class _Question:
    """Hosts that have not answered yet, and the sum of what the others said."""

    __slots__ = ("hosts", "tid", "used")

    def __init__(self, hosts: Iterable[HostId], tid: int) -> None:
        self.hosts = set(hosts)
        self.tid = tid
        self.used = Times()


_CALLS: Final = {
    "clock_gettime": ProcessorTime._clock,
    "getrusage": ProcessorTime._getrusage,
    "times": ProcessorTime._times,
}
"""By Row.handler, or the call's name where it has none."""


def named_by(clock: int, tid: int) -> tuple[int, int]:
    """Whose clock an id (32 bits) of processor time names, ALL for the caller's process's;
    and its kind. (-1, 0) where it names none."""
    if clock == CLOCK_PROCESS_CPUTIME_ID:
        return ALL, 2
    if clock == CLOCK_THREAD_CPUTIME_ID:
        return tid, 2 | CPUCLOCK_PERTHREAD
    kind = clock & 7
    if not clock >> 31 or kind & 3 == CLOCKFD:
        return -1, 0
    pid = ~(clock >> 3) & 0x1FFF_FFFF
    return pid or (tid if kind & CPUCLOCK_PERTHREAD else ALL), kind
