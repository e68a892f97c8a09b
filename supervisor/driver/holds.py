# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a thread keeps the pages that it was granted, when others ask for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access, Released

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor

HOLD_S: Final = {Access.READ: 50e-6, Access.WRITE: 1e-3}
"""How long a granted page is kept from others if its thread has not been seen to progress.

A few round trips for a page to write: a thread that uses it again and again then works
for most of the time that it contends for the page. Less for one to read: a thread that
polls it keeps the writer from what it polls for.
"""
FOREVER: Final = float("inf")


class Holds:
    """By requester; the end of a hold is a `Released`, unless the requester is forgotten."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._until: dict[int, float] = {}
        self._due = FOREVER
        """When the next look at them is certain to come."""

    def begin(self, requester: int, access: Access) -> None:
        """What was asked for with this access is there; its time runs (again) from now."""
        self._until[requester] = time.monotonic() + HOLD_S[access]

    def pin(self, requester: int) -> None:
        """Until `end`, or `begin` says how much longer."""
        self._until[requester] = FOREVER

    def stepped(self, requester: int, access: Access) -> None:
        """A pinned requester has made progress: from here on it holds as any other."""
        if requester in self._until:
            self.begin(requester, access)
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
        if next_due is not None and next_due < self._due:
            self._due = next_due
            self._supervisor.events.at(next_due, self._on_timer)

    def _on_timer(self) -> None:
        self._due = FOREVER
        if self._until:
            self.release_due()
