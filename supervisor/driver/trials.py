# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that are not worth another host.

A thread costs milliseconds to start elsewhere, and a page fault each for what it touches
first: one of an interpreter's fetches more than a hundred, and many programs start a
thread for each small thing. So home keeps account of what the stays elsewhere have gained
(processor time) and lost (their start, and half of what they waited for pages). While they
have lost more, new threads begin at home, on trial: there they cost what they do natively.
Who computes for long enough goes elsewhere then. One now and then begins there all the same,
to see.
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
        self._on_trial: set[Thread] = set()
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
        host = placement.choose(thread.affinity)
        if host == HOME or not self._wary or HOME not in placement.hosts_of(thread.affinity):
            return host
        self._left -= 1
        if not self._left:
            self._left = self._apart = min(2 * self._apart, TRIES_APART_MAX)
            return host
        self._on_trial.add(thread)
        if not self._looks:
            self._look_soon()
        return HOME

    def ended(self, thread: Thread) -> None:
        self._on_trial.discard(thread)

    def _look_soon(self) -> None:
        self._looks = True
        self._home.events.at(time.monotonic() + LOOK_S, self._look)

    def _look(self) -> None:
        """Let those go elsewhere that have proved to be worth it."""
        home = self._home
        self._looks = False
        if home.trials is not self:
            return  # the program has executed another
        proven_ns = max(TRIAL_S, self._lost_s) * NS_PER_S
        for thread in list(self._on_trial):
            if thread.away != HOME or thread.destination is not None:
                self._on_trial.discard(thread)  # it has been moved for another reason
            elif wanted_by(home.pid, thread.task) >= proven_ns:
                host = self._better(thread)
                if host != HOME:
                    self._on_trial.discard(thread)
                    home.away.move(thread, host)
        if self._on_trial:
            self._look_soon()

    def _better(self, thread: Thread) -> HostId:
        """Where a thread that is at home would be placed if it were not yet anywhere."""
        home = self._home
        placement = home.placement
        moving = [
            other.destination for other in home.by_tid.values()
            if other.away == HOME and other.destination is not None
        ]  # fmt: skip
        placement.ended(HOME)
        for target in moving:
            placement.moved(HOME, target)
        try:
            return placement.choose(thread.affinity)
        finally:
            placement.started(HOME)
            for target in moving:
                placement.moved(target, HOME)
