# SPDX-License-Identifier: GPL-2.0-or-later
"""Which bytes could begin a site, and which addresses could be jumped to: supersets.

numpy looks at every byte offset, instruction boundary or not, so what is here
is never too little. It decides which functions are worth decoding (most hold
no candidate) and which addresses near a site must be kept as entry points
(branches, jump tables, code pointers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rewriter.elf import ET_EXEC, PF_X, SHF_EXECINSTR, Elf
from rewriter.numeric import np

Array = np.ndarray[Any, np.dtype[Any]]

NEAR: Final = 160
"""Bytes before and after a site within which an entry point can matter: what a
short jump reaches, and the instructions there."""
_CHUNK: Final = 1 << 24
_TABLE_ENTRIES_MAX: Final = 4096


def _set(*ranges: Sequence[int]) -> Array:
    table = np.zeros(256, dtype=bool)
    for r in ranges:
        table[list(r)] = True
    return table


_PREFIXES: Final = _set((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3))
_REX: Final = _set(range(0x40, 0x50))
_LOCKABLE: Final = _set(
    (0x0F, 0x80, 0x81, 0x83, 0xF6, 0xF7, 0xFE, 0xFF, 0x86, 0x87),
    [base + low for base in range(0, 0x38, 8) for low in (0, 1, 2, 3)],
)
_SHIFT_JCC: Final = _set(range(0x80, 0x90))


def code_areas(elf: Elf) -> list[tuple[int, int]]:
    """(start, end) of bytes that may be code: executable sections, else whole segments.

    Older linkers put read-only data into the executable segment; sections tell.
    """
    areas = [
        (s.addr, s.addr + s.size)
        for s in elf.sections
        if s.flags & SHF_EXECINSTR and s.size and elf.is_code(s.addr)
        and elf.is_code(s.addr + s.size - 1)
    ]  # fmt: skip
    if not areas:
        areas = [(s.vaddr, s.vaddr + s.filesz) for s in elf.code]
    return sorted(areas)


def _chunks(elf: Elf, overlap: int) -> Iterator[tuple[int, Array]]:
    """(address, bytes) of the executable segments in pieces that share `overlap` bytes."""
    for s in elf.code:
        data = np.frombuffer(elf.data, np.uint8, s.filesz, s.offset)
        for at in range(0, s.filesz, _CHUNK):
            yield s.vaddr + at, data[at : at + _CHUNK + overlap]


def site_candidates(elf: Elf) -> Array:
    """Ascending addresses of bytes that begin a site's prefix or opcode, and of others."""
    found = []
    for base, raw in _chunks(elf, 4):
        b = np.concatenate([raw, np.zeros(4, np.uint8)])
        after = b[1:]
        hits = []
        lock = np.flatnonzero(b[:-4] == 0xF0)
        then = after[lock]
        keep = _LOCKABLE[then] | _PREFIXES[then]
        if elf.bits == 64:
            keep |= _REX[then]
        hits.append(lock[keep])
        xchg = np.flatnonzero((b[:-4] & 0xFE) == 0x86)
        hits.append(xchg[after[xchg] < 0xC0])
        escape = np.flatnonzero(b[:-4] == 0x0F)
        second, third = b[escape + 1], b[escape + 2]
        keep = (second == 0xA2) | ((second == 0xAE) & (third >= 0xE8))
        hits.append(escape[keep | ((second == 0x01) & (third == 0xE8))])
        found.append(np.concatenate(hits).astype(np.int64) + base)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _relative32(elf: Elf, *, leas: bool) -> Iterator[tuple[Array, Array]]:
    """(source, target) addresses of all that could be a rel32 branch, or a rip-relative lea."""
    for base, raw in _chunks(elf, 8):
        size = len(raw) - 8
        if size <= 0:
            size = len(raw)
            raw = np.concatenate([raw, np.zeros(8, np.uint8)])
        first, second = raw[:size], raw[1 : size + 1]
        forms = [
            (np.flatnonzero((first & 0xFE) == 0xE8), 1),
            (np.flatnonzero((first == 0x0F) & _SHIFT_JCC[second]), 2),
            (np.flatnonzero((first == 0xC7) & (second == 0xF8)), 2),
        ]
        if leas and elf.bits == 64:
            forms.append((np.flatnonzero((first == 0x8D) & ((second & 0xC7) == 5)), 2))
        for at, skip in forms:
            at = at[at + skip + 4 <= len(raw)]
            value = _int32(raw, at + skip)
            yield at.astype(np.int64) + base, at + base + skip + 4 + value


def _int32(raw: Array, at: Array) -> Array:
    value = raw[at].astype(np.int64)
    for i in (1, 2, 3):
        value |= raw[at + i].astype(np.int64) << (8 * i)
    signed: Array = (value ^ 0x80000000) - 0x80000000
    return signed


