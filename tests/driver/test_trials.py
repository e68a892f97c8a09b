# SPDX-License-Identifier: GPL-2.0-or-later
"""Where new threads begin, by what earlier stays elsewhere have gained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.driver import trials
from supervisor.driver.placement import Placement
from supervisor.driver.trials import (
    LOST_S,
    RETURN_FACTOR,
    RETURN_S,
    START_S,
    STAYS,
    TRIAL_S,
    TRIES_APART,
    Trials,
)
from supervisor.units import HOME, HostId

ENOUGH = max(int(LOST_S / START_S) + 1, STAYS)
"""Stays that gain nothing until threads begin at home."""


class Program:
    """One on two hosts of one processor each, whose threads are of stubs."""

    def __init__(self) -> None:
        self.due: list[Any] = []
        self.moved: list[tuple[Any, HostId]] = []
        self.home: Any = SimpleNamespace(
            pid=1,
            placement=Placement([1, 1]),
            events=SimpleNamespace(at=lambda deadline, action: self.due.append(action)),
            away=SimpleNamespace(move=self.move),
            verbose=lambda line: None,
            by_tid={},
        )
        self.home.trials = self.trials = Trials(self.home)

    def begin(self, affinity: int | None = None) -> Any:
        """A new thread; where it begins is its `away`."""
        thread: Any = Thread(affinity)
        thread.away = self.trials.place(thread)
        self.home.placement.started(thread.away)
        self.home.by_tid[id(thread)] = thread
        return thread

    def move(self, thread: Any, host: HostId) -> None:
        """It goes at its next stop."""
        thread.destination = host
        self.moved.append((thread, host))

    def end(self, thread: Any, gained_s: float = 0.0) -> None:
        del self.home.by_tid[id(thread)]
        self.home.placement.ended(thread.away)
        self.trials.ended(thread)
        if thread.away != HOME:
            self.trials.stay_over(gained_s)

    def run_short_ones(self, count: int) -> list[HostId]:
        """Threads one after the other, each of which gains nothing; where they began."""
        began = []
        for _ in range(count):
            thread = self.begin()
            began.append(thread.away)
            self.end(thread)
        return began

    def look(self) -> None:
        due, self.due = self.due, []
        for action in due:
            action()


class Thread:
    task = 2
    destination = None
    away = HOME

    def __init__(self, affinity: int | None) -> None:
        self.affinity = affinity


def test_short_threads_begin_at_home_and_some_elsewhere() -> None:
    program = Program()
    assert program.run_short_ones(ENOUGH) == [1] * ENOUGH
    began = program.run_short_ones(7 * TRIES_APART)
    assert began.count(HostId(1)) == 3  # after 16, 32 and 64
    assert began.index(HostId(1)) == TRIES_APART - 1


def test_one_that_loses_much_says_little() -> None:
    program = Program()
    for _ in range(STAYS - 1):
        program.trials.stay_over(-5.0)
        assert program.begin().away == 1
        program.home.placement.threads[:] = [0, 0]


def test_who_computes_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    wanted_s = {"s": 0.0}
    monkeypatch.setattr(trials, "wanted_by", lambda process, task: wanted_s["s"] * 1e9)
    thread = program.begin()
    assert thread.away == HOME
    program.look()
    assert program.moved == [] and program.due  # it is looked at again
    wanted_s["s"] = max(TRIAL_S, LOST_S) + START_S
    program.look()
    assert program.moved == [(thread, HostId(1))]
    program.look()
    assert len(program.moved) == 1 and not program.due


def test_one_that_came_home_goes_again_after_ever_longer_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = Program()
    wanted_s = {"s": 7.0}  # before
    monkeypatch.setattr(trials, "wanted_by", lambda process, task: wanted_s["s"] * 1e9)
    thread = program.begin()
    for trial_s in (RETURN_S, RETURN_S * RETURN_FACTOR):
        assert thread.away == 1
        program.home.placement.moved(HostId(1), HOME)
        thread.away = HOME
        program.trials.comes_home(thread)
        wanted_s["s"] += trial_s * 0.9
        program.look()
        assert thread.destination is None
        wanted_s["s"] += trial_s * 0.2
        program.look()
        assert thread.destination == 1
        program.home.placement.moved(HOME, HostId(1))
        thread.away, thread.destination = HostId(1), None


def test_who_computes_stays_where_others_have_less_room(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    monkeypatch.setattr(trials, "wanted_by", lambda process, task: 10e9)
    program.begin()
    program.home.placement.threads[1] = 1
    program.look()
    assert program.moved == [] and program.due


def test_of_two_that_compute_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    monkeypatch.setattr(trials, "wanted_by", lambda process, task: 10e9)
    team = {program.begin(), program.begin()}
    program.look()
    program.look()
    assert len(program.moved) == 1 and program.moved[0][0] in team
    assert program.home.placement.threads == [2, 0]  # until it has gone


def test_a_new_one_goes_by_where_others_are_about_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    monkeypatch.setattr(trials, "wanted_by", lambda process, task: 10e9)
    program.begin()
    program.look()
    assert len(program.moved) == 1
    program.trials.stay_over(1.0)  # threads begin on all hosts
    assert program.begin().away == HOME


def test_a_long_stay_makes_up_for_short_ones() -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    program.trials.stay_over(1.0)
    assert program.begin().away == 1


def test_affinity_comes_first() -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    assert program.begin(affinity=0b10).away == 1


def test_one_that_ends_or_moves_is_looked_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    monkeypatch.setattr(trials, "wanted_by", lambda process, task: 10e9)
    ended, moving = program.begin(), program.begin()
    program.end(ended)
    moving.destination = HostId(1)
    program.look()
    assert program.moved == [] and not program.due


def test_nobody_is_moved_for_a_former_image() -> None:
    program = Program()
    program.run_short_ones(ENOUGH)
    program.begin()
    program.home.trials = Trials(program.home)
    program.look()
    assert program.moved == [] and not program.due
