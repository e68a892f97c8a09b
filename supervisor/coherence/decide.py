# SPDX-License-Identifier: GPL-2.0-or-later
"""Deciding: a transaction's place in home's order, all its pages in one step.

The entries change, other sharers are told that their copies are old, and the
requester gets its pages. Here too home asks the policy whether a page that is
about to become exclusive shall become multiple-writer instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from supervisor.coherence import directory as dir_
from supervisor.coherence.directory import RULES, Holding, Want, holding
from supervisor.coherence.messages import (
    Access,
    Content,
    Direct,
    Grant,
    Invalidate,
    ModeChanged,
    Part,
    Run,
)
from supervisor.coherence.pages import (
    any_overlap,
    append_run,
    run_of,
    without,
)
from supervisor.coherence.transaction import MANY, Transaction, wanted
from supervisor.coherence.transfer import (
    TRANSFER_PAGES_MAX,
    pack,
)
from supervisor.units import HOME, HostId, PageNumber

if TYPE_CHECKING:
    from supervisor.coherence.home import Home


class _Decided(NamedTuple):
    """A span of pages with one entry and one decision about its mode."""

    first: int
    count: int  # type: ignore[assignment]
    value: int
    multiple: bool


def decide(home: Home, transaction: Transaction) -> None:
    host, entries = transaction.host, home.directory.entries
    stale: dict[int, list[Run]] = {}
    granted: list[tuple[Run, Content]] = []
    multiple: list[Run] = []
    raised: list[Run] = []
    direct = _decide_delivered(home, transaction, stale)
    for run in _not_delivered(transaction):
        want = wanted(transaction, run.access)
        for span in _by_policy(home, transaction, run):
            kind = holding(span.value, host)
            if kind in dir_.AWAY:
                continue  # fetched ahead, and its owner would not give it
            rule = RULES[want, kind]
            entry, access = span.value, run.access
            if rule.invalidate:
                _add_stale(home, stale, span.value, host, span.first, span.count)
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
            if entry >= dir_.MULTIPLE and kind not in MANY:
                home.node.counters["pages_made_multiple"] += span.count
                _tell(home, span.first, span.count, True, f"a write of host {host}")
            if kind in MANY and entry < dir_.MULTIPLE:
                home.node.counters["pages_made_single"] += span.count
                # A transaction of nobody's is the policy's own.
                why = f"a bus lock of host {host}" if transaction.fetch else "the policy"
                _tell(home, span.first, span.count, False, why)
                pages = range(span.first, span.first + span.count)
                home.node.buffer.multiple.difference_update(pages)
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
        home.node.buffer.multiple.update(range(run.first, run.first + run.count))
    for reader, runs in stale.items():
        home.node.send(HostId(reader), Invalidate(tuple(sorted(runs))))
    if host != HOME:
        _send_grant(home, transaction, granted, multiple, direct)
        return
    for run in raised:
        _raise_own(home, run)
    if transaction.fetch:
        home.node.requests.granted(transaction.fetch)


def _tell(home: Home, first: int, count: int, multiple: bool, why: str) -> None:
    home.node.emit(ModeChanged(PageNumber(first), count, multiple, why))


def _decide_delivered(
    home: Home, transaction: Transaction, stale: dict[int, list[Run]]
) -> tuple[Direct, ...]:
    """Pages whose data goes to the requester from another host; as they are granted."""
    if not transaction.direct:
        return ()
    entries = home.directory.entries
    for run in transaction.direct:
        for span in entries.runs(run.first, run.count):
            if run.access == Access.READ:
                entry = dir_.copy_added(span.value, transaction.host)
            else:
                if span.value < 0:
                    _add_stale(home, stale, span.value, transaction.host, span.first, span.count)
                entry = dir_.exclusive(transaction.host)
            entries.set(span.first, span.count, entry)
    return tuple(
        run._replace(access=Access.READ if run.access == Access.READ else Access.WRITE)
        for run in sorted(transaction.direct)
    )


def _not_delivered(transaction: Transaction) -> Sequence[Run]:
    if not (transaction.extra or transaction.direct):
        return transaction.needs
    left = sorted((*transaction.needs, *transaction.extra))
    for run in transaction.direct:
        left = without(left, run.first, run.count)
    return left


def grant_delivered(home: Home, transaction: Transaction) -> None:
    """A request is refused: its host gets what has been sent to it all the same."""
    stale: dict[int, list[Run]] = {}
    direct = _decide_delivered(home, transaction, stale)
    for reader, runs in stale.items():
        home.node.send(HostId(reader), Invalidate(tuple(sorted(runs))))
    if direct:
        home.node.send(transaction.host, Grant(transaction.fetch, (), b"", False, (), direct))


def _raise_own(home: Home, run: Run) -> None:
    """Home's own access, but not to pages that a flush is being laid into."""
    updating = home.node.buffer.updating
    if not updating:
        home.node.raise_access([run])
        return
    for page in range(run.first, run.first + run.count):
        if page not in updating:
            home.node.raise_access([run_of(page, 1, run.access)])


