# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's part of the protocol: one transaction for each request for pages.

Theory. Home decides every change of a page's holders, and its links are
first-in first-out, so the order in which it sends its decisions is a total
order, like a bus's. A host handles home's messages in that order; one that has
not yet dropped an old copy merely reads earlier in the order (lazy caching:
Afek, Brown and Merritt, TOPLAS 15(1), 1993). So home grants a write without
waiting until the readers have dropped their copies.

A transaction goes through three stages:

1. lock the needed pages in ascending order (so no two transactions wait for
   each other), waiting behind earlier transactions;
2. collect: recall exclusive copies from their owners, lower what home's own
   guest may do, wait until both are done (a pin delays them: it belongs to a
   requester that needs nothing more, so it ends);
3. decide, all pages in one step: change the entries, send invalidations, then
   the grant; unlock.

Pages fetched ahead are never waited for: they are locked only if nobody has
them locked, and left out when they cannot be had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.coherence import directory as dir_
from supervisor.coherence.directory import RULES, Directory, Holding, Want, holding
from supervisor.coherence.messages import (
    Access,
    Content,
    Fetch,
    Flush,
    Forget,
    Grant,
    Invalidate,
    Message,
    PageDiff,
    Part,
    Recall,
    Refused,
    Run,
    Yielded,
)
from supervisor.coherence.order import FlushOrder
from supervisor.coherence.pages import (
    Span,
    any_overlap,
    append_run,
    covers,
    overlaps,
    run_of,
    without,
)
from supervisor.coherence.policy import DOWNGRADE_STREAK, WINDOW_PAGES_MAX
from supervisor.coherence.transfer import (
    TRANSFER_PAGES_MAX,
    check_needs,
    check_parts,
    pack,
    unpack,
    zero_pages,
)
from supervisor.errors import PeerError
from supervisor.units import HOME, PAGE_SIZE, HostId, PageNumber

if TYPE_CHECKING:
    from supervisor.coherence.node import Node


@dataclass(eq=False, slots=True)
class Transaction:
    """One request for pages, from its arrival to its grant."""

    host: HostId
    fetch: int
    needs: tuple[Run, ...]
    ahead: int
    streak: int
    locked: bool = False
    run: int = 0  # index of the need being locked
    page: int = 0  # next page to lock in it
    waits_for: int | None = None  # page another transaction has locked
    collecting: bool = False
    extra: list[Run] = field(default_factory=list)  # pages ahead, locked
    lower: list[Run] = field(default_factory=list)  # home's copies yet to be lowered
    pending: int = 0  # recalls and protections not yet answered
    cancelled: bool = False  # its pages were discarded


@dataclass(eq=False, slots=True)
class Recalling:
    """A recall that its owner (or a holder of multiple-writer copies) has not answered."""

    host: HostId
    transaction: Transaction
    needs: tuple[Run, ...]
    optional: tuple[Run, ...]
    discarded: list[Span] = field(default_factory=list)


