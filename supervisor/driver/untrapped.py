# SPDX-License-Identifier: GPL-2.0-or-later
"""A program with code whose synchronization instructions do not trap: one writer at a time.

And at home only, where the hosts' processors differ and CPUID cannot be made to fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from supervisor.coherence import home as coherence_home
from supervisor.coherence.messages import Access, PageDiff
from supervisor.coherence.policy import SingleWriter
from supervisor.driver.operations import AcquireLocked, Steps
from supervisor.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from supervisor.driver.home import Home


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


class UntrappedCode:
    """Whether the program has any, at home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._why = ""

    def found(self, why: str) -> None:
        """Code runs whose synchronization instructions do not trap: no page may need them.

        Nor do its CPUIDs, where not all hosts can have them fault: it must stay on the host
        whose processor answers them.
        """
        home = self._home
        if home.shown.questions_trap:
            home.stay_home(f"{why}, and the hosts' processors differ")
        if home.several_writers and not self._why:
            home.verbose(f"{why}: no page has several writers from here on")
            self._why = why
            home.node.policy = OneWriterAtATime(home.node.policy)
            if not home.node.policy.locks_bus:
                home.operations.begin("one writer", None, self._make_single(), lambda _: None)

    def _make_single(self) -> Steps:
        """Every page that has several writers now."""
        side = self._home.node.side
        assert isinstance(side, coherence_home.Home)
        for span in side.directory.multiple(0, 1 << 47 - PAGE_SHIFT):
            for first in range(span.first, span.first + span.count):
                yield AcquireLocked(((first << PAGE_SHIFT, PAGE_SIZE, Access.WRITE),))
