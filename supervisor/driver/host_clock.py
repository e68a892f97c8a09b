# SPDX-License-Identifier: GPL-2.0-or-later
"""The clocks of one host, as the program reads them: home's.

Home, and hosts that share its clocks, read their own. Elsewhere every clock is this
host's CLOCK_MONOTONIC along a timeline to one of home's. All but the raw one are
steered together by home's kernel: what another is ahead of its CLOCK_MONOTONIC
changes only when it is set, and is added.

The supervisor and the program (tracee/clock.py) read the same timelines. Times that
calls take (futex, sleeps, timers) need none: home's kernel waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from supervisor.syscalls.handlers import clocks
from supervisor.timeline import Line, Reading, Timeline, straight

MONOTONIC: Final = time.CLOCK_MONOTONIC
RAW: Final = time.CLOCK_MONOTONIC_RAW
REALTIME_COARSE: Final = 5
MONOTONIC_COARSE: Final = 6
AHEAD: Final = (time.CLOCK_REALTIME, time.CLOCK_BOOTTIME, time.CLOCK_TAI)
"""Clocks that count with CLOCK_MONOTONIC, from another origin."""


class Told(NamedTuple):
    """Clocks read together, ns."""

    monotonic_ns: int
    raw_ns: int
    ahead_ns: tuple[int, ...]
    """AHEAD's, less CLOCK_MONOTONIC: too great by up to `took_ns`."""
    took_ns: int


class HostClock:
    """`readings` is by number of a clock (clock_gettime(2)); empty where they are the kernel's."""

    def __init__(self) -> None:
        self.id = clocks.clock_id()
        self.readings: dict[int, Reading] = {}

    def now_ns(self, clock: int) -> int:
        """What a clock says to the program."""
        reading = self.readings.get(clock)
        if reading is None:
            return time.clock_gettime_ns(clock)
        return reading.at(time.clock_gettime_ns(reading.source))

    def tell(self) -> Told:
        """For a host whose clocks are to be these."""
        monotonic_ns = self.now_ns(MONOTONIC)
        raw_ns = self.now_ns(RAW)
        ahead_ns = tuple(self.now_ns(clock) - monotonic_ns for clock in AHEAD)
        return Told(monotonic_ns, raw_ns, ahead_ns, self.now_ns(MONOTONIC) - monotonic_ns)

    def follow(self, monotonic: Line, raw: Line, ahead_ns: Mapping[int, int]) -> None:
        """Go by these from now on: at once if there are no readings yet, else by degrees.

        Nobody may read a clock meanwhile: the program's threads are held up in theirs
        (`ControlBlock.hold_clock`), or there are none yet.
        """
        now_ns = time.clock_gettime_ns(MONOTONIC)
        main = self._timeline(MONOTONIC, monotonic, now_ns)
        self.readings = {
            MONOTONIC: Reading(MONOTONIC, main),
            MONOTONIC_COARSE: Reading(MONOTONIC_COARSE, main),
            RAW: Reading(MONOTONIC, self._timeline(RAW, raw, now_ns)),
            REALTIME_COARSE: Reading(MONOTONIC_COARSE, main, ahead_ns[time.CLOCK_REALTIME]),
            **{clock: Reading(MONOTONIC, main, ahead_ns[clock]) for clock in AHEAD},
        }

    def _timeline(self, clock: int, target: Line, now_ns: int) -> Timeline:
        reading = self.readings.get(clock)
        return straight(target) if reading is None else reading.timeline.towards(target, now_ns)
