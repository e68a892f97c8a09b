# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations that do much without having to wait."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from supervisor.driver.operations import TURN_S, Operation, Operations, Pause, Steps


class Loop:
    """Operations, and what they have left to the event loop to do."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []
        events = SimpleNamespace(at=lambda deadline, action: self.due.append(action))
        supervisor: Any = SimpleNamespace(events=events)
        self.operations = Operations(supervisor, itertools.count(1))

    def run(self) -> None:
        due, self.due = self.due, []
        for action in due:
            action()


def work(seconds: float, done: list[float]) -> Steps:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done.append(time.monotonic())
        yield Pause()
    return "end"


def test_one_that_is_soon_done_does_not_pause() -> None:
    loop, results = Loop(), list[Any]()
    loop.operations.begin("short", None, work(TURN_S / 10, []), results.append)
    assert (results, loop.due) == (["end"], [])


def test_others_have_their_turn_while_one_works_for_long() -> None:
    loop, results, done = Loop(), list[Any](), list[float]()
    loop.operations.begin("long", None, work(5 * TURN_S, done), results.append)
    turns = 0
    while loop.due:
        assert not results
        turns += 1
        loop.run()
    assert results == ["end"]
    assert 1 <= turns <= 6


def test_one_that_is_given_up_while_it_pauses_does_not_go_on() -> None:
    loop, results, done = Loop(), list[Any](), list[float]()
    thread: Any = SimpleNamespace(operation=None)
    loop.operations.begin("long", thread, work(5 * TURN_S, done), results.append)
    operation = thread.operation
    assert isinstance(operation, Operation)
    count = len(done)
    loop.operations.abandon(operation)
    loop.run()
    assert (results, len(done), thread.operation, loop.due) == ([], count, None, [])
