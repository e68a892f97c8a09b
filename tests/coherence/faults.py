# SPDX-License-Identifier: GPL-2.0-or-later
"""Protocol faults to plant: each breaks one rule, and the simulation has to notice.

A fault replaces one function by a wrong one. One that goes unnoticed would mean
that the random programs are too tame, not that the rule is superfluous.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from supervisor.coherence import collect, decide, directory, flush, node
from supervisor.coherence import home as home_
from supervisor.coherence.bus import Bus, BusOrder
from supervisor.coherence.demand import Demand, Requests
from supervisor.coherence.diff import apply_diff, make_diff
from supervisor.coherence.directory import MULTIPLE
from supervisor.coherence.flush import StoreBuffer
from supervisor.coherence.messages import (
    BusLock,
    Content,
    Effect,
    Event,
    Grant,
    Invalidate,
    PageDiff,
    Part,
    Protect,
    Protected,
    Update,
    Yielded,
)
from supervisor.coherence.node import Node
from supervisor.coherence.order import FlushOrder
from supervisor.coherence.pages import LocalPages
from supervisor.coherence.remote import Remote
from supervisor.coherence.transaction import Transaction
from supervisor.coherence.transfer import PAGE_SIZE
from supervisor.units import HOME, HostId
from tests.coherence import cluster

Plant = Callable[[pytest.MonkeyPatch], None]


class PlantedFault(NamedTuple):
    name: str
    policy: str
    plant: Plant
    case: str = ""  # a litmus test that shows it much sooner than random programs


def _flush_before_freezing(patch: pytest.MonkeyPatch) -> None:
    def flush_at_once(self: StoreBuffer, then: Callable[[], None]) -> None:
        runs = self.freeze()
        self.seal(self.node.next_token)
        self.node.lower(runs, then)

    patch.setattr(StoreBuffer, "start_flush", flush_at_once)


def _no_flush_on_giving_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "freeze_dirty", lambda self: None)


def _lay_in_badly(*, overlay: bool, twin_too: bool) -> Plant:
    def lay_in(self: StoreBuffer, diff: PageDiff) -> None:
        current = self.node.memory.read(diff.page, 1)
        twin = self.twins.get(diff.page)
        base = bytearray(current if twin is None else twin)
        apply_diff(diff, base)
        if overlay:
            for flight in self.in_flight:
                if diff.page in flight.diffs:
                    apply_diff(flight.diffs[diff.page], base)
        if twin is not None:
            stores = make_diff(diff.page, twin, current)
            if twin_too:
                self.twins[diff.page] = bytes(base)
            if stores is not None:
                apply_diff(stores, base)
        self.node.memory.write(diff.page, bytes(base))

    return lambda patch: patch.setattr(StoreBuffer, "lay_in", lay_in)


def _no_own_stores_kept(patch: pytest.MonkeyPatch) -> None:
    def lay_in(self: StoreBuffer, diff: PageDiff) -> None:
        page = bytearray(self.twins.get(diff.page) or self.node.memory.read(diff.page, 1))
        apply_diff(diff, page)
        self.node.memory.write(diff.page, bytes(page))

    patch.setattr(StoreBuffer, "lay_in", lay_in)


def _dirty_copy_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        StoreBuffer, "master", lambda self, first, count: self.node.memory.read(first, count)
    )


def _requester_not_recalled(patch: pytest.MonkeyPatch) -> None:
    def holders(home: object, entry: int) -> list[int]:
        found = honest(home, entry)  # type: ignore[arg-type]
        return found[:-1] if entry >= MULTIPLE else found

    honest = collect._holders
    patch.setattr(collect, "_holders", holders)


def _bus_lock_like_a_store(patch: pytest.MonkeyPatch) -> None:
    honest = Requests.serve

    def serve(self: Requests, requester: int, demand: object) -> None:
        demand.locked = False  # type: ignore[attr-defined]
        honest(self, requester, demand)  # type: ignore[arg-type]

    patch.setattr(Requests, "serve", serve)


def _overtaken_flush(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FlushOrder, "holds", lambda self, host: False)


def _flush_laid_in_under_readers(patch: pytest.MonkeyPatch) -> None:
    """Home's threads may look at the pages while a flush is laid in."""

    def run(self: FlushOrder) -> None:
        while self._queue:
            self._lay_in(lowered=False)

    patch.setattr(FlushOrder, "run", run)


