# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of programs on a simulated cluster, each outcome checked against a memory model.

A seed decides everything: `python -m tests.coherence.sim --seed N --policy P`
repeats a run and shows every event and effect of it; with `--case NAME` it is a
run of that litmus test instead of a random program.
"""

from __future__ import annotations

import argparse
import random
from typing import Final, NamedTuple

from supervisor.units import PAGE_SIZE
from tests.coherence.cluster import Cluster
from tests.coherence.hosts import Thread
from tests.coherence.programs import (
    LITMUS,
    Op,
    Outcome,
    Program,
    load,
    outcomes,
    program,
    random_program,
    store,
    varied,
)


def place_variables(rng: random.Random, variables: int) -> list[tuple[int, int]]:
    """Variables on few pages: neighbours in one word, or across a page's end."""
    pages = rng.randint(1, variables)
    base = rng.choice((1, 510, 0x7FFFF_F000))
    places: list[tuple[int, int]] = []
    for _ in range(variables):
        while True:
            place = (base + rng.randrange(pages), rng.choice((0, 1, 2, 7, 8, 2048, PAGE_SIZE - 1)))
            if place not in places:
                places.append(place)
                break
    return places


def warm_up(cluster: Cluster, rng: random.Random, policy: str) -> None:
    """Leave copies here and there, or staleness would never show: loads of zeros."""
    touched = sorted({variable for variable in range(len(cluster.places))})
    kinds = (
        ("none", "load", "store") if policy != "single-writer" else ("none", "load", "load", "add")
    )
    for host in range(len(cluster.hosts)):
        for variable in touched:
            kind = rng.choice(kinds)
            if kind != "none":
                cluster.add_thread(host, (Op(kind, (variable,), 0),))
    cluster.finish()


class Case(NamedTuple):
    """A program, and where its variables and threads are (None: anywhere)."""

    program: Program
    places: tuple[tuple[int, int], ...] | None = None
    hosts: tuple[int, ...] | None = None
    warm: tuple[tuple[int, int], ...] = ()  # (host, variable): read before the start
    gap: bool = False  # threads of one host, or stores of what is there already

    def allowed(self, policy: str, program: Program | None = None) -> set[Outcome]:
        """What the memory model of the policy allows, of a part of the program if given."""
        if policy == "single-writer":
            return outcomes(program or self.program, "sc")
        if self.gap:
            assert self.hosts is not None
            return outcomes(program or self.program, "hosts", self.hosts)
        return outcomes(program or self.program, "tso")


_P, _Q = 5, 9  # two pages
_WATCH = [load(1), load(0)] * 6  # looks again and again whether stores come out of order

CASES: Final[dict[str, Case]] = {
    **{litmus.name: Case(litmus.program) for litmus in LITMUS},
    # Message passing, the variables on two pages, the last one the lower page.
    "MP-pages": Case(program([store(0, 1), store(1, 1)], _WATCH), ((_Q, 0), (_P, 0)), (0, 1)),
    # A host gets a page to write while another of its threads may still read the old copy.
    "MP-home": Case(program([store(0, 1), store(1, 1)], _WATCH), ((_Q, 0), (_P, 0)), (1, 0)),
    # Page data from host to host, while the third one's copy is old.
    "MP-third": Case(
        program([store(0, 1), store(1, 1)], [store(2, 1), load(1), load(0)], _WATCH),
        ((_P, 0), (_Q, 0), (_Q, 8)),
        (1, 2, 3),
        ((3, 0), (2, 0)),
    ),
    # One word is stored to again, behind a store to another.
    "MP-word": Case(
        program([store(1, 1), store(0, 1), store(1, 2)], _WATCH), ((_P, 0), (_P, 8)), (1, 0)
    ),
    "MP-upgrade": Case(
        program([store(0, 1), store(1, 1)], _WATCH, [store(2, 1)]),
        ((_P, 0), (_Q, 0), (_Q, 8)),
        (0, 1, 1),
        ((1, 0), (1, 1)),
    ),
}


def prepare(
    rng: random.Random, case: Case, policy: str, trace: list[str] | None
) -> tuple[Cluster, list[Thread]]:
    """A cluster of 2 to 5 hosts that is about to run the program, and its threads."""
    threads = case.program.threads
    one_each = policy != "single-writer"
    least = max(case.hosts) + 1 if case.hosts else len(threads) if one_each else 2
    hosts = rng.randint(max(least, 2), 5)
    cluster = Cluster(rng, hosts, policy, lag=rng.random() < 0.7)
    cluster.trace = trace
    cluster.places = list(case.places or place_variables(rng, case.program.variables))
    if case.warm:
        cluster.read_all(case.warm)
    elif rng.random() < 0.8:
        warm_up(cluster, rng, policy)
    spread = list(case.hosts or spread_threads(rng, hosts, one_each))
    return cluster, [cluster.add_thread(spread[t], ops) for t, ops in enumerate(threads)]


def run_program(
    seed: int, case: Case, policy: str = "single-writer", *, trace: list[str] | None = None
) -> Outcome:
    """The outcome of one schedule of a program."""
    cluster, placed = prepare(random.Random(seed), case, policy, trace)
    cluster.settle()
    reads = tuple(tuple(thread.reads) for thread in placed)
    return Outcome(reads, tuple(cluster.current(v) for v in range(case.program.variables)))


