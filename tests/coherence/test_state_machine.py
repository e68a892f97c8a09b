# SPDX-License-Identifier: GPL-2.0-or-later
"""hypothesis drives a small cluster: it picks every event and shrinks what breaks it."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.coherence.messages import Access
from supervisor.coherence.pages import run_of
from tests.coherence.bulk import BASE, BulkCluster

HOSTS = 3

needs = st.lists(
    st.builds(
        run_of,
        st.integers(BASE, BASE + 12),
        st.integers(1, 6),
        st.sampled_from((Access.READ, Access.WRITE)),
    ),
    min_size=1,
    max_size=2,
)


class SingleWriterMachine(RuleBasedStateMachine):
    """Requesters come and go on three hosts; every action is hypothesis's choice."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = BulkCluster(random.Random(0), HOSTS, "single-writer", lag=True)

    @rule(host=st.integers(0, HOSTS - 1), wanted=needs)
    def arrive(self, host: int, wanted: list) -> None:  # type: ignore[type-arg]
        if len(self.cluster.threads) < 12:
            self.cluster.add_requester(host, [tuple(wanted)])

    @rule(first=st.integers(BASE, BASE + 12), count=st.integers(1, 6))
    def discard(self, first: int, count: int) -> None:
        self.cluster.discard(first, count)

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        links = [link for link, messages in self.cluster.links.items() if messages]
        if links:
            self.cluster.deliver(data.draw(st.sampled_from(links)))

    @rule(data=st.data())
    def carry_out(self, data: st.DataObject) -> None:
        hosts = [host for host in self.cluster.hosts if host.effects]
        if hosts:
            self.cluster.carry_out(hosts[data.draw(st.integers(0, len(hosts) - 1))])

    @rule(data=st.data())
    def run_thread(self, data: st.DataObject) -> None:
        ready = [t for t in self.cluster.threads.values() if not t.waiting and not t.done]
        if ready:
            self.cluster.execute(ready[data.draw(st.integers(0, len(ready) - 1))])

    @precondition(lambda self: any(host.unreported for host in self.cluster.hosts))
    @rule()
    def report(self) -> None:
        for host in self.cluster.hosts:
            if host.unreported:
                self.cluster.report(host)

    @invariant()
    def holds_together(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        self.cluster.settle()


SingleWriterMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestSingleWriterMachine = SingleWriterMachine.TestCase