def _by_policy(home: Home, transaction: Transaction, run: Run) -> list[_Decided]:
    """The run by entry, and by whether it shall become multiple-writer now."""
    spans = home.directory.runs(run)
    policy = home.node.policy
    if home.snapshots and transaction.host != HOME:
        for span in spans:
            if span.value == dir_.EXCLUSIVE_AT_HOME:
                _watch_own(home, span.first, span.count)
    if run.access == Access.READ or transaction.locked or not policy.watches:
        return [_Decided(*span, False) for span in spans]
    if not any_overlap((run,), transaction.needs):
        return [_Decided(*span, False) for span in spans]
    decided: list[_Decided] = []
    for span in spans:
        kind = holding(span.value, transaction.host)
        # Not where home would lack the master copy.
        here = kind not in dir_.AWAY and kind != Holding.AWAY_COPY
        moves = RULES[Want.WRITE, kind].becomes == dir_.REQUESTERS and here
        for page in range(span.first, span.first + span.count):
            multiple = moves and policy.make_multiple(page)
            last = decided[-1] if decided else None
            if last and last.value == span.value and last.multiple == multiple:
                decided[-1] = last._replace(count=last.count + 1)
            else:
                decided.append(_Decided(page, 1, span.value, multiple))
    return decided


def _watch_own(home: Home, first: int, count: int) -> None:
    """Home's guest gives up pages that came back to it: what did it change in them?"""
    for page in range(first, first + count):
        before = home.snapshots.pop(page, None)
        if before is not None:
            after = home.node.memory.read(PageNumber(page), 1)
            home.node.policy.bounced(page, HOME, before, after, home.node.now_us)


def _add_stale(
    home: Home, stale: dict[int, list[Run]], entry: int, host: HostId, first: int, count: int
) -> None:
    readers = dir_.sharers(entry) & ~(1 << host | 1)
    for reader in home.node.others:
        if readers >> reader & 1:
            append_run(stale.setdefault(reader, []), first, count, Access.NONE)


def _send_grant(
    home: Home,
    transaction: Transaction,
    granted: list[tuple[Run, Content]],
    multiple: list[Run],
    direct: tuple[Direct, ...],
) -> None:
    """Home's copies are frozen, so they are read now, a message's worth at a time."""
    node, host, fetch = home.node, transaction.host, transaction.fetch
    twins = node.buffer.twins
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
            # (Of never-touched memory there is nothing to look at.)
            holes = node.memory.holes(PageNumber(first), left) if left > 1 and not twins else 0
            if holes:
                parts.append(Part(PageNumber(first), holes, run.access, Content.ZERO))
                first, left = first + holes, left - holes
                continue
            got, data = pack(node.buffer.master(first, count), first, run.access)
            parts += got
            chunks.append(data)
            first, left, room = first + count, left - count, room - count
            if not room:
                node.send(host, Grant(fetch, tuple(parts), b"".join(chunks), False))
                parts, chunks, room = [], [], TRANSFER_PAGES_MAX
        node.counters["pages_sent"] += run.count
    last = Grant(fetch, tuple(parts), b"".join(chunks), True, tuple(multiple), direct)
    node.send(host, last)
