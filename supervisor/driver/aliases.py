# SPDX-License-Identifier: GPL-2.0-or-later
"""Two mappings of the same bytes of a file: a store through one is to be seen through the other.

At home they are the same memory. Elsewhere pages are copies by address, of which
coherence keeps each by itself.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from supervisor.areas import AddressSpace, Kind


class _Mapping(NamedTuple):
    start: int
    end: int
    offset: int
    name: str
    stores: bool
    """shared, of a file that may be written"""


class FileMappings:
    """The files that the program has mapped, by identity."""

    def __init__(self) -> None:
        self._mappings: dict[tuple[int, int], list[_Mapping]] = {}

    def add(
        self,
        space: AddressSpace,
        file: int,
        offset: int,
        start: int,
        end: int,
        name: str,
        shared: bool,
    ) -> list[tuple[int, int]]:
        """Enter a mapping; the (start, end) of those there already that it is an alias of."""
        status = os.fstat(file)
        stores = shared and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        new = _Mapping(start, end, offset, name, stores)
        known = [m for m in self._mappings.get((status.st_dev, status.st_ino), ())
                 if _is_there(space, m)]
        aliases = [
            (m.start, m.end)
            for m in known
            if (m.stores or stores) and m.offset < offset + end - start
            and offset < m.offset + m.end - m.start and m.start != start
        ]
        self._mappings[status.st_dev, status.st_ino] = [*known, new]
        return aliases


    def of(self, device: int, inode: int) -> FilePlaces:
        """Where a file is mapped."""
        return FilePlaces(self._mappings.get((device, inode), ()))

    def move(self, old: int, target: int, length: int) -> None:
        """What was mapped from `old` on is at the target now (or too)."""
        for known in self._mappings.values():
            known += [
                m._replace(start=target, end=target + length, offset=m.offset + old - m.start)
                for m in known
                if m.start <= old < m.end
            ]


class FilePlaces:
    """The mappings of one file; false where there are none."""

    def __init__(self, mappings: Sequence[_Mapping]) -> None:
        self._mappings = mappings

    def __bool__(self) -> bool:
        return bool(self._mappings)

    def places(self, space: AddressSpace, low: int, high: int) -> Iterator[tuple[int, int]]:
        """What of the file's bytes [low, high), in whole pages, other hosts may have copies of."""
        for mapping in self._mappings:
            start = max(mapping.start, mapping.start + low - mapping.offset)
            end = min(mapping.end, mapping.start + high - mapping.offset)
            for area in space.pieces(start, end) if start < end else ():
                if area.name == mapping.name and area.kind in (Kind.FILE, Kind.NATIVE):
                    yield area.start, area.end


def _is_there(space: AddressSpace, mapping: _Mapping) -> bool:
    """Whether some of it may still be mapped."""
    return any(
        area.name == mapping.name and area.kind in (Kind.FILE, Kind.NATIVE, Kind.JOINT)
        for area in space.pieces(mapping.start, mapping.end)
    )
