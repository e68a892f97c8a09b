# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges: needs of many pages, pages ahead, discards, cancelled requesters."""

from __future__ import annotations

import random

import pytest

from supervisor.coherence.demand import CONSTANT_PAGES
from supervisor.coherence.messages import Access, Cancelled, Discarded, Fault, Fetch, Send
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


@pytest.mark.parametrize(
    ("above", "below", "ahead"),
    [
        (1000, 500, [(0, 2), (3, 4), (9, 11), (21, CONSTANT_PAGES - 21)]),
        (3, 2, [(18, 2), (21, 3)]),  # its file is no longer
    ],
)
def test_code_comes_in_blocks_and_once(
    above: int, below: int, ahead: list[tuple[int, int]]
) -> None:
    cluster, low = BulkCluster(random.Random(1), 2, "adaptive", lag=False), 4 * CONSTANT_PAGES
    here = [(run_of(low + 2, 1, Access.READ),), (run_of(low + 7, 2, Access.READ),)]
    cluster.add_requester(1, here)
    cluster.finish()
    assert not cluster.hosts[1].node.allows(low + 9, 1, Access.READ)
    ask = Fault(1, (run_of(low + 20, 1, Access.READ),), above, below, low + 20, True)
    (effect,) = cluster.hosts[1].node.step(ask)
    assert isinstance(effect, Send) and isinstance(effect.message, Fetch)
    assert [(run.first - low, run.count) for run in effect.message.ahead] == ahead
