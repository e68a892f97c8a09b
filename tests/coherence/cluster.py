# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster of simulated hosts that runs a program under one random schedule.

Everything that may happen in any order in reality is an *action* here, and a
seeded random choice picks the next one: a guest thread executes an instruction
or faults, a link delivers its oldest message, a host carries out its oldest
effect, a `Protect` is reported as in force, a requester releases its pins.
Effects may lag behind the steps that made them, and guest threads go on
meanwhile with the protections that are really in force.

A seed decides everything: `python -m tests.coherence.sim --seed N` repeats a run.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from supervisor.coherence import wire
from supervisor.coherence.directory import MULTIPLE, sharers, source_of
from supervisor.coherence.flush import FLUSH_DEADLINE_US
from supervisor.coherence.invariants import (
    check_cluster,
    check_copies,
    check_node,
    check_quiescent,
)
from supervisor.coherence.messages import (
    Access,
    Arm,
    BusLock,
    Discarded,
    Event,
    Fault,
    GoOn,
    Message,
    ModeChanged,
    PageDiff,
    Protect,
    Protected,
    Received,
    Released,
    Resume,
    Retry,
    Send,
    Serialize,
    StandStill,
    StoodStill,
    Tick,
    WakeAt,
)
from supervisor.coherence.node import Node
from supervisor.coherence.pages import run_of
from supervisor.coherence.policy import SingleWriter
from supervisor.coherence.streams import Streams
from supervisor.units import HOME, HostId, PageNumber
from tests.coherence.hosts import SimHost, SimMemory, Thread
from tests.coherence.programs import Op, locked

ACTIONS_MAX: Final = 20_000
SPEEDS: Final = (0.03, 0.3, 1.0, 1.0, 3.0)
"""How often a link, a host or a thread gets its turn, relative to the others."""

STOOD_STILL: Final = -1
"""Among the tokens of protections in force: no thread of the host runs any more."""

NEED: Final = {
    "load": Access.READ,
    "store": Access.WRITE,
    "add": Access.WRITE,
    "swap": Access.WRITE,
}


class RandomModes(SingleWriter):
    """Any choice of modes is correct: pages change theirs by chance, often."""

    watches = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._inclination = rng.choice((0.0, 0.3, 0.8, 1.0))

    def make_multiple(self, page: int) -> bool:
        return self._rng.random() < self._inclination

    def moves(self, page: int, now_us: int) -> bool:
        """A page that the policy watches goes through home, others may go directly."""
        return self._rng.random() < 0.3

    def flushed(
        self, host: int, diffs: Iterable[PageDiff], now_us: int, late: bool
    ) -> list[int]:
        return [diff.page for diff in diffs if self._rng.random() < 0.1]


def stand_still(hosts: Iterable[SimHost]) -> bool:
    return all(host.still or host.lost for host in hosts)


def random_paths(rng: random.Random, hosts: int) -> frozenset[tuple[HostId, HostId]]:
    """The pairs of lenders that have a link: mostly all, at times only some."""
    share = rng.choice((0.0, 0.5, 1.0, 1.0))
    found = [
        (HostId(a), HostId(b)) for a in range(1, hosts) for b in range(1, a) if rng.random() < share
    ]
    return frozenset(found + [(b, a) for a, b in found])


