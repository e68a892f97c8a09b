# SPDX-License-Identifier: GPL-2.0-or-later
"""How long granted pages are kept: by the processor time given to their thread, or longer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.coherence.messages import Released
from supervisor.driver import holds as module
from supervisor.driver.holds import AGAIN_S, LONG_S, SHORT_S, Holds

REQUESTER = 5


class World:
    """What a supervisor is to its holds, with a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.released: list[int] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.events = SimpleNamespace(slept_s=0.0, at=lambda *timer: self.timers.append(timer))
        self.node: Any = SimpleNamespace(
            held_up=False, pins=lambda _: True, pinned_exclusive=lambda _: None
        )
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now_s)
        self.holds = Holds(self)  # type: ignore[arg-type]

    def step(self, event: object) -> None:
        assert isinstance(event, Released)
        self.released.append(event.requester)

    def grant(self, page: int | None = None) -> None:
        self.node.pinned_exclusive = lambda _: page
        self.released.clear()
        self.holds.begin(REQUESTER)

    def is_over(self) -> bool:
        self.holds.release_due()
        return self.released == [REQUESTER]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize("page", [None, 7])
def test_a_hold_is_over_when_the_thread_has_had_the_processor(
    world: World, page: int | None
) -> None:
    world.grant(page)
    world.now_s += LONG_S / 2
    assert not world.is_over()  # the supervisor itself had it
    world.events.slept_s += 1.1 * SHORT_S
    assert world.is_over()


def test_no_hold_is_longer_than_the_longest(world: World) -> None:
    world.grant()
    world.now_s += 1.1 * LONG_S
    assert world.is_over()


def test_a_page_that_is_wanted_again_at_once_is_kept_for_long(world: World) -> None:
    world.grant(7)
    world.now_s += AGAIN_S / 2
    world.grant(7)
    world.events.slept_s += 10 * SHORT_S
    assert not world.is_over()
    world.now_s += 1.1 * LONG_S
    assert world.is_over()
    world.now_s += 2 * AGAIN_S
    world.grant(7)
    world.events.slept_s += 1.1 * SHORT_S
    assert world.is_over()


def test_a_hold_that_keeps_nobody_waiting_has_no_timer(world: World) -> None:
    world.grant()
    assert not world.is_over() and not world.timers
    world.node.held_up = True
    assert not world.is_over()
    ((due, action),) = world.timers
    assert due == pytest.approx(world.now_s + SHORT_S)
    world.now_s = due
    world.events.slept_s += 1.1 * SHORT_S
    action()
    assert world.released == [REQUESTER]


def test_what_asked_for_no_pages_holds_none(world: World) -> None:
    world.node.pins = lambda _: False
    world.grant()
    world.now_s += 1.0
    assert not world.is_over()


def test_a_pinned_requester_keeps_its_pages_until_it_has_made_its_step(world: World) -> None:
    world.grant()
    world.holds.pin(REQUESTER)
    world.now_s += 1.0
    world.events.slept_s += 1.0
    assert not world.is_over()
    world.holds.stepped(REQUESTER)
    world.events.slept_s += 1.1 * SHORT_S
    assert world.is_over()


def test_a_hold_that_ends_while_another_is_released(world: World) -> None:
    """What goes on because of the first release may be the second's thread, caught in a check."""
    for requester in (REQUESTER, REQUESTER + 1):
        world.holds.begin(requester)
    world.now_s += 2 * LONG_S
    step = world.step

    def step_and_catch(event: object) -> None:
        step(event)
        world.holds.end(REQUESTER + 1)

    world.step = step_and_catch  # type: ignore[method-assign]
    world.holds.release_due()
    assert world.released == [REQUESTER, REQUESTER + 1]