ACTIONS_WITHOUT_ONE_MAX: Final = 400


def run_losing(
    seed: int, case: Case, policy: str, *, trace: list[str] | None = None
) -> tuple[Program, tuple[tuple[int, ...], ...]]:
    """A schedule in which a host is lost: what of the program was run, and what it read."""
    rng = random.Random(seed)
    cluster, placed = prepare(rng, case, policy, trace)
    for _ in range(rng.choice((5, 20, 60, 120, 250))):
        if not cluster.act():
            break
    cluster.lose(rng.randrange(len(cluster.hosts)))
    for _ in range(ACTIONS_WITHOUT_ONE_MAX):
        if not cluster.act():
            break
    run = tuple(thread.ops[: thread.at] for thread in placed)
    return case.program._replace(threads=run), tuple(tuple(thread.reads) for thread in placed)


def spread_threads(rng: random.Random, hosts: int, one_each: bool) -> list[int]:
    """The host of each thread.

    One each where pages may be multiple-writer: threads of one host see each
    other's stores to such a page early, which is the one documented gap.
    """
    if one_each:
        return rng.sample(range(hosts), hosts)
    spread = list(range(hosts)) * 4
    if rng.random() < 0.7:
        rng.shuffle(spread)
    return spread


SCHEDULES_PER_PROGRAM: Final = 25
"""Enumerating a program's outcomes costs more than running it."""

POLICIES: Final = ("adaptive", "paper", "single-writer")


def case_of(seed: int) -> Case:
    """A random program, or (as often) a litmus test with an instruction or two added."""
    rng = random.Random(seed // SCHEDULES_PER_PROGRAM)
    kind = rng.random()
    if kind < 0.4:
        return Case(random_program(rng, 4, 8))
    if kind < 0.75:
        return Case(varied(rng, rng.choice(LITMUS).program))
    if kind < 0.9:
        base = random_program(rng, 4, 7, rng.choice((2, 200)))
    else:
        base = varied(rng, rng.choice(LITMUS).program)
    hosts = rng.randint(2, 3)
    return Case(base, hosts=tuple(rng.randrange(hosts) for _ in base.threads), gap=True)


def check_seed(
    seed: int, case: Case, allowed: set[Outcome], policy: str, name: str = ""
) -> Outcome:
    """Run one seed; AssertionError with the command that repeats it."""
    repeat = f"repeat with: python -m tests.coherence.sim --seed {seed} --policy {policy}"
    if name:
        repeat += f" --case {name}"
    try:
        if loses(seed) and not name:
            run, reads = run_losing(seed, case, policy)
        else:
            outcome = run_program(seed, case, policy)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}; {repeat}") from error
    if loses(seed) and not name:
        possible = any(reads == found.reads for found in case.allowed(policy, run))
        assert possible, f"forbidden reads {reads} of {run.threads}; {repeat}"
        return Outcome(reads, ())
    assert outcome in allowed, f"forbidden outcome {outcome}; {repeat}"
    return outcome


def loses(seed: int) -> bool:
    """Whether a host is lost in this run of a random program."""
    return seed % 8 == 5


def check_seeds(first: int, count: int, policy: str = "single-writer") -> None:
    """Random programs: `count` seeds from `first`."""
    allowed: set[Outcome] = set()
    known = -1
    for seed in range(first, first + count):
        case = case_of(seed)
        if seed // SCHEDULES_PER_PROGRAM != known:
            known = seed // SCHEDULES_PER_PROGRAM
            allowed = case.allowed(policy)
        check_seed(seed, case, allowed, policy)


def check_case(name: str, first: int, count: int, policy: str) -> dict[Outcome, int]:
    """One litmus test: how often each outcome was seen; AssertionError if one is forbidden."""
    case = CASES[name]
    allowed = case.allowed(policy)
    seen: dict[Outcome, int] = {}
    for seed in range(first, first + count):
        outcome = check_seed(seed, case, allowed, policy, name)
        seen[outcome] = seen.get(outcome, 0) + 1
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Repeat one simulated run and show it.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--policy", default="single-writer", choices=POLICIES)
    parser.add_argument("--case", choices=sorted(CASES), help="instead of a random program")
    parser.add_argument("--count", type=int, default=1, help="run so many seeds, without a trace")
    arguments = parser.parse_args()
    policy = arguments.policy
    if arguments.count > 1 and arguments.case:
        for outcome, times in check_case(
            arguments.case, arguments.seed, arguments.count, policy
        ).items():
            print(f"{times:6} {outcome}")
        return
    if arguments.count > 1:
        check_seeds(arguments.seed, arguments.count, policy)
        return
    case = CASES[arguments.case] if arguments.case else case_of(arguments.seed)
    for number, ops in enumerate(case.program.threads):
        print(f"thread {number}: {ops}")
    trace: list[str] = []
    try:
        if loses(arguments.seed) and not arguments.case:
            program, reads = run_losing(arguments.seed, case, policy, trace=trace)
            found = {outcome.reads for outcome in case.allowed(policy, program)}
        else:
            outcome = run_program(arguments.seed, case, policy, trace=trace)
            reads, found = outcome, case.allowed(policy)
    finally:
        print("\n".join(trace))
    print(reads)
    print("allowed" if reads in found else f"FORBIDDEN; {len(found)} outcomes are allowed")


if __name__ == "__main__":
    main()
