# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer of processor time: when it expires, and the signal that is under way for it."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

OVERRUN_MAX: Final = 0x7FFF_FFFF
"""DELAYTIMER_MAX of the kernel."""
SI_TIMER: Final = -2
TIMER_INFO: Final = struct.Struct("<iii4xiiQ")
"""siginfo_t of a timer: signo, errno, code, timer, overrun, value."""
INFO_SIZE: Final = 128


class Clock(NamedTuple):
    """A clock of processor time of the program."""

    tid: int
    """Of a thread, or ALL."""
    user: bool
    """What is used in user mode only."""


class Timer:
    """One timer; times are nanoseconds of its clock."""

    __slots__ = (
        "clock", "expiry_ns", "interval_ns", "number", "over", "overruns", "overruns_told",
        "sent_to", "signal", "target", "value", "wanted",
    )  # fmt: skip

    def __init__(
        self, number: int, clock: Clock, signal_number: int, value: int, target: int
    ) -> None:
        self.number = number
        """Its timer_t; -1 - `which` of an interval timer."""
        self.clock = clock
        self.signal = signal_number
        """0 for none."""
        self.value = value
        self.target = target
        """The thread that is to have the signal; 0 for any."""
        self.expiry_ns = 0
        """0 while it is not set."""
        self.interval_ns = 0
        self.wanted = False
        """It has expired, and nobody has been sent the signal yet."""
        self.sent_to = 0
        """Whom it was sent to, thread or process, and who has not been seen to take it."""
        self.over = False
        """That signal is of a setting which has ended: nobody is to get it."""
        self.overruns = 0
        """Expirations since the one whose signal is under way."""
        self.overruns_told = 0

    def expire(self, now_ns: int) -> int:
        """How often it has expired up to now, since last asked."""
        if not self.expiry_ns or now_ns < self.expiry_ns:
            return 0
        if not self.interval_ns:
            self.expiry_ns = 0
            return 1
        count = 1 + (now_ns - self.expiry_ns) // self.interval_ns
        self.expiry_ns += count * self.interval_ns
        return count

    def count(self, expirations: int) -> None:
        """Note that it has expired."""
        if self.over:  # the signal under way is this one's now
            self.over, self.overruns, expirations = False, 0, expirations - 1
        elif not self.wanted and not self.sent_to:
            self.wanted, self.overruns, expirations = True, 0, expirations - 1
        self.overruns = min(self.overruns + expirations, OVERRUN_MAX)

    def info(self) -> bytes:
        """The siginfo_t to queue."""
        packed = TIMER_INFO.pack(
            self.signal, 0, SI_TIMER, self.number, self.overruns, self.value
        )
        return packed.ljust(INFO_SIZE, b"\0")
