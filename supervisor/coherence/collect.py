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
from typing import TYPE_CHECKING

from supervisor.coherence import directory as dir_
from supervisor.coherence.directory import RULES, Holding, Want, holding
from supervisor.coherence.messages import (
    Access,
    Content,
    Recall,
    Run,
    Yielded,
)
from supervisor.coherence.pages import (
    Span,
    any_overlap,
    append_run,
    covers,
    run_of,
    without,
)
from supervisor.coherence.policy import DOWNGRADE_STREAK
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


def collect(home: Home, transaction: Transaction) -> None:
    transaction.collecting = True
    recalls: dict[int, tuple[list[Run], list[Run]]] = {}
    for need in transaction.needs:
        want = wanted(transaction, need.access)
        for span in home.directory.runs(need):
            kind = holding(span.value, transaction.host)
            rule = RULES[want, kind]
            if rule.owner_keeps is not None:
                for owner in _holders(home, span.value):
                    asked = recalls.setdefault(owner, ([], []))[0]
                    append_run(asked, span.first, span.count, rule.owner_keeps)
            if rule.home_keeps is not None and (transaction.host != HOME or kind in MANY):
                append_run(transaction.lower, span.first, span.count, rule.home_keeps)
    if transaction.ahead:
        _reach_ahead(home, transaction, recalls)
    for owner, (needs, optional) in recalls.items():
        _send_recall(home, transaction, HostId(owner), tuple(needs), tuple(optional))
    if transaction.lower:
        lower(home, transaction)
    else:
        home.progress(transaction)


def _holders(home: Home, entry: int) -> list[int]:
    """Hosts other than home that have current data of an exclusive or multiple page."""
    if entry < dir_.MULTIPLE:
        return [entry]
    return [host for host in home.node.others if dir_.sharers(entry) >> host & 1]


def _reach_ahead(
    home: Home, transaction: Transaction, recalls: dict[int, tuple[list[Run], list[Run]]]
) -> None:
    """Lock the pages beyond the need that cost nobody anything worth mentioning."""
    last = transaction.needs[-1]
    access, host, pages = last.access, transaction.host, home.node.pages
    owner = home.directory.entries.get(last.first + last.count - 1)
    for ahead in home.directory.entries.runs(last.first + last.count, transaction.ahead):
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
                    append_run(recalls[owner][1], got.first, got.count, rule.owner_keeps)
                elif rule.home_keeps is not None and host != HOME:
                    append_run(transaction.lower, got.first, got.count, rule.home_keeps)


def _worth_invalidating(transaction: Transaction, entry: int) -> bool:
    """Whether a page that hosts can read is worth taking for a stream of writes."""
    others = dir_.sharers(entry) & ~(1 << transaction.host | 1)
    return transaction.streak >= (DOWNGRADE_STREAK if others else 1)


def _never_touched(home: Home, access: Access, kind: Holding, spans: list[Span]) -> list[Span]:
    """The zero pages at the front, for a first write into fresh memory.

    The guest may be writing to them: that only makes the guess a poor one.
    """
    if access != Access.WRITE or kind != Holding.HOME or not spans:
        return []
    first, count = spans[0]
    zeros, piece = 0, 1
    while zeros < count:  # most often the first page tells
        piece = min(piece, count - zeros)
        found = zero_pages(home.node.memory.read(PageNumber(first + zeros), piece))
        zeros += found
        if found < piece:
            break
        piece *= 4
    return [Span(first, zeros)] if zeros else []


def _send_recall(
    home: Home,
    transaction: Transaction,
    owner: HostId,
    needs: tuple[Run, ...],
    optional: tuple[Run, ...],
) -> None:
    home.recall_last += 1
    home.recalls[home.recall_last] = Recalling(owner, transaction, needs, optional)
    transaction.pending += 1
    home.node.send(owner, Recall(home.recall_last, needs, optional))


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
        dirty = dirty or any(run.first <= page < run.first + run.count for page in buffer.twins)
    transaction.lower = []
    if runs or dirty:
        transaction.pending += 1
        home.node.lower(runs, partial(home.answered, transaction))
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
            if node.policy.watches:
                _watch(home, sender, run, bytes_)
            node.install(run.first, run.count, bytes_)
            entry = dir_.after_yield(sender, run.access)
            home.directory.entries.set(run.first, run.count, entry)
    home.answered(recalling.transaction)


def _give_up_copy(home: Home, host: HostId, run: Run) -> None:
    entries = home.directory.entries
    for span in entries.runs(run.first, run.count):
        left = dir_.sharers(span.value) & ~(1 << host)
        entries.set(span.first, span.count, dir_.multiple(left))


def _watch(home: Home, owner: HostId, run: Run, data: bytes) -> None:
    """Tell the policy what an owner changed in pages it gives up.

    Home's memory still has what it granted: nobody could write there since.
    """
    for at in range(run.count):
        page = run.first + at
        if not home.node.policy.moves(page, home.node.now_us):
            continue
        after = data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE] or bytes(PAGE_SIZE)
        before = home.node.memory.read(PageNumber(page), 1)
        home.node.policy.bounced(page, owner, before, after, home.node.now_us)
        home.snapshots[page] = after


def _check_yield(home: Home, recalling: Recalling, message: Yielded) -> None:
    """The answer has all that was needed and nothing that was not asked for."""
    asked = tuple(sorted(recalling.needs + recalling.optional))
    given = tuple(Run(part.first, part.count, part.access) for part in message.parts)
    left: list[Run] = list(recalling.needs)
    for part in message.parts:
        left = without(left, part.first, part.count)
        keeps = {run.access for run in asked if any_overlap((run,), (Span(part[0], part[1]),))}
        entries = home.directory.entries.runs(part.first, part.count)
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


def _as_read(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    merged: list[Run] = []
    for run in runs:
        append_run(merged, run.first, run.count, Access.READ)
    return tuple(merged)
