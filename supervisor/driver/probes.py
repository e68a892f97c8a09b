# SPDX-License-Identifier: GPL-2.0-or-later
"""What home's clocks are ahead of another host's, asked before any thread starts there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.driver.messages import ClockAnswer, ClockProbe
from supervisor.errors import PeerError
from supervisor.syscalls.handlers import clocks
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.lender import Lender

CLOCK_PROBES: Final = 8


class Probes:
    """Cristian's algorithm: of a few probes, believe the quickest."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self.left = CLOCK_PROBES
        """0: the clocks are known."""
        self._best_round_trip_ns = 1 << 62

    def ask(self) -> None:
        self._lender.send(HOME, ClockProbe(time.monotonic_ns()))

    def answered(self, message: ClockAnswer) -> None:
        """Take an answer in, and ask again until the clocks are known."""
        lender = self._lender
        now = time.monotonic_ns()
        if not self.left:
            raise PeerError("home answered a clock probe that was not made")
        round_trip = now - message.asked_ns
        if message.clock_id == clocks.clock_id():
            self.left = 0
        else:
            if round_trip < self._best_round_trip_ns:
                self._best_round_trip_ns = round_trip
                lender.clock_offset_ns = message.monotonic_ns + round_trip // 2 - now
                lender.wall_offset_ns = message.wall_ns + round_trip // 2 - time.time_ns()
            self.left -= 1
        if self.left:
            self.ask()
        else:
            lender.tell_clock()