class Windows:
    """The address windows around sites, for keeping only entry points that matter."""

    def __init__(self, sites: Array) -> None:
        self.sites = sites

    def near(self, addresses: Array) -> Array:
        """Those addresses that lie within NEAR bytes of a site."""
        if not len(self.sites) or not len(addresses):
            return addresses[:0]
        at = np.searchsorted(self.sites, addresses - NEAR)
        at = np.minimum(at, len(self.sites) - 1)
        close: Array = addresses[np.abs(self.sites[at] - addresses) <= NEAR]
        return close


def entry_points(elf: Elf, sites: Array) -> set[int]:
    """Addresses near a site that something in the file may jump or point to."""
    windows = Windows(sites)
    out: list[Array] = []
    tables: list[Array] = []
    data_at = [(s.vaddr, s.file_end) for s in elf.loads if not s.flags & PF_X]
    data_at += [(s.vaddr, s.file_end) for s in elf.loads if s.flags & PF_X]
    for _, target in _relative32(elf, leas=True):
        out.append(windows.near(target))
        for lo, hi in data_at:
            tables.append(target[(target >= lo) & (target < hi) & (target & 3 == 0)])
    out.extend(windows.near(words) for words in _pointers(elf))
    if elf.bits == 64 and tables:
        out.extend(_tables(elf, windows, np.unique(np.concatenate(tables))))
    return {int(a) for found in out for a in found}


def branches_into(elf: Elf, gaps: list[tuple[int, int]]) -> tuple[Array, Array]:
    """(sources, targets) of possible rel32 branches that land in one of the gaps.

    A `lea` of an address in a gap is no root: hand-written code keeps its
    constants there (SHA-256's, in libcrypto).
    """
    sources, targets = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for source, target in _relative32(elf, leas=False):
        inside = within(gaps, target)
        sources.append(source[inside])
        targets.append(target[inside])
    return np.concatenate(sources), np.concatenate(targets)


def pointed_to(elf: Elf, gaps: list[tuple[int, int]]) -> set[int]:
    """Addresses in the gaps that something in the file may jump or point to."""
    found = [target for _, target in _relative32(elf, leas=True)]
    found += _pointers(elf)
    return {int(a) for addresses in found for a in addresses[within(gaps, addresses)]}


def within(gaps: list[tuple[int, int]], addresses: Array) -> Array:
    """Of each address whether it lies in one of the gaps, which are disjoint and ascending."""
    if not gaps:
        return np.zeros(len(addresses), bool)
    lows, highs = np.array(gaps, np.int64).T
    at = np.searchsorted(lows, addresses, side="right") - 1
    inside: Array = (at >= 0) & (addresses < highs[np.maximum(at, 0)])
    return inside


def _pointers(elf: Elf) -> Iterator[Array]:
    """Words of the file that could be code addresses: RELA addends, REL and RELR places, data.

    In position-dependent code any four bytes may be an address; in i386
    position-independent code, an offset from the global offset table.
    """
    areas = code_areas(elf)
    lo, hi = areas[0][0], areas[-1][1]
    word = np.dtype("<u8" if elf.bits == 64 else "<u4")
    got = elf.section(".got.plt") or elf.section(".got")
    for s in elf.loads:
        start = s.offset + -s.offset % word.itemsize
        count = (s.offset + s.filesz - start) // word.itemsize
        if count > 0:
            words = np.frombuffer(elf.data, word, count, start)
            yield words[(words >= lo) & (words < hi)].astype(np.int64)
            if elf.bits == 32 and got is not None:
                moved = words.astype(np.int32).astype(np.int64) + got.addr
                yield moved[(moved >= lo) & (moved < hi)]
        if elf.type == ET_EXEC:
            for shift in range(4):
                count = (s.filesz - shift) // 4
                if count > 0:
                    words = np.frombuffer(elf.data, "<u4", count, s.offset + shift)
                    yield words[(words >= lo) & (words < hi)].astype(np.int64)


def _tables(elf: Elf, windows: Windows, bases: Array) -> Iterator[Array]:
    """Entries of jump tables: 32-bit offsets from the table, which code takes the address of."""
    areas = code_areas(elf)
    lo, hi = areas[0][0], areas[-1][1]
    for s in elf.loads:
        inside = bases[(bases >= s.vaddr) & (bases + 4 <= s.file_end)]
        if not len(inside):
            continue
        raw = np.frombuffer(elf.data, np.uint8, s.filesz, s.offset)
        first = _int32(raw, inside - s.vaddr) + inside
        for base in inside[(first >= lo) & (first < hi)]:
            at = int(base) - s.vaddr
            count = min((s.filesz - at) // 4, _TABLE_ENTRIES_MAX)
            entries = np.frombuffer(elf.data, "<i4", count, s.offset + at).astype(np.int64) + base
            wrong = (entries < lo) | (entries >= hi)
            stop = int(wrong.argmax()) if wrong.any() else count
            yield windows.near(entries[:stop])