def _no_second_look(patch: pytest.MonkeyPatch) -> None:
    """A word is published without regard to what was stored while it was sought."""
    honest, look = StoreBuffer._flush_word, StoreBuffer._words_changed

    def flush_word(self: StoreBuffer) -> bool:
        looks = iter((look, lambda self: set()))
        patch.setattr(StoreBuffer, "_words_changed", lambda self: next(looks)(self))
        return honest(self)

    patch.setattr(StoreBuffer, "_flush_word", flush_word)


def _word_over_own_stores(patch: pytest.MonkeyPatch) -> None:
    honest = StoreBuffer.lay_in_word

    def lay_in_word(self: StoreBuffer, diffs: list[PageDiff]) -> bool:
        twins, self.twins = self.twins, {}
        try:
            return honest(self, diffs)
        finally:
            self.twins = twins

    patch.setattr(StoreBuffer, "lay_in_word", lay_in_word)


def _diff_of_words(patch: pytest.MonkeyPatch) -> None:
    """Diffs of whole 8-byte words, as a cheaper comparison would make them."""

    def make(page: int, twin: bytes, current: bytes) -> PageDiff | None:
        if twin == current:
            return None
        spoilt = bytearray(twin)
        for at in range(0, PAGE_SIZE, 8):
            if twin[at : at + 8] != current[at : at + 8]:
                spoilt[at : at + 8] = bytes(byte ^ 0xFF for byte in current[at : at + 8])
        diff = make_diff(page, twin, bytes(spoilt))
        assert diff is not None
        return diff._replace(data=bytes(byte ^ 0xFF for byte in diff.data))

    patch.setattr(flush, "make_diff", make)


def _resumed_before_the_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoreBuffer, "when_answered", lambda self, then: then())


def _armed_too_short(patch: pytest.MonkeyPatch) -> None:
    def disarm(self: StoreBuffer) -> None:
        if not self.twins:
            self.armed = False

    patch.setattr(StoreBuffer, "_disarm", disarm)


def _never_armed(patch: pytest.MonkeyPatch) -> None:
    honest = StoreBuffer.dirty

    def dirty(self: StoreBuffer, page: int) -> None:
        honest(self, page)
        self.armed = False

    patch.setattr(StoreBuffer, "dirty", dirty)


def _no_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoreBuffer, "tick", lambda self: None)


def _update_one_holder_less(patch: pytest.MonkeyPatch) -> None:
    honest = FlushOrder.publish

    def publish(self: FlushOrder, host: int, flush: int, diffs: list[PageDiff]) -> None:
        node = self._home.node
        others = node.others
        node.others = others[:-1]
        honest(self, host, flush, diffs)  # type: ignore[arg-type]
        node.others = others

    patch.setattr(FlushOrder, "publish", publish)


def _update_page_by_page(patch: pytest.MonkeyPatch) -> None:
    """The stores of one flush become visible one page after the other."""
    honest = Node.send

    def send(self: Node, host: int, message: object) -> None:
        if isinstance(message, Update):
            for diff in message.diffs:
                honest(self, host, Update((diff,)))  # type: ignore[arg-type]
        else:
            honest(self, host, message)  # type: ignore[arg-type]

    patch.setattr(Node, "send", send)


def _no_invalidation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "_add_stale", lambda *arguments: None)


