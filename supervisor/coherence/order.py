# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's order of flushes: each gets its place, one at a time (rule 4).

Observers must see all stores of a flush at once. At home that means that its
pages are out of the reach of home's threads while the diffs are laid in; at
the other holders, that they get them in one message. Messages that a host sent
after a flush wait until the flush has its place, or a page given up after it
could be seen before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from supervisor.coherence import directory as dir_
from supervisor.coherence.messages import Access, Flush, Flushed, PageDiff, Run, Update
from supervisor.coherence.pages import append_run, run_of
from supervisor.errors import PeerError
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.coherence.home import Home


class _Pending(NamedTuple):
    host: HostId
    message: Flush


@dataclass(slots=True)
class _Ticket:
    """A flush that has its place: how many holders have not acknowledged it."""

    host: HostId
    flush: int
    owed: int


class FlushOrder:
    """Flushes that have no place yet; the first of them is being laid in.

    In hub order a flush is answered as soon as it has its place. A policy that
    `acknowledges` (the published algorithm) answers when all holders have laid
    it in.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._queue: deque[_Pending] = deque()
        self._busy = False
        self._last: dict[int, int] = {}
        self._tickets: dict[int, deque[_Ticket]] = {}  # by the host that flushed
        self._owed: dict[int, deque[_Ticket]] = {}  # by the host that owes an answer

    def holds(self, host: HostId) -> bool:
        """Whether this host's later messages have to wait."""
        queue = self._queue
        return bool(queue) and any(pending.host == host for pending in queue)

    @property
    def held_up(self) -> bool:
        """A flush waits for pins on home's pages."""
        return bool(self._queue) and not self._busy

    def received(self, host: HostId, message: Flush) -> None:
        if message.flush != self._last.get(host, 0) + 1:
            raise PeerError(f"host {host} sends flush {message.flush} out of turn")
        self._last[host] = message.flush
        self._queue.append(_Pending(host, message))
        self.run()

    def run(self) -> None:
        """Take the next flush, unless one is under way or pins forbid it."""
        while self._queue and not self._busy:
            host, message = self._queue[0]
            diffs = self._current(host, message)
            node = self._home.node
            if not node.lowering and node.buffer.lay_in_word(diffs):
                self._place(diffs, lowered=False)
                continue
            if any(node.pages.pinned_against(diff.page, 1, Access.NONE) for diff in diffs):
                return
            runs: list[Run] = []
            for diff in diffs:
                if node.pages.access.get(diff.page) != Access.NONE:
                    append_run(runs, diff.page, 1, Access.NONE)
            if not runs and not node.lowering:
                self._lay_in(lowered=False)
                continue
            self._busy = True
            node.buffer.updating.update(diff.page for diff in diffs)
            node.lower(runs, self._protected)

    def _current(self, host: HostId, message: Flush) -> list[PageDiff]:
        """The diffs of pages that the host still has; the others were discarded.

        It may have got a page anew by a request that was older than the flush.
        """
        entries = self._home.directory.entries
        gone = self._home.forgetting.get(host, ())
        return [
            diff
            for diff in message.diffs
            if (entry := entries.get(diff.page)) >= dir_.MULTIPLE
            and dir_.sharers(entry) >> host & 1
            and not any(span.first <= diff.page < span.first + span.count for span in gone)
        ]

    def _protected(self) -> None:
        self._busy = False
        self._lay_in(lowered=True)
        self.run()

    def _lay_in(self, lowered: bool) -> None:
        """Lay the first flush into the master copies and home's own."""
        diffs = self._current(*self._queue[0])
        for diff in diffs:
            self._home.node.buffer.lay_in(diff)
        self._place(diffs, lowered)

    def _place(self, diffs: list[PageDiff], lowered: bool) -> None:
        """The first flush, of which these diffs are laid in, has its place: tell everybody."""
        home, node = self._home, self._home.node
        host, message = self._queue.popleft()
        for diff in message.diffs:
            node.buffer.updating.discard(diff.page)
        self.publish(host, message.flush, diffs)
        for diff in diffs:
            if lowered and not home.surrenders(diff.page):
                access = node.buffer.own_access(diff.page)
                node.raise_access([run_of(diff.page, 1, access)])
        home.flush_placed(host, diffs, message.late)

    def publish(self, host: HostId, flush: int, diffs: list[PageDiff]) -> None:
        """Send stores of one host to the holders of copies other than it and home."""
        node, entries = self._home.node, self._home.directory.entries
        ticket = _Ticket(host, flush, 0)
        self._tickets.setdefault(host, deque()).append(ticket)
        for other in node.others:
            if other != host:
                theirs = tuple(
                    diff for diff in diffs if dir_.sharers(entries.get(diff.page)) >> other & 1
                )
                if theirs:
                    node.send(other, Update(theirs))
                    if node.policy.acknowledges:
                        ticket.owed += 1
                        self._owed.setdefault(other, deque()).append(ticket)
        self._answer(host)
        tickets = self._tickets[host]
        if host != HOME and tickets and tickets[-1] is ticket:
            node.send(host, Flushed(flush, False))

    def acknowledged(self, other: HostId) -> None:
        """A holder has laid in the oldest update it was sent."""
        owed = self._owed.get(other)
        if not owed:
            raise PeerError(f"host {other} acknowledges an update it was not sent")
        ticket = owed.popleft()
        ticket.owed -= 1
        self._answer(ticket.host)

    def _answer(self, host: HostId) -> None:
        """Tell the host of its flushes that are done, in their order."""
        tickets = self._tickets[host]
        while tickets and not tickets[0].owed:
            flush = tickets.popleft().flush
            if host != HOME:
                self._home.node.send(host, Flushed(flush))
            elif flush:
                self._home.node.buffer.answered(flush)
