# SPDX-License-Identifier: GPL-2.0-or-later
"""From what a host's clock says to what home's says: lines, nanoseconds to nanoseconds.

A timeline goes by one line up to an instant and by another from there. It is made
anew at every correction so that it stays continuous, and no line is flatter than
1 - RATE_MAX: what is read from it never goes back. The second line is there so that
a correction ends by itself, however late the next one comes.

The same sums are done by the code in tracee/clock.py, bit for bit.
"""

from __future__ import annotations

from typing import Final, NamedTuple

RATE_ONE: Final = 1 << 32
"""Rates are counted in 2**-32 (0.23 ppb): signed, what a line gains in a nanosecond."""


def ppm(rate: float) -> int:
    """Parts per million as a rate."""
    return round(rate * RATE_ONE / 1_000_000)


RATE_MAX: Final = ppm(500)
"""No line gains or loses more. Clocks of machines differ by tens of ppm."""
DRIFT_MAX: Final = ppm(400)
"""What of it goes to how fast home's clock runs; there is always some left for the error."""
SLEW_NS: Final = 250_000_000
"""An error is worked off in this time, if the rate allows it."""


class Line(NamedTuple):
    """`value_ns` at `start_ns`; before it, `value_ns` too.

    Coarse clocks are read up to a tick late, just after a line has begun as well: they
    wait there, since the line before may have been a steeper one.
    """

    start_ns: int
    value_ns: int
    rate: int

    def at(self, local_ns: int) -> int:
        passed = max(0, local_ns - self.start_ns)
        return self.value_ns + passed + (passed * self.rate >> 32)


class Timeline(NamedTuple):
    """`first` until `then` begins. Invariant: they agree there."""

    first: Line
    then: Line

    def at(self, local_ns: int) -> int:
        return (self.first if local_ns < self.then.start_ns else self.then).at(local_ns)

    def towards(self, target: Line, now_ns: int) -> Timeline:
        """Goes on from here, at `now_ns`, until it is on the target, and then by that.

        Reads before `now_ns` must be over, and |target.rate| <= DRIFT_MAX.
        """
        assert abs(target.rate) <= DRIFT_MAX
        value_ns = self.at(now_ns)
        error_ns = target.at(now_ns) - value_ns
        slew = -(-abs(error_ns) * RATE_ONE // SLEW_NS)
        if error_ns >= 0:
            slew = min(slew, RATE_MAX - target.rate)
        else:
            slew = -min(slew, RATE_MAX + target.rate)
        first = Line(now_ns, value_ns, target.rate + slew)
        end_ns = now_ns + (abs(error_ns) * RATE_ONE // abs(slew) if slew else 0)
        return Timeline(first, Line(end_ns, first.at(end_ns), target.rate))


def straight(line: Line) -> Timeline:
    return Timeline(line, line)


class Reading(NamedTuple):
    """How a clock is read: another one of the kernel's (clock_gettime(2)), along a timeline."""

    source: int
    timeline: Timeline
    ahead_ns: int = 0
    """To be added."""

    def at(self, source_ns: int) -> int:
        return self.timeline.at(source_ns) + self.ahead_ns
