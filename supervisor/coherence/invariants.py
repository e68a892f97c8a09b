# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold after every step: within one host, and over a whole cluster.

The cluster checks need every node in one place, so they serve tests and
simulations; `check_node` is cheap enough for a debug run of one host. Each
raises AssertionError: a breach is our own bug.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from supervisor.coherence import directory as dir_
from supervisor.coherence.home import Home
from supervisor.coherence.messages import Access, Content, Forget, Grant, Invalidate, Message
from supervisor.coherence.node import Node
from supervisor.coherence.pages import overlaps
from supervisor.coherence.remote import Remote
from supervisor.units import HOME, HostId, PageNumber

Links = Mapping[tuple[HostId, HostId], Sequence[Message]]
"""Messages under way from one host to another, oldest first."""


def check_node(node: Node) -> None:
    """Pins are accessible; locks belong to open transactions; waiters wait for something."""
    for requester, runs in node.pages.pins.items():
        assert node.pages.satisfied(runs), f"requester {requester} has pins it cannot use"
    if isinstance(node.side, Home):
        home = node.side
        for page, owner in home.directory.locks.items():
            assert owner in home.active, f"page {page:#x} is locked by a closed transaction"
        for page, queue in home.directory.waiting.items():
            assert page in home.directory.locks, f"page {page:#x} is waited for but free"
            for waiting in queue:
                assert waiting.waits_for == page and waiting in home.active
        for recalling in home.recalls.values():
            assert recalling.transaction in home.active
        own = {txn.fetch for txn in home.active if txn.host == HOME and not txn.cancelled} - {0}
        assert own == set(node.requests.open), "home's requests and transactions differ"


def check_cluster(nodes: Sequence[Node], links: Links, pages: Iterable[int] = ()) -> None:
    """At most one writer of a page, no reader beside it but a late one, equal copies.

    `pages` are those to look at; none means every page that is not untouched.
    """
    home = nodes[HOME].side
    assert isinstance(home, Home)
    for page in pages or touched_pages(nodes, home):
        _check_page(nodes, home, links, page)


def touched_pages(nodes: Sequence[Node], home: Home) -> set[int]:
    maps = [home.directory.entries, *(node.pages.access for node in nodes)]
    return {
        page
        for each in maps
        for run in each.touched()
        for page in range(run.first, run.first + run.count)
    }


def _check_page(nodes: Sequence[Node], home: Home, links: Links, page: int) -> None:
    entry = home.directory.entries.get(page)
    many = entry >= dir_.MULTIPLE
    for node in nodes:
        access = node.pages.access.get(page)
        where = f"page {page:#x} at host {node.host} (entry {entry}, access {access})"
        leaving = node.host != HOME and _is_leaving(node, links, page)
        if page in node.buffer.multiple:
            assert leaving or (many and dir_.sharers(entry) >> node.host & 1), where
            assert access <= node.buffer.own_access(page), where
        elif access == Access.NONE or entry == node.host or leaving:
            continue  # nothing here, or exclusive, or an old copy that a new one may follow
        elif node.host == HOME:
            assert entry < 0 and dir_.sharers(entry) & 1 and access == Access.READ, where
        else:
            recorded = (entry < 0 or many) and dir_.sharers(entry) >> node.host & 1
            assert recorded and access == Access.READ, f"{where} is unknown to home"
            if not many:  # else a grant that says so is on its way
                _check_equal(node, _current(nodes, links, entry, page), page)


def check_copies(nodes: Sequence[Node]) -> None:
    """At rest every copy of a multiple-writer page is the master's equal."""
    for node in nodes:
        for page in node.buffer.multiple:
            _check_equal(node, nodes[HOME], page)


def _current(nodes: Sequence[Node], links: Links, entry: int, page: int) -> Node:
    """A node with current data of a shared page: home, or the first that has got it.

    One that is about to get it may have an old copy still, and be about to lose that.
    """
    for node in nodes:
        if not dir_.sharers(entry) >> node.host & 1:
            continue
        has = node.pages.access.get(page) != Access.NONE
        if node.host == HOME or (has and not _is_leaving(node, links, page)):
            return node
    raise AssertionError(f"nobody has page {page:#x}")


def _check_equal(node: Node, other: Node, page: int) -> None:
    mine = node.memory.read(PageNumber(page), 1)
    theirs = other.memory.read(PageNumber(page), 1)
    assert mine == theirs, f"page {page:#x} at host {node.host} differs from host {other.host}'s"


def _is_leaving(node: Node, links: Links, page: int) -> bool:
    """Home has taken this copy away, and the host is about to learn of it."""
    side = node.side
    assert isinstance(side, Remote)
    for message in (*side.inbox, *links.get((HOME, node.host), ())):
        if isinstance(message, Forget):
            if overlaps(message.first, message.count, page, 1):
                return True
        elif isinstance(message, Invalidate):
            if any(overlaps(run.first, run.count, page, 1) for run in message.runs):
                return True
        elif isinstance(message, Grant):
            # An upgrade on its way: home's entry is ahead of the copy.
            for part in message.parts:
                if part.content == Content.HELD and overlaps(part.first, part.count, page, 1):
                    return True
    return False


def check_quiescent(nodes: Sequence[Node]) -> None:
    """Nothing is under way: every request was answered and every lock given back."""
    for node in nodes:
        check_node(node)
        assert not node.requests.open, f"host {node.host} still waits for {node.requests.open}"
        assert not node.lowering
        assert not node.bus.halting and node.bus.holder is None, "the bus is not free"
        assert not node.buffer.twins and not node.buffer.in_flight and not node.buffer.frozen
        if isinstance(node.side, Home):
            assert not node.side.active and not node.side.recalls
            assert not node.side.directory.locks and not node.side.directory.waiting
        else:
            assert not node.side.inbox and not node.side.deferred
            assert not node.side.deliveries, f"host {node.host} keeps data nobody waits for"
