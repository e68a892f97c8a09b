# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's directory: who holds each page, and what a request makes of that.

A page is *exclusive* at one host (the only one that may write it, and the only
one with current data), *shared* (a set of hosts may read it; if home is not among
them, its data is old, and theirs is current) or *multiple-writer* (home has the
master copy; a set of hosts have copies that they may read, and write once they
have made a twin). A page that nobody has asked for is exclusive at home.

`RULES` is the protocol's transition table; home walks it and nothing else
decides. The diagram of states in the documentation is made from it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from supervisor.coherence.messages import Access, Content, Run
from supervisor.coherence.pages import PageMap, Span, Valued
from supervisor.units import HOME, HostId

# A page's entry is one integer: the host that holds it exclusively, or, when
# negative, minus the bit set of the hosts that may read it (bit 0, home, is in it
# when home's data is current), or MULTIPLE plus the bit set of the hosts that have
# copies of a multiple-writer page (bit 0 always in it).
EXCLUSIVE_AT_HOME: Final = int(HOME)
MULTIPLE: Final = 1 << 62


def exclusive(host: HostId) -> int:
    return int(host)


def shared(hosts: int) -> int:
    """Entry of a page that home and the hosts of this bit set may read."""
    return -(hosts | 1) if hosts & ~1 else EXCLUSIVE_AT_HOME


def shared_away(hosts: int) -> int:
    """Entry of a page that the hosts of this bit set, none of them home, may read."""
    assert hosts and not hosts & 1
    return -hosts


def source_of(entry: int) -> HostId:
    """The host with current data of a page that home does not have."""
    if entry > 0:
        return HostId(entry)
    hosts = -entry
    return HostId((hosts & -hosts).bit_length() - 1)


def sharers(entry: int) -> int:
    """Bit set of the hosts in a shared entry, or with copies of a multiple-writer page."""
    return entry - MULTIPLE if entry >= MULTIPLE else -entry


def multiple(hosts: int) -> int:
    """Entry of a multiple-writer page of which the hosts of this bit set have copies."""
    return MULTIPLE + (hosts | 1)


def copy_added(entry: int, host: HostId) -> int:
    """The entry with one more host that may read the page."""
    if entry >= MULTIPLE:
        return entry | 1 << host
    return -(sharers(entry) | 1 << host) if entry < 0 else shared(1 << host)


class Holding(Enum):
    """How a page stands to the host that asks for it."""

    MINE = "exclusive at the requester"
    HOME = "exclusive at home"
    OTHER = "exclusive at a third host"
    COPY = "shared, the requester has a copy"
    SHARED = "shared, the requester has none"
    AWAY_COPY = "shared without home, the requester has a copy"
    AWAY = "shared without home, the requester has none"
    MANY_COPY = "multiple-writer, the requester has a copy"
    MANY = "multiple-writer, the requester has none"

    __hash__ = object.__hash__  # Enum's is none of C's, and RULES is looked up all the time


class Want(Enum):
    """What is asked of a page."""

    READ = "read"
    WRITE = "write"
    LOCK = "bus lock"

    __hash__ = object.__hash__


def holding(entry: int, host: HostId) -> Holding:
    if entry >= MULTIPLE:
        return Holding.MANY_COPY if (entry - MULTIPLE) >> host & 1 else Holding.MANY
    if entry >= 0:
        if entry == host:
            return Holding.MINE
        return Holding.HOME if entry == HOME else Holding.OTHER
    hosts = sharers(entry)
    if hosts & 1:
        return Holding.COPY if hosts >> host & 1 else Holding.SHARED
    return Holding.AWAY_COPY if hosts >> host & 1 else Holding.AWAY


class Rule(NamedTuple):
    """What a request does to a page.

    home_keeps: what home's own guest may keep, before the data is read.
    owner_keeps: what the owner (of a page shared without home: one of those that
        have it) is asked to keep when it hands the data over, and of a
        multiple-writer page what every holder is; where the data comes to home,
        the page is then looked up again.
    content: what the grant carries; None when nothing need be told.
    becomes: the entry afterwards.
    invalidate: whether the other sharers are told to drop their copies.
    """

    home_keeps: Access | None
    owner_keeps: Access | None
    content: Content | None
    becomes: str
    invalidate: bool


SAME: Final = "unchanged"
COPY_ADDED: Final = "one copy more"
REQUESTERS: Final = "exclusive at the requester"

_NONE, _READ = Access.NONE, Access.READ
_DATA, _HELD = Content.DATA, Content.HELD

