# SPDX-License-Identifier: GPL-2.0-or-later
"""Litmus tests on real hosts: what x86-TSO forbids is never seen, in any policy.

Twelve classic shapes, each plain, fenced in two ways and with two kinds of locked
instruction (litmus.py), in pages cold, read and written before, the variables in one
word, one page and two, the threads one a host (4 hosts) or two (2 hosts).
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import harness
import litmus
import pytest
from harness import Place

from tests.coherence.programs import outcomes as simple_outcomes

POLICIES = ("adaptive", "paper", "single-writer")
KINDS = 9
"""Three layouts, each in three states."""
QUICK_ROUNDS, QUICK_BLOCKS = 17, 3
SLOW_ROUNDS = 112
RUNS_MAX = 150
"""Runs within which an allowed outcome has to come; the gap of `paper` took up to 30."""
RUN_LIMIT_S = 280.0


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litmus")
    (folder / "shapes.h").write_text(litmus.shapes_header())
    source = harness.ROOT / "testprogs" / "litmus" / "runner.c"
    subprocess.run(
        ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread", "-O2",
         "-I", str(folder), "-o", str(folder / "litmus"), str(source)],
        check=True, timeout=120,
    )  # fmt: skip
    return folder / "litmus"


def run(
    place: Place, runner: Path, policy: str, hosts: int, rounds: int, blocks: int, seed: int,
    *shapes: str, limit_s: float = RUN_LIMIT_S,
) -> tuple[list[litmus.Line], dict[str, int]]:  # fmt: skip
    """All outcomes of a run, none of them forbidden."""
    stats = place.scratch / "stats.json"
    done = place.dsmsup(
        "exec", "-n", str(hosts), "--policy", policy, "--no-migrate", "--stats", stats,
        runner, str(rounds), str(blocks), str(seed), *shapes, limit_s=limit_s,
    )  # fmt: skip
    assert (done.status, done.stderr) == (0, b"")
    lines, overlaps = litmus.parse(done.stdout.decode())
    host_of = harness.host_of_processor(json.loads(stats.read_text()))
    lines = [line._replace(hosts=tuple(host_of[cpu] for cpu in line.hosts)) for line in lines]
    counted: Counter[str] = Counter()
    used = set()
    for line in lines:
        counted[line.shape] += line.count
        used |= set(line.hosts)
        assert line.outcome in allowed(policy, line), f"forbidden under {policy}: {line}"
    assert set(counted.values()) == {rounds * blocks}
    assert set(counted) == set(shapes or litmus.PROGRAMS)
    assert len(used) == min(hosts, 4), "the threads were not where they should be"
    return lines, overlaps


def allowed(policy: str, line: litmus.Line) -> frozenset[litmus.Outcome]:
    """Sequential consistency across hosts where pages have one writer, x86-TSO within one.

    Where pages have several writers, threads of one host see its stores early.
    """
    shape = litmus.PROGRAMS[line.shape]
    if policy != "single-writer":
        return litmus.outcomes(shape, line.hosts)
    if len(set(line.hosts)) == len(line.hosts):
        return frozenset(simple_outcomes(shape, "sc"))
    return litmus.outcomes(shape)


def table(lines: list[litmus.Line]) -> str:
    """Of each plain shape, how often the outcome it is about was seen."""
    rows = []
    for base in litmus.BASES:
        seen = sum(line.count for line in lines if line.shape == base.name
                   and litmus.is_shown(line))
        rounds = sum(line.count for line in lines if line.shape == base.name)
        verdict = "allowed" if base.tso else "forbidden"
        rows.append(f"{base.name:5} {verdict:9} seen {seen} times in {rounds} rounds")
    return "\n".join(rows)


@pytest.mark.parametrize("count", [2, 4], ids=["on2", "on4"])
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_forbidden(place: Place, runner: Path, policy: str, count: int) -> None:
    _, overlaps = run(place, runner, policy, count, QUICK_ROUNDS, QUICK_BLOCKS, count)
    assert sum(overlaps.values()) > 0, "no two threads ever ran at once"


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("count", [2, 4], ids=["on2", "on4"])
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_forbidden_long(place: Place, runner: Path, policy: str, count: int) -> None:
    lines, overlaps = run(
        place, runner, policy, count, SLOW_ROUNDS, KINDS, 100 + count, limit_s=1200
    )
    print(f"{policy}, {count} hosts: {sum(overlaps.values())} rounds overlapped")
    print(table(lines))


def shown(
    place: Place, runner: Path, policy: str, hosts: int, shape: str, runs: int = RUNS_MAX
) -> bool:
    """Whether the outcome that the shape is about comes; looks until it does."""
    for seed in range(runs):
        lines, _ = run(place, runner, policy, hosts, 30, KINDS, seed, shape)
        if any(litmus.is_shown(line) and len(set(line.hosts)) > 1 for line in lines):
            return True
    return False


@pytest.mark.parametrize("policy", ["adaptive", "paper"])
def test_the_store_buffer_shows(place: Place, runner: Path, policy: str) -> None:
    """Were SB's outcome never seen, the rounds would not race, and prove nothing."""
    assert shown(place, runner, policy, 4, "SB")


@pytest.mark.parametrize("policy", ["adaptive", "paper"])
def test_the_documented_gap(place: Place, runner: Path, policy: str) -> None:
    assert not any(
        litmus.shows(litmus.EARLY, outcome) for outcome in litmus.outcomes(litmus.EARLY.program)
    )
    assert shown(place, runner, policy, 2, "early")


def test_single_writer_closes_the_gap(place: Place, runner: Path) -> None:
    assert not shown(place, runner, "single-writer", 2, "early", runs=2)
