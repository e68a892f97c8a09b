# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a thread keeps the pages that it was granted, when others ask for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Released

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor

SHORT_S: Final = 50e-6
"""For how long a thread has the processor (its supervisor sleeps) before pages are taken from
it, if it has not been seen to progress. One that polls a page keeps the writer from what it
polls for; one that adds to a counter now and then does not need it any more; and one that
stores to a multiple-writer page holds up the flush that another host waits for (to get it
back, it needs no other host)."""
LONG_S: Final = 1e-3
"""How long pages are kept at most; and an exclusive page that was wanted again as soon as it
was lost, always: a few round trips, so that a thread that uses it again and again works for
most of the time that it contends."""
AGAIN_S: Final = 4e-3
"""A page that this host got to write, lost, and got again within so long, is such a page."""
PAGES_MAX: Final = 1 << 12
FOREVER: Final = float("inf")


class Holds:
    """By requester; the end of a hold is a `Released`, unless the requester is forgotten.

    A hold that is over ends when somebody asks: no timer runs, and nothing is stepped,
    for one that keeps nobody waiting.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._until: dict[int, tuple[float, float]] = {}
        """When the hold is over, and how long the supervisor has slept by then, if earlier."""
        self._got: dict[int, float] = {}
        """When an exclusive page was last there."""
        self._due = FOREVER
        """When the next look at them is certain to come."""

    def begin(self, requester: int) -> None:
        """What was asked for is there, if it was pages; their time runs (again) from now."""
        if not self._supervisor.node.pins(requester):
            self._until.pop(requester, None)
            return
        now, slept_s = time.monotonic(), self._supervisor.events.slept_s + SHORT_S
        page = self._supervisor.node.pinned_exclusive(requester)
        if page is not None:
            if now - self._got.get(page, 0.0) < AGAIN_S:
                slept_s = FOREVER
            elif len(self._got) >= PAGES_MAX:
                self._got.clear()
            self._got[page] = now
        self._until[requester] = now + LONG_S, slept_s

    def pin(self, requester: int) -> None:
        """Until `end`, or `begin` says how much longer."""
        self._until[requester] = FOREVER, FOREVER

    def stepped(self, requester: int) -> None:
        """A pinned requester has made progress: from here on it holds as any other."""
        if requester in self._until:
            self.begin(requester)
            self.release_due()

    def end(self, requester: int) -> None:
        """It has made progress, and needs its pages no more (than another thread)."""
        if self._until.pop(requester, None) is not None:
            self._supervisor.step(Released(requester))

    def forget(self, requester: int) -> None:
        self._until.pop(requester, None)

    def release_due(self) -> None:
        """Let pages go that were granted long enough ago, because somebody may ask."""
        now, slept_s = time.monotonic(), self._supervisor.events.slept_s
        next_due = None
        for requester in list(self._until):
            if requester not in self._until:
                continue  # it has ended while another's pages went
            until, until_slept = self._until[requester]
            until = min(until, now + until_slept - slept_s)
            if now >= until:
                del self._until[requester]
                self._supervisor.step(Released(requester))
            elif next_due is None or until < next_due:
                next_due = until
        if next_due is not None and next_due < self._due and self._supervisor.node.held_up:
            self._due = next_due
            self._supervisor.events.at(next_due, self._on_timer)

    def _on_timer(self) -> None:
        self._due = FOREVER
        if self._until:
            self.release_due()
