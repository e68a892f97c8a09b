# SPDX-License-Identifier: GPL-2.0-or-later
"""What requesters of one host wait for, and what the host has asked home for on their account."""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisor.coherence.messages import Run
from supervisor.coherence.streams import Stream


@dataclass(slots=True)
class Demand:
    """What a requester waits for."""

    needs: tuple[Run, ...]
    locked: bool
    above: int = 0
    below: int = 0
    page: int = -1

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
    stream: Stream
    waiters: dict[int, Demand] = field(default_factory=dict)
