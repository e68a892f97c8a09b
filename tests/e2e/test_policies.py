# SPDX-License-Identifier: GPL-2.0-or-later
"""What the policies cost and promise, on real hosts: counts, shares and bounds.

How fast is for benches/coherence.py; here is what can be counted, and bounds far
from what a loaded machine does.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import harness
import pytest
from harness import Place

POLICIES = ("adaptive", "paper", "single-writer")
WAIT_US_MAX = 5_000_000
"""No thread waits longer for its next turn. (On an idle machine: some milliseconds.)"""
VISIBLE_US_MAX = 50_000


def run(place: Place, policy: str | None, hosts: int, *argv: object) -> tuple[str, dict[str, Any]]:
    stats = place.scratch / "stats.json"
    done = place.dsmsup(
        "exec", "-n", str(hosts), "--stats", stats, "--no-migrate",
        *([] if policy is None else ["--policy", policy]),
        harness.BIN / str(argv[0]), *map(str, argv[1:]),
    )  # fmt: skip
    assert (done.status, done.stderr) == (0, b"")
    return done.stdout.decode(), json.loads(stats.read_text())


def total(stats: dict[str, Any], counter: str) -> int:
    return sum(host[counter] for host in stats["hosts"])


@pytest.mark.parametrize("argv", [("pi", 2), ("stream", 16), ("contend", "apart", 2, 300)],
                         ids=lambda argv: argv[0])
def test_without_false_sharing_adaptive_costs_nothing(
    place: Place, argv: tuple[object, ...]
) -> None:
    _, stats = run(place, None, 2, *argv)
    assert stats["policy"] == "adaptive"
    assert {name: total(stats, name) for name in ("diffs_sent", "flushes", "traps")} == {
        "diffs_sent": 0, "flushes": 0, "traps": 0,
    }  # fmt: skip


def test_false_sharing_is_found(place: Place) -> None:
    """Two counters in one page: the page is shared out to both, and asked for no more."""
    faults = {}
    for policy in ("adaptive", "single-writer"):
        _, stats = run(place, policy, 2, "contend", "own", 2, 1500)
        faults[policy] = total(stats, "pages_fetched") + total(stats, "pages_sent")
        made = total(stats, "pages_made_multiple")
        assert made > 0 if policy == "adaptive" else made == 0
    assert faults["adaptive"] < faults["single-writer"]


@pytest.mark.parametrize(
    ("policy", "kind", "count"),
    [
        ("adaptive", "lock", 2), ("adaptive", "cross", 2), ("adaptive", "movs", 2),
        ("adaptive", "mutex", 3), ("adaptive", "lock", 3), ("single-writer", "lock", 3),
        ("single-writer", "movs", 2), ("single-writer", "mutex", 3), ("paper", "lock", 2),
        ("paper", "cross", 2), ("paper", "mutex", 3),
    ],
)  # fmt: skip
def test_each_host_advances(place: Place, policy: str, kind: str, count: int) -> None:
    out, stats = run(place, policy, count, "contend", kind, count, 1000)
    host_of = harness.host_of_processor(stats)
    rows = [[int(word) for word in line.split()] for line in out.splitlines()]
    assert len({host_of[processor] for processor, _, _ in rows}) == count
    turns = [done for _, done, _ in rows]
    print(f"{policy}, {kind}, {count} hosts: shares", [f"{t / sum(turns):.2f}" for t in turns])
    assert min(turns) >= 2 and max(longest for _, _, longest in rows) < WAIT_US_MAX


@pytest.mark.parametrize("policy", POLICIES)
def test_a_plain_store_becomes_visible(place: Place, policy: str) -> None:
    out, _ = run(place, policy, 2, "visible")
    took_us = [int(line) for line in out.splitlines()]
    assert statistics.median(took_us) < VISIBLE_US_MAX, took_us


@pytest.mark.parametrize("count", [2, 3])
def test_a_barrier_for_all_threads_drains_all_hosts(place: Place, count: int) -> None:
    """Under `paper`, where stores stay with their host for as long as they may."""
    run(place, "paper", count, "asymmetric")
