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
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from supervisor.coherence import directory as dir_
from supervisor.coherence.bus import BusOrder
from supervisor.coherence.collect import collect, lower, yielded
from supervisor.coherence.decide import decide, grant_delivered
from supervisor.coherence.directory import Directory
from supervisor.coherence.messages import (
    Access,
    Applied,
    AskBus,
    Fetch,
    Flush,
    Forget,
    Forgotten,
    FreeBus,
    Halted,
    Message,
    PageDiff,
    Refused,
    Run,
    Yielded,
)
from supervisor.coherence.order import FlushOrder
from supervisor.coherence.pages import (
    PageMap,
    Span,
    any_overlap,
    overlaps,
    run_of,
    without,
)
from supervisor.coherence.policy import WINDOW_PAGES_MAX
from supervisor.coherence.transaction import Recalling, Transaction, without_direct
from supervisor.coherence.transfer import check_needs, pages_in
from supervisor.errors import PeerError
from supervisor.units import HOME, HostId, PageNumber

if TYPE_CHECKING:
    from supervisor.coherence.node import Node


class Home:
    """The directory, its open transactions and recalls."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.directory: Directory[Transaction] = Directory()
        self.active: dict[Transaction, None] = {}
        self.recalls: dict[int, Recalling] = {}
        self.order = FlushOrder(self)
        self.bus = BusOrder(self)
        self._inboxes: dict[HostId, deque[Message]] = {host: deque() for host in node.others}
        self.recall_last = 0
        self._fetch_last: dict[int, int] = {}
        self.forgetting: dict[HostId, deque[Span]] = {host: deque() for host in node.others}
        """Discarded pages of which stores of before may still come from a host."""
        self.pinned: list[Transaction] = []  # wait until home's requesters release pages
        self._runnable: deque[Transaction] = deque()  # were handed a lock
        self.snapshots: dict[int, bytes] = {}  # pages as they came back to home
        self.behind = PageMap(0)  # 1: not what its owner was granted is in home's memory

    # Requests ---------------------------------------------------------------

    def free(self, needs: tuple[Run, ...]) -> bool:
        """A new pin keeps nobody waiting: no transaction has locked any of these pages."""
        locks = self.directory
        return not locks.locks or not any(locks.any_locked(need) for need in needs)

    @property
    def held_up(self) -> bool:
        """Transactions or flushes wait for pins on home's pages."""
        return bool(self.pinned) or self.order.held_up

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
        if message.fetch <= self._fetch_last.get(sender, 0):
            raise PeerError(f"host {sender} repeats request {message.fetch}")
        check_needs(message.needs)
        if message.ahead and pages_in(message.ahead) > WINDOW_PAGES_MAX:
            raise PeerError(f"host {sender} asks for {pages_in(message.ahead)} pages ahead")
        self._fetch_last[sender] = message.fetch
        self._fetch_from(sender, message)

    def _fetch_from(self, host: HostId, message: Fetch) -> None:
        if message.locked:
            for need in message.needs:
                if need.access == Access.WRITE:
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
        self._open(Transaction(HOME, 0, (run_of(page, 1, Access.WRITE),), (), 0, True))

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
        collect(self, transaction)

    def has_latest(self, host: HostId, page: int) -> bool:
        """Whether a host has a copy of a single-writer page, and in all that it has done
        since it got it home has granted no other a later one."""
        kind = dir_.holding(self.directory.entries.get(page), host)
        return kind in (dir_.Holding.MINE, dir_.Holding.COPY, dir_.Holding.AWAY_COPY)

    # What transactions wait for -------------------------------------------------

    def released(self) -> None:
        """Pins of home's requesters are gone: transactions may lower the pages."""
        if self.pinned:
            waiting, self.pinned = self.pinned, []
            for transaction in waiting:
                lower(self, transaction)
        self.order.run()
        self.run()

    def answered(self, transaction: Transaction) -> None:
        transaction.pending -= 1
        self.progress(transaction)
        self.run()

    def progress(self, transaction: Transaction) -> None:
        if transaction.pending or (transaction.lower and not transaction.cancelled):
            return
        if not transaction.cancelled:
            decide(self, transaction)
        elif transaction.refuse:
            # What was sent to it directly is nowhere else.
            grant_delivered(self, transaction)
            self.node.send(transaction.host, Refused(transaction.fetch))
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

    # Flushes ------------------------------------------------------------------

    def publish(self, diffs: list[PageDiff], late: bool) -> None:
        """Home's own stores: their place in the order is here, and it costs no round trip."""
        # Nothing of home's is ever under way, for its place is here; where holders
        # acknowledge, its fences wait for them all the same.
        flush = self.node.buffer.sent([]) if self.node.policy.acknowledges else 0
        self.order.publish(HOME, flush, diffs)
        self._advise(HOME, diffs, late)

    def _applied(self, sender: HostId, message: Applied) -> None:
        self.order.acknowledged(sender)

    def _flush_received(self, sender: HostId, message: Flush) -> None:
        self.order.received(sender, message)

    def flush_placed(self, host: HostId, diffs: list[PageDiff], late: bool) -> None:
        """A flush has its place: the host's later messages may be handled."""
        self._advise(host, diffs, late)
        self._read(host)

    def _advise(self, host: HostId, diffs: list[PageDiff], late: bool) -> None:
        for page in self.node.policy.flushed(host, diffs, self.node.now_us, late):
            self.make_single(page)

    def on_bus(self, host: HostId, message: Message) -> None:
        """A host, home among them, asks for the bus, frees it, or stands still for another."""
        self.bus.received(host, message)

    def surrenders(self, page: int) -> bool:
        """A transaction is taking every copy of this multiple-writer page away."""
        holder = self.directory.locks.get(page)
        if holder is None or not (holder.locked and holder.collecting):
            return False
        return any(
            need.access == Access.WRITE and need.first <= page < need.first + need.count
            for need in holder.needs
        )

    # Discarding ---------------------------------------------------------------

    def discard(self, first: int, count: int) -> None:
        """Forget the contents of a range everywhere; it is home's, and zero, from now on."""
        node, span = self.node, Span(first, count)
        entries = self.directory.runs(span)
        held_elsewhere = any(run.value != dir_.EXCLUSIVE_AT_HOME for run in entries)
        stored_elsewhere = any(run.value >= dir_.MULTIPLE for run in entries)
        for recalling in self.recalls.values():
            recalling.discarded.append(span)
        cancelled = [txn for txn in self.active if any_overlap(txn.needs, (span,))]
        for transaction in self.active:
            if any_overlap(transaction.extra, (span,)):
                self._drop_extra(transaction, span)
            transaction.direct = without_direct(transaction.direct, first, count)
        self.behind.set(first, count, 0)
        self.directory.entries.set(first, count, dir_.EXCLUSIVE_AT_HOME)
        node.pages.drop_pins(first, count)
        node.buffer.drop(first, count)
        node.policy.discarded(first, count)
        for page in [page for page in self.snapshots if first <= page < first + count]:
            del self.snapshots[page]
        node.retry_overlapping(span)
        node.install(first, count, b"")
        node.raise_access([run_of(first, count, Access.WRITE)])
        if held_elsewhere:
            for host in node.others:
                node.send(host, Forget(PageNumber(first), count, stored_elsewhere))
                if stored_elsewhere:
                    self.forgetting[host].append(span)
        for transaction in cancelled:
            self._cancel(transaction)
        node.unpinned()
        self.run()

    def _forgotten(self, sender: HostId, message: Forgotten) -> None:
        if not self.forgetting[sender]:
            raise PeerError(f"host {sender} has forgotten pages, which nobody asked for")
        self.forgetting[sender].popleft()

    def _drop_extra(self, transaction: Transaction, span: Span) -> None:
        for run in transaction.extra:
            if overlaps(run.first, run.count, span.first, span.count):
                low = max(run.first, span.first)
                high = min(run.first + run.count, span.first + span.count)
                self._runnable.extend(self.directory.unlock(low, high - low))
        transaction.extra = without(transaction.extra, span.first, span.count)
        transaction.lower = without(transaction.lower, span.first, span.count)

    def _cancel(self, transaction: Transaction) -> None:
        """Its requesters try again. What it has set going is still waited for."""
        if transaction.cancelled:
            return
        transaction.cancelled = True
        if any(recalling.direct and recalling.transaction is transaction
               for recalling in self.recalls.values()) or transaction.direct:
            transaction.refuse = True
        elif transaction.host != HOME:
            self.node.send(transaction.host, Refused(transaction.fetch))
        elif transaction.fetch:
            self.node.requests.refused(transaction.fetch)
        if transaction in self.pinned:
            self.pinned.remove(transaction)
        if transaction.waits_for is not None:
            if transaction in self._runnable:
                # It was handed this lock already: give it on.
                self._runnable.remove(transaction)
                transaction.page = transaction.waits_for + 1
            else:
                self.directory.stop_waiting(transaction, transaction.waits_for)
            self._close(transaction)
        else:
            self.progress(transaction)


_HANDLERS: Final[dict[type[Message], Callable[..., None]]] = {
    Fetch: Home._fetch_received,
    Yielded: yielded,
    Flush: Home._flush_received,
    Applied: Home._applied,
    Forgotten: Home._forgotten,
    AskBus: Home.on_bus,
    Halted: Home.on_bus,
    FreeBus: Home.on_bus,
}
