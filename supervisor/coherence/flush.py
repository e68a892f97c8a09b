# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated store buffer of one host: its stores into multiple-writer pages.

A store into a multiple-writer page first makes a twin; the page is *dirty* from
then on, and its bytes that differ from the twin are the buffered stores. A
*flush* makes them visible to everybody at one point of home's order:

1. freeze: take the right to write all dirty pages from the guest;
2. seal, once that is in force: diff each frozen page with its twin;
3. home gives the diffs a place in its order and passes them on.

At the deadline, a flush of one word needs neither of the first two (`_flush_word`).

While `armed` is set, synchronization instructions trap and are stepped as
`Serialize` or `BusLock`. It is set before the first dirty page can be written
and cleared when the last flush was answered, so a host without dirty pages
runs its synchronization instructions natively.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from supervisor.coherence.diff import apply_diff, changed_span, make_diff, word_of
from supervisor.coherence.messages import WORD_SIZE, Access, PageDiff, Run, WakeAt
from supervisor.coherence.pages import append_run
from supervisor.units import PAGE_SIZE, PageNumber

if TYPE_CHECKING:
    from supervisor.coherence.node import Node

FLUSH_DEADLINE_US: Final = 20_000
"""A plain store into a multiple-writer page is on its way after this time at most."""

WORD_TRIES: Final = 4
"""To lay in a word that a thread of this host stores to at the same time."""


@dataclass(slots=True)
class InFlight:
    """A flush that home has not answered."""

    flush: int
    diffs: dict[int, PageDiff]