class Home:
    """The directory, its open transactions and recalls."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.directory: Directory[Transaction] = Directory()
        self.active: dict[Transaction, None] = {}
        self.recalls: dict[int, Recalling] = {}
        self.order = FlushOrder(self)
        self._inboxes: dict[HostId, deque[Message]] = {host: deque() for host in node.others}
        self._recall_last = 0
        self._fetch_last: dict[int, int] = {}
        self._pinned: list[Transaction] = []  # wait until home's requesters release pages
        self._runnable: deque[Transaction] = deque()  # were handed a lock
        self._snapshots: dict[int, bytes] = {}  # pages as they came back to home

    # Requests ---------------------------------------------------------------

    def free(self, needs: tuple[Run, ...]) -> bool:
        """A new pin keeps nobody waiting: no transaction has locked any of these pages."""
        locks = self.directory
        return not locks.locks or not any(locks.any_locked(need) for need in needs)

    def fetch(self, message: Fetch) -> None:
        """A request of home's own guest."""
        self._fetch_from(HOME, message)
        self.run()

    def received(self, sender: HostId, message: Message) -> None:
        if type(message) not in _HANDLERS:
            raise PeerError(f"host {sender} sent home a {type(message).__name__}")
        self._inboxes[sender].append(message)
        self._read(sender)
        self.run()

    def _read(self, sender: HostId) -> None:
        """Handle a host's messages in order, up to a flush that has no place yet."""
        inbox = self._inboxes[sender]
        while inbox and not self.order.holds(sender):
            message = inbox.popleft()
            _HANDLERS[type(message)](self, sender, message)

    def _fetch_received(self, sender: HostId, message: Fetch) -> None:
        check_needs(message.needs)
        if message.fetch <= self._fetch_last.get(sender, 0):
            raise PeerError(f"host {sender} repeats request {message.fetch}")
        if not (0 <= message.ahead <= WINDOW_PAGES_MAX and message.streak >= 0):
            raise PeerError(f"host {sender} asks for {message.ahead} pages ahead")
        self._fetch_last[sender] = message.fetch
        self._fetch_from(sender, message)

    def _fetch_from(self, host: HostId, message: Fetch) -> None:
        if message.locked:
            for need in message.needs:
                self.node.policy.locked(need.first, need.count)
        self._open(
            Transaction(
                host,
                message.fetch,
                message.needs,
                message.ahead,
                message.streak,
                message.locked,
            )
        )

    def make_single(self, page: int) -> None:
        """Make a multiple-writer page single-writer, for no requester."""
        self._open(Transaction(HOME, 0, (run_of(page, 1, Access.WRITE),), 0, 0, True))

    def _open(self, transaction: Transaction) -> None:
        self.active[transaction] = None
        self._lock(transaction)

    def run(self) -> None:
        """Go on with transactions that were handed a lock, until none is left."""
        while self._runnable:
            transaction = self._runnable.popleft()
            assert transaction.waits_for is not None
            transaction.page = transaction.waits_for + 1
            transaction.waits_for = None
            self._lock(transaction)

    def _lock(self, transaction: Transaction) -> None:
        needs = transaction.needs
        while transaction.run < len(needs):
            need = needs[transaction.run]
            end = need.first + need.count
            start = max(transaction.page, need.first)
            reached = self.directory.lock(transaction, range(start, end)) if start < end else end
            if reached < end:
                transaction.page = transaction.waits_for = reached
                return
            transaction.run += 1
        self._collect(transaction)

    # Collecting ---------------------------------------------------------------

    def _collect(self, transaction: Transaction) -> None:
        transaction.collecting = True
        recalls: dict[int, tuple[list[Run], list[Run]]] = {}
        for need in transaction.needs:
            want = wanted(transaction, need.access)
            for span in self.directory.runs(need):
                kind = holding(span.value, transaction.host)
                rule = RULES[want, kind]
                if rule.owner_keeps is not None:
                    for owner in self._holders(span.value):
                        asked = recalls.setdefault(owner, ([], []))[0]
                        append_run(asked, span.first, span.count, rule.owner_keeps)
                if rule.home_keeps is not None and (transaction.host != HOME or kind in MANY):
                    append_run(transaction.lower, span.first, span.count, rule.home_keeps)
        if transaction.ahead:
            self._reach_ahead(transaction, recalls)
        for owner, (needs, optional) in recalls.items():
            self._send_recall(transaction, HostId(owner), tuple(needs), tuple(optional))
        if transaction.lower:
            self._lower(transaction)
        else:
            self._progress(transaction)

    def _holders(self, entry: int) -> list[int]:
        """Hosts other than home that have current data of an exclusive or multiple page."""
        if entry < dir_.MULTIPLE:
            return [entry]
        return [host for host in self.node.others if dir_.sharers(entry) >> host & 1]

    def _reach_ahead(
        self, transaction: Transaction, recalls: dict[int, tuple[list[Run], list[Run]]]
    ) -> None:
        """Lock the pages beyond the need that cost nobody anything worth mentioning."""
        last = transaction.needs[-1]
        access, host, pages = last.access, transaction.host, self.node.pages
        owner = self.directory.entries.get(last.first + last.count - 1)
        for ahead in self.directory.entries.runs(last.first + last.count, transaction.ahead):
            kind = holding(ahead.value, host)
            if kind in MANY:
                continue
            rule = RULES[Want.READ if access == Access.READ else Want.WRITE, kind]
            spans = [Span(ahead.first, ahead.count)]
            if rule.owner_keeps is not None:
                # Only a scan of one owner's pages downgrades further ones of them;
                # nobody's right to write is ever taken for pages fetched ahead.
                if access != Access.READ or ahead.value != owner:
                    continue
                if transaction.streak < DOWNGRADE_STREAK:
                    continue
            elif rule.becomes == dir_.SAME:
                if host != HOME:
                    continue
            elif rule.home_keeps is not None and host != HOME:
                if rule.invalidate and dir_.sharers(ahead.value) & ~(1 << host | 1):
                    continue
                spans = pages.unpinned_part(ahead.first, ahead.count, rule.home_keeps)
                if transaction.streak == 0:
                    spans = self._never_touched(access, kind, spans)
            elif rule.invalidate and (
                transaction.streak == 0 or dir_.sharers(ahead.value) & ~(1 << host | 1)
            ):
                continue
            for span in spans:
                for got in self.directory.try_lock(transaction, span.first, span.count):
                    append_run(transaction.extra, got.first, got.count, access)
                    if rule.owner_keeps is not None:
                        append_run(recalls[owner][1], got.first, got.count, rule.owner_keeps)
                    elif rule.home_keeps is not None and host != HOME:
                        append_run(transaction.lower, got.first, got.count, rule.home_keeps)

    def _never_touched(self, access: Access, kind: Holding, spans: list[Span]) -> list[Span]:
        """The zero pages at the front, for a first write into fresh memory.

        The guest may be writing to them: that only makes the guess a poor one.
        """
        if access != Access.WRITE or kind != Holding.HOME or not spans:
            return []
        first, count = spans[0]
        zeros = zero_pages(self.node.memory.read(PageNumber(first), count))
        return [Span(first, zeros)] if zeros else []

    def _send_recall(
        self,
        transaction: Transaction,
        owner: HostId,
        needs: tuple[Run, ...],
        optional: tuple[Run, ...],
    ) -> None:
        self._recall_last += 1
        self.recalls[self._recall_last] = Recalling(owner, transaction, needs, optional)
        transaction.pending += 1
        self.node.send(owner, Recall(self._recall_last, needs, optional))

    def _lower(self, transaction: Transaction) -> None:
        """Lower home's own copies (and flush: rule 3), or wait for the pins on them."""
        pages, buffer = self.node.pages, self.node.buffer
        blocked = buffer.twins and not buffer.freezable()
        for run in transaction.lower:
            if blocked or pages.pinned_against(run.first, run.count, run.access):
                self._pinned.append(transaction)
                return
        runs: list[Run] = []
        dirty = False
        for run in transaction.lower:
            for span in pages.above(run.first, run.count, run.access):
                append_run(runs, span.first, span.count, run.access)
            dirty = dirty or any(run.first <= page < run.first + run.count for page in buffer.twins)
        transaction.lower = []
        if runs or dirty:
            transaction.pending += 1
            self.node.lower(runs, partial(self._answered, transaction))
            self.node.freeze_dirty()
        self._progress(transaction)

    def released(self) -> None:
        """Pins of home's requesters are gone: transactions may lower the pages."""
        if self._pinned:
            waiting, self._pinned = self._pinned, []
            for transaction in waiting:
                self._lower(transaction)
        self.order.run()
        self.run()

    def _answered(self, transaction: Transaction) -> None:
        transaction.pending -= 1
        self._progress(transaction)
        self.run()

    def _yielded(self, sender: HostId, message: Yielded) -> None:
        recalling = self.recalls.get(message.recall)
        if recalling is None or recalling.host != sender:
            raise PeerError(f"host {sender} answers recall {message.recall}, which is not its own")
        check_parts(message.parts, message.data)
        self._check_yield(recalling, message)
        del self.recalls[message.recall]
        node = self.node
        for part, data in unpack(message.parts, message.data):
            left: Iterable[Run] = (run_of(part.first, part.count, part.access),)
            for gone in recalling.discarded:
                left = without(left, gone.first, gone.count)
            for run in left:
                if part.content == Content.HELD:
                    self._give_up_copy(sender, run)
                    continue
                offset = (run.first - part.first) * PAGE_SIZE
                bytes_ = data and data[offset : offset + run.count * PAGE_SIZE]
                if node.policy.watches and run.access == Access.NONE:
                    self._watch(sender, run, bytes_)
                node.install(run.first, run.count, bytes_)
                entry = dir_.after_yield(sender, run.access)
                self.directory.entries.set(run.first, run.count, entry)
        self._answered(recalling.transaction)

    def _give_up_copy(self, host: HostId, run: Run) -> None:
        entries = self.directory.entries
        for span in entries.runs(run.first, run.count):
            left = dir_.sharers(span.value) & ~(1 << host)
            entries.set(span.first, span.count, dir_.multiple(left))

    def _watch(self, owner: HostId, run: Run, data: bytes) -> None:
        """Tell the policy what an owner changed in pages it gives up.

        Home's memory still has what it granted: nobody could write there since.
        """
        for at in range(run.count):
            page = run.first + at
            after = data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE] or bytes(PAGE_SIZE)
            before = self.node.memory.read(PageNumber(page), 1)
            self.node.policy.bounced(page, owner, before, after, self.node.now_us)
            self._snapshots[page] = after

    def _check_yield(self, recalling: Recalling, message: Yielded) -> None:
        """The answer has all that was needed and nothing that was not asked for."""
        asked = tuple(sorted(recalling.needs + recalling.optional))
        given = tuple(Run(part.first, part.count, part.access) for part in message.parts)
        left: list[Run] = list(recalling.needs)
        for part in message.parts:
            left = without(left, part.first, part.count)
            keeps = {run.access for run in asked if any_overlap((run,), (Span(part[0], part[1]),))}
            entries = self.directory.entries.runs(part.first, part.count)
            copies = {entry.value >= dir_.MULTIPLE for entry in entries}
            if recalling.discarded:
                copies = {part.content == Content.HELD}
            if keeps != {part.access} or copies != {part.content == Content.HELD}:
                raise PeerError(f"host {recalling.host} yields pages {part.first:#x} wrongly")
        for gone in recalling.discarded:
            left = without(left, gone.first, gone.count)
        as_read = tuple(run_of(run.first, run.count, Access.READ) for run in given)
        if left or not covers(_as_read(asked), as_read):
            raise PeerError(f"host {recalling.host} answers recall {message.recall} wrongly")

    # Deciding -----------------------------------------------------------------

    def _progress(self, transaction: Transaction) -> None:
        if transaction.pending or (transaction.lower and not transaction.cancelled):
            return
        if not transaction.cancelled:
            self._decide(transaction)
        self._close(transaction)

    def _close(self, transaction: Transaction) -> None:
        del self.active[transaction]
        needs = transaction.needs[: transaction.run]
        for run in (*needs, *transaction.extra):
            self._runnable.extend(self.directory.unlock(run.first, run.count))
        if transaction.run < len(transaction.needs):
            need = transaction.needs[transaction.run]
            if transaction.page > need.first:
                count = transaction.page - need.first
                self._runnable.extend(self.directory.unlock(need.first, count))

    def _decide(self, transaction: Transaction) -> None:
        host, entries = transaction.host, self.directory.entries
        stale: dict[int, list[Run]] = {}
        granted: list[tuple[Run, Content]] = []
        multiple: list[Run] = []
        raised: list[Run] = []
        for run in (*transaction.needs, *transaction.extra):
            want = wanted(transaction, run.access)
            for span in self._by_policy(transaction, run):
                kind = holding(span.value, host)
                if kind == Holding.OTHER:
                    continue  # fetched ahead, and its owner would not give it
                rule = RULES[want, kind]
                entry, access = span.value, run.access
                if rule.invalidate:
                    self._add_stale(stale, span.value, host, span.first, span.count)
                if rule.becomes == dir_.REQUESTERS:
                    entry = dir_.multiple(1 << host) if span.multiple else dir_.exclusive(host)
                elif rule.becomes == dir_.COPY_ADDED:
                    entry = dir_.copy_added(span.value, host)
                if entry != span.value:
                    entries.set(span.first, span.count, entry)
                if entry >= dir_.MULTIPLE:
                    access = Access.READ
                    if kind != Holding.MANY_COPY:
                        append_run(multiple, span.first, span.count, access)
                if kind in MANY and entry < dir_.MULTIPLE:
                    pages = range(span.first, span.first + span.count)
                    self.node.buffer.multiple.difference_update(pages)
                if host == HOME:
                    if entry == dir_.EXCLUSIVE_AT_HOME:
                        access = Access.WRITE
                    elif entry < 0:
                        access = Access.READ
                    append_run(raised, span.first, span.count, access)
                elif rule.content == Content.HELD and entry >= dir_.MULTIPLE:
                    pass  # its readable copy will do
                elif rule.content is not None:
                    granted.append((run_of(span.first, span.count, access), rule.content))
        for run in multiple:  # home always has a copy: the master or what lies over it
            self.node.buffer.multiple.update(range(run.first, run.first + run.count))
        for reader, runs in stale.items():
            self.node.send(HostId(reader), Invalidate(tuple(runs)))
        if host != HOME:
            self._send_grant(transaction, granted, multiple)
            return
        for run in raised:
            self._raise_own(run)
        if transaction.fetch:
            self.node.granted(transaction.fetch)

    def _raise_own(self, run: Run) -> None:
        """Home's own access, but not to pages that a flush is being laid into."""
        updating = self.node.buffer.updating
        if not updating:
            self.node.raise_access([run])
            return
        for page in range(run.first, run.first + run.count):
            if page not in updating:
                self.node.raise_access([run_of(page, 1, run.access)])

    def _by_policy(self, transaction: Transaction, run: Run) -> list[_Decided]:
        """The run by entry, and by whether it shall become multiple-writer now."""
        spans = self.directory.runs(run)
        policy = self.node.policy
        if run.access == Access.READ or transaction.locked or not policy.watches:
            return [_Decided(*span, False) for span in spans]
        needed = any_overlap((run,), transaction.needs)
        decided: list[_Decided] = []
        for span in spans:
            for page in range(span.first, span.first + span.count):
                rule = RULES[Want.WRITE, holding(span.value, transaction.host)]
                moves = needed and rule.becomes == dir_.REQUESTERS
                if moves and rule.home_keeps is not None:
                    self._watch_own(page, span.value)
                multiple = moves and policy.make_multiple(page)
                last = decided[-1] if decided else None
                if last and last.value == span.value and last.multiple == multiple:
                    decided[-1] = last._replace(count=last.count + 1)
                else:
                    decided.append(_Decided(page, 1, span.value, multiple))
        return decided

    def _watch_own(self, page: int, entry: int) -> None:
        """Home itself gives up a page: tell the policy what home's guest changed in it."""
        if entry == dir_.EXCLUSIVE_AT_HOME:
            before = self._snapshots.pop(page, None)
            if before is not None:
                after = self.node.memory.read(PageNumber(page), 1)
                self.node.policy.bounced(page, HOME, before, after, self.node.now_us)

    def _add_stale(
        self, stale: dict[int, list[Run]], entry: int, host: HostId, first: int, count: int
    ) -> None:
        readers = dir_.sharers(entry) & ~(1 << host | 1)
        for reader in self.node.others:
            if readers >> reader & 1:
                append_run(stale.setdefault(reader, []), first, count, Access.NONE)

    def _send_grant(
        self,
        transaction: Transaction,
        granted: list[tuple[Run, Content]],
        multiple: list[Run],
    ) -> None:
        """Home's copies are frozen, so they are read now, a message's worth at a time."""
        node, host, fetch = self.node, transaction.host, transaction.fetch
        parts: list[Part] = []
        chunks: list[bytes] = []
        room = TRANSFER_PAGES_MAX
        for run, content in granted:
            if content == Content.HELD:
                parts.append(Part(run.first, run.count, run.access, content))
                continue
            first, left = int(run.first), run.count
            while left:
                count = min(left, room)
                got, data = pack(node.buffer.master(first, count), first, run.access)
                parts += got
                chunks.append(data)
                first, left, room = first + count, left - count, room - count
                if not room:
                    node.send(host, Grant(fetch, tuple(parts), b"".join(chunks), False))
                    parts, chunks, room = [], [], TRANSFER_PAGES_MAX
            node.counters["pages_sent"] += run.count
        last = Grant(fetch, tuple(parts), b"".join(chunks), True, tuple(multiple))
        node.send(host, last)

    # Flushes ------------------------------------------------------------------

    def publish(self, diffs: list[PageDiff]) -> None:
        """Home's own stores: their place in the order is here, and it costs no round trip."""
        self.order.publish(HOME, diffs)
        self._advise(HOME, diffs)

    def _flush_received(self, sender: HostId, message: Flush) -> None:
        self.order.received(sender, message)

    def flush_placed(self, host: HostId, diffs: list[PageDiff]) -> None:
        """A flush has its place: the host's later messages may be handled."""
        self._advise(host, diffs)
        self._read(host)

    def _advise(self, host: HostId, diffs: list[PageDiff]) -> None:
        for page in self.node.policy.flushed(host, diffs, self.node.now_us):
            self.make_single(page)

    def surrenders(self, page: int) -> bool:
        """A transaction is taking every copy of this multiple-writer page away."""
        holder = self.directory.locks.get(page)
        return holder is not None and holder.locked and holder.collecting

    # Discarding ---------------------------------------------------------------

    def discard(self, first: int, count: int) -> None:
        """Forget the contents of a range everywhere; it is home's, and zero, from now on."""
        node, span = self.node, Span(first, count)
        entries = self.directory.runs(span)
        held_elsewhere = any(run.value != dir_.EXCLUSIVE_AT_HOME for run in entries)
        for recalling in self.recalls.values():
            recalling.discarded.append(span)
        cancelled = [txn for txn in self.active if any_overlap(txn.needs, (span,))]
        for transaction in self.active:
            if any_overlap(transaction.extra, (span,)):
                self._drop_extra(transaction, span)
        self.directory.entries.set(first, count, dir_.EXCLUSIVE_AT_HOME)
        node.pages.drop_pins(first, count)
        node.buffer.drop(first, count)
        node.retry_overlapping(span)
        node.install(first, count, b"")
        node.raise_access([run_of(first, count, Access.WRITE)])
        if held_elsewhere:
            for host in node.others:
                node.send(host, Forget(PageNumber(first), count))
        for transaction in cancelled:
            self._cancel(transaction)
        node.unpinned()
        self.run()

    def _drop_extra(self, transaction: Transaction, span: Span) -> None:
        for run in transaction.extra:
            if overlaps(run.first, run.count, span.first, span.count):
                low = max(run.first, span.first)
                high = min(run.first + run.count, span.first + span.count)
                self._runnable.extend(self.directory.unlock(low, high - low))
        transaction.extra = without(transaction.extra, span.first, span.count)
        transaction.lower = without(transaction.lower, span.first, span.count) or []

    def _cancel(self, transaction: Transaction) -> None:
        """Its requesters try again. What it has set going is still waited for."""
        if transaction.cancelled:
            return
        transaction.cancelled = True
        if transaction.host != HOME:
            self.node.send(transaction.host, Refused(transaction.fetch))
        elif transaction.fetch:
            self.node.refused(transaction.fetch)
        if transaction in self._pinned:
            self._pinned.remove(transaction)
        if transaction.waits_for is not None:
            if transaction in self._runnable:
                # It was handed this lock already: give it on.
                self._runnable.remove(transaction)
                transaction.page = transaction.waits_for + 1
            else:
                self.directory.stop_waiting(transaction, transaction.waits_for)
            self._close(transaction)
        elif not transaction.pending:
            self._close(transaction)


def _as_read(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    merged: list[Run] = []
    for run in runs:
        append_run(merged, run.first, run.count, Access.READ)
    return tuple(merged)


MANY: Final = (Holding.MANY_COPY, Holding.MANY)


class _Decided(NamedTuple):
    """A span of pages with one entry and one decision about its mode."""

    first: int
    count: int  # type: ignore[assignment]
    value: int
    multiple: bool


def wanted(transaction: Transaction, access: Access) -> Want:
    if transaction.locked:
        return Want.LOCK
    return Want.READ if access == Access.READ else Want.WRITE


_HANDLERS: Final[dict[type[Message], Callable[..., None]]] = {
    Fetch: Home._fetch_received,
    Yielded: Home._yielded,
    Flush: Home._flush_received,
}