class Cluster:
    """`places[v]` is the page and offset of variable v; `hosts_of[t]` where thread t runs."""

    def __init__(
        self,
        rng: random.Random,
        hosts: int,
        policy: str,
        *,
        lag: bool,
        make_node: Callable[..., Node] = Node,
        check_every: int = 1,
    ) -> None:
        self.rng, self.lag, self.check_every = rng, lag, check_every
        self.hosts: list[SimHost] = []
        paths = random_paths(rng, hosts)
        for host in range(hosts):
            memory = SimMemory()
            node = make_node(HostId(host), hosts, memory, policy, paths)
            # Small windows, so that few pages are enough for streams to come to theirs.
            node.requests.streams = Streams(rng.choice((2, 4, 256)), rng.choice((1, 5)))
            default = Access.WRITE if host == HOME else Access.NONE
            self.hosts.append(SimHost(node, memory, default))
            memory.meanwhile = partial(self.meanwhile, self.hosts[-1])
        if policy == "adaptive":
            self.hosts[HOME].node.policy = RandomModes(rng)
        self.nodes = [host.node for host in self.hosts]
        self.links: dict[tuple[HostId, HostId], deque[Message]] = {
            (HostId(a), HostId(b)): deque() for a in range(hosts) for b in range(hosts) if a != b
        }
        self.threads: dict[int, Thread] = {}
        self.places: list[tuple[int, int]] = []
        self.steps = 0
        self.clock_us = 0
        self.discarding = False  # a discard is a race of the program: two may write for a while
        self.trace: list[str] | None = None
        self.speeds: dict[object, float] = {
            part: rng.choice(SPEEDS) for part in (*self.links, *range(hosts), "ticks")
        }

    # Stepping ---------------------------------------------------------------

    def step(self, host: SimHost, event: Event) -> None:
        effects = host.node.step(event)
        self.steps += 1
        if self.trace is not None:
            self.trace.append(f"host {host.node.host} <- {_short(event)}")
            self.trace += [f"    -> {_short(effect)}" for effect in effects]
        host.effects.extend(effects)
        if not self.lag:
            while host.effects:
                self.carry_out(host)
        if self.steps % self.check_every == 0:
            self.check()

    def check(self) -> None:
        living = [host.node for host in self.hosts if not host.lost]
        for node in living:
            check_node(node)
        if len(living) < len(self.nodes):
            self.check_guests()
        elif not self.discarding:
            check_cluster(self.nodes, self.under_way(), self.watched())
            self.check_guests()

    def watched(self) -> set[int]:
        """Pages whose copies are compared after each step; none means all."""
        return {page for page, _ in self.places}

    def under_way(self) -> dict[tuple[HostId, HostId], list[Message]]:
        """Messages on the links, and those whose sending has not been carried out."""
        found = {link: list(messages) for link, messages in self.links.items()}
        for host in self.hosts:
            for effect in host.effects:
                if isinstance(effect, Send):
                    found[host.node.host, effect.host].append(effect.message)
        return found

    def check_guests(self) -> None:
        """At most one guest may really write a page."""
        for page in {page for page, _ in self.places}:
            writers = [
                host for host in self.hosts if not host.lost and host.allows(page, Access.WRITE)
            ]
            if len(writers) > 1:
                several = all(page in host.node.buffer.twins for host in writers)
                assert several, f"{len(writers)} hosts may write page {page:#x}"

    def carry_out(self, host: SimHost) -> None:
        effect = host.effects.popleft()
        if isinstance(effect, Protect):
            for run in effect.runs:
                for page in range(run.first, run.first + run.count):
                    host.guest[page] = run.access
            if self.lag:
                host.unreported.append(effect.token)
            else:
                self.step(host, Protected(effect.token))
        elif isinstance(effect, Send):
            if self.hosts[effect.host].lost:
                return
            message = wire.decode(b"".join(wire.encode(effect.message)))
            self.links[host.node.host, effect.host].append(message)
        elif isinstance(effect, Resume):
            thread = self.threads[effect.requester]
            if thread.gone:  # cancelled between the step and its effects
                return
            assert thread.waiting, f"requester {thread.number} is resumed but does not wait"
            thread.waiting, thread.fenced, thread.pinned = False, True, True
        elif isinstance(effect, Retry):
            self.threads[effect.requester].waiting = False
        elif isinstance(effect, Arm):
            host.armed = effect.armed
        elif isinstance(effect, StandStill):
            host.still = True
            if self.lag:
                host.unreported.append(STOOD_STILL)
            else:
                self.step(host, StoodStill())
        elif isinstance(effect, GoOn):
            host.still = False
        elif isinstance(effect, WakeAt):
            due = effect.now_us if host.wake_us is None else min(effect.now_us, host.wake_us)
            host.wake_us = due
        else:
            assert isinstance(effect, ModeChanged), f"unexpected {effect}"

    # Actions ----------------------------------------------------------------

    def act(self) -> bool:
        """One random action; False when nothing is left to do.

        Links and hosts have random speeds: what is never late is never wrong.
        """
        choices: list[tuple[Callable[..., None], object]] = []
        weights: list[float] = []
        speeds = self.speeds
        for link, messages in self.links.items():
            if messages:
                choices.append((self.deliver, link))
                weights.append(speeds[link])
        for host in self.hosts:
            if host.effects:
                choices.append((self.carry_out, host))
                weights.append(speeds[host.node.host])
            if host.unreported:
                choices.append((self.report, host))
                weights.append(speeds[host.node.host])
            if host.wake_us is not None:
                choices.append((self.tick, host))
                weights.append(speeds["ticks"])
        for thread in self.threads.values():
            if thread.host.lost:
                continue
            if not thread.waiting and not thread.done and not thread.host.still:
                choices.append((self.execute, thread))
                weights.append(thread.speed)
            elif thread.pinned:
                choices.append((self.release, thread))
                weights.append(thread.speed)
        if not choices:
            return False
        action, argument = self.rng.choices(choices, weights)[0]
        action(argument)
        return True

    def meanwhile(self, host: SimHost) -> None:
        """Guest threads go on as far as they need nobody."""
        for thread in host.threads if not host.still else ():
            while not thread.waiting and not thread.done and self.rng.random() < 0.4:
                op = thread.ops[thread.at]
                if op.kind not in ("load", "store") or not self.reachable(host, op):
                    break
                self.perform(thread, op)

    def reachable(self, host: SimHost, op: Op) -> bool:
        return all(host.allows(self.places[v][0], NEED[op.kind]) for v in op.variables)

    def deliver(self, link: tuple[HostId, HostId]) -> None:
        sender, receiver = link
        message = self.links[link].popleft()
        self.step(self.hosts[receiver], Received(sender, message))

    def lose(self, number: int) -> None:
        """The host is gone, and of what it had sent a part of each link's is."""
        host = self.hosts[number]
        host.lost = True
        host.effects.clear()
        host.unreported.clear()
        host.wake_us = None
        for (sender, receiver), messages in self.links.items():
            if receiver == number:
                messages.clear()
            elif sender == number:
                while messages and self.rng.random() < 0.4:
                    messages.pop()

    def report(self, host: SimHost) -> None:
        """Protections in force are reported in any order."""
        token = host.unreported.pop(self.rng.randrange(len(host.unreported)))
        self.step(host, StoodStill() if token == STOOD_STILL else Protected(token))

    def tick(self, host: SimHost) -> None:
        """Time goes on: by nothing, by a little, or past any deadline."""
        self.clock_us += self.rng.choice((0, 1, 3_000, FLUSH_DEADLINE_US + 2_000))
        host.wake_us = None
        self.step(host, Tick(self.clock_us))

    def release(self, thread: Thread) -> None:
        thread.pinned = False
        self.step(thread.host, Released(thread.number))

    def execute(self, thread: Thread) -> None:
        """The next instruction, or the fault that it raises."""
        op, host = thread.ops[thread.at], thread.host
        if op.kind == "fence":
            if host.armed and not thread.fenced:
                thread.waiting, thread.pinned = True, False
                self.step(host, Serialize(thread.number))
                return
            thread.at, thread.fenced = thread.at + 1, False
            return
        access, bus_lock = NEED[op.kind], op.kind in ("add", "swap")
        pages = sorted({self.places[variable][0] for variable in op.variables})
        if not self.reachable(host, op) or (bus_lock and host.armed and not thread.fenced):
            self.wait_for(thread, pages, access, bus_lock)
            return
        if bus_lock and not host.node.buffer.multiple.isdisjoint(pages):
            # In the published policy while the others stand still, else never.
            assert stand_still(other for other in self.hosts if other is not host), (
                f"requester {thread.number} runs a bus-locked instruction on a "
                "multiple-writer page"
            )
        self.perform(thread, op)
        if thread.pinned and self.rng.random() < 0.5:
            self.release(thread)

    def perform(self, thread: Thread, op: Op) -> None:
        host = thread.host
        for variable in op.variables:
            page, offset = self.places[variable]
            if op.kind != "store":
                thread.reads.append(host.memory.peek(page, offset))
            if op.kind == "store":
                host.memory.poke(page, offset, op.value)
            elif op.kind != "load":
                host.memory.poke(page, offset, locked(op, host.memory.peek(page, offset)))
        thread.at, thread.fenced = thread.at + 1, False

    def wait_for(self, thread: Thread, pages: list[int], access: Access, bus_lock: bool) -> None:
        """The page fault, or the trap of a bus-locked instruction."""
        assert not thread.pinned or thread.at_pin != thread.at, (
            f"requester {thread.number} faults on pages pinned for it"
        )
        thread.waiting, thread.pinned, thread.fenced = True, False, False
        thread.at_pin = thread.at
        needs = tuple(run_of(page, 1, access) for page in pages)
        if bus_lock:
            self.step(thread.host, BusLock(thread.number, needs))
        else:
            above, below = self.rng.choice(((0, 0), (0, 0), (3, 1), (40, 6)))
            # A hint, too: that nobody writes there need not be so.
            alone = len(pages) == 1 and self.rng.random() < 0.1
            constant, fresh = alone and access == Access.READ, alone and access == Access.WRITE
            hints = (above, min(below, pages[0]), pages[-1], constant, min(fresh * 4, pages[0]))
            self.step(thread.host, Fault(thread.number, needs, *hints))

    def settle(self) -> None:
        """Act until nothing is left to do; everybody must have got what they waited for."""
        for _ in range(ACTIONS_MAX):
            if not self.act():
                break
        else:
            raise AssertionError("the cluster does not come to rest")
        stuck = [thread.number for thread in self.threads.values() if not thread.done]
        assert not stuck, f"requesters {stuck} wait for ever"
        check_quiescent(self.nodes)
        check_copies(self.nodes)
        if not self.discarding:
            check_cluster(self.nodes, self.links)

    # Programs ---------------------------------------------------------------

    def add_thread(self, host: int, ops: tuple[Op, ...]) -> Thread:
        thread = Thread(len(self.threads) + 1, self.hosts[host], ops)
        thread.speed = self.rng.choice(SPEEDS)
        self.threads[thread.number] = thread
        self.hosts[host].threads.append(thread)
        return thread

    def finish(self) -> None:
        """Let all threads run to their end, and forget them."""
        self.settle()
        for host in self.hosts:
            host.threads.clear()
        self.threads.clear()

    def read_all(self, reads: Iterable[tuple[int, int]]) -> None:
        """Have a host read a variable, for each (host, variable)."""
        for host, variable in reads:
            self.add_thread(host, (Op("load", (variable,)),))
        self.finish()

    def discard(self, first: int, count: int) -> None:
        self.discarding = True
        self.step(self.hosts[HOME], Discarded(PageNumber(first), count))

    def current(self, variable: int) -> int:
        """The value that a read anywhere would give, once at rest."""
        home = self.nodes[HOME].side
        page, offset = self.places[variable]
        entry = home.directory.entries.get(page)  # type: ignore[union-attr]
        if entry < 0 and not sharers(entry) & 1:
            entry = source_of(entry)
        owner = entry if 0 <= entry < MULTIPLE else HOME
        return self.hosts[owner].memory.peek(page, offset)


def _short(thing: object) -> str:
    text = repr(thing)
    for name in ("Access.", "first=", "count=", "access=", "content="):
        text = text.replace(name, "")
    return text if len(text) <= 200 else text[:197] + "..."
