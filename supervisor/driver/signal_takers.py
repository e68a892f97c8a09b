# SPDX-License-Identifier: GPL-2.0-or-later
"""Which thread gets a process's signal of a timer of processor time, and when.

As in the kernel (6.4 and later) it is one that uses the time: of the host that has
used most since one of its threads last got such a signal. A thread elsewhere runs its
handler at home, and goes back when that returns. One that was fetched is left in peace
for FETCH_SHARE times as long as that took.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.driver.messages import BringHome
from supervisor.tracee.usage import Times, used_by
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

FETCH_SHARE: Final = 19
FETCH_S_MAX: Final = 0.1
"""A fetched thread that has not gone back after so long may be fetched again."""


class SignalTakers:
    """The threads of the program, as those who may get such signals."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._credit: dict[HostId, int] = {}
        """What each host has used since a thread of it last got a signal, in nanoseconds."""
        self._used: dict[HostId, int] = {}
        self._used_here: dict[int, int] = {}
        """Of threads at home, when one was last chosen."""
        self._fetched: dict[int, float] = {}
        self._in_peace: dict[int, float] = {}
        """Until when threads are not fetched again, by time.monotonic()."""
        self._turn = 0

    def by_use(self) -> list[Thread]:
        """The program's threads, those first whose host has used most since its last turn."""
        threads = [thread for thread in self._home.by_tid.values() if not thread.exited]
        self._turn += 1
        here = {}
        for thread in threads:
            if thread.away == HOME:
                here[thread.tid] = used_by(self._home.pid, thread.tid)
        before, self._used_here = self._used_here, here
        count = len(threads)
        ranked = [
            (
                -self._credit.get(thread.away, 0),
                before.get(thread.tid, 0) - here.get(thread.tid, 0),
                (index + self._turn) % count,
                thread,
            )
            for index, thread in enumerate(threads)
        ]
        return [each[3] for each in sorted(ranked, key=lambda each: each[:3])]

    def have_used(self, by_host: dict[HostId, Times]) -> None:
        """The time that each host's threads have used up to now."""
        for host, used in by_host.items():
            more = used.sum_ns - self._used.get(host, used.sum_ns)
            self._used[host] = used.sum_ns
            self._credit[host] = self._credit.get(host, 0) + max(more, 0)

    def has_got(self, thread: Thread) -> None:
        """A thread has been sent a signal."""
        self._credit[thread.away] = 0

    def in_peace_until(self, thread: Thread) -> float:
        """By time.monotonic()."""
        return self._in_peace.get(thread.tid, 0.0)

    def fetch(self, thread: Thread, ask: bool) -> None:
        """Have a thread come home for its handler, and go back afterwards.

        `ask` where its host does not send it by itself.
        """
        now = time.monotonic()
        thread.returns_to = thread.away
        self._fetched[thread.tid] = now
        self._in_peace[thread.tid] = now + FETCH_S_MAX
        if ask:
            self._home.send(thread.away, BringHome(thread.tid))

    def goes_back(self, thread: Thread) -> None:
        """A thread that was fetched for a handler has done with it."""
        now = time.monotonic()
        taken = now - self._fetched.pop(thread.tid, now)
        self._in_peace[thread.tid] = now + FETCH_SHARE * taken
        thread.destination, thread.returns_to = thread.returns_to, HOME
        self._home.away.depart(thread)

    def ended(self, tid: int) -> None:
        """A thread is gone."""
        for table in (self._fetched, self._in_peace):
            table.pop(tid, None)