def _locked_page_ahead_of_the_flush(patch: pytest.MonkeyPatch) -> None:
    """A bus-locked instruction runs as soon as its page is there, whatever its host has stored."""
    honest = Node._bus_lock

    def bus_lock(self: Node, event: BusLock) -> None:
        demand = Demand(event.needs, not self.policy.locks_bus)
        self.requests.serve(event.requester, demand)
        if event.requester not in self.pages.pins:
            honest(self, event)

    patch.setitem(node._HANDLERS, BusLock, bus_lock)


def _protection_not_awaited(patch: pytest.MonkeyPatch) -> None:
    """Data is read while guest threads may still write it."""
    honest = Node.step

    def step(self: Node, event: Event) -> list[Effect]:
        if isinstance(event, Protected):
            return []  # taken for granted already
        effects = honest(self, event)
        for effect in effects:  # grows meanwhile
            if isinstance(effect, Protect):
                effects += honest(self, Protected(effect.token))
        return effects

    patch.setattr(Node, "step", step)


def _grants_overtake_invalidations(patch: pytest.MonkeyPatch) -> None:
    """A grant is handled before an invalidation that came first."""
    honest = Remote.received

    def received(self: Remote, sender: int, message: object) -> None:
        held = self.__dict__.setdefault("held", [])
        if isinstance(message, Invalidate):
            held.append(message)
            return
        honest(self, sender, message)  # type: ignore[arg-type]
        if not isinstance(message, Grant):
            return
        while held:
            honest(self, sender, held.pop(0))  # type: ignore[arg-type]

    patch.setattr(Remote, "received", received)


def _pins_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalPages, "pinned_against", lambda *arguments: False)


def _protections_not_in_order(patch: pytest.MonkeyPatch) -> None:
    """Messages are handled before the protections of earlier ones are in force."""

    def run(self: Remote) -> None:
        from supervisor.coherence.remote import _HANDLERS

        while self.inbox and _HANDLERS[type(self.inbox[0])](self, self.inbox[0]):
            self.inbox.popleft()

    patch.setattr(Remote, "run", run)


def _upgrade_without_data(patch: pytest.MonkeyPatch) -> None:
    """Home believes that every host that asks still has its copy."""
    honest = decide.holding

    def holding(entry: int, host: int) -> object:
        found = honest(entry, host)  # type: ignore[arg-type]
        return decide.Holding.COPY if found == decide.Holding.SHARED and host != HOME else found

    patch.setattr(decide, "holding", holding)


def _granted_before_the_owner_answers(patch: pytest.MonkeyPatch) -> None:
    """Direct data without a number: its grant does not wait for what the owner has handled."""
    honest_collect, honest_yielded = home_.collect, collect.yielded

    def collect_in_haste(home: home_.Home, transaction: Transaction) -> None:
        honest_collect(home, transaction)
        for number, recalling in list(home.recalls.items()):
            mine = recalling.transaction is transaction and recalling.direct
            if mine and not recalling.optional:
                parts = tuple(Part(*run, Content.DIRECT) for run in recalling.needs)
                honest_yielded(home, recalling.host, Yielded(number, parts, b""))

    def late(home: object, sender: HostId, message: Yielded) -> None:
        if message.recall in home.recalls:  # type: ignore[attr-defined]
            honest_yielded(home, sender, message)  # type: ignore[arg-type]

    patch.setattr(home_, "collect", collect_in_haste)
    patch.setitem(home_._HANDLERS, Yielded, late)


def _delivered_grants_overtake(patch: pytest.MonkeyPatch) -> None:
    """Direct data is used when it is there, whatever of home's messages came before."""
    honest = Remote.received

    def received(self: Remote, sender: int, message: object) -> None:
        if isinstance(message, Grant) and message.direct:
            waiting, self.inbox = self.inbox, deque()
            honest(self, sender, message)  # type: ignore[arg-type]
            self.inbox += waiting
            self.run()
        else:
            honest(self, sender, message)  # type: ignore[arg-type]

    patch.setattr(Remote, "received", received)


def _home_believes_in_its_old_copy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(directory, "shared_away", directory.shared)