@dataclass(slots=True)
class StoreBuffer:
    """Twins, freezes and flushes of one host.

    Invariant: a page with a twin and without a freeze is the only kind of
    multiple-writer page that the guest may write.
    """

    node: Node
    multiple: set[int] = field(default_factory=set)  # multiple-writer pages with a copy here
    twins: dict[int, bytes] = field(default_factory=dict)
    frozen: dict[int, int] = field(default_factory=dict)  # page -> token of its freeze
    updating: set[int] = field(default_factory=set)  # pages that an update is being laid into
    in_flight: deque[InFlight] = field(default_factory=deque)
    flush_last: int = 0
    armed: bool = False
    deadline_us: int | None = None
    _waiting: deque[tuple[int, Callable[[], None]]] = field(default_factory=deque)
    _held_up: list[Callable[[], None]] = field(default_factory=list)  # by pins on dirty pages
    _late: bool = False  # the next flush is the deadline's

    # Dirtying -----------------------------------------------------------------

    def can_dirty(self, page: int) -> bool:
        """A store may go on at once: nothing is being read from or laid into the page."""
        return page not in self.frozen and page not in self.updating

    def dirty(self, page: int) -> None:
        """Make a twin, so that the guest may write the page."""
        if page in self.twins:
            return
        self.twins[page] = self.node.memory.read(PageNumber(page), 1)
        self.armed = True
        if len(self.twins) == 1:
            self.deadline_us = None
            self.node.emit(WakeAt(self.node.now_us))

    def own_access(self, page: int) -> Access:
        """What the guest may do to a multiple-writer page that nothing is laid into."""
        dirty = page in self.twins and page not in self.frozen
        return Access.WRITE if dirty else Access.READ

    # Flushing -----------------------------------------------------------------

    def freeze(self) -> list[Run]:
        """Freeze all dirty pages; the runs to lower, in this step."""
        token = self.node.next_token
        runs: list[Run] = []
        for page in sorted(self.twins):
            if page not in self.frozen:
                self.frozen[page] = token
                if self.node.pages.access.get(page) == Access.WRITE:
                    append_run(runs, page, 1, Access.READ)
        return runs

    def freezable(self) -> bool:
        """No pin forbids that the dirty pages become read-only."""
        pages = self.node.pages
        return not pages.pins or not any(
            pages.pinned_against(page, 1, Access.READ)
            for page in self.twins
            if page not in self.frozen
        )

    @property
    def held_up(self) -> bool:
        """A flush waits for pins on dirty pages."""
        return bool(self._held_up)

    def flush(self, then: Callable[[], None]) -> None:
        """`then` when every store made here so far is visible to all."""
        self.start_flush(partial(self.when_answered, then))

    def start_flush(self, then: Callable[[], None]) -> None:
        """`then` when every store made here so far is on its way to home."""
        if not self.twins:
            then()
        elif self.freezable():
            self.node.lower(self.freeze(), then)
        else:
            self._held_up.append(then)

    def released(self) -> None:
        """Pins are gone: flushes that they held up may go on."""
        if self._held_up and self.freezable():
            waiting, self._held_up = self._held_up, []
            for then in waiting:
                self.start_flush(then)

    def seal(self, token: int) -> None:
        """The protections up to this token are in force: diff what they froze."""
        if not self.frozen:
            return
        pages = sorted(page for page, frozen in self.frozen.items() if frozen <= token)
        if not pages:
            return
        diffs: list[PageDiff] = []
        for page in pages:
            del self.frozen[page]
            twin = self.twins.pop(page)
            diff = make_diff(page, twin, self.node.memory.read(PageNumber(page), 1))
            if diff is not None:
                diffs.append(diff)
        if diffs:
            self._publish(diffs, self._late)
        self._late = False
        self._disarm()

    def _publish(self, diffs: list[PageDiff], late: bool) -> None:
        self.node.counters["flushes"] += 1
        self.node.counters["diffs_sent"] += len(diffs)
        self.node.side.publish(diffs, late)

    def sent(self, diffs: list[PageDiff]) -> int:
        """A flush is on its way to home: its number."""
        self.flush_last += 1
        self.in_flight.append(InFlight(self.flush_last, {diff.page: diff for diff in diffs}))
        return self.flush_last

    def placed(self, flush: int) -> bool:
        """The flush has its place, so later stores of others lie over it; False if unknown."""
        for flight in self.in_flight:
            if flight.flush == flush:
                flight.diffs.clear()
                return True
        return False

    def answered(self, flush: int) -> bool:
        """Home's answer; False if it is not to the oldest flush under way."""
        if not self.in_flight or self.in_flight[0].flush != flush:
            return False
        self.in_flight.popleft()
        while self._waiting and self._waiting[0][0] <= flush:
            self._waiting.popleft()[1]()
        self._disarm()
        return True

    def when_answered(self, then: Callable[[], None]) -> None:
        """`then` when all that is on its way now is visible to all."""
        if self.in_flight:
            self._waiting.append((self.in_flight[-1].flush, then))
        else:
            then()

    def _disarm(self) -> None:
        if not self.twins and not self.in_flight:
            self.armed = self.node.policy.always_armed

    def tick(self) -> None:
        """Flush when the oldest dirty page has been dirty for long enough."""
        if not self.twins:
            return
        now = self.node.now_us
        if self.deadline_us is None:
            self.deadline_us = now + FLUSH_DEADLINE_US
        elif now >= self.deadline_us:
            self.deadline_us = now + FLUSH_DEADLINE_US
            if not self._flush_word() and any(page not in self.frozen for page in self.twins):
                self._late = True
                self.flush(_nothing)
        self.node.emit(WakeAt(self.deadline_us))

    def _flush_word(self) -> bool:
        """Publish the one word that differs from the twins, while the guest goes on; whether so.

        A thread that stores to it again and again is not stopped for it, and the page
        stays dirty. Nothing is frozen, so what is published must be all that the guest has
        stored by the moment at which the word is read: every store before the word's value
        then is in memory already (x86-TSO lets no store of a thread overtake another), and
        the look at all dirty pages that follows would find it.
        """
        if self.frozen or self.updating:
            return False
        found = self._words_changed()
        if len(found) != 1:
            return False
        ((page, at),) = found
        word = self.node.memory.read_word(page, at)
        if not self._words_changed() <= found:
            return False
        twin = self.twins[page]
        stored = twin[:at] + word + twin[at + WORD_SIZE :]
        diff = make_diff(page, twin, stored)
        if diff is None:
            return False
        self.twins[page] = stored
        self._publish([diff], late=True)
        return True

    def _words_changed(self) -> set[tuple[PageNumber, int]]:
        """Page and offset of words that differ from their twins: all, or two of many."""
        found: set[tuple[PageNumber, int]] = set()
        for number, twin in self.twins.items():
            page = PageNumber(number)
            current = self.node.memory.read(page, 1)
            if current == twin:
                continue
            first, end = changed_span(twin, current)
            found.update((page, at // WORD_SIZE * WORD_SIZE) for at in (first, end - 1))
            if len(found) > 1:
                break
        return found

    # Others' stores -------------------------------------------------------------

    def lay_in_word(self, diffs: list[PageDiff]) -> bool:
        """Lay a flush of one word in while the guest goes on; False: nothing is done.

        As `lay_in`, for a page that threads can reach: to store all of it at once, one
        exchange is enough, which fails where a thread has stored to the word meanwhile.
        """
        if len(diffs) != 1:
            return False
        (diff,) = diffs
        page, at = diff.page, word_of(diff)
        if at is None or page in self.frozen or page in self.updating:
            return False
        if self.node.pages.access.get(page) == Access.NONE:
            return False
        end = at + WORD_SIZE
        for _ in range(WORD_TRIES):
            current, twin = self.node.memory.read_word(page, at), self.twins.get(page)
            before = current if twin is None else twin[at:end]
            base = bytearray(PAGE_SIZE)
            base[at:end] = before
            self._lay_over(base, diff)
            bytes_ = zip(current, before, base[at:end], strict=True)
            laid = bytes(now if now != was else new for now, was, new in bytes_)
            if self.node.memory.replace_word(page, at, current, laid):
                if twin is not None:
                    self.twins[page] = twin[:at] + base[at:end] + twin[end:]
                return True
        return False

    def _lay_over(self, base: bytearray, diff: PageDiff) -> None:
        """Another host's stores, and over them those of ours that home has placed later."""
        apply_diff(diff, base)
        for flight in self.in_flight:
            own = flight.diffs.get(diff.page)
            if own is not None:
                apply_diff(own, base)

    def lay_in(self, diff: PageDiff) -> None:
        """Put another host's stores under this host's own, in a page no thread can reach.

        Home has placed them before those of ours that it has not answered:
        where both stored, ours remain (rule 5).
        """
        memory, page = self.node.memory, diff.page
        current = memory.read(page, 1)
        twin = self.twins.get(page)
        base = bytearray(current if twin is None else twin)
        self._lay_over(base, diff)
        if twin is None:
            memory.write(page, bytes(base))
            return
        stores = make_diff(page, twin, current)
        self.twins[page] = bytes(base)
        if stores is not None:
            apply_diff(stores, base)
        memory.write(page, bytes(base))

    def master(self, first: int, count: int) -> bytes:
        """At home: the master copies, which are the twins where home has dirty pages."""
        data = self.node.memory.read(PageNumber(first), count)
        if not self.twins:
            return data
        pages = [page for page in range(first, first + count) if page in self.twins]
        if not pages:
            return data
        size = len(data) // count
        patched = bytearray(data)
        for page in pages:
            at = (page - first) * size
            patched[at : at + size] = self.twins[page]
        return bytes(patched)

    def drop(self, first: int, count: int) -> None:
        """The pages' contents are gone, and with them every store into them."""
        end = first + count
        held: list[dict[int, Any]] = [self.twins, self.frozen]
        for by_page in held + [flight.diffs for flight in self.in_flight]:
            for page in [page for page in by_page if first <= page < end]:
                del by_page[page]
        for pages in (self.multiple, self.updating):
            if pages:
                pages -= {page for page in pages if first <= page < end}
        self._disarm()


def _nothing() -> None:
    """A flush at the deadline has nobody waiting for it."""
