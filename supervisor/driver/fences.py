# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting until every other host has come as far as home has told it.

And, where a call is a barrier for all threads (membarrier(2), or an mprotect(2) that takes
a right away, for which the kernel interrupts all processors), until the stores that their
threads had made by then are visible to all: they may be in pages of several writers.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from supervisor.driver.messages import Fence, Fenced
from supervisor.driver.operations import Flush, Steps, Wait, flush_first
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.lender import Lender


class Fences:
    """Home's, to all hosts that have the area list."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._numbers = itertools.count(1)
        self._missing: dict[int, int] = {}
        """Of each fence on its way, how many hosts have not answered yet."""

    def passed(self, drains: bool = False) -> Steps:
        """Until all hosts have done what home has told them so far."""
        home = self._home
        hosts = sorted(home.away.synced)
        if not hosts:
            return
        number = next(self._numbers)
        self._missing[number] = len(hosts)
        for host in hosts:
            home.send(host, Fence(number, drains))
        yield Wait(("fence", number))

    def drained(self) -> Steps:
        """Until all that any thread has stored so far is visible to all."""
        if self._home.several_writers:
            yield Flush()
            yield from self.passed(drains=True)

    def answered(self, number: int) -> None:
        """A host has answered a fence."""
        self._missing[number] -= 1
        if not self._missing[number]:
            del self._missing[number]
            self._home.operations.wake(("fence", number), None)


def answer(lender: Lender, fence: Fence) -> None:
    """Another host's part: what home has told it was done as it came."""
    if not fence.drains:
        lender.send(HOME, Fenced(fence.number))
        return
    lender.operations.begin(
        "fence", None, flush_first(), lambda _: lender.send(HOME, Fenced(fence.number))
    )
