# SPDX-License-Identifier: GPL-2.0-or-later
"""What home's clocks are ahead of another host's: asked before any thread starts there, and on.

Bursts of a few questions, each asked when the one before is answered. The first is
waited for. Later ones correct what drifts, in growing intervals; they are messages
like any other, and hold nobody up. Hosts that share home's clocks ask once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from supervisor.driver.drift import Bounds, Drift
from supervisor.driver.host_clock import AHEAD
from supervisor.driver.messages import ClockAnswer, ClockProbe
from supervisor.errors import PeerError
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.lender import Lender

PROBES_FIRST: Final = 8
PROBES: Final = 4
INTERVAL_S: Final = 0.25
"""Between bursts at first ..."""
INTERVAL_SHARE: Final = 0.25
"""... then this share of the time since the first one. The rate is known to the width of the
bounds over that time: between two bursts its error adds up to this share of the width."""
INTERVAL_S_MAX: Final = 16.0
TIME_NS_MAX: Final = 1 << 62
ROUNDING_NS: Final = 2


class Probes:
    """Of a burst, believe the quickest."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self.known = False
        """The clocks may be read."""
        self._left = 0
        """Questions of this burst that are not answered."""
        self._asked_ns = 0
        self._best: tuple[Bounds, Bounds] | None = None
        """Of this burst: CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW."""
        self._begun_s = time.monotonic()
        self._monotonic = Drift()
        self._raw = Drift()
        self._ahead_ns: dict[int, int] = {}
        """By clock of AHEAD: what home's is ahead of its CLOCK_MONOTONIC."""
        self._took_ns = 0
        """As much too great may they be."""

    def begin(self) -> None:
        """Ask the first question of a burst."""
        self._left = PROBES if self.known else PROBES_FIRST
        self._best = None
        self._ask()

    def _ask(self) -> None:
        self._asked_ns = time.monotonic_ns()
        self._lender.send(HOME, ClockProbe(self._asked_ns))

    def answered(self, message: ClockAnswer) -> None:
        """Take an answer in, and ask again until the burst is over."""
        heard_ns = time.monotonic_ns()
        lender = self._lender
        if not self._left or message.asked_ns != self._asked_ns:
            raise PeerError("home answered a clock probe that was not made")
        if len(message.ahead_ns) != len(AHEAD):
            raise PeerError("home told of other clocks than it was asked for")
        if max(map(abs, (message.monotonic_ns, message.raw_ns, *message.ahead_ns))) > TIME_NS_MAX:
            raise PeerError("home told a time that is none")
        if message.clock_id and message.clock_id == lender.clock.id:
            self._left = 0
            self.known = True
            lender.tell_clock()
            return
        self._left -= 1
        monotonic = Bounds.of(self._asked_ns, message.monotonic_ns, heard_ns)
        if self._best is None or monotonic.width_ns < self._best[0].width_ns:
            self._best = monotonic, Bounds.of(self._asked_ns, message.raw_ns, heard_ns)
        self._set_ahead(message)
        if self._left:
            self._ask()
        else:
            self._correct(*self._best)

    def _set_ahead(self, message: ClockAnswer) -> None:
        """Keep the closest, until home's clock has been set."""
        told = dict(zip(AHEAD, message.ahead_ns, strict=True))
        is_set = any(
            not -self._took_ns <= told[clock] - ahead_ns + ROUNDING_NS
            <= message.took_ns + 2 * ROUNDING_NS
            for clock, ahead_ns in self._ahead_ns.items()
        )
        if not self._ahead_ns or is_set or (not self.known and message.took_ns < self._took_ns):
            self._ahead_ns = told
            self._took_ns = message.took_ns

    def _correct(self, monotonic: Bounds, raw: Bounds) -> None:
        lender = self._lender
        lines = self._monotonic.add(monotonic), self._raw.add(raw)
        lender.control.hold_clock()
        lender.clock.follow(*lines, self._ahead_ns)
        lender.tell_clock()
        self.known = True
        now_s = time.monotonic()
        interval_s = max(INTERVAL_S, INTERVAL_SHARE * (now_s - self._begun_s))
        lender.events.at(now_s + min(interval_s, INTERVAL_S_MAX), self.begin)
