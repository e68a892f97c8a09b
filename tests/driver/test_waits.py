# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that wait for a page inside the kernel, against a supervisor of stubs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.driver import waits
from supervisor.tracee.userfault import PageFault

TASK = 7
PAGE = 0x5000


class Surroundings:
    """A supervisor to which nothing is mapped, and its pager."""

    def __init__(self, **thread: Any) -> None:
        self.filled: list[int] = []
        self.woken: list[int] = []
        faults = SimpleNamespace(
            read=lambda: [PageFault(PAGE + 8, False, TASK)], wake=self.woken.append
        )
        self.pager: Any = SimpleNamespace(faults=faults, fill=self.filled.append)
        self.supervisor: Any = SimpleNamespace(
            threads={TASK: SimpleNamespace(**thread)} if thread else {},
            space=SimpleNamespace(find=lambda address: None),
        )

    def arrived(self) -> None:
        waits.arrived(self.supervisor, self.pager)


def test_one_that_runs_is_seen_to() -> None:
    seen = Surroundings(stopped=False, still=False)
    seen.arrived()
    assert seen.woken == [PAGE]


@pytest.mark.parametrize("still", [False, True])
def test_one_that_has_stopped_comes_again(still: bool) -> None:
    seen = Surroundings(stopped=True, still=still)
    seen.arrived()
    assert (seen.woken, seen.filled) == ([], [])


def test_in_a_standstill_nobody_is_woken() -> None:
    """Its stop has been taken, and not been handled yet."""
    seen = Surroundings(stopped=False, still=True)
    seen.arrived()
    assert (seen.woken, seen.filled) == ([], [])


def test_a_task_that_is_no_thread_any_more_goes_on() -> None:
    seen = Surroundings()
    seen.arrived()
    assert seen.filled == [PAGE]
