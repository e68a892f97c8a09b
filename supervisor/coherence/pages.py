# SPDX-License-Identifier: GPL-2.0-or-later
"""Page maps, runs of pages, and one host's own copies and pins.

A `PageMap` is a sparse array over page numbers: a dictionary of chunks of 512
entries, so that setting or scanning a range costs a slice operation for each
2 MiB of address space, a never-touched chunk costs nothing, and one page costs
one dictionary access.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from supervisor.coherence.messages import Access, Run

_ACCESS: Final = tuple(Access)  # indexing is several times faster than calling the enum
_new: Final = tuple.__new__  # what a NamedTuple's own does in one call more: dozens a fault

_CHUNK_SHIFT: Final = 9
_CHUNK_PAGES: Final = 1 << _CHUNK_SHIFT
_CHUNK_MASK: Final = _CHUNK_PAGES - 1


class Span(NamedTuple):
    """`count` consecutive pages from `first`."""

    first: int
    count: int  # type: ignore[assignment]


class Valued(NamedTuple):
    """A span over which a page map has one value."""

    first: int
    count: int  # type: ignore[assignment]
    value: int


class PageMap:
    """Page number -> int, `default` where nothing was set."""

    __slots__ = ("_chunks", "default")

    def __init__(self, default: int) -> None:
        self.default = default
        self._chunks: dict[int, list[int]] = {}

    def get(self, page: int) -> int:
        chunk = self._chunks.get(page >> _CHUNK_SHIFT)
        return self.default if chunk is None else chunk[page & _CHUNK_MASK]

    def set(self, first: int, count: int, value: int) -> None:
        if count == 1:
            chunk = self._chunks.get(first >> _CHUNK_SHIFT)
            if chunk is None:
                if value == self.default:
                    return
                chunk = self._chunks[first >> _CHUNK_SHIFT] = [self.default] * _CHUNK_PAGES
            chunk[first & _CHUNK_MASK] = value
            return
        end = first + count
        if value == self.default:
            self._clear(first, end)
            return
        while first < end:
            index, at = first >> _CHUNK_SHIFT, first & _CHUNK_MASK
            length = min(_CHUNK_PAGES - at, end - first)
            chunk = self._chunks.get(index)
            if chunk is None:
                chunk = self._chunks[index] = [self.default] * _CHUNK_PAGES
            chunk[at : at + length] = [value] * length
            first += length

    def _clear(self, first: int, end: int) -> None:
        for index in self._indices(first, end):
            base = index << _CHUNK_SHIFT
            chunk = self._chunks[index]
            low, high = max(first - base, 0), min(end - base, _CHUNK_PAGES)
            if high - low < _CHUNK_PAGES:
                chunk[low:high] = [self.default] * (high - low)
                if chunk.count(self.default) < _CHUNK_PAGES:
                    continue
            del self._chunks[index]

    def _indices(self, first: int, end: int) -> list[int]:
        """Chunks that exist within [first, end), ascending."""
        low, high = first >> _CHUNK_SHIFT, (end - 1) >> _CHUNK_SHIFT
        if high - low < len(self._chunks):
            return [index for index in range(low, high + 1) if index in self._chunks]
        return sorted(index for index in self._chunks if low <= index <= high)

    def runs(self, first: int, count: int) -> list[Valued]:
        """The range as maximal spans of equal value, ascending, without holes."""
        if count == 1:
            return [_new(Valued, (first, 1, self.get(first)))]
        end = first + count
        starts: list[tuple[int, int]] = []  # (page at which a value begins, value)
        page, default = first, self.default
        for index in self._indices(first, end):
            base = index << _CHUNK_SHIFT
            if base > page:
                starts.append((page, default))
                page = base
            low, high = page - base, min(end - base, _CHUNK_PAGES)
            part = self._chunks[index][low:high]
            if part.count(part[0]) == len(part):
                starts.append((page, part[0]))
            else:
                previous = None
                for at, value in enumerate(part, page):
                    if value != previous:
                        starts.append((at, value))
                        previous = value
            page = base + high
        if page < end:
            starts.append((page, default))
        return _spans_between(starts, end)

    def touched(self) -> list[Valued]:
        """Every span that differs from the default."""
        found: list[Valued] = []
        for index in sorted(self._chunks):
            base = index << _CHUNK_SHIFT
            found += [run for run in self.runs(base, _CHUNK_PAGES) if run.value != self.default]
        return found


def _spans_between(starts: list[tuple[int, int]], end: int) -> list[Valued]:
    spans: list[Valued] = []
    at, value = starts[0]
    for page, following in starts[1:]:
        if following != value:
            spans.append(Valued(at, page - at, value))
            at, value = page, following
    spans.append(Valued(at, end - at, value))
    return spans


# Runs -------------------------------------------------------------------------


def run_of(first: int, count: int, access: int) -> Run:
    return _new(Run, (first, count, _ACCESS[access]))


def normalised(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Ascending, disjoint, merged where adjacent; of two accesses the greater counts."""
    ordered = [run for run in runs if run.count > 0]
    if len(ordered) < 2:
        return tuple(ordered)
    ordered.sort()
    if all(one.first + one.count <= other.first for one, other in pairwise(ordered)):
        merged: list[Run] = []
        for run in ordered:
            append_run(merged, *run)
        return tuple(merged)
    edges = sorted({edge for run in ordered for edge in (run.first, run.first + run.count)})
    merged = []
    for low, high in pairwise(edges):
        access = max(
            (run.access for run in ordered if run.first <= low and high <= run.first + run.count),
            default=Access.NONE,
        )
        if access == Access.NONE:
            continue
        append_run(merged, low, high - low, access)
    return tuple(merged)


