# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies are for: programs in simulated time, with the costs of real supervisors."""

from __future__ import annotations

import pytest

from supervisor.coherence.policy import BOUNCES, Adaptive
from supervisor.units import PAGE_SIZE
from tests.coherence.timed import Counter, Flag, PingPong, TimedCluster

RUN_US = 500_000.0


def shares(policy: str, hosts: tuple[int, ...], *, locked: bool = False) -> list[float]:
    """The part of its time that a counter on each of these hosts gets to run."""
    cluster = TimedCluster(max(hosts) + 1, policy)
    counters = [Counter(cluster, at + 1, h, 7, locked=locked) for at, h in enumerate(hosts)]
    cluster.run(RUN_US)
    return [counter.ran_us / RUN_US for counter in counters]


@pytest.mark.parametrize("hosts", [(0, 1), (1, 2), (0, 1, 2)])
def test_counters_in_one_page_run_freely_when_adaptive(hosts: tuple[int, ...]) -> None:
    assert min(shares("adaptive", hosts)) > 0.9
    assert max(shares("single-writer", hosts)) < 0.5


@pytest.mark.parametrize("policy", ["single-writer", "adaptive"])
def test_locked_counters_share_fairly(policy: str) -> None:
    """Two and three hosts hammer one word with locked adds: each advances, none is favoured."""
    for hosts in ((0, 1), (1, 2), (0, 1, 2)):
        got = shares(policy, hosts, locked=True)
        assert min(got) > 0.8 * max(got) and min(got) > 0.1


def test_a_page_with_a_lock_in_it_stays_single_writer() -> None:
    cluster = TimedCluster(2, "adaptive")
    for host in (0, 1):
        Counter(cluster, host + 1, host, 7, locked=True)
    cluster.run(RUN_US)
    policy = cluster.hosts[0].node.policy
    assert isinstance(policy, Adaptive) and policy.made_multiple == 0
    assert all(host.node.counters["diffs_sent"] == 0 for host in cluster.hosts)


def test_stores_of_what_is_there_are_false_sharing_too() -> None:
    """Results worked out again and again: each host stores, and no byte ever changes."""
    policy, page = Adaptive(), bytes(range(256)) * (PAGE_SIZE // 256)
    moves = 0
    while not policy.make_multiple(7):
        moves += 1
        if policy.moves(7, moves):
            policy.bounced(7, moves % 2, page, page, moves)
        assert moves < 2 * BOUNCES


def test_new_memory_is_judged_anew() -> None:
    """Where a page was full of locks, another mapping may come, which is falsely shared."""
    policy = Adaptive()
    policy.locked(7, 1)
    policy.discarded(7, 1)
    pages = [bytes(PAGE_SIZE), bytes(PAGE_SIZE - 1) + b"x", b"y" + bytes(PAGE_SIZE - 1)]
    moves = 0
    while not policy.make_multiple(7):
        moves += 1
        if policy.moves(7, moves):
            policy.bounced(7, moves % 2, pages[0], pages[1 + moves % 2], moves)
        assert moves < 2 * BOUNCES


@pytest.mark.parametrize("hosts", [(0, 1), (1, 2)])
def test_threads_that_wait_for_each_other_are_not_slowed_down_for_long(
    hosts: tuple[int, int],
) -> None:
    """Two flags in one page look like false sharing at first; the mistake is soon undone."""
    turns = {}
    for policy in ("single-writer", "adaptive"):
        cluster = TimedCluster(3, policy)
        ping_pong = PingPong(cluster, hosts, 7)
        cluster.run(4 * RUN_US)
        turns[policy] = ping_pong.turns
    assert turns["adaptive"] > 0.6 * turns["single-writer"]


@pytest.mark.parametrize("policy", ["single-writer", "adaptive"])
def test_a_plain_store_becomes_visible_within_50_ms(policy: str) -> None:
    """`while (!flag);` on home ends, even in a page that others make multiple-writer."""
    cluster = TimedCluster(2, policy)
    for host in (0, 1):
        Counter(cluster, host + 1, host, 7)
    flag = Flag(cluster, writer=1, reader=0, page=7, at_us=200_000)
    cluster.run(RUN_US)
    assert 0 < flag.seen_us - flag.stored_us < 50_000
    if policy == "adaptive":
        policies = cluster.hosts[0].node.policy
        assert isinstance(policies, Adaptive) and policies.made_multiple == 1


