# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tasks of the program may be on their way through the kernel, and need the processor.

Such a task runs a native call, or has been woken out of one. It ends up asleep in the
kernel, where it wants nothing, or at its next stop, of which the supervisor hears; for
all it knows meanwhile no thread is running, and it would poll (events.py) on the very
processor that the task waits for. So it leaves it, until it has slept long enough.
"""

from __future__ import annotations

from typing import Final

from supervisor.driver.events import Events

PASSAGE_S: Final = 30e-6
"""What a call that does not wait takes at most, by and large, once it has the processor."""


class InKernel:
    """Of one host's tasks. Time is what the supervisor has slept (`Events.slept_s`)."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._begun: dict[int, float] = {}
        """Task -> until when its call may be under way."""
        self._woken = 0
        self._woken_until = 0.0

    def begins(self, task: int) -> None:
        self._begun[task] = self._events.slept_s + PASSAGE_S

    def woken(self, count: int) -> None:
        """So many tasks, no matter which, have been woken out of their calls."""
        if count > 0:
            self._woken += count
            self._woken_until = self._events.slept_s + PASSAGE_S

    def done(self, task: int) -> None:
        """A task has come to the end of its call, or is gone."""
        until = self._begun.pop(task, 0.0)
        if self._woken and until <= self._events.slept_s:
            self._woken -= 1

    @property
    def busy(self) -> bool:
        """May a task be under way?"""
        slept_s, begun = self._events.slept_s, self._begun
        if self._woken:
            if slept_s < self._woken_until:
                return True
            self._woken = 0
        for task in [task for task, until in begun.items() if until <= slept_s]:
            del begun[task]
        return bool(begun)