def append_run(runs: list[Run], first: int, count: int, access: int) -> None:
    """Append, or lengthen the last run when this one continues it."""
    if runs:
        last = runs[-1]
        if last.access == access and last.first + last.count == first:
            runs[-1] = _new(Run, (last.first, last.count + count, last.access))
            return
    runs.append(_new(Run, (first, count, _ACCESS[access])))


def overlaps(first: int, count: int, other_first: int, other_count: int) -> bool:
    return first < other_first + other_count and other_first < first + count


def any_overlap(runs: Iterable[Run], spans: Iterable[Span | Run]) -> bool:
    spans = list(spans)
    for first, count, *_ in runs:
        end = first + count
        for span in spans:
            if first < span[0] + span[1] and span[0] < end:
                return True
    return False


def without(runs: Iterable[Run], first: int, count: int) -> list[Run]:
    """The runs less the pages of [first, first + count)."""
    left: list[Run] = []
    end = first + count
    for run in runs:
        run_end = run.first + run.count
        if run.first < min(run_end, first):
            left.append(run_of(run.first, min(run_end, first) - run.first, run.access))
        if max(run.first, end) < run_end:
            low = max(run.first, end)
            left.append(run_of(low, run_end - low, run.access))
    return left


def covers(runs: tuple[Run, ...], needs: tuple[Run, ...]) -> bool:
    """Every page of `needs` is in `runs` (both normalised) with at least its access."""
    for need in needs:
        page, end = int(need.first), need.first + need.count
        at = bisect_right(runs, page, key=_first) - 1
        while page < end:
            if not 0 <= at < len(runs):
                return False
            run = runs[at]
            if not run.first <= page < run.first + run.count or run.access < need.access:
                return False
            page = run.first + run.count
            at += 1
    return True


def _first(run: Run) -> int:
    return run.first


# One host ---------------------------------------------------------------------


class LocalPages:
    """What this host's guest may do to each page, and which pages are pinned.

    Invariant: a pinned run is accessible with at least the pin's access.
    """

    __slots__ = ("access", "pins", "touched")

    def __init__(self, default: Access) -> None:
        self.access = PageMap(default)
        # 1 where this host's memory may hold something else than zeros.
        self.touched = PageMap(0)
        self.pins: dict[int, tuple[Run, ...]] = {}

    def allows(self, first: int, count: int, access: int) -> bool:
        if count == 1:
            return self.access.get(first) >= access
        return all(run.value >= access for run in self.access.runs(first, count))

    def satisfied(self, needs: Iterable[Run]) -> bool:
        for first, count, access in needs:  # noqa: SIM110 (a generator costs as much again)
            if not self.allows(first, count, access):
                return False
        return True

    def above(self, first: int, count: int, access: int) -> list[Valued]:
        """Spans whose access in force is greater than `access`."""
        return [run for run in self.access.runs(first, count) if run.value > access]

    def pinned_against(self, first: int, count: int, keep: int) -> bool:
        """Whether a pin forbids that only `keep` is left of these pages."""
        if not self.pins:
            return False
        for runs in self.pins.values():
            for run in runs:
                if run.access > keep and overlaps(run.first, run.count, first, count):
                    return True
        return False

    def unpinned_part(self, first: int, count: int, keep: int) -> list[Span]:
        """The pages of the span whose access no pin holds above `keep`."""
        if not self.pins:
            return [Span(first, count)]
        left = [run_of(first, count, Access.READ)]
        for runs in self.pins.values():
            for run in runs:
                if run.access > keep:
                    left = without(left, run.first, run.count)
        return [Span(run.first, run.count) for run in left]

    def drop_pins(self, first: int, count: int) -> None:
        for requester, runs in list(self.pins.items()):
            left = without(runs, first, count)
            if len(left) != len(runs) or tuple(left) != runs:
                self.pins[requester] = tuple(left)