def _nobody_stands_still(patch: pytest.MonkeyPatch) -> None:
    """The bus lock keeps other bus locks out, and nothing else."""

    patch.setattr(BusOrder, "_others", lambda self: [])
    patch.setattr(cluster, "stand_still", lambda hosts: True)


def _halted_with_full_buffers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bus, "stood_still", lambda self: self._halted())


def _bus_freed_too_soon(patch: pytest.MonkeyPatch) -> None:
    """The next host has the bus before this one's stores are on their way."""
    honest = StoreBuffer.flush

    def flush_later(self: StoreBuffer, then: Callable[[], None]) -> None:
        if getattr(then, "__name__", "") == "_free":
            then()
        else:
            honest(self, then)

    patch.setattr(StoreBuffer, "flush", flush_later)


FAULTS: Final = (
    PlantedFault("flush before freezing", "adaptive", _flush_before_freezing),
    PlantedFault("no flush on giving up a page", "adaptive", _no_flush_on_giving_up),
    PlantedFault(
        "no overlay of stores in flight", "adaptive", _lay_in_badly(overlay=False, twin_too=True)
    ),
    PlantedFault(
        "update laid in without the twin", "adaptive", _lay_in_badly(overlay=True, twin_too=False)
    ),
    PlantedFault("own stores lost under an update", "adaptive", _no_own_stores_kept),
    PlantedFault("dirty copy served as the master", "adaptive", _dirty_copy_served, "MP-pages"),
    PlantedFault("one holder not recalled for a bus lock", "adaptive", _requester_not_recalled),
    PlantedFault("bus lock on a multiple-writer page", "adaptive", _bus_lock_like_a_store),
    PlantedFault("messages overtake a flush at home", "adaptive", _overtaken_flush),
    PlantedFault(
        "flush laid in under home's readers", "adaptive", _flush_laid_in_under_readers, "MP-home"
    ),
    PlantedFault("diffs of whole words", "adaptive", _diff_of_words),
    PlantedFault("a word published without a second look", "adaptive", _no_second_look, "MP-word"),
    PlantedFault("a word laid over own stores", "adaptive", _word_over_own_stores),
    PlantedFault("fence ends before the flush is answered", "adaptive", _resumed_before_the_answer),
    PlantedFault(
        "a locked page before the flush", "adaptive", _locked_page_ahead_of_the_flush, "SB+locked"
    ),
    PlantedFault("armed cleared before the answer", "adaptive", _armed_too_short, "SB+mfences"),
    PlantedFault("never armed", "adaptive", _never_armed),
    PlantedFault("no deadline", "adaptive", _no_deadline),
    PlantedFault("one holder gets no updates", "adaptive", _update_one_holder_less),
    PlantedFault(
        "a flush becomes visible page by page", "adaptive", _update_page_by_page, "MP-pages"
    ),
    PlantedFault("no invalidation of readers", "single-writer", _no_invalidation),
    PlantedFault("data read before the protection", "single-writer", _protection_not_awaited),
    PlantedFault("grants overtake invalidations", "single-writer", _grants_overtake_invalidations),
    PlantedFault("pins ignored", "single-writer", _pins_ignored),
    PlantedFault(
        "messages overtake protections", "single-writer", _protections_not_in_order, "MP-upgrade"
    ),
    PlantedFault("upgrade of a copy that is gone", "single-writer", _upgrade_without_data),
    PlantedFault(
        "unnumbered direct data", "single-writer", _granted_before_the_owner_answers, "MP-third"
    ),
    PlantedFault("delivered grants overtake", "single-writer", _delivered_grants_overtake),
    PlantedFault("home uses an old copy", "single-writer", _home_believes_in_its_old_copy),
    PlantedFault("nobody stands still for a bus lock", "paper", _nobody_stands_still),
    PlantedFault("halted with stores in the buffer", "paper", _halted_with_full_buffers),
    PlantedFault("bus freed before the stores are seen", "paper", _bus_freed_too_soon),
)
