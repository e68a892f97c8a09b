# SPDX-License-Identifier: GPL-2.0-or-later
"""The event loop's deadlines."""

from __future__ import annotations

import select
import signal
import statistics
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from supervisor.driver.events import YIELD_S, Events
from supervisor.run import _background

AHEAD_S = 3e-4
TIMES = 40


@pytest.fixture
def events() -> Iterator[Events]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loop = Events()
    yield loop
    loop.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def pass_of(events: Events) -> None:
    """As a supervisor's loop waits."""
    if not events.wait_briefly(spin=False):
        await events.wait()


async def lateness_s(events: Events, ahead_s: float) -> float:
    done: list[float] = []
    deadline = time.monotonic() + ahead_s
    events.at(deadline, lambda: done.append(time.monotonic()))
    while not done:
        await pass_of(events)
    return done[0] - deadline


def test_a_near_deadline_is_kept_to_less_than_a_millisecond(events: Events) -> None:
    """epoll_wait(2) alone would round 0.3 ms up to 1 ms: the best of many tells."""

    async def measure() -> list[float]:
        return [await lateness_s(events, AHEAD_S) for _ in range(TIMES)]

    late = trio.run(measure)
    assert min(late) >= 0
    assert statistics.quantiles(late, n=10)[0] < 5e-4


def test_what_is_done_again_and_again_at_once_keeps_nothing_else_from_its_turn(
    events: Events,
) -> None:
    done: list[str] = []

    def again() -> None:
        done.append("again")
        events.at(time.monotonic(), again)

    async def passes() -> None:
        again()
        for _ in range(3):
            await pass_of(events)

    trio.run(passes)
    assert len(done) == 4


def test_a_deadline_set_later_may_be_due_earlier(events: Events) -> None:
    ran: list[float] = []

    def add(ahead_s: float) -> None:
        deadline = time.monotonic() + ahead_s
        events.at(deadline, lambda: ran.append(deadline))

    async def measure() -> None:
        add(8e-3)
        events.at(time.monotonic() + 1e-3, lambda: add(5e-4))
        add(5e-3)
        while len(ran) < 3:
            await pass_of(events)

    trio.run(measure)
    assert ran == sorted(ran)


def test_work_in_the_background_begins_and_ends_at_once(events: Events) -> None:
    """It does not wait for trio's turn."""
    home: Any = SimpleNamespace(events=events)
    done_s: list[float] = []

    async def measure() -> None:
        async with trio.open_nursery() as nursery:
            start = _background(nursery, home)
            for _ in range(3):
                events.at(time.monotonic() + 2 * YIELD_S, lambda: None)
                await pass_of(events)  # a turn has just been
                began, before = time.monotonic(), len(done_s)
                start(partial(float, began), lambda at: done_s.append(time.monotonic() - at))
                while len(done_s) == before:
                    await pass_of(events)

    trio.run(measure)
    assert min(done_s) < YIELD_S / 4
    assert events.background == 0


def test_waits_are_long_and_yet_trio_has_its_turn(events: Events) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1
            await trio.sleep(0)

    async def measure() -> int:
        passes = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            end = time.monotonic() + 5 * YIELD_S
            while time.monotonic() < end:
                events.at(time.monotonic() + YIELD_S / 50, lambda: None)
                await pass_of(events)
                passes += 1
            nursery.cancel_scope.cancel()
        return passes

    passes = trio.run(measure)
    assert turns >= 3
    assert passes > 20


def test_a_descriptor_is_watched_anew_only_for_something_else(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[int] = []
    epoll = SimpleNamespace(
        register=lambda descriptor, interest: None,
        unregister=lambda descriptor: None,
        modify=lambda descriptor, interest: changed.append(interest),
    )
    monkeypatch.setattr(events, "_epoll", epoll)
    both = select.EPOLLIN | select.EPOLLOUT
    events.watch(7, select.EPOLLIN, lambda _: None)
    for interest in (select.EPOLLIN, both, both, select.EPOLLIN, select.EPOLLIN):
        events.rewatch(7, interest)
    assert changed == [both, select.EPOLLIN]
    events.unwatch(7)
    events.watch(7, both, lambda _: None)  # another one of this number
    events.rewatch(7, both)
    assert changed == [both, select.EPOLLIN]
