# SPDX-License-Identifier: GPL-2.0-or-later
"""Disjoint ranges of addresses, each with a value. No I/O here."""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, TypeVar

T = TypeVar("T")


class RangeMap(Generic[T]):
    """What is set for a range [start, end) replaces what was set for parts of it."""

    def __init__(self) -> None:
        # Invariant: sorted by start, disjoint.
        self._starts: list[int] = []
        self._entries: list[tuple[int, int, T]] = []

    def __bool__(self) -> bool:
        return bool(self._entries)

    def set(self, start: int, end: int, value: T | None) -> None:
        """None for no value."""
        kept: list[tuple[int, int, T]] = []
        for low, high, other in self._entries:
            if high <= start or end <= low:
                kept.append((low, high, other))
                continue
            if low < start:
                kept.append((low, start, other))
            if end < high:
                kept.append((end, high, other))
        if value is not None:
            kept.append((start, end, value))
        kept.sort(key=lambda entry: entry[0])
        self._entries = kept
        self._starts = [entry[0] for entry in kept]

    def at(self, address: int) -> T | None:
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._entries[index][1]:
            return self._entries[index][2]
        return None

    def pieces(self, address: int, length: int) -> list[tuple[int, int, T | None]]:
        """(address, length, value) of each piece of a range that has one value, or none."""
        end = address + length
        index = max(bisect_right(self._starts, address) - 1, 0)
        pieces: list[tuple[int, int, T | None]] = []
        for low, high, other in self._entries[index:]:
            if low >= end:
                break
            if high <= address:
                continue
            if address < low:
                pieces.append((address, low - address, None))
                address = low
            stop = min(high, end)
            pieces.append((address, stop - address, other))
            address = stop
        if address < end:
            pieces.append((address, end - address, None))
        return pieces
