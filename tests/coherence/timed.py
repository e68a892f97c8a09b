# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster in simulated time, for what a policy is about: how fast programs get on.

Costs are those of a real pair of supervisors in round figures. A guest thread
is a function of the cluster that is called whenever it could go on; its host's
supervisor handles one event after the other.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from supervisor.coherence.messages import (
    Access,
    Arm,
    BusLock,
    Event,
    Fault,
    Message,
    Protect,
    Protected,
    Received,
    Released,
    Resume,
    Send,
    Tick,
    WakeAt,
)
from supervisor.coherence.node import Node
from supervisor.coherence.pages import run_of
from supervisor.units import HostId
from tests.coherence.hosts import SimMemory

STEP_US: Final = 20
PROTECT_US: Final = 50
LINK_US: Final = 60
FAULT_US: Final = 40
HOLD_US: Final = 300
"""How long a page stays pinned for a thread that faulted on it."""


@dataclass(eq=False)
class TimedHost:
    node: Node
    memory: SimMemory
    guest: dict[int, Access] = field(default_factory=dict)
    armed: bool = False
    busy_until_us: float = 0.0
    inbox: deque[Event] = field(default_factory=deque)
    wake_us: float = 0.0


class TimedCluster:
    """Hosts with a clock; `at` schedules, `run` runs until a time."""

    def __init__(self, hosts: int, policy: str) -> None:
        self.now_us = 0.0
        self.hosts: list[TimedHost] = []
        for host in range(hosts):
            memory = SimMemory()
            self.hosts.append(TimedHost(Node(HostId(host), hosts, memory, policy), memory))
        self.resumed: dict[int, Callable[[], None]] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._holds: dict[int, int] = {}
        self._arrives: dict[tuple[int, int], float] = {}

    def at(self, when_us: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when_us, self._count, what))

    def run(self, until_us: float) -> None:
        while self._queue and self._queue[0][0] <= until_us:
            self.now_us, _, what = heapq.heappop(self._queue)
            what()

    def event(self, host: int, event: Event) -> None:
        """Step once the supervisor has time for it, in the order of arrival."""
        self.hosts[host].inbox.append(event)
        if len(self.hosts[host].inbox) == 1:
            self.at(max(self.now_us, self.hosts[host].busy_until_us), lambda: self._next(host))

    def _next(self, host: int) -> None:
        supervisor = self.hosts[host]
        self._handle(host, supervisor.inbox[0])
        supervisor.inbox.popleft()
        if supervisor.inbox:
            self.at(supervisor.busy_until_us, lambda: self._next(host))

    def _handle(self, host: int, event: Event) -> None:
        supervisor = self.hosts[host]
        supervisor.busy_until_us = self.now_us + STEP_US
        pending: list[Event] = [Tick(int(self.now_us)), event]
        while pending:
            for effect in supervisor.node.step(pending.pop(0)):
                if isinstance(effect, Protect):
                    supervisor.busy_until_us += PROTECT_US
                    for run in effect.runs:
                        for page in range(run.first, run.first + run.count):
                            supervisor.guest[page] = run.access
                    pending.append(Protected(effect.token))
                elif isinstance(effect, Send):
                    self._send(host, effect.host, effect.message)
                elif isinstance(effect, Resume):
                    self.at(supervisor.busy_until_us, self.resumed[effect.requester])
                    self._hold(host, effect.requester, supervisor.busy_until_us + HOLD_US)
                elif isinstance(effect, Arm):
                    supervisor.armed = effect.armed
                elif isinstance(effect, WakeAt):
                    self._wake_at(host, max(effect.now_us, self.now_us))

    def _wake_at(self, host: int, when_us: float) -> None:
        """As the driver does: one wake-up, the earliest."""
        supervisor = self.hosts[host]
        if self.now_us < supervisor.wake_us <= when_us:
            return
        supervisor.wake_us = when_us

        def tick() -> None:
            supervisor.wake_us = 0.0
            self.event(host, Tick(int(self.now_us)))

        self.at(when_us, tick)

    def _hold(self, host: int, requester: int, until_us: float) -> None:
        """Release the requester's pins, if it has not asked for others meanwhile."""
        hold = self._holds[requester] = self._holds.get(requester, 0) + 1

        def release() -> None:
            if self._holds[requester] == hold:
                self.event(host, Released(requester))

        self.at(until_us, release)

    def fault(self, host: int, requester: int, event: Event) -> None:
        """A guest thread stops with a fault, which reaches its supervisor soon."""
        self._holds[requester] = self._holds.get(requester, 0) + 1
        self.at(self.now_us + FAULT_US, lambda: self.event(host, event))

    def _send(self, sender: int, receiver: int, message: Message) -> None:
        arrives = self.hosts[sender].busy_until_us + LINK_US
        arrives = max(arrives, self._arrives.get((sender, receiver), 0.0))
        self._arrives[sender, receiver] = arrives
        self.at(arrives, lambda: self.event(receiver, Received(HostId(sender), message)))

    def allows(self, host: int, page: int, access: Access) -> bool:
        default = Access.WRITE if host == 0 else Access.NONE
        return self.hosts[host].guest.get(page, default) >= access


