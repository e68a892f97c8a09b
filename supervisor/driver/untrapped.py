# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy for a program with code whose synchronization instructions do not trap."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.coherence.messages import PageDiff
from supervisor.coherence.policy import SingleWriter


class OneWriterAtATime(SingleWriter):
    """Takes the place of another policy while the program runs.

    No page becomes multiple-writer any more, and those that are do not stay so.
    The other hosts keep the policy they have: what they acknowledge is expected.
    """

    def __init__(self, before: SingleWriter) -> None:
        # What the other hosts still go by.
        self.always_armed, self.acknowledges = before.always_armed, before.acknowledges
        self.locks_bus = before.locks_bus

    def flushed(
        self, host: int, diffs: Iterable[PageDiff], now_us: int, late: bool
    ) -> list[int]:
        return [diff.page for diff in diffs]
