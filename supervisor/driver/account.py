# SPDX-License-Identifier: GPL-2.0-or-later
"""How much a thread computes between page faults.

A thread that computes less between two faults than a fault costs would be
done sooner where its pages are. It goes on at home, where most of them are,
or at least one wait fewer is between it and them.
"""

from __future__ import annotations

import time
from typing import Final

from supervisor.tracee.usage import used_by

FAULTS: Final = 1000
"""Faults that a judgement is made from."""
FAULTS_WITHIN_S: Final = 5.0
"""More time than this for so many, and it does not matter where the thread is."""
COMPUTES_S_MIN: Final = 150e-6
"""Processor time between faults that makes another host worth while: about half of a fault."""


class Account:
    """One thread's faults since the last judgement."""

    __slots__ = ("_began", "_faults", "_used_s")

    def __init__(self) -> None:
        self._began = 0.0
        self._used_s = 0.0
        self._faults = 0

    def fault(self, process: int, task: int) -> bool:
        """Count a fault of a task; True when it has been judged to thrash."""
        if self._faults:
            self._faults -= 1
            return False
        now, used_s = time.monotonic(), used_by(process, task) / 1e9
        thrashes = (
            self._began > 0
            and now - self._began < FAULTS_WITHIN_S
            and used_s - self._used_s < COMPUTES_S_MIN * FAULTS
        )
        self._began, self._used_s, self._faults = now, used_s, FAULTS
        return thrashes
