# SPDX-License-Identifier: GPL-2.0-or-later
"""One host's coherence node: `step(event)` returns effects, and nothing else happens.

The node is a pure state machine but for the guest memory it is given to read
and write. `home.py` decides (at host 0), `remote.py` obeys (elsewhere); what
both share is here: requesters and their pins, protections, counters.

Obligations of the driver: carry effects out in order; step `Protected` for each
`Protect` once it is in force; step `Released` or `Cancelled` for each `Resume`
within a bounded time that depends on no other message of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from supervisor.coherence.bus import Bus
from supervisor.coherence.demand import Demand, Requests
from supervisor.coherence.flush import StoreBuffer
from supervisor.coherence.home import Home
from supervisor.coherence.messages import (
    Access,
    Arm,
    BusLock,
    Cancelled,
    Discarded,
    Effect,
    Event,
    Fault,
    Memory,
    Message,
    Protect,
    Protected,
    Received,
    Released,
    Resume,
    Retry,
    Run,
    Send,
    Serialize,
    StoodStill,
    Tick,
)
from supervisor.coherence.pages import (
    LocalPages,
    Span,
    any_overlap,
    append_run,
    normalised,
    run_of,
)
from supervisor.coherence.policy import POLICIES
from supervisor.coherence.remote import Remote
from supervisor.coherence.transfer import NEEDS_PAGES_MAX, pages_in
from supervisor.errors import PeerError
from supervisor.units import HOME, PAGES_END, HostId, PageNumber

COUNTERS: Final = (
    "faults_read",
    "faults_write",
    "pages_fetched",
    "pages_sent",
    "pages_direct",
    "flushes",
    "diffs_sent",
    "pages_made_multiple",
    "pages_made_single",
)


class Node:
    """The coherence protocol of one host.

    `hosts` is the number of hosts; `memory` is this host's guest memory, all
    zeros at the start save at home. `paths` are the pairs of hosts other than home,
    each in both orders, between which page data can go directly. Steps raise PeerError
    when a peer breaks the protocol; the node must then not be stepped again.
    """

    def __init__(
        self,
        host: HostId,
        hosts: int,
        memory: Memory,
        policy: str = "single-writer",
        paths: frozenset[tuple[HostId, HostId]] = frozenset(),
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"unknown policy {policy}")
        self.host, self.hosts, self.memory, self.paths = host, hosts, memory, paths
        self.policy = POLICIES[policy]()
        self.others = tuple(HostId(other) for other in range(hosts) if other != host)
        self.pages = LocalPages(Access.WRITE if host == HOME else Access.NONE)
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.buffer = StoreBuffer(self, armed=self.policy.always_armed)
        self.bus = Bus(self)
        self.side: Home | Remote = Home(self) if host == HOME else Remote(self)
        self.lowering = 0
        """Protections that take something from the guest and are not yet in force."""
        self.now_us = 0
        self._local: dict[int, Demand] = {}  # wait for a page that is frozen or updated here
        self._fencing: dict[int, int] = {}  # requester -> its fence, while stores are flushed
        self._fence_last = 0
        self.requests = Requests(self)
        self._token_last = 0
        self._completions: dict[int, list[Callable[[], None]]] = {}
        self._lowered: list[Run] = []
        self._raised: list[Run] = []
        self._then: list[Callable[[], None]] = []
        self._effects: list[Effect] = []
        self._armed = False  # as the driver was told

    def step(self, event: Event) -> list[Effect]:
        _HANDLERS[type(event)](self, event)
        return self._collect_effects()

    # Queries ------------------------------------------------------------------

    def access_runs(self, first: int, count: int) -> list[Run]:
        """The coherence access of each page now, as maximal runs."""
        return [
            run_of(run.first, run.count, run.value) for run in self.pages.access.runs(first, count)
        ]

    def allows(self, first: int, count: int, access: Access) -> bool:
        return self.pages.allows(first, count, access)

    def satisfied(self, needs: tuple[Run, ...], locked: bool = False) -> bool:
        """Whether an access could go on now; `locked`: that of a bus-locked instruction,
        which a multiple-writer page does not satisfy even where it may be written."""
        return self.pages.satisfied(needs) and not (locked and self._stores_multiple(needs))

    def has_latest(self, page: int) -> bool:
        """Whether this host's copy is what home's order makes of the page, unless a message
        is on the way that says otherwise: home's directory does not have this host then."""
        return (
            self.pages.access.get(page) != Access.NONE
            and page not in self.buffer.multiple
            and not self.requests.asked_for(page)
        )

    @property
    def drained(self) -> bool:
        """Whether a `Serialize` would end at once: all stores made here are visible to all."""
        buffer = self.buffer
        return not (buffer.twins or buffer.in_flight or self.bus.halting)

    def pins(self, requester: int) -> bool:
        """Whether the requester has pages pinned."""
        return requester in self.pages.pins

    @property
    def held_up(self) -> bool:
        """Whether something may be waiting until a requester releases its pages."""
        return self.buffer.held_up or self.bus.held_up or self.side.held_up

    def pinned_exclusive(self, requester: int) -> PageNumber | None:
        """The first page that the requester has pinned to write and only this host has."""
        multiple = self.buffer.multiple
        for need in self.pages.pins.get(requester, ()):
            if need.access == Access.WRITE:
                for page in range(need.first, need.first + need.count):
                    if page not in multiple:
                        return PageNumber(page)
        return None

    @property
    def armed(self) -> bool:
        """Whether synchronization instructions of this host have to trap now."""
        return self.buffer.armed

    def tell_time(self, now_us: int) -> bool:
        """What time it is, where that is cheaper than a `Tick`: whether one has anything to do."""
        self.now_us = max(self.now_us, now_us)
        return bool(self.buffer.twins) or self.policy.locks_bus

    # Events -------------------------------------------------------------------

    def _fault(self, event: Fault) -> None:
        self._forget_requester(event.requester)
        demand = Demand(_checked(event.needs), False, *event[2:])
        self._count(demand)
        self.requests.serve(event.requester, demand)

    def _serialize(self, event: Serialize) -> None:
        self._forget_requester(event.requester)
        self._fence(event.requester, self._fenced)

    def _bus_lock(self, event: BusLock) -> None:
        self._forget_requester(event.requester)
        demand = Demand(_checked(event.needs), not self.policy.locks_bus)
        self._fence(event.requester, partial(self._fenced_lock, demand), demand)

    def _fence(
        self, requester: int, then: Callable[[int, int], None], early: Demand | None = None
    ) -> None:
        self._fence_last += 1
        self._fencing[requester] = self._fence_last
        self.buffer.start_flush(partial(self._published, requester, self._fence_last, then, early))

    def _published(
        self, requester: int, fence: int, then: Callable[[int, int], None], early: Demand | None
    ) -> None:
        """The requester's stores are on their way."""
        if early is not None and early.locked and self._fencing.get(requester) == fence:
            self.requests.ask_early(early)
        self.buffer.when_answered(partial(then, requester, fence))

    def _fenced(self, requester: int, fence: int) -> None:
        """The requester's stores are visible to all."""
        if self._fencing.get(requester) == fence:
            del self._fencing[requester]
            if not self.bus.hold_back(requester, None):
                self.emit(Resume(requester))

    def _fenced_lock(self, demand: Demand, requester: int, fence: int) -> None:
        if self._fencing.get(requester) == fence:
            del self._fencing[requester]
            self._count(demand)
            if self.policy.locks_bus:
                self.bus.ask(requester, demand)
            else:
                self.requests.serve(requester, demand)

    def _count(self, demand: Demand) -> None:
        if not self.pages.satisfied(demand.needs):
            if len(demand.needs) == 1:
                writes = demand.needs[0].access == Access.WRITE
                self.counters["faults_write" if writes else "faults_read"] += 1
                return
            writes = any(need.access == Access.WRITE for need in demand.needs)
            self.counters["faults_write" if writes else "faults_read"] += 1

    def admit(self, requester: int, demand: Demand) -> bool:
        """Resume the requester, or let it wait for a page that is busy here.

        False when home has to be asked for a page.
        """
        needs = demand.needs
        stores, busy = [], False
        if self.buffer.multiple and any(self._multiple_in(need) for need in needs):
            if demand.locked and self._stores_multiple(needs):
                return False
            for need in needs:
                for page in range(need.first, need.first + need.count):
                    if self.pages.access.get(page) >= need.access:
                        continue
                    if page not in self.buffer.multiple:
                        return False
                    if page in self.buffer.updating:
                        busy = True
                    elif self.pages.access.get(page) == Access.NONE:
                        return False
                    elif page in self.buffer.frozen:
                        busy = True
                    else:
                        stores.append(page)
        elif not self.pages.satisfied(needs):
            return False
        if busy:
            self._local[requester] = demand
            return True
        if self.bus.hold_back(requester, demand):
            return True
        for page in stores:
            self.buffer.dirty(page)
            self.raise_access([run_of(page, 1, Access.WRITE)])
        self.pages.pins[requester] = needs
        self.emit(Resume(requester))
        return True

    def _stores_multiple(self, needs: tuple[Run, ...]) -> bool:
        """Whether a page to be written is multiple-writer."""
        return bool(self.buffer.multiple) and any(
            self._multiple_in(need) for need in needs if need.access == Access.WRITE
        )

    def _multiple_in(self, need: Run) -> bool:
        pages = range(need.first, need.first + need.count)
        if need.count < len(self.buffer.multiple):
            return any(page in self.buffer.multiple for page in pages)
        return any(page in pages for page in self.buffer.multiple)

    def _released(self, event: Released) -> None:
        self._unpin(event.requester)

    def _cancelled(self, event: Cancelled) -> None:
        self._forget_requester(event.requester)

    def _forget_requester(self, requester: int) -> None:
        self.requests.forget(requester)
        self._local.pop(requester, None)
        self._fencing.pop(requester, None)
        self._unpin(requester)

    def _unpin(self, requester: int) -> None:
        if self.pages.pins.pop(requester, None) is not None:
            self.unpinned()
        self.bus.forget(requester)

    def _received(self, event: Received) -> None:
        if event.sender == self.host or not 0 <= event.sender < self.hosts:
            raise PeerError(f"a message from host {event.sender}")
        self.side.received(event.sender, event.message)

    def _protected(self, event: Protected) -> None:
        self.buffer.seal(event.token)
        for completion in self._completions.pop(event.token):
            self.lowering -= 1
            completion()
        if self._local:
            waiting, self._local = self._local, {}
            for requester, demand in waiting.items():
                self.requests.serve(requester, demand)
        self.side.run()

    def _discarded(self, event: Discarded) -> None:
        if not isinstance(self.side, Home):
            raise ValueError("only home discards pages")
        if event.count > 0:
            self.side.discard(event.first, event.count)

    def _tick(self, event: Tick) -> None:
        self.now_us = max(self.now_us, event.now_us)
        self.buffer.tick()
        if isinstance(self.side, Home):
            self.side.bus.run()

    def _stood_still(self, event: StoodStill) -> None:
        self.bus.stood_still()

    # For the two sides ----------------------------------------------------------

    @property
    def next_token(self) -> int:
        """The token of the `Protect` that this step will end with, if it has one."""
        return self._token_last + 1

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def send(self, host: HostId, message: Message) -> None:
        self._effects.append(Send(host, message))

    def lower(self, runs: list[Run], then: Callable[[], None]) -> None:
        """Take access from the guest; `then` when no guest thread has it any more."""
        for run in runs:
            self.pages.access.set(run.first, run.count, run.access)
            append_run(self._lowered, run.first, run.count, run.access)
        self.lowering += 1
        self._then.append(then)

    def freeze_dirty(self) -> None:
        """Freeze what a flush in this step has to send; `lower` is called in this step too."""
        for run in self.buffer.freeze():
            self.pages.access.set(run.first, run.count, run.access)
            append_run(self._lowered, run.first, run.count, run.access)

    def raise_access(self, runs: list[Run]) -> None:
        """Give the guest access; nothing where it has that or more already."""
        access = self.pages.access
        for first, count, allowed in runs:
            for start, length, value in access.runs(first, count):
                if value < allowed:
                    access.set(start, length, allowed)
                    append_run(self._raised, start, length, allowed)

    def install(self, first: int, count: int, data: bytes) -> None:
        """Put pages into memory; no data means zeros."""
        if data:
            self.memory.write(PageNumber(first), data)
            self.pages.touched.set(first, count, 1)
            return
        for span in self.pages.touched.runs(first, count):
            if span.value or self.host == HOME:
                self.memory.zero(PageNumber(span.first), span.count)
        self.pages.touched.set(first, count, 0)

    def unpinned(self) -> None:
        """Pins are gone: whatever waited for them goes on."""
        self.buffer.released()
        self.side.released()
        self.bus.run()

    def retry_overlapping(self, span: Span) -> None:
        """Requesters that wait for a page of the span try again."""
        fetched = (fetching.waiters for fetching in self.requests.open.values())
        for waiters in (self._local, self.bus.waiting, *fetched):
            for requester, demand in list(waiters.items()):
                if any_overlap(demand.needs, (span,)):
                    del waiters[requester]
                    self.retry(requester)

    def retry(self, requester: int) -> None:
        self.emit(Retry(requester))
        self.bus.forget(requester)

    def _collect_effects(self) -> list[Effect]:
        """`Arm` first, for it must be set before a dirty page can be written; then the
        protections, those that take before those that give: whoever is resumed in
        this step relies on them, and what is sent in it relied on earlier steps'."""
        effects, self._effects = self._effects, []
        if self._armed and not self.buffer.armed:
            effects.append(Arm(False))
        if self._lowered or self._raised or self._then:
            raised: list[Run] = []
            access = self.pages.access
            for first, count, _ in self._raised:
                if count == 1:
                    append_run(raised, first, 1, access.get(first))
                    continue
                for span in access.runs(first, count):
                    append_run(raised, *span)
            self._token_last += 1
            self._completions[self._token_last] = self._then
            runs = (*self._lowered, *raised)
            effects.insert(0, Protect(self._token_last, runs, len(self._lowered)))
            self._lowered, self._raised, self._then = [], [], []
        if self.buffer.armed and not self._armed:
            effects.insert(0, Arm(True))
        self._armed = self.buffer.armed
        return effects


def _checked(needs: tuple[Run, ...]) -> tuple[Run, ...]:
    if len(needs) == 1:  # most often
        first, count, _ = needs[0]
        if 0 < count <= NEEDS_PAGES_MAX and 0 <= first <= PAGES_END - count:
            return needs
    ordered = normalised(needs)
    if not 0 < pages_in(ordered) <= NEEDS_PAGES_MAX:
        raise ValueError(f"a fault needs {pages_in(ordered)} pages")
    if ordered[0].first < 0 or ordered[-1].first + ordered[-1].count > PAGES_END:
        raise ValueError(f"a fault needs pages outside of memory: {ordered}")
    return ordered


_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    Fault: Node._fault,
    Released: Node._released,
    Cancelled: Node._cancelled,
    Received: Node._received,
    Protected: Node._protected,
    Discarded: Node._discarded,
    Serialize: Node._serialize,
    BusLock: Node._bus_lock,
    Tick: Node._tick,
    StoodStill: Node._stood_still,
}
