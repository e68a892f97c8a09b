# SPDX-License-Identifier: GPL-2.0-or-later
"""Collecting: what a transaction needs to have at home before home decides.

Exclusive copies (and all copies of a multiple-writer page that a bus lock is
for) are recalled from their hosts, and home's own guest loses what it may not
keep. Pages ahead are collected along with the needs where that costs nobody
anything worth mentioning.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor.coherence import directory as dir_
from supervisor.coherence.directory import RULES, Holding, Want, holding
from supervisor.coherence.messages import (
    Access,
    Content,
    Direct,
    Recall,
    Run,
    Yielded,
)
from supervisor.coherence.pages import (
    Span,
    Valued,
    append_run,
    run_of,
    without,
)
from supervisor.coherence.policy import STREAM_STREAK
from supervisor.coherence.transaction import MANY, Recalling, Transaction, wanted
from supervisor.coherence.transfer import (
    check_parts,
    unpack,
    zero_pages,
)
from supervisor.errors import PeerError
from supervisor.units import HOME, PAGE_SIZE, HostId, PageNumber

if TYPE_CHECKING:
    from supervisor.coherence.home import Home

WATCHED_AHEAD_MAX: Final = 16
"""So many pages ahead in a row are still looked at one by one for false sharing."""


def collect(home: Home, transaction: Transaction) -> None:
    transaction.collecting = True
    recalls = _Recalls(home, transaction)
    for need in transaction.needs:
        want = wanted(transaction, need.access)
        for span in home.directory.runs(need):
            kind = holding(span.value, transaction.host)
            rule = RULES[want, kind]
            if rule.owner_keeps is not None and kind in MANY:
                for holder in _holders(home, span.value):
                    recalls.add(holder, False, span.first, span.count, rule.owner_keeps)
            elif rule.owner_keeps is not None:
                recalls.add_by_policy(dir_.source_of(span.value), span, rule.owner_keeps)
            if rule.home_keeps is not None and (transaction.host != HOME or kind in MANY):
                append_run(transaction.lower, span.first, span.count, rule.home_keeps)
    for ahead in transaction.ahead:
        _reach_ahead(home, transaction, ahead, recalls)
    if recalls.by_way:
        recalls.send()
    if transaction.lower:
        lower(home, transaction)
    else:
        home.progress(transaction)


class _Recalls:
    """What a transaction asks of each host, to be sent home or directly to the requester."""

    __slots__ = ("_home", "_transaction", "_watched", "by_way")

    def __init__(self, home: Home, transaction: Transaction) -> None:
        self._home = home
        self._transaction = transaction
        self.by_way: dict[tuple[HostId, bool], tuple[list[Run], list[Run]]] = {}
        self._watched: set[int] = set()

    def add(
        self, owner: HostId, direct: bool, first: int, count: int, keeps: Access,
        optional: bool = False,
    ) -> None:  # fmt: skip
        lists = self.by_way.setdefault((owner, direct), ([], []))
        append_run(lists[optional], first, count, keeps)

    def add_by_policy(
        self, owner: HostId, span: Span | Valued, keeps: Access, optional: bool = False
    ) -> None:
        """Directly where the two hosts have a link, but what the policy wants to see."""
        node, requester = self._home.node, self._transaction.host
        direct = requester != HOME and (owner, requester) in node.paths
        # Pages of a long stream are not what two hosts write by turns.
        if not node.policy.watches or (optional and span.count > WATCHED_AHEAD_MAX):
            self.add(owner, direct, span.first, span.count, keeps, optional)
            return
        for page in range(span.first, span.first + span.count):
            watched = node.policy.moves(page, node.now_us)
            if watched:
                self._watched.add(page)
            self.add(owner, direct and not watched, page, 1, keeps, optional)

    def send(self) -> None:
        home, transaction = self._home, self._transaction
        for (owner, direct), (needs, optional) in self.by_way.items():
            home.recall_last += 1
            to, fetch = (transaction.host, transaction.fetch) if direct else (HOME, 0)
            recall = Recall(home.recall_last, tuple(needs), tuple(optional), to, fetch)
            home.recalls[recall.recall] = Recalling(
                owner, transaction, recall.needs, recall.optional, direct,
                frozenset(self._watched),
            )  # fmt: skip
            transaction.pending += 1
            home.node.send(owner, recall)


def _holders(home: Home, entry: int) -> list[HostId]:
    """Hosts other than home that have copies of a multiple-writer page."""
    return [host for host in home.node.others if dir_.sharers(entry) >> host & 1]


def _reach_ahead(home: Home, transaction: Transaction, run: Run, recalls: _Recalls) -> None:
    """Lock the pages beside the needs that cost nobody anything worth mentioning."""
    access, host, pages = run.access, transaction.host, home.node.pages
    needs = transaction.needs
    near = needs[-1] if run.first > needs[0].first else needs[0]
    owner = home.directory.entries.get(near.first)
    for ahead in home.directory.runs(run):
        kind = holding(ahead.value, host)
        if kind in MANY:
            continue
        rule = RULES[Want.READ if access == Access.READ else Want.WRITE, kind]
        spans = [Span(ahead.first, ahead.count)]
        if rule.owner_keeps is not None:
            # Only a stream through one owner's pages takes anything of further ones.
            if ahead.value != owner:
                continue
            cheap = kind == Holding.AWAY and access == Access.READ
            if transaction.streak < STREAM_STREAK and not cheap:
                continue
        elif rule.becomes == dir_.SAME:
            if host != HOME:
                continue
        elif rule.home_keeps is not None and host != HOME:
            if rule.invalidate and not _worth_invalidating(transaction, ahead.value):
                continue
            spans = pages.unpinned_part(ahead.first, ahead.count, rule.home_keeps)
            if transaction.streak == 0:
                spans = _never_touched(home, access, kind, spans)
        elif rule.invalidate and not _worth_invalidating(transaction, ahead.value):
            continue
        for span in spans:
            for got in home.directory.try_lock(transaction, span.first, span.count):
                append_run(transaction.extra, got.first, got.count, access)
                if rule.owner_keeps is not None:
                    source = dir_.source_of(ahead.value)
                    recalls.add_by_policy(source, got, rule.owner_keeps, optional=True)
                elif rule.home_keeps is not None and host != HOME:
                    append_run(transaction.lower, got.first, got.count, rule.home_keeps)


def _worth_invalidating(transaction: Transaction, entry: int) -> bool:
    """Whether a page that hosts can read is worth taking for a stream of writes."""
    others = dir_.sharers(entry) & ~(1 << transaction.host | 1)
    return transaction.streak >= (STREAM_STREAK if others else 1)


def _never_touched(home: Home, access: Access, kind: Holding, spans: list[Span]) -> list[Span]:
    """The zero pages at the front, for a first write into fresh memory.

    The guest may be writing to them: that only makes the guess a poor one.
    """
    if access != Access.WRITE or kind != Holding.HOME or not spans:
        return []
    first, count = spans[0]
    memory, zeros, piece = home.node.memory, 0, 1
    while zeros < count:  # most often the first page tells
        holes = memory.holes(PageNumber(first + zeros), count - zeros)
        if holes:
            zeros += holes
            continue
        piece = min(piece, count - zeros)
        found = zero_pages(memory.read(PageNumber(first + zeros), piece))
        zeros += found
        if found < piece:
            break
        piece *= 4
    return [Span(first, zeros)] if zeros else []


def lower(home: Home, transaction: Transaction) -> None:
    """Lower home's own copies (and flush: rule 3), or wait for the pins on them."""
    pages, buffer = home.node.pages, home.node.buffer
    blocked = buffer.twins and not buffer.freezable()
    for run in transaction.lower:
        if blocked or pages.pinned_against(run.first, run.count, run.access):
            home.pinned.append(transaction)
            return
    runs: list[Run] = []
    dirty = False
    for run in transaction.lower:
        for span in pages.above(run.first, run.count, run.access):
            append_run(runs, span.first, span.count, run.access)
        if buffer.twins and not dirty:
            dirty = any(run.first <= page < run.first + run.count for page in buffer.twins)
    transaction.lower = []
    if runs or dirty:
        transaction.pending += 1
        home.node.lower(runs, partial(home.answered, transaction))
        if buffer.twins:
            home.node.freeze_dirty()
    home.progress(transaction)


