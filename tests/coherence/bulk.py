# SPDX-License-Identifier: GPL-2.0-or-later
"""Simulated requesters that need long ranges of pages, pin them for a time, and discard them.

Every write adds one to a page's first byte. Writes of a page happen one after
the other, so each must find what the last one left; reads may be late, but a
host never sees a page go back.
"""

from __future__ import annotations

import random
from typing import Final

from supervisor.coherence.messages import Access, Fault, Run
from supervisor.coherence.pages import normalised, run_of
from supervisor.units import HOME
from tests.coherence.cluster import Cluster
from tests.coherence.hosts import Thread
from tests.coherence.programs import Op

BASE: Final = 500  # so that ranges cross a chunk of the page map
PAGES: Final = 40


class BulkCluster(Cluster):
    """Threads whose ops are indices into `wants`: sets of runs needed at once."""

    def __init__(self, rng: random.Random, hosts: int, policy: str, *, lag: bool) -> None:
        super().__init__(rng, hosts, policy, lag=lag)
        self.wants: list[tuple[Run, ...]] = []
        self.written: dict[int, int] = {}
        self.seen: dict[tuple[int, int], int] = {}

    def add_requester(self, host: int, wants: list[tuple[Run, ...]]) -> Thread:
        ops = tuple(Op("bulk", (), len(self.wants) + at) for at in range(len(wants)))
        self.wants += wants
        return self.add_thread(host, ops)

    def watched(self) -> set[int]:
        return set(range(BASE, BASE + PAGES))

    def execute(self, thread: Thread) -> None:
        op, host = thread.ops[thread.at], thread.host
        needs = normalised(self.wants[op.value])
        ready = all(
            host.allows(page, run.access)
            for run in needs
            for page in range(run.first, run.first + run.count)
        )
        if not ready:
            assert not thread.pinned or thread.at_pin != thread.at or self.discarding
            thread.waiting, thread.pinned, thread.at_pin = True, False, thread.at
            above, below = self.rng.choice(((0, 0), (0, 0), (5, 0), (100, 20)))
            below = min(below, needs[0].first)
            self.step(host, Fault(thread.number, self.wants[op.value], above, below))
            return
        for run in needs:
            for page in range(run.first, run.first + run.count):
                self._touch(thread, page, run.access)
        thread.at += 1

    def _touch(self, thread: Thread, page: int, access: Access) -> None:
        memory, number = thread.host.memory, thread.host.node.host
        value = memory.peek(page, 0)
        if not self.discarding:
            latest = self.written.get(page, 0)
            assert self.seen.get((number, page), 0) <= value <= latest, f"page {page} went back"
            if access == Access.WRITE:
                assert value == latest, f"a write of page {page} was lost"
                self.written[page] = latest + 1
            self.seen[number, page] = value
        if access == Access.WRITE:
            memory.poke(page, 0, (value + 1) & 0xFF)


def random_want(rng: random.Random) -> tuple[Run, ...]:
    runs = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        count = rng.choice((1, 1, 2, 8, 20))
        first = BASE + rng.randrange(PAGES - count)
        runs.append(run_of(first, count, rng.choice((Access.READ, Access.WRITE))))
    return tuple(runs)


def random_cluster(seed: int, policy: str = "single-writer") -> BulkCluster:
    """Up to ten requesters on 2 to 4 hosts, scanning and jumping."""
    rng = random.Random(seed)
    hosts = rng.randint(2, 4)
    cluster = BulkCluster(rng, hosts, policy, lag=rng.random() < 0.6)
    for number in range(rng.randint(2, 10)):
        if rng.random() < 0.3:
            access = rng.choice((Access.READ, Access.WRITE))
            first = BASE + rng.randrange(PAGES)
            wants = [(run_of(page, 1, access),) for page in range(first, BASE + PAGES)]
        else:
            wants = [random_want(rng) for _ in range(rng.randint(1, 4))]
        cluster.add_requester(number % hosts if rng.random() < 0.7 else HOME, wants)
    return cluster
