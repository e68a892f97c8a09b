# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges: needs of many pages, pages ahead, discards, cancelled requesters."""

from __future__ import annotations

import random

import pytest

from supervisor.coherence.messages import Access, Cancelled, Discarded
from supervisor.coherence.pages import run_of
from supervisor.units import HOME, PageNumber
from tests.coherence.bulk import BASE, PAGES, BulkCluster, random_cluster


@pytest.mark.parametrize("block", range(8))
def test_writes_of_ranges_are_never_lost(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        cluster = random_cluster(seed)
        try:
            cluster.settle()
        except AssertionError as error:
            raise AssertionError(f"{error}; repeat with random_cluster({seed}).settle()") from error


@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize("policy", ["single-writer", "adaptive"])
def test_discards_at_any_time_leave_zeros_and_nobody_waiting(policy: str, block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        try:
            _discard_at_random(seed, policy)
        except Exception as error:
            raise AssertionError(f"{error}; repeat with seed {seed}") from error


def _discard_at_random(seed: int, policy: str) -> None:
    cluster, rng = random_cluster(seed, policy), random.Random(seed)
    cluster.discarding = True
    for _ in range(rng.randint(1, 6)):
        for _ in range(rng.randint(0, 60)):
            if not cluster.act():
                break
        count = rng.choice((1, 5, PAGES))
        cluster.discard(BASE + rng.randrange(PAGES - count + 1), count)
        if rng.random() < 0.3:
            victim = rng.choice(list(cluster.threads.values()))
            victim.at, victim.gone = len(victim.ops), True
            victim.waiting = victim.pinned = False
            cluster.step(victim.host, Cancelled(victim.number))
    cluster.settle()
    cluster.discard(BASE, PAGES)
    cluster.settle()
    cluster.threads.clear()
    cluster.discarding = False
    cluster.written.clear()
    cluster.seen.clear()
    for host in range(len(cluster.hosts)):
        cluster.add_requester(host, [(run_of(BASE, PAGES, Access.READ),)])
    cluster.settle()
    for host in cluster.hosts:
        assert not any(cluster_page(host, page) for page in range(BASE, BASE + PAGES))


def cluster_page(host: object, page: int) -> bytes:
    """The page's bytes if any is not zero."""
    held = host.memory.pages.get(page, b"")  # type: ignore[attr-defined]
    return bytes(held) if any(held) else b""


def test_home_only_memory_is_discarded_without_a_message() -> None:
    cluster = random_cluster(1)
    cluster.threads.clear()
    cluster.step(cluster.hosts[HOME], _discarded(0, 1 << 24))
    assert not any(host.effects for host in cluster.hosts)
    assert not any(cluster.links.values())


def _discarded(first: int, count: int) -> object:
    return Discarded(PageNumber(first), count)


def test_never_touched_memory_is_granted_without_a_look_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = BulkCluster(random.Random(1), 2, "adaptive", lag=False)
    memory = cluster.hosts[HOME].memory
    looked: list[tuple[int, int]] = []
    read = memory.read

    def counted(first: PageNumber, count: int) -> bytes:
        looked.append((first, count))
        return read(first, count)

    monkeypatch.setattr(memory, "read", counted)
    cluster.add_requester(1, [(run_of(BASE, PAGES, Access.WRITE),)])
    cluster.finish()
    assert cluster.hosts[1].node.counters["pages_fetched"] >= PAGES
    assert {count for _, count in looked} <= {1}  # the simulation compares copies page by page
