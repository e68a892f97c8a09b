# SPDX-License-Identifier: GPL-2.0-or-later
"""Choices that change speed and never results.

Which pages are multiple-writer, and how much is fetched ahead at most. Home asks
its policy where a choice exists; any answer is correct.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from supervisor.coherence.diff import changed_mask, make_diff
from supervisor.coherence.messages import PageDiff

WINDOW_PAGES_MAX: Final = 512
"""2 MiB: beyond it a round trip, and the way through the protocol, is small beside the transfer."""

STREAM_STREAK: Final = 2
"""Sequential faults after which other hosts' further pages are taken along with the one
needed: one fault is chance, three in a row are a stream, and without this each page that
is written elsewhere would cost a round trip."""


# Modes --------------------------------------------------------------------------


class SingleWriter:
    """Every page is single-writer, always."""

    always_armed = False
    acknowledges = False
    locks_bus = False
    watches = False
    """Whether `bounced` wants to be told of pages that change hands."""

    def make_multiple(self, page: int) -> bool:
        """The page is about to become exclusive at a host: make it multiple-writer instead?"""
        return False

    def locked(self, first: int, count: int) -> None:
        """A bus-locked instruction asked home for these pages."""

    def moves(self, page: int, now_us: int) -> bool:
        """An owner gives the page up: does `bounced` want to know what it changed?"""
        return False

    def bounced(self, page: int, host: int, before: bytes, after: bytes, now_us: int) -> None:
        """`host` gives up an exclusive page that had `before` when it got it."""

    def flushed(
        self, host: int, diffs: Iterable[PageDiff], now_us: int, late: bool
    ) -> list[int]:
        """A host flushed; the pages that should be single-writer again.

        `late`: because of the deadline, not because something needed it.
        """
        return []

    def discarded(self, first: int, count: int) -> None:
        """The contents of these pages are gone: what comes there next is something else."""


BOUNCES: Final = 4
"""Times in a row a page's ownership moves, every writer keeping to its own bytes,
before the page counts as falsely shared."""

BOUNCE_WINDOW_US: Final = 200_000
"""Bounces further apart than this cost too little to matter."""

PAGES_WATCHED_MAX: Final = 1 << 16

QUIET_FLUSHES: Final = 32
"""Flushes of a page by one host alone after which it is single-writer again."""

SLOW_FLUSH_US: Final = 34_000
SLOW_FLUSHES: Final = 3
"""So many flushes in a row of one page at the deadline, each so long after the same
host's last one: the hosts do not write all the time but wait for each other (or seldom
write), and single-writer mode passes their stores on sooner than the deadline does."""

LOCK_PENALTY: Final = 64
"""Bounces a page that a bus-locked instruction touched must sit through first."""

MISTAKE_FACTOR: Final = 4
MISTAKE_PENALTY_MAX: Final = 1 << 16
"""Each time that multiple-writer mode proved wrong for a page, it has to bounce so many
times longer before it is tried again."""


@dataclass(slots=True)
class _Bouncing:
    """What each host wrote of a page lately, while it was single-writer."""

    moves: int = 0
    moved_us: int = 0
    count: int = 0  # moves by writers that kept to their own bytes
    written: dict[int, int] = field(default_factory=dict)  # masks of bytes
    penalty: int = 0
    mistakes: int = 0


@dataclass(slots=True)
class _Flushed:
    """Who flushed a multiple-writer page, and which bytes lately."""

    written: dict[int, int] = field(default_factory=dict)
    at_us: dict[int, int] = field(default_factory=dict)
    slow: int = 0
    alone: int = 0
    last: int = -1


class Adaptive(SingleWriter):
    """Multiple-writer where hosts write disjoint bytes of a page by turns.

    A page's ownership that moves BOUNCES times within BOUNCE_WINDOW_US of each
    other, between hosts that each change bytes no other changes, makes the page
    multiple-writer. Overlapping diffs, a bus-locked instruction, or one host
    flushing it QUIET_FLUSHES times alone make it single-writer again, and a page
    that came back has to bounce longer the next time.
    """

    watches = True

    def __init__(self) -> None:
        self._bouncing: dict[int, _Bouncing] = {}
        self._flushed: dict[int, _Flushed] = {}
        self.made_multiple = 0
        self.made_single = 0

    def make_multiple(self, page: int) -> bool:
        seen = self._bouncing.get(page)
        if seen is None or seen.count < BOUNCES or len(seen.written) < 2:
            return False
        seen.count, seen.written = 0, {}
        self._flushed[page] = _Flushed()
        self.made_multiple += 1
        return True

    def locked(self, first: int, count: int) -> None:
        for page in range(first, first + count):
            seen = self._bouncing.setdefault(page, _Bouncing())
            seen.count, seen.written = 0, {}
            seen.penalty = max(seen.penalty, LOCK_PENALTY)
            if self._flushed.pop(page, None) is not None:
                self.made_single += 1

    def moves(self, page: int, now_us: int) -> bool:
        seen = self._bouncing.get(page)
        if seen is None:
            if len(self._bouncing) >= PAGES_WATCHED_MAX:
                self._forget_idle()
            self._bouncing[page] = _Bouncing(moved_us=now_us)
            return False
        if now_us - seen.moved_us > BOUNCE_WINDOW_US:
            seen.moves, seen.count, seen.written = 0, 0, {}
        seen.moves, seen.moved_us = seen.moves + 1, now_us
        if seen.penalty:
            seen.penalty -= 1
            return False
        return seen.moves > 1

    def _forget_idle(self) -> None:
        """A stream moves each page once or twice: keep what there is more to say of."""
        kept = {page: seen for page, seen in self._bouncing.items() if seen.mistakes or seen.count}
        self._bouncing = kept if len(kept) < PAGES_WATCHED_MAX // 2 else {}

    def bounced(self, page: int, host: int, before: bytes, after: bytes, now_us: int) -> None:
        seen = self._bouncing.setdefault(page, _Bouncing())
        diff = make_diff(page, before, after)
        # None, where it wrote what was there: then it kept to its own bytes as well.
        changed = 0 if diff is None else changed_mask(diff)
        if _others_wrote(seen.written, host, changed):
            seen.count, seen.written = 0, {}
        seen.written[host] = seen.written.get(host, 0) | changed
        seen.count += 1

    def flushed(
        self, host: int, diffs: Iterable[PageDiff], now_us: int, late: bool
    ) -> list[int]:
        single: list[int] = []
        for diff in diffs:
            seen = self._flushed.get(diff.page)
            if seen is not None and self._is_over(seen, host, diff, now_us, late):
                del self._flushed[diff.page]
                self.made_single += 1
                single.append(diff.page)
        return single

    def discarded(self, first: int, count: int) -> None:
        pages = range(first, first + count)
        for by_page in (self._bouncing, self._flushed):
            few = pages if count < len(by_page) else [page for page in by_page if page in pages]
            for page in few:
                by_page.pop(page, None)

    def _is_over(
        self, seen: _Flushed, host: int, diff: PageDiff, now_us: int, late: bool
    ) -> bool:
        changed = changed_mask(diff)
        overlapping = _others_wrote(seen.written, host, changed)
        seen.written[host] = seen.written.get(host, 0) | changed
        seen.alone = seen.alone + 1 if seen.last == host else 0
        seen.last = host
        slow = late and now_us - seen.at_us.get(host, now_us) > SLOW_FLUSH_US
        seen.slow = seen.slow + 1 if slow else 0
        seen.at_us[host] = now_us
        if overlapping or seen.slow >= SLOW_FLUSHES:
            bouncing = self._bouncing.setdefault(diff.page, _Bouncing())
            bouncing.penalty = min(
                LOCK_PENALTY * MISTAKE_FACTOR**bouncing.mistakes, MISTAKE_PENALTY_MAX
            )
            bouncing.mistakes = min(bouncing.mistakes + 1, 16)
            return True
        return seen.alone >= QUIET_FLUSHES


def _others_wrote(written: dict[int, int], host: int, changed: int) -> bool:
    """Has a host other than this one written any of these bytes?"""
    return any(mask & changed for writer, mask in written.items() if writer != host)


class Paper(SingleWriter):
    """The algorithm as published, to measure the others against.

    Every page that two hosts share and one writes is multiple-writer, each
    synchronization instruction traps and flushes, a flush is answered only when
    all holders have laid it in, and during each bus-locked instruction the other
    hosts stand still.
    """

    always_armed = True
    acknowledges = True
    locks_bus = True
    watches = True

    def make_multiple(self, page: int) -> bool:
        return True


POLICIES: Final[dict[str, type[SingleWriter]]] = {
    "adaptive": Adaptive,
    "paper": Paper,
    "single-writer": SingleWriter,
}