def yielded(home: Home, sender: HostId, message: Yielded) -> None:
    recalling = home.recalls.get(message.recall)
    if recalling is None or recalling.host != sender:
        raise PeerError(f"host {sender} answers recall {message.recall}, which is not its own")
    check_parts(message.parts, message.data)
    _check_yield(home, recalling, message)
    del home.recalls[message.recall]
    node = home.node
    for part, data in unpack(message.parts, message.data):
        left: Iterable[Run] = (run_of(part.first, part.count, part.access),)
        for gone in recalling.discarded:
            left = without(left, gone.first, gone.count)
        for run in left:
            if part.content == Content.HELD:
                _give_up_copy(home, sender, run)
                continue
            offset = (run.first - part.first) * PAGE_SIZE
            bytes_ = data and data[offset : offset + run.count * PAGE_SIZE]
            if recalling.direct:
                _deliver(home, recalling, message.recall, run)
                continue
            if node.policy.watches:
                _watch(home, recalling, run, bytes_)
            node.install(run.first, run.count, bytes_)
            for span in home.directory.runs(run):
                entry = dir_.after_yield(span.value, sender, run.access)
                home.directory.entries.set(span.first, span.count, entry)
    home.answered(recalling.transaction)


def _deliver(home: Home, recalling: Recalling, recall: int, run: Run) -> None:
    """The data is on its way to the requester, which uses it when its grant comes."""
    transaction = recalling.transaction
    for span in home.directory.runs(run):
        entry = dir_.after_delivery(span.value, recalling.host, run.access, transaction.host)
        home.directory.entries.set(span.first, span.count, entry)
    transaction.direct.append(
        Direct(run.first, run.count, run.access, recalling.host, recall)
    )
    if home.node.policy.watches:
        home.behind.set(run.first, run.count, 1)


