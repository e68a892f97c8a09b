# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a thread keeps the pages that it was granted, when others ask for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Released

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor

EXCLUSIVE_S: Final = 1e-3
"""How long pages, one of them exclusive, are kept from others if their thread has not been
seen to progress: a few round trips. A thread that uses such a page again and again then works
for most of the time that it contends for it."""
SHARED_S: Final = 50e-6
"""The same where none is: a thread that polls a page keeps the writer from what it polls for,
and one that stores to a multiple-writer page holds up the flush that another host waits for
(to get it back, it needs no other host)."""
FOREVER: Final = float("inf")


class Holds:
    """By requester; the end of a hold is a `Released`, unless the requester is forgotten.

    A hold that is over ends when somebody asks: no timer runs, and nothing is stepped,
    for one that keeps nobody waiting.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._until: dict[int, float] = {}
        self._due = FOREVER
        """When the next look at them is certain to come."""

    def begin(self, requester: int) -> None:
        """What was asked for is there, if it was pages; their time runs (again) from now."""
        if not self._supervisor.node.pins(requester):
            self._until.pop(requester, None)
            return
        exclusive = self._supervisor.node.pins_exclusive(requester)
        self._until[requester] = time.monotonic() + (EXCLUSIVE_S if exclusive else SHARED_S)

    def pin(self, requester: int) -> None:
        """Until `end`, or `begin` says how much longer."""
        self._until[requester] = FOREVER

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
        now = time.monotonic()
        next_due = None
        for requester, until in list(self._until.items()):
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
