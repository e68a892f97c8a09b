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
from dataclasses import dataclass, field
from typing import Final

from supervisor.coherence.home import Home
from supervisor.coherence.messages import (
    Access,
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
)
from supervisor.coherence.pages import (
    LocalPages,
    Span,
    any_overlap,
    append_run,
    covers,
    normalised,
    run_of,
)
from supervisor.coherence.policy import Streams
from supervisor.coherence.remote import Remote
from supervisor.coherence.transfer import NEEDS_PAGES_MAX, pages_in
from supervisor.errors import PeerError
from supervisor.units import HOME, HostId, PageNumber

COUNTERS: Final = (
    "faults_read",
    "faults_write",
    "pages_fetched",
    "pages_sent",
    "flushes",
    "diffs_sent",
)


@dataclass(slots=True)
class Fetching:
    """A request of this host that home has not answered, and who waits for it."""

    needs: tuple[Run, ...]
    asked: tuple[Run, ...]  # needs and what is wanted ahead
    waiters: dict[int, tuple[Run, ...]] = field(default_factory=dict)


class Node:
    """The coherence protocol of one host.

    `hosts` is the number of hosts; `memory` is this host's guest memory, all
    zeros at the start save at home. Steps raise PeerError when a peer breaks
    the protocol; the node must then not be stepped again.
    """

    def __init__(
        self, host: HostId, hosts: int, memory: Memory, policy: str = "single-writer"
    ) -> None:
        if policy != "single-writer":
            raise ValueError(f"unknown policy {policy}")
        self.host, self.hosts, self.memory, self.policy = host, hosts, memory, policy
        self.others = tuple(HostId(other) for other in range(hosts) if other != host)
        self.pages = LocalPages(Access.WRITE if host == HOME else Access.NONE)
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.fetching: dict[int, Fetching] = {}
        self.side: Home | Remote = Home(self) if host == HOME else Remote(self)
        self.lowering = 0
        """Protections that take something from the guest and are not yet in force."""
        self._streams = Streams()
        self._fetch_last = 0
        self._token_last = 0
        self._completions: dict[int, list[Callable[[], None]]] = {}
        self._protects: list[Run] = []
        self._then: list[Callable[[], None]] = []
        self._effects: list[Effect] = []

    def step(self, event: Event) -> list[Effect]:
        handler = _HANDLERS.get(type(event))
        if handler is None:
            raise ValueError(f"the {self.policy} policy takes no {type(event).__name__}")
        handler(self, event)
        return self._collect_effects()

    # Queries ------------------------------------------------------------------

    def access_runs(self, first: int, count: int) -> list[Run]:
        """The coherence access of each page now, as maximal runs."""
        return [
            run_of(run.first, run.count, run.value) for run in self.pages.access.runs(first, count)
        ]

    def allows(self, first: int, count: int, access: Access) -> bool:
        return self.pages.allows(first, count, access)

    def satisfied(self, needs: tuple[Run, ...]) -> bool:
        return self.pages.satisfied(needs)

    # Events -------------------------------------------------------------------

    def _fault(self, event: Fault) -> None:
        requester, needs = event.requester, normalised(event.needs)
        if not needs or pages_in(needs) > NEEDS_PAGES_MAX:
            raise ValueError(f"a fault needs {pages_in(needs)} pages")
        self._forget_requester(requester)
        if self.side.ready(needs):
            self._resume(requester, needs)
            return
        writes = any(need.access == Access.WRITE for need in needs)
        self.counters["faults_write" if writes else "faults_read"] += 1
        for fetching in self.fetching.values():
            if covers(fetching.needs, needs):
                fetching.waiters[requester] = needs
                return
        self._fetch(requester, needs, event.ahead)

    def _fetch(self, requester: int, needs: tuple[Run, ...], room: int) -> None:
        last = needs[-1]
        ahead, streak = self._streams.ahead(last.first, last.count, last.access, room)
        asked = needs
        if ahead:
            beyond = Run(PageNumber(last.first + last.count), ahead, last.access)
            asked = normalised((*needs, beyond))
        self._fetch_last += 1
        self.fetching[self._fetch_last] = Fetching(needs, asked, {requester: needs})
        self.side.fetch(self._fetch_last, needs, ahead, streak)

    def _released(self, event: Released | Cancelled) -> None:
        self._forget_requester(event.requester)

    def _forget_requester(self, requester: int) -> None:
        for fetching in self.fetching.values():
            fetching.waiters.pop(requester, None)
        if self.pages.pins.pop(requester, None) is not None:
            self.side.released()

    def _received(self, event: Received) -> None:
        if event.sender == self.host or not 0 <= event.sender < self.hosts:
            raise PeerError(f"a message from host {event.sender}")
        self.side.received(event.sender, event.message)

    def _protected(self, event: Protected) -> None:
        for completion in self._completions.pop(event.token):
            self.lowering -= 1
            completion()
        if isinstance(self.side, Remote):
            self.side.run()

    def _discarded(self, event: Discarded) -> None:
        if not isinstance(self.side, Home):
            raise ValueError("only home discards pages")
        if event.count > 0:
            self.side.discard(event.first, event.count)

    # For the two sides ----------------------------------------------------------

    def send(self, host: HostId, message: Message) -> None:
        self._effects.append(Send(host, message))

    def lower(self, runs: list[Run], then: Callable[[], None]) -> None:
        """Take access from the guest; `then` when no guest thread has it any more."""
        for run in runs:
            self.pages.access.set(run.first, run.count, run.access)
            append_run(self._protects, run.first, run.count, run.access)
        self.lowering += 1
        self._then.append(then)

    def raise_access(self, runs: list[Run]) -> None:
        """Give the guest access; nothing where it has that or more already."""
        access = self.pages.access
        for run in runs:
            for span in access.runs(run.first, run.count):
                if span.value < run.access:
                    access.set(span.first, span.count, run.access)
                    append_run(self._protects, span.first, span.count, run.access)

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

    def forget(self, first: int, count: int) -> None:
        """The contents of these pages are gone."""
        self.pages.drop_pins(first, count)
        self.install(first, count, b"")

    def granted(self, fetch: int) -> None:
        """All needs of a request are here: its requesters go on."""
        for requester, needs in self.fetching.pop(fetch).waiters.items():
            if not self.pages.satisfied(needs):
                raise PeerError(f"home ends request {fetch} without all of its pages")
            self._resume(requester, needs)

    def refused(self, fetch: int) -> None:
        """Pages of a request were discarded: its requesters try again."""
        for requester in self.fetching.pop(fetch).waiters:
            self._effects.append(Retry(requester))

    def retry_overlapping(self, span: Span) -> None:
        """Requesters that wait for a page of the span try again."""
        for fetching in self.fetching.values():
            for requester, needs in list(fetching.waiters.items()):
                if any_overlap(needs, (span,)):
                    del fetching.waiters[requester]
                    self._effects.append(Retry(requester))

    def _resume(self, requester: int, needs: tuple[Run, ...]) -> None:
        self.pages.pins[requester] = needs
        self._effects.append(Resume(requester))

    def _collect_effects(self) -> list[Effect]:
        """Protections first: whoever is resumed in this step relies on them, and
        whatever is sent in it relied on protections of earlier steps."""
        effects, self._effects = self._effects, []
        if self._protects or self._then:
            self._token_last += 1
            runs = tuple(self._protects)
            self._completions[self._token_last] = self._then
            self._protects, self._then = [], []
            effects.insert(0, Protect(self._token_last, runs))
        return effects


_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    Fault: Node._fault,
    Released: Node._released,
    Cancelled: Node._released,
    Received: Node._received,
    Protected: Node._protected,
    Discarded: Node._discarded,
}
