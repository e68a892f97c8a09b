# SPDX-License-Identifier: GPL-2.0-or-later
"""The program's address space as the program asked for it.

One sorted list of areas with the protection the program gave them (its logical
protection; what coherence lets a host touch at a moment is a second matter,
kept by the coherence node). Home owns the list and chooses addresses; the
other hosts hold a copy. No I/O here.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec

from supervisor.arch import X86_64, Arch
from supervisor.units import PAGE_SIZE

READ: Final = 1
WRITE: Final = 2
EXEC: Final = 4


class Kind(IntEnum):
    GUEST = 0
    """On the guest memory memfd."""
    NATIVE = 1
    """Read-only private mapping of a file, as the kernel made it, at home."""
    FILE = 2
    """MAP_SHARED mapping of a file that nobody writes by it, on the file itself at home."""
    RESERVED = 3
    """Ours or the kernel's: the program may not be given these addresses."""
    JOINT = 4
    """At home only, on the kernel's own mapping: shared with other processes; or private,
    but beyond the end of its file, where the kernel raises SIGBUS."""


class Area(msgspec.Struct, frozen=True, array_like=True):
    """[start, end) with one protection (READ | WRITE | EXEC) and one kind."""

    start: int
    end: int
    protection: int
    kind: Kind = Kind.GUEST
    name: str = ""

    def cut(self, start: int, end: int, protection: int | None = None) -> Area:
        return Area(
            max(start, self.start),
            min(end, self.end),
            self.protection if protection is None else protection,
            self.kind,
            self.name,
        )

    def for_others(self) -> Area:
        """As other hosts are told of it: the name of a file is any bytes, a message is text."""
        if self.name.isascii():
            return self
        name = os.fsencode(self.name).decode(errors="replace")
        return Area(self.start, self.end, self.protection, self.kind, name)


class AddressSpace:
    """Areas sorted by start, disjoint, neighbours of the same sort merged."""

    def __init__(self, areas: list[Area] | None = None, arch: Arch = X86_64) -> None:
        self.top = arch.mmap_top
        self.bottom = arch.mmap_bottom
        self._areas: list[Area] = []
        self._starts: list[int] = []
        if areas:
            self._set(sorted(areas, key=lambda area: area.start))

    def __len__(self) -> int:
        return len(self._areas)

    def __iter__(self) -> Iterator[Area]:
        return iter(self._areas)

    def _set(self, areas: list[Area]) -> None:
        self._areas = areas
        self._starts = [area.start for area in areas]

    def find(self, address: int) -> Area | None:
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            area = self._areas[index]
            if address < area.end:
                return area
        return None

    def overlapping(self, start: int, end: int) -> list[Area]:
        """Areas, whole, that share a byte with [start, end)."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        for area in self._areas[index:]:
            if area.start >= end:
                break
            if area.end > start:
                found.append(area)
        return found

    def pieces(self, start: int, end: int) -> list[Area]:
        """The parts of areas inside [start, end)."""
        return [area.cut(start, end) for area in self.overlapping(start, end)]

    def covers(self, start: int, end: int, protection: int = 0) -> bool:
        """Is every byte of [start, end) mapped, with at least these rights?"""
        at = start
        for area in self.overlapping(start, end):
            if area.start > at or area.protection & protection != protection:
                return False
            if area.kind is Kind.RESERVED:
                return False
            at = area.end
        return at >= end

    def remove(self, start: int, end: int) -> list[Area]:
        """Take [start, end) away; the parts that were there."""
        taken = self.pieces(start, end)
        if taken:
            self._splice(start, end, [])
        return taken

    def add(self, area: Area) -> list[Area]:
        """Put an area in place of whatever was there; the parts replaced."""
        taken = self.pieces(area.start, area.end)
        self._splice(area.start, area.end, [area])
        return taken

    def protect(self, start: int, end: int, protection: int) -> list[Area]:
        """Change the protection of all areas in [start, end); the parts as they are now."""
        changed = [area.cut(start, end, protection) for area in self.overlapping(start, end)]
        self._splice(start, end, changed)
        return changed

    def _splice(self, start: int, end: int, middle: list[Area]) -> None:
        low = max(bisect_right(self._starts, start) - 1, 0)
        while low < len(self._areas) and self._areas[low].end <= start:
            low += 1
        high = low
        before: list[Area] = []
        after: list[Area] = []
        while high < len(self._areas) and self._areas[high].start < end:
            area = self._areas[high]
            if area.start < start:
                before.append(area.cut(area.start, start))
            if area.end > end:
                after.append(area.cut(end, area.end))
            high += 1
        # Neighbours are looked at too, so that equal ones merge.
        if low > 0 and not before:
            low -= 1
            before.append(self._areas[low])
        if high < len(self._areas) and not after:
            after.append(self._areas[high])
            high += 1
        merged: list[Area] = []
        for area in before + middle + after:
            if merged and _mergeable(merged[-1], area):
                merged[-1] = msgspec.structs.replace(merged[-1], end=area.end)
            else:
                merged.append(area)
        self._areas[low:high] = merged
        self._starts[low:high] = [area.start for area in merged]

    def free_range(self, length: int, hint: int = 0, ceiling: int = 0) -> int | None:
        """An address where `length` bytes are free: at the hint, else the highest gap.

        As the kernel does (arch_get_unmapped_area_topdown), from the top, or the ceiling, down.
        """
        if hint and hint % PAGE_SIZE == 0 and hint >= self.bottom \
                and hint + length <= self.top and not self.overlapping(hint, hint + length):
            return hint
        ceiling = ceiling or self.top
        for area in reversed(self._areas):
            if area.end <= self.bottom:
                break
            if area.start >= ceiling:
                continue
            if area.end < ceiling:
                start = (ceiling - length) // PAGE_SIZE * PAGE_SIZE
                if start >= area.end and start >= self.bottom:
                    return start
            ceiling = min(ceiling, area.start)
        start = (ceiling - length) // PAGE_SIZE * PAGE_SIZE
        return start if start >= self.bottom else None


def _mergeable(left: Area, right: Area) -> bool:
    return (
        left.end == right.start
        and left.protection == right.protection
        and left.kind == right.kind
        and left.name == right.name
    )
