# SPDX-License-Identifier: GPL-2.0-or-later
"""From ranges of bytes, as instructions and system calls want them, to runs of pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from supervisor.areas import EXEC, WRITE, AddressSpace, Area, Kind
from supervisor.coherence.messages import Access, Run
from supervisor.coherence.policy import WINDOW_PAGES_MAX
from supervisor.coherence.streams import AHEAD_WINDOWS_MAX
from supervisor.units import PAGE_MASK, PAGE_SHIFT, PageNumber

ROOM_ABOVE_MAX: Final = (AHEAD_WINDOWS_MAX + 2) * WINDOW_PAGES_MAX
"""A stream asks for no more."""

CONSTANT_BYTES_MAX: Final = 512 << 10
"""Longer files that are only read may be data, whose pages are wanted in some order."""


def runs_of(ranges: Iterable[tuple[int, int, Access]]) -> tuple[Run, ...]:
    """Pages of ranges (address, bytes, access): ascending, disjoint, each with the greatest
    access wanted."""
    spans = [
        (address >> PAGE_SHIFT, (address + length - 1 >> PAGE_SHIFT) + 1, access)
        for address, length, access in ranges
        if length > 0
    ]
    if len(spans) == 1:
        low, high, access = spans[0]
        return (Run(PageNumber(low), high - low, access),)
    bounds = sorted({bound for low, high, _ in spans for bound in (low, high)})
    runs: list[Run] = []
    for low, high in itertools.pairwise(bounds):
        wanted = [access for start, end, access in spans if start <= low and high <= end]
        if not wanted:
            continue
        access = max(wanted)
        if runs and runs[-1].access == access and runs[-1].first + runs[-1].count == low:
            runs[-1] = Run(runs[-1].first, runs[-1].count + high - low, access)
        else:
            runs.append(Run(PageNumber(low), high - low, access))
    return tuple(runs)


def mapped_runs(
    space: AddressSpace, ranges: Iterable[tuple[int, int, Access]]
) -> tuple[Run, ...]:
    """As `runs_of`; pages that are not mapped any more are left out."""
    mapped = []
    for address, length, access in ranges:
        for area in space.pieces(address & ~PAGE_MASK, address + length + PAGE_MASK & ~PAGE_MASK):
            mapped.append((area.start, area.end - area.start, access))
    return runs_of(mapped)


def room(space: AddressSpace, runs: tuple[Run, ...], page: int) -> tuple[int, int, int, bool]:
    """Of the run that has this page, how many pages behind it are of the same area as its
    last one, and before it as its first one, within bounds; the page; and whether what is
    there is constant. (See `Fault`.)"""
    run = next(
        (run for run in runs if run.first <= page < run.first + run.count), runs[-1]
    )
    start, end = run.first << PAGE_SHIFT, run.first + run.count << PAGE_SHIFT
    high = space.find(end - 1)
    low = high if high is not None and high.start <= start else space.find(start)
    return (
        0 if high is None else min(high.end - end >> PAGE_SHIFT, ROOM_ABOVE_MAX),
        0 if low is None else min(start - low.start >> PAGE_SHIFT, WINDOW_PAGES_MAX),
        page,
        len(runs) == 1 and low is high and high is not None and _is_constant(high),
    )


def _is_constant(area: Area) -> bool:
    """Code of a file, or a little that is only read: tables, and what the linker has filled in."""
    if area.protection & WRITE or not area.name.startswith("/"):
        return False
    few = area.end - area.start <= CONSTANT_BYTES_MAX
    return area.kind in (Kind.NATIVE, Kind.GUEST) and (few or bool(area.protection & EXEC))
