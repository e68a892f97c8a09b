# SPDX-License-Identifier: GPL-2.0-or-later
"""What requesters of one host wait for, and what the host has asked home for on their account."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access, Fetch, Run
from supervisor.coherence.pages import (
    PageMap,
    Span,
    any_overlap,
    covers,
    normalised,
    run_of,
    without,
)
from supervisor.coherence.policy import STREAM_STREAK
from supervisor.coherence.streams import Stream, Streams
from supervisor.errors import PeerError

if TYPE_CHECKING:
    from supervisor.coherence.node import Node

CONSTANT_PAGES: Final = 256
"""Of code and other constant data all of an aligned mebibyte comes with the page that is
needed: more than that keeps a link of 1 Gbit/s from others for too long, and of less a program
would need a dozen blocks of its C library, each after the other."""


@dataclass(slots=True)
class Demand:
    """What a requester waits for."""

    needs: tuple[Run, ...]
    locked: bool
    above: int = 0
    below: int = 0
    page: int = -1
    constant: bool = False
    fresh: int = 0

    def beside(self, own: PageMap) -> tuple[Run, ...]:
        """Those that are not here of the block of constant pages in which the need is, or of
        the fresh ones before it."""
        ((first, count, access),) = self.needs
        if self.fresh:
            low, high = first - self.fresh, int(first)
        else:
            low = max(first & -CONSTANT_PAGES, first - self.below)
            high = min((first + count - 1 | CONSTANT_PAGES - 1) + 1, first + count + self.above)
        missing = [
            run_of(run.first, run.count, access)
            for run in own.runs(low, high - low)
            if run.value == Access.NONE
        ]
        return tuple(without(missing, first, count))

    @property
    def followed(self) -> tuple[Run, ...]:
        """The needs, with the one last that a stream may go on from."""
        needs = self.needs
        if len(needs) == 1:
            return needs
        for at, need in enumerate(needs[:-1]):
            if need.first <= self.page < need.first + need.count:
                return (*needs[:at], *needs[at + 1 :], need)
        return needs


@dataclass(slots=True)
class Fetching:
    """A request of this host that home has not answered, and who waits for it."""

    needs: tuple[Run, ...]
    ahead: tuple[Run, ...]
    asked: tuple[Run, ...]  # both, normalised
    locked: bool
    stream: Stream | None
    waiters: dict[int, Demand] = field(default_factory=dict)


class Requests:
    """What this host has asked home for, and for whom. `open` are those without an answer."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.open: dict[int, Fetching] = {}
        self.streams = Streams()
        self._last = 0

    def serve(self, requester: int, demand: Demand) -> None:
        """Let the requester go on, or ask home for what it needs."""
        node = self.node
        if node.side.free(demand.needs) and node.admit(requester, demand):
            return
        fetching = self._on_the_way(demand)
        if fetching is not None:
            early = not fetching.waiters
            fetching.waiters[requester] = demand
            if early and fetching.stream is not None:
                self._read_ahead(fetching.stream, demand)
            return
        own, waiters = node.pages.access, {requester: demand}
        if demand.constant or demand.fresh:
            # (What is not fresh, home leaves out where no streak says that it is worth it.)
            streak = STREAM_STREAK if demand.constant else 0
            self._ask(demand.needs, demand.beside(own), streak, False, None, waiters)
            return
        followed = demand.followed
        stream = self.streams.follow(followed)
        needs, ahead = stream.asks(followed, demand.above, demand.below, own)
        if demand.locked:
            needs, ahead = demand.needs, ()
        elif len(needs) > 1:
            needs = normalised(needs)
            for need in needs:
                ahead = tuple(without(ahead, need.first, need.count))
        self._ask(needs, ahead, stream.streak, demand.locked, stream, waiters)
        if ahead:
            self._read_ahead(stream, demand)

    def ask_early(self, demand: Demand) -> None:
        """Ask for what a bus-locked instruction needs while its host's stores are on their way.

        Home handles those first, so that whatever it grants comes after they have their place.
        """
        if not self.node.satisfied(demand.needs, locked=True) and not self._on_the_way(demand):
            self._ask(demand.needs, (), 0, demand.locked, None, {})

    def _on_the_way(self, demand: Demand) -> Fetching | None:
        """An open request that will do for the demand."""
        for fetching in self.open.values():
            if fetching.locked >= demand.locked and covers(fetching.asked, demand.needs):
                return fetching
        return None

    def _ask(
        self, needs: tuple[Run, ...], ahead: tuple[Run, ...], streak: int, locked: bool,
        stream: Stream | None, waiters: dict[int, Demand],
    ) -> None:  # fmt: skip
        self._last += 1
        asked = normalised((*needs, *ahead)) if ahead else needs
        self.open[self._last] = Fetching(needs, ahead, asked, locked, stream, waiters)
        self.node.side.fetch(Fetch(self._last, needs, ahead, streak, locked))

    def _read_ahead(self, stream: Stream, demand: Demand) -> None:
        """Ask for the next windows of a stream under way before they are needed: they come
        while the last one is used."""
        needs, own = demand.followed, self.node.pages.access
        while (asked := stream.asks_on(needs, demand.above, own)) is not None:
            first, count, access = asked
            ahead = (run_of(first + 1, count - 1, access),)
            self._ask((run_of(first, 1, access),), ahead, stream.streak, False, stream, {})

    def has_asked(self, fetch: int) -> bool:
        """Whether a request of this number was ever made."""
        return 0 < fetch <= self._last

    def granted(self, fetch: int) -> None:
        """All needs of a request are here: its requesters go on."""
        fetching = self.open.pop(fetch)
        if fetching.stream is not None:
            self.streams.granted(fetching.stream, fetching.ahead, self.node.pages.access)
        for requester, demand in fetching.waiters.items():
            if self.node.admit(requester, demand):
                continue
            if covers(fetching.needs, demand.needs):
                raise PeerError(f"home ends request {fetch} without all of its pages")
            self.serve(requester, demand)  # it hoped for a page that could not be had

    def refused(self, fetch: int) -> None:
        """Pages of a request were discarded: its requesters try again."""
        for requester in self.open.pop(fetch).waiters:
            self.node.retry(requester)

    def forget(self, requester: int) -> None:
        for fetching in self.open.values():
            fetching.waiters.pop(requester, None)

    def asked_for(self, page: int) -> bool:
        return any(any_overlap(fetching.asked, (Span(page, 1),)) for fetching in self.open.values())
