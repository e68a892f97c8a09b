# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's clock on a host whose own drifts, told over links that are late by chance.

The very code of a lender (probes, drift, timelines) in a world of simulated time:
a reading never goes back, never jumps, and is as close to home's as was promised.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.driver import host_clock, probes
from supervisor.driver.drift import BURSTS, Bounds, Drift
from supervisor.driver.host_clock import HostClock
from supervisor.driver.messages import ClockAnswer, ClockProbe
from supervisor.driver.probes import INTERVAL_S, INTERVAL_S_MAX, INTERVAL_SHARE, Probes
from supervisor.errors import PeerError
from supervisor.timeline import DRIFT_MAX, RATE_MAX, RATE_ONE, Line, Timeline, ppm, straight

SECOND = 1_000_000_000
LEAST_NS = 40_000
"""What a message takes at least."""
WALL_NS = 1_700_000_000 * SECOND
TICK_NS = 100_000_000


class World:
    """`true_ns` is home's CLOCK_MONOTONIC; the host's own runs at another rate from another origin.

    It stands in for the module `time`, for the lender of a Probes, and for its links.
    """

    def __init__(self, seed: int, drift_ppm: float, late_ns: float) -> None:
        self.random = random.Random(seed)
        self.true_ns = 5000 * SECOND
        self.late_ns = late_ns
        self.wall_ns = WALL_NS
        self.gained_ns = float(self.random.randrange(10**15) - 4000 * SECOND)
        self.drift_ppm = drift_ppm
        self.round_trips: list[int] = []
        self.bursts = 0
        self.messages = 0
        self.last_burst_ns = 0
        self._pending: list[tuple[int, int, Callable[[], None]]] = []
        # What a lender has.
        self.clock = HostClock()
        self.control = self.events = self
        self.probes: Probes

    # The module `time`, for the host.

    def clock_gettime_ns(self, clock: int) -> int:
        local_ns = self.true_ns + int(self.gained_ns)
        return {1: local_ns, 6: local_ns // TICK_NS * TICK_NS}[clock]

    def monotonic_ns(self) -> int:
        return self.clock_gettime_ns(1)

    def monotonic(self) -> float:
        return self.monotonic_ns() / SECOND

    # What a lender does.

    def hold_clock(self) -> None:
        pass

    def tell_clock(self) -> None:
        self.bursts += 1
        self.last_burst_ns = self.true_ns

    def at(self, deadline_s: float, action: Callable[[], None]) -> None:
        self._later(max(0, int(deadline_s * SECOND) - self.monotonic_ns()), action)

    def send(self, _host: int, probe: ClockProbe) -> None:
        self.messages += 1
        left_ns = self.true_ns
        self._later(self._delay_ns(), lambda: self._answer(probe.asked_ns, left_ns))

    def _answer(self, asked_ns: int, left_ns: int) -> None:
        answer = ClockAnswer(
            asked_ns, "home", self.true_ns, self.true_ns // 2, (self.wall_ns, 0, self.wall_ns), 0
        )

        def arrive() -> None:
            self.round_trips.append(self.true_ns - left_ns)
            self.probes.answered(answer)

        self._later(self._delay_ns(), arrive)

    # Time.

    def _delay_ns(self) -> int:
        return LEAST_NS + int(self.random.expovariate(1 / self.late_ns))

    def _later(self, delay_ns: int, action: Callable[[], None]) -> None:
        order = self.random.getrandbits(60)
        heapq.heappush(self._pending, (self.true_ns + delay_ns, order, action))

    def _pass(self, until_ns: int) -> None:
        self.gained_ns -= (until_ns - self.true_ns) * self.drift_ppm / 1e6
        self.true_ns = until_ns

    def run(self, duration_ns: int) -> None:
        end_ns = self.true_ns + duration_ns
        while self._pending and self._pending[0][0] <= end_ns:
            at_ns, _, action = heapq.heappop(self._pending)
            self._pass(at_ns)
            action()
        self._pass(end_ns)

    def read(self) -> int:
        return self.clock.now_ns(1)


MakeWorld = Callable[..., World]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> MakeWorld:
    def make(seed: int = 1, drift_ppm: float = 0.0, late_ns: float = 30_000) -> World:
        world = World(seed, drift_ppm, late_ns)
        monkeypatch.setattr(probes, "time", world)
        monkeypatch.setattr(host_clock, "time", _Time(world))
        world.probes = Probes(world)  # type: ignore[arg-type]
        world.probes.begin()
        while not world.probes.known:
            world.run(LEAST_NS)
        return world

    return make


class _Time:
    """The simulated clocks, and the names of the real module."""

    def __init__(self, world: World) -> None:
        self.clock_gettime_ns = world.clock_gettime_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def watch(world: World, duration_s: float) -> None:
    """Let time pass, reading now and then: all that is promised of the readings."""
    end_ns = world.true_ns + int(duration_s * SECOND)
    own_ns, last_ns, coarse_ns = world.monotonic_ns(), world.read(), world.clock.now_ns(6)
    burst, left_ns = world.bursts, 0
    while world.true_ns < end_ns:
        before_ns = world.true_ns
        world.run(world.random.choice((1, 1000, 100_000, 10_000_000)))
        passed_ns = world.monotonic_ns() - own_ns
        error_ns = abs(world.read() - world.true_ns)
        # Monotonic, and continuous: no more than the rate gains.
        gained_ns = world.read() - last_ns - passed_ns
        assert abs(gained_ns) <= passed_ns * RATE_MAX // RATE_ONE + 4
        assert world.read() >= last_ns
        assert coarse_ns <= world.clock.now_ns(6) <= world.read()
        # As close as was promised.
        if world.bursts != burst:
            burst = world.bursts
            left_ns = error_ns
        since_ns = world.true_ns - world.last_burst_ns
        half_ns = min(world.round_trips[-probes.PROBES :]) / 2
        drift_ns = abs(world.drift_ppm) * since_ns / 1e6
        slewed_ns = (RATE_MAX - DRIFT_MAX) * since_ns / RATE_ONE
        assert error_ns <= half_ns * 1.001 + drift_ns + max(0.0, left_ns - slewed_ns) + 10
        own_ns, last_ns = world.monotonic_ns(), world.read()
        coarse_ns = world.clock.now_ns(6)
        assert world.true_ns > before_ns


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("drift_ppm", [0.0, 45.0, -45.0, 250.0, -390.0])
def test_a_drifting_clock_is_homes(make: MakeWorld, seed: int, drift_ppm: float) -> None:
    watch(make(seed, drift_ppm), 40)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("late_ns", [30_000, 500_000])
def test_after_minutes_the_rate_is_known(make: MakeWorld, seed: int, late_ns: float) -> None:
    """The error hardly grows between bursts: half an hour, then with no word from home."""
    world = make(seed, 80.0, late_ns)
    world.run(1800 * SECOND)
    errors = []
    for _ in range(160):
        world.run(SECOND // 10)
        errors.append(abs(world.read() - world.true_ns))
    assert max(errors) <= late_ns / 2
    world.send = lambda *_: None  # type: ignore[method-assign]
    world.run(100 * SECOND)
    assert abs(world.read() - world.true_ns) <= late_ns / 2 + 2e-6 * 100 * SECOND


def test_a_rate_that_changes_is_followed(make: MakeWorld) -> None:
    world = make(4, 60.0)
    watch(world, 200)
    for drift_ppm in (-60.0, 20.0):
        world.drift_ppm = drift_ppm
        world.run(3 * 16 * SECOND)
        watch(world, 60)
        assert abs(world.read() - world.true_ns) < 200_000


def test_a_step_is_noticed(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive host, which believes every burst at once, does not pass the test above."""
    monkeypatch.setattr(Timeline, "towards", lambda self, target, now_ns: straight(target))
    world = make(1, 250.0)
    with pytest.raises(AssertionError):
        watch(world, 40)


def test_the_wall_clock_keeps_its_distance_until_it_is_set(make: MakeWorld) -> None:
    world = make(5, 100.0)
    world.run(20 * SECOND)
    assert world.clock.now_ns(0) == world.read() + WALL_NS
    world.wall_ns += 3600 * SECOND
    world.run(int(2 * INTERVAL_S_MAX * SECOND))
    assert world.clock.now_ns(0) == world.read() + WALL_NS + 3600 * SECOND


def test_the_raw_clock_runs_at_its_own_rate(make: MakeWorld) -> None:
    """Farther from the others than any two clocks are: as near as it may get."""
    world = make(6, 100.0)
    before_ns, local_ns = world.clock.now_ns(4), world.monotonic_ns()
    world.run(20 * SECOND)
    passed_ns = world.monotonic_ns() - local_ns
    assert world.clock.now_ns(4) - before_ns >= passed_ns * (RATE_ONE - RATE_MAX) // RATE_ONE - 1


def test_bursts_are_few(make: MakeWorld) -> None:
    """In an hour: four questions every sixteen seconds."""
    world = make(7)
    world.run(3600 * SECOND)
    early = INTERVAL_SHARE**-1 + math.log(INTERVAL_S_MAX / INTERVAL_S, 1 + INTERVAL_SHARE)
    assert world.bursts <= 1 + early + 1 + 3600 / INTERVAL_S_MAX
    assert world.messages <= probes.PROBES_FIRST + probes.PROBES * world.bursts


def test_hosts_that_share_a_clock_ask_once(
    make: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "send", lambda self, _, probe: self.probes.answered(
        ClockAnswer(probe.asked_ns, self.clock.id, 1, 1, (1, 1, 1), 0)
    ))
    world = make(8)
    world.run(100 * SECOND)
    assert (world.bursts, world.clock.readings) == (1, {})


@pytest.mark.parametrize(
    "answer",
    [
        ClockAnswer(1, "home", 1, 1, (1, 1, 1), 0),
        ClockAnswer(0, "home", 1, 1, (1, 1), 0),
        ClockAnswer(0, "home", 1, 1 << 63, (1, 1, 1), 0),
    ],
)
def test_answers_that_no_home_gives(make: MakeWorld, answer: ClockAnswer) -> None:
    world = make(9)
    world.send = lambda *_: None  # type: ignore[method-assign]
    world.probes.begin()
    asked_ns = world.monotonic_ns() + answer.asked_ns
    with pytest.raises(PeerError):
        world.probes.answered(
            ClockAnswer(asked_ns, "home", answer.monotonic_ns, answer.raw_ns, answer.ahead_ns, 0)
        )


def test_bounds_hold_what_they_must() -> None:
    bounds = Bounds.of(1000, 5000, 1200)
    assert bounds.at_ns == 1100
    assert bounds.low_ns <= 5000 - 1200
    assert bounds.high_ns >= 5000 - 1000


def test_wide_bounds_say_nothing_of_the_rate() -> None:
    drift = Drift()
    drift.add(Bounds(0, -(10**7), 10**7))
    line = drift.add(Bounds(SECOND, -(10**7), 3 * 10**7))
    assert abs(line.rate) < ppm(2)


def test_a_host_that_is_faster_than_can_be_followed_is_followed_as_far() -> None:
    drift = Drift()
    for second in range(2 * BURSTS):
        gained_ns = second * 2_000_000  # 2000 ppm
        line = drift.add(Bounds(second * SECOND, gained_ns - 1000, gained_ns + 1000))
        assert abs(line.value_ns - line.start_ns - gained_ns) <= 1000
    assert line.rate == DRIFT_MAX


@pytest.mark.parametrize("error_ns", [0, 1, -1, 999, -999, 10**6, -(10**6), 10**9, -(10**9)])
@pytest.mark.parametrize("rate", [0, 1, DRIFT_MAX, -DRIFT_MAX])
def test_a_correction_ends_on_its_target(error_ns: int, rate: int) -> None:
    target = Line(7 * SECOND, 10**15, rate)
    old = straight(Line(0, 10**15 - 7 * SECOND - error_ns, 0))
    timeline = old.towards(target, 7 * SECOND)
    assert timeline.at(7 * SECOND) == old.at(7 * SECOND)
    end_ns = timeline.then.start_ns
    assert max(abs(timeline.first.rate), abs(timeline.then.rate)) <= RATE_MAX
    assert timeline.first.at(end_ns) == timeline.then.at(end_ns)
    for later_ns in (end_ns, end_ns + 1, end_ns + SECOND):
        assert abs(timeline.at(later_ns) - target.at(later_ns)) <= 2
