# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops that have been taken from the kernel and not handled yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from supervisor.tracee.stops import Stop, drain, wait_among


class StopQueue:
    """In the order in which they are to be handled."""

    def __init__(self) -> None:
        self.stops: deque[Stop] = deque()
        self.passed: Callable[[int], bool] = lambda task: False
        """Has a task that stopped at SIGILL been seen to at once? (See `Checks.passed`.)"""

    def drain(self) -> None:
        """Take all that the kernel has to tell."""
        drain(self.stops, self.passed)

    def put(self, stop: Stop) -> None:
        self.stops.append(stop)

    def has(self, task: int) -> bool:
        return any(stop.pid == task for stop in self.stops)

    def next_of(self, task: int) -> Stop:
        """The next stop of a task that is certain and near; others' are kept for later.

        It may have been taken already, in a wait for another task.
        """
        for at, stop in enumerate(self.stops):
            if stop.pid == task:
                del self.stops[at]
                return stop
        return wait_among(task, self.stops)