def _give_up_copy(home: Home, host: HostId, run: Run) -> None:
    entries = home.directory.entries
    for span in entries.runs(run.first, run.count):
        left = dir_.sharers(span.value) & ~(1 << host)
        entries.set(span.first, span.count, dir_.multiple(left))


def _watch(home: Home, recalling: Recalling, run: Run, data: bytes) -> None:
    """Tell the policy what an owner changed in pages it gives up.

    Home's memory still has what it granted, for nobody could write there since;
    unless others have passed the page on without home.
    """
    was_behind = {
        page
        for span in home.behind.runs(run.first, run.count)
        if span.value
        for page in range(span.first, span.first + span.count)
    }
    if was_behind:
        home.behind.set(run.first, run.count, 0)
    for page in sorted(recalling.watched.intersection(range(run.first, run.first + run.count))):
        at = page - run.first
        behind = page in was_behind
        after = data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE] or bytes(PAGE_SIZE)
        if not behind:
            before = home.node.memory.read(PageNumber(page), 1)
            host = recalling.host
            home.node.policy.bounced(page, host, before, after, home.node.now_us)
        home.snapshots[page] = bytes(after)


def _check_yield(home: Home, recalling: Recalling, message: Yielded) -> None:
    """The answer has all that was needed and nothing that was not asked for."""
    asked = sorted(recalling.needs + recalling.optional)
    at = 0
    left: list[Run] = list(recalling.needs)
    for part in message.parts:
        left = without(left, part.first, part.count)
        page, end = int(part.first), part.first + part.count
        while page < end:
            while at < len(asked) and asked[at].first + asked[at].count <= page:
                at += 1
            if at == len(asked) or asked[at].first > page or asked[at].access != part.access:
                raise PeerError(f"host {recalling.host} yields pages {page:#x}, not asked for")
            page = asked[at].first + asked[at].count
        entries = home.directory.entries.runs(part.first, part.count)
        copies = {entry.value >= dir_.MULTIPLE for entry in entries}
        if recalling.discarded:
            copies = {part.content == Content.HELD}
        wrong_way = (part.content == Content.DIRECT) != recalling.direct
        if copies != {part.content == Content.HELD} or wrong_way:
            raise PeerError(f"host {recalling.host} yields pages {part.first:#x} wrongly")
    for gone in recalling.discarded:
        left = without(left, gone.first, gone.count)
    if left:
        raise PeerError(f"host {recalling.host} answers recall {message.recall} without a need")