RULES: Final[dict[tuple[Want, Holding], Rule]] = {
    (Want.READ, Holding.MINE): Rule(None, None, None, SAME, False),
    (Want.READ, Holding.HOME): Rule(_READ, None, _DATA, COPY_ADDED, False),
    (Want.READ, Holding.OTHER): Rule(None, _READ, _DATA, COPY_ADDED, False),
    (Want.READ, Holding.COPY): Rule(None, None, None, SAME, False),
    (Want.READ, Holding.SHARED): Rule(None, None, _DATA, COPY_ADDED, False),
    (Want.READ, Holding.AWAY_COPY): Rule(None, None, None, SAME, False),
    (Want.READ, Holding.AWAY): Rule(None, _READ, _DATA, COPY_ADDED, False),
    (Want.READ, Holding.MANY_COPY): Rule(None, None, None, SAME, False),
    (Want.READ, Holding.MANY): Rule(None, None, _DATA, COPY_ADDED, False),
    (Want.WRITE, Holding.MINE): Rule(None, None, None, SAME, False),
    (Want.WRITE, Holding.HOME): Rule(_NONE, None, _DATA, REQUESTERS, False),
    (Want.WRITE, Holding.OTHER): Rule(None, _NONE, _DATA, REQUESTERS, False),
    (Want.WRITE, Holding.COPY): Rule(_NONE, None, _HELD, REQUESTERS, True),
    (Want.WRITE, Holding.SHARED): Rule(_NONE, None, _DATA, REQUESTERS, True),
    (Want.WRITE, Holding.AWAY_COPY): Rule(None, None, _HELD, REQUESTERS, True),
    (Want.WRITE, Holding.AWAY): Rule(None, _NONE, _DATA, REQUESTERS, True),
    (Want.WRITE, Holding.MANY_COPY): Rule(None, None, None, SAME, False),
    (Want.WRITE, Holding.MANY): Rule(None, None, _DATA, COPY_ADDED, False),
    (Want.LOCK, Holding.MINE): Rule(None, None, None, SAME, False),
    (Want.LOCK, Holding.HOME): Rule(_NONE, None, _DATA, REQUESTERS, False),
    (Want.LOCK, Holding.OTHER): Rule(None, _NONE, _DATA, REQUESTERS, False),
    (Want.LOCK, Holding.COPY): Rule(_NONE, None, _HELD, REQUESTERS, True),
    (Want.LOCK, Holding.SHARED): Rule(_NONE, None, _DATA, REQUESTERS, True),
    (Want.LOCK, Holding.AWAY_COPY): Rule(None, None, _HELD, REQUESTERS, True),
    (Want.LOCK, Holding.AWAY): Rule(None, _NONE, _DATA, REQUESTERS, True),
    (Want.LOCK, Holding.MANY_COPY): Rule(_NONE, _NONE, _DATA, REQUESTERS, False),
    (Want.LOCK, Holding.MANY): Rule(_NONE, _NONE, _DATA, REQUESTERS, False),
}


AWAY: Final = (Holding.OTHER, Holding.AWAY)
"""Ways to stand to a page of which neither home nor the requester has current data."""


def after_yield(entry: int, host: HostId, keeps: Access) -> int:
    """Entry of a page when the data that `host` has has come to home."""
    hosts = 1 << host if entry >= 0 else sharers(entry)
    return shared(hosts if keeps == Access.READ else hosts & ~(1 << host))


def after_delivery(entry: int, host: HostId, keeps: Access, requester: HostId) -> int:
    """Entry when that data is on its way to the requester, which may not use it yet."""
    hosts = 1 << host if entry >= 0 else sharers(entry)
    if keeps == Access.NONE:
        hosts &= ~(1 << host)
    return shared_away(hosts) if hosts else exclusive(requester)


T = TypeVar("T")


class Directory(Generic[T]):
    """Entries, and the locks of open transactions (of type T) on pages.

    Transactions lock pages in ascending order and wait in the order of arrival,
    so no two wait for each other and none is overtaken for ever.
    """

    def __init__(self) -> None:
        self.entries = PageMap(EXCLUSIVE_AT_HOME)
        self.locks: dict[int, T] = {}
        self.waiting: dict[int, deque[T]] = {}

    def multiple(self, first: int, count: int) -> list[Span]:
        """The multiple-writer pages of a range."""
        return [
            Span(run.first, run.count)
            for run in self.entries.runs(first, count)
            if run.value >= MULTIPLE
        ]

    def runs(self, span: Span | Run) -> list[Valued]:
        return self.entries.runs(span[0], span[1])

    def lock(self, owner: T, pages: range) -> int:
        """Lock pages in order; the first page that another has (then `owner` waits
        for it), or `pages.stop` when all are locked."""
        locks = self.locks
        for page in pages:
            holder = locks.setdefault(page, owner)
            if holder is not owner:
                self.waiting.setdefault(page, deque()).append(owner)
                return page
        return pages.stop

    def try_lock(self, owner: T, first: int, count: int) -> list[Span]:
        """Lock those pages of the span that nobody has; the spans that were locked."""
        locks = self.locks
        spans: list[Span] = []
        start = first
        for page in range(first, first + count):
            if locks.setdefault(page, owner) is not owner:
                if page > start:
                    spans.append(Span(start, page - start))
                start = page + 1
        if first + count > start:
            spans.append(Span(start, first + count - start))
        return spans

    def unlock(self, first: int, count: int) -> list[T]:
        """Hand each page to the first that waits for it; those that got one."""
        woken: list[T] = []
        locks = self.locks
        if not self.waiting:
            for page in range(first, first + count):
                del locks[page]
            return woken
        for page in range(first, first + count):
            queue = self.waiting.get(page)
            if queue is None:
                del locks[page]
                continue
            locks[page] = queue.popleft()
            woken.append(locks[page])
            if not queue:
                del self.waiting[page]
        return woken

    def stop_waiting(self, owner: T, page: int) -> None:
        queue = self.waiting[page]
        queue.remove(owner)
        if not queue:
            del self.waiting[page]

    def any_locked(self, span: Span | Run) -> bool:
        if not self.locks:
            return False
        return any(page in self.locks for page in range(span[0], span[0] + span[1]))
