# SPDX-License-Identifier: GPL-2.0-or-later
"""How much a thread computes beside waiting for pages.

A thread that computes for less than half of the time that it waits for pages
would be done sooner where its pages are. It goes on at home, where most of them
are, or at least one wait fewer is between it and them.
"""

from __future__ import annotations

import time
from typing import Final

from supervisor.tracee.usage import NS_PER_S, used_by

FAULTS: Final = 1000
WAITED_S: Final = 1.0
"""A judgement is made from so many faults, or so much time that they took: 400 MiB, read
in one go, are no reason to go home."""
WITHIN_S: Final = 5.0
"""More time than this for so many, and it does not matter where the thread is."""


class Account:
    """One thread's faults since the last judgement."""

    __slots__ = ("_all_waited_s", "_asked_s", "_began_s", "_faults", "_used_s", "_waited_s")

    def __init__(self) -> None:
        self._began_s = 0.0
        self._used_s = 0.0
        self._asked_s = 0.0
        self._waited_s = 0.0
        self._all_waited_s = 0.0
        """Since its stay began."""
        self._faults = 0

    def asks(self) -> None:
        """The thread begins to wait for a page."""
        self._asked_s = time.monotonic()

    def thrashes(self, process: int, task: int) -> bool:
        """It has its page, if it was one that it waited for. True when it has been judged
        to thrash."""
        if not self._asked_s:
            return False
        now = time.monotonic()
        waited_s = now - self._asked_s
        self._waited_s += waited_s
        self._all_waited_s += waited_s
        self._asked_s = 0.0
        self._faults += 1
        if self._began_s and self._faults < FAULTS and self._waited_s < WAITED_S:
            return False
        used_s = used_by(process, task) / NS_PER_S
        thrashes = (
            self._began_s > 0
            and now - self._began_s < WITHIN_S
            and used_s - self._used_s < self._waited_s / 2
        )
        self._began_s, self._used_s, self._waited_s, self._faults = now, used_s, 0.0, 0
        return thrashes

    def gained_ns(self, process: int, task: int) -> int:
        """How much longer the thread has computed, since its stay began, than half of the time
        that it has waited for pages."""
        return used_by(process, task) - round(self._all_waited_s / 2 * NS_PER_S)