class Counter:
    """A thread that adds to its own word of a page all the time, read then write."""

    QUANTUM_US: Final = 10.0

    def __init__(
        self, cluster: TimedCluster, number: int, host: int, page: int, *, locked: bool = False
    ) -> None:
        self.cluster, self.number, self.host, self.page = cluster, number, host, page
        self.offset, self.locked = 8 * number, locked
        self.ran_us = 0.0
        cluster.resumed[number] = self.go_on
        cluster.at(number, self.go_on)

    def go_on(self) -> None:
        cluster, host = self.cluster, self.cluster.hosts[self.host]
        for access in (Access.WRITE,) if self.locked else (Access.READ, Access.WRITE):
            if not cluster.allows(self.host, self.page, access):
                needs = (run_of(self.page, 1, access),)
                event = BusLock(self.number, needs) if self.locked else Fault(self.number, needs)
                cluster.fault(self.host, self.number, event)
                return
        value = host.memory.peek(self.page, self.offset)
        host.memory.poke(self.page, self.offset, (value + 1) & 0xFF)
        self.ran_us += self.QUANTUM_US
        cluster.at(cluster.now_us + self.QUANTUM_US, self.go_on)


class PingPong:
    """Two threads that take turns by two plain flags in one page."""

    def __init__(self, cluster: TimedCluster, hosts: tuple[int, int], page: int) -> None:
        self.cluster, self.page, self.turns = cluster, page, 0
        self.hosts = hosts
        self.value = [0, 0]
        for side in (0, 1):
            cluster.resumed[side + 1] = lambda side=side: self.go_on(side)
            cluster.at(side, lambda side=side: self.go_on(side))

    def go_on(self, side: int) -> None:
        cluster, host = self.cluster, self.hosts[side]
        memory = cluster.hosts[host].memory
        if not cluster.allows(host, self.page, Access.READ):
            self._fault(side, Access.READ)
            return
        theirs = memory.peek(self.page, 8 * (1 - side))
        mine_is_due = theirs == self.value[side] if side == 0 else theirs != self.value[side]
        if mine_is_due:
            if not cluster.allows(host, self.page, Access.WRITE):
                self._fault(side, Access.WRITE)
                return
            self.value[side] = (self.value[side] + 1) & 0xFF
            memory.poke(self.page, 8 * side, self.value[side])
            self.turns += 1
        cluster.at(cluster.now_us + 5, lambda: self.go_on(side))

    def _fault(self, side: int, access: Access) -> None:
        event = Fault(side + 1, (run_of(self.page, 1, access),))
        self.cluster.fault(self.hosts[side], side + 1, event)


class Flag:
    """One thread stores a flag at some time, another reads it until it is set."""

    OFFSET: Final = 2048
    NUMBERS: Final = (101, 102)

    def __init__(
        self, cluster: TimedCluster, *, writer: int, reader: int, page: int, at_us: float
    ) -> None:
        self.cluster, self.page = cluster, page
        self.writer, self.reader = writer, reader
        self.stored_us = self.seen_us = 0.0
        cluster.resumed[self.NUMBERS[0]] = self.store
        cluster.resumed[self.NUMBERS[1]] = self.look
        cluster.at(at_us, self.store)
        cluster.at(0, self.look)

    def store(self) -> None:
        cluster = self.cluster
        if not cluster.allows(self.writer, self.page, Access.WRITE):
            event = Fault(self.NUMBERS[0], (run_of(self.page, 1, Access.WRITE),))
            cluster.fault(self.writer, self.NUMBERS[0], event)
            return
        cluster.hosts[self.writer].memory.poke(self.page, self.OFFSET, 1)
        self.stored_us = cluster.now_us

    def look(self) -> None:
        cluster = self.cluster
        if not cluster.allows(self.reader, self.page, Access.READ):
            event = Fault(self.NUMBERS[1], (run_of(self.page, 1, Access.READ),))
            cluster.fault(self.reader, self.NUMBERS[1], event)
        elif cluster.hosts[self.reader].memory.peek(self.page, self.OFFSET):
            self.seen_us = cluster.now_us
        else:
            cluster.at(cluster.now_us + 50, self.look)
