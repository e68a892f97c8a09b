# SPDX-License-Identifier: GPL-2.0-or-later
"""What requesters of one host wait for, and what the host has asked home for on their account."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from supervisor.coherence.messages import Access, Run
from supervisor.coherence.pages import PageMap, run_of, without
from supervisor.coherence.streams import Stream

CONSTANT_PAGES: Final = 256
"""Of code and other constant data all of an aligned mebibyte comes with the page that is
needed: more than that keeps a link of 1 Gbit/s from others for too long, and of less a program
would need a dozen blocks of its C library, each after the other."""


@dataclass(slots=True)
class Demand:
    """What a requester waits for."""

    needs: tuple[Run, ...]
    locked: bool
    above: int = 0
    below: int = 0
    page: int = -1
    constant: bool = False

    def beside(self, own: PageMap) -> tuple[Run, ...]:
        """Of constant pages: those that are not here of the block in which the need is."""
        ((first, count, access),) = self.needs
        low = max(first & -CONSTANT_PAGES, first - self.below)
        high = min((first + count - 1 | CONSTANT_PAGES - 1) + 1, first + count + self.above)
        missing = [
            run_of(run.first, run.count, access)
            for run in own.runs(low, high - low)
            if run.value == Access.NONE
        ]
        return tuple(without(missing, first, count))

    @property
    def followed(self) -> tuple[Run, ...]:
        """The needs, with the one last that a stream may go on from."""
        needs = self.needs
        if len(needs) == 1:
            return needs
        for at, need in enumerate(needs[:-1]):
            if need.first <= self.page < need.first + need.count:
                return (*needs[:at], *needs[at + 1 :], need)
        return needs


@dataclass(slots=True)
class Fetching:
    """A request of this host that home has not answered, and who waits for it."""

    needs: tuple[Run, ...]
    ahead: tuple[Run, ...]
    asked: tuple[Run, ...]  # both, normalised
    locked: bool
    stream: Stream | None
    waiters: dict[int, Demand] = field(default_factory=dict)
