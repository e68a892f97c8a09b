# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that are not worth another host.

A thread costs milliseconds to start elsewhere, and a page fault each for what it touches
first: one of an interpreter's fetches more than a hundred, and many programs start a
thread for each small thing. So home keeps account of what the stays elsewhere have gained
(processor time) and lost (their start, and half of what they waited for pages). While they
have lost more, new threads begin at home, on trial: there they cost what they do natively.
Who computes for long enough goes elsewhere then. One now and then begins there all the same,
to see. A thread that has come home because it waited for pages all the time is on
trial too, and the oftener that happens, the longer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.tracee.usage import NS_PER_S, wanted_by
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

START_S: Final = 0.02
"""What a stay costs in any case."""
STAYS: Final = 8
LOST_S: Final = 0.15
"""So much lost by so many stays or more, and threads begin at home."""
LOST_S_MAX: Final = 4.0
"""No more is remembered: a stay that gains as much, and all is forgotten."""
TRIAL_S: Final = 0.05
"""A thread on trial that has had a processor, or waited for one, for so long goes elsewhere;
or for as long as has been lost, where that is more."""
LOOK_S: Final = 0.05
RETURN_S: Final = 1.0
RETURN_FACTOR: Final = 4
RETURN_S_MAX: Final = 64.0
"""The same for a thread that has come home because it waited for pages; and so many times
longer each time."""
TRIES_APART: Final = 16
TRIES_APART_MAX: Final = 256
"""After so many that began at home one begins elsewhere; after twice as many each time."""


class Trials:
    """Of the threads of one image of the program; its main thread is at home anyway."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lost_s = 0.0
        self._stays = 0
        """That are over since nothing had been lost."""
        self._left = self._apart = TRIES_APART
        """How many are to begin at home before one begins elsewhere; and at first."""
        self._on_trial: dict[Thread, float] = {}
        """And how much processor time, in seconds, it has to have wanted, at the least."""
        self._returns: dict[Thread, float] = {}
        """How long the trial is when it next comes home."""
        self._looks = False

    @property
    def _wary(self) -> bool:
        return self._lost_s > LOST_S and self._stays >= STAYS

    def stay_over(self, gained_s: float) -> None:
        """A thread's stay elsewhere has ended."""
        was_wary = self._wary
        self._lost_s = min(max(self._lost_s + START_S - gained_s, 0.0), LOST_S_MAX)
        self._stays = self._stays + 1 if self._lost_s else 0
        if self._wary == was_wary:
            return
        self._left = self._apart = TRIES_APART
        where = "at home: they gain little" if self._wary else "on all hosts"
        self._home.verbose(f"threads begin {where} from here on")

    def place(self, thread: Thread) -> HostId:
        """Where a new thread begins."""
        placement = self._home.placement
        host = self._choose(thread.affinity)
        if host == HOME or not self._wary or HOME not in placement.hosts_of(thread.affinity):
            return host
        self._left -= 1
        if not self._left:
            self._left = self._apart = min(2 * self._apart, TRIES_APART_MAX)
            return host
        self._begin(thread, TRIAL_S)
        return HOME

    def comes_home(self, thread: Thread) -> None:
        """A thread has given up its stay elsewhere: it is to compute before the next."""
        trial_s = self._returns.get(thread, RETURN_S)
        self._returns[thread] = min(trial_s * RETURN_FACTOR, RETURN_S_MAX)
        self._begin(thread, wanted_by(self._home.pid, thread.task) / NS_PER_S + trial_s)

    def ended(self, thread: Thread) -> None:
        self._on_trial.pop(thread, None)
        self._returns.pop(thread, None)

    def _begin(self, thread: Thread, needed_s: float) -> None:
        self._on_trial[thread] = needed_s
        if not self._looks:
            self._look_soon()

    def _look_soon(self) -> None:
        self._looks = True
        self._home.events.at(time.monotonic() + LOOK_S, self._look)

    def _look(self) -> None:
        """Let those go elsewhere that have proved to be worth it."""
        home = self._home
        self._looks = False
        if home.trials is not self:
            return  # the program has executed another
        for thread, needed_s in list(self._on_trial.items()):
            if thread.away != HOME or thread.destination is not None:
                del self._on_trial[thread]  # it has been moved for another reason
            elif wanted_by(home.pid, thread.task) >= max(needed_s, self._lost_s) * NS_PER_S:
                host = self._better(thread)
                if host != HOME:
                    del self._on_trial[thread]
                    home.away.move(thread, host)
        if self._on_trial:
            self._look_soon()

    def _better(self, thread: Thread) -> HostId:
        """Where a thread that is at home would be placed if it were not yet anywhere."""
        placement = self._home.placement
        placement.ended(HOME)
        try:
            return self._choose(thread.affinity)
        finally:
            placement.started(HOME)

    def _choose(self, affinity: int | None) -> HostId:
        """As placement does, but with those that are about to move where they will be."""
        home = self._home
        placement = home.placement
        moving = [
            other.destination for other in home.by_tid.values()
            if other.away == HOME and other.destination is not None
        ]  # fmt: skip
        for target in moving:
            placement.moved(HOME, target)
        try:
            return placement.choose(affinity)
        finally:
            for target in moving:
                placement.moved(target, HOME)
