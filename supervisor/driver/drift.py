# SPDX-License-Identifier: GPL-2.0-or-later
"""How far home's clock is ahead of this host's, and how much faster it runs.

Whoever asks home for its time knows two bounds: home read it after the question
left and before the answer was here, so that home's clock is ahead by no more than
the answer less the first and no less than the answer less the second (F. Cristian,
"Probabilistic clock synchronization", 1989). The quickest of a burst has the
closest bounds. Those of several bursts bound the rate as well: of every two, how
much the later can have gained on the earlier. Bounds that no rate meets mean that
it has changed: the oldest are forgotten.

Where the bounds are wider than clocks drift, they say nothing, and the rate stays
as it was; the closer they are, the more it is the middle between them.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from supervisor.timeline import DRIFT_MAX, RATE_ONE, Line

BURSTS: Final = 16
"""As many are remembered."""
USUAL_DRIFT: Final = 100e-6
"""What clocks of machines differ by, roughly: bounds of the rate this wide count half."""


class Bounds(NamedTuple):
    """By how much home's clock is ahead at an instant of this host's, ns."""

    at_ns: int
    low_ns: int
    high_ns: int

    @classmethod
    def of(cls, asked_ns: int, told_ns: int, heard_ns: int) -> Bounds:
        """Home's clock told `told_ns` between these two instants.

        They hold in the middle between those: wider by what the clocks can have drifted.
        """
        slack_ns = (heard_ns - asked_ns) * DRIFT_MAX // RATE_ONE + 1
        return cls(
            (asked_ns + heard_ns) // 2, told_ns - heard_ns - slack_ns, told_ns - asked_ns + slack_ns
        )

    def moved_to(self, at_ns: int, rate: float) -> Bounds:
        gained_ns = int(rate * (at_ns - self.at_ns))
        return Bounds(at_ns, self.low_ns + gained_ns, self.high_ns + gained_ns)

    @property
    def width_ns(self) -> int:
        return self.high_ns - self.low_ns


class Drift:
    """Of one of home's clocks against this host's CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._kept: deque[Bounds] = deque(maxlen=BURSTS)
        self._rate = 0.0

    def add(self, newest: Bounds) -> Line:
        """Take the best of a burst in: what home's clock is believed to say from there on.

        Invariant: at `newest.at_ns`, within its bounds.
        """
        self._kept.append(newest)
        while (rates := self._rates()) is None:
            self._kept.popleft()
        slowest, fastest = rates
        if len(self._kept) > 1:
            half = (fastest - slowest) / 2
            weight = USUAL_DRIFT**2 / (USUAL_DRIFT**2 + half**2)
            self._rate += weight * (slowest + half - self._rate)
            limit = DRIFT_MAX / RATE_ONE
            self._rate = max(-limit, min(limit, max(slowest, min(fastest, self._rate))))
        moved = [each.moved_to(newest.at_ns, self._rate) for each in self._kept]
        low_ns = max(each.low_ns for each in moved)
        high_ns = min(each.high_ns for each in moved)
        ahead_ns = max(newest.low_ns, min(newest.high_ns, (low_ns + high_ns) // 2))
        return Line(newest.at_ns, newest.at_ns + ahead_ns, round(self._rate * RATE_ONE))

    def _rates(self) -> tuple[float, float] | None:
        """The slowest and the fastest that some line through all bounds has."""
        kept = list(self._kept)
        slowest, fastest = -1.0, 1.0
        for index, later in enumerate(kept):
            for earlier in kept[:index]:
                passed_ns = later.at_ns - earlier.at_ns
                slowest = max(slowest, (later.low_ns - earlier.high_ns) / passed_ns)
                fastest = min(fastest, (later.high_ns - earlier.low_ns) / passed_ns)
        return (slowest, fastest) if slowest <= fastest else None
