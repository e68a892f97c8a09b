# SPDX-License-Identifier: GPL-2.0-or-later
"""Language-specific data of trampolines: what an exception raised inside one finds.

A fault in an instruction can become an exception (`-fnon-call-exceptions`, a
forced unwind by asynchronous cancellation). The personality routine then looks
the address up in the function's call-site table. A trampoline's address is in
none, so it gets a table of its own: the rows that cover the original
addresses, the same landing pads, actions and types.

Source: gcc `libstdc++-v3/libsupc++/eh_personality.cc`; the Itanium C++ ABI,
exception handling, level II.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from rewriter.cfi import uleb
from rewriter.elf import Elf
from rewriter.frames import OMIT, CallSite, Fde, Reader, call_sites

_SPECS_MAX = 128
_TYPES_MAX = 10_000
_LENGTH_BYTES = 3
"""A padded ULEB128, whose length is known before its value."""


class Tables(NamedTuple):
    """The parts of an LSDA behind its call-site table; addresses link-time.

    `block` runs from the action table's start to the type table's base, `specs`
    are bytes after the base; `types` how many type entries may be in use.
    """

    pad_base: int
    type_encoding: int
    type_base: int
    block: bytes
    specs: bytes
    types: int


class Region(NamedTuple):
    """Part of a trampoline that stands for an original address."""

    start: int
    end: int
    original: int


def read_tables(elf: Elf, fde: Fde) -> Tables | None:
    """What of a function's LSDA a trampoline's has to repeat; None when it is unreadable."""
    r = Reader(elf.read(fde.lsda, 1 << 20), fde.lsda, elf.layout.word)
    try:
        encoding = r.take(1)
        pad_base = fde.start if encoding == OMIT else r.encoded(encoding)
        type_encoding = r.take(1)
        type_base = 0
        if type_encoding != OMIT:
            offset = r.uleb()
            type_base = r.base + r.at + offset
        r.take(1)
        length = r.uleb()
        actions = r.base + r.at + length
        if not type_base:
            # No types: the actions run to an unknown end, and only cleanups use them.
            return Tables(pad_base, OMIT, 0, elf.read(actions, _SPECS_MAX), b"", 0)
        if not actions <= type_base <= actions + (1 << 20):
            return None
        block = elf.read(actions, type_base - actions)
        specs = elf.read(type_base, _SPECS_MAX)
        rows = call_sites(elf, fde)
        return Tables(pad_base, type_encoding, type_base, block, specs, _types(block, specs, rows))
    except IndexError:
        return None


def _types(block: bytes, specs: bytes, rows: list[CallSite]) -> int:
    """The greatest index into the type table that the rows' actions lead to."""
    r = Reader(block, 0, 8)
    greatest = 0
    seen: set[int] = set()
    for row in rows:
        at = row.action
        while at and at not in seen and len(seen) < _TYPES_MAX:
            seen.add(at)
            r.at = at - 1
            kind = r.sleb()
            here = r.at
            step = r.sleb()
            at = here + step + 1 if step else 0
            if kind > 0:
                greatest = max(greatest, kind)
            elif kind < 0:
                listed = Reader(specs, 0, 8)
                listed.at = -kind - 1
                while number := listed.uleb():
                    greatest = max(greatest, number)
    if greatest > _TYPES_MAX:
        raise IndexError
    return greatest


def make(elf: Elf, fde: Fde, tables: Tables, regions: list[Region], at: int) -> bytes:
    """The LSDA of a trampoline, placed at `at`; struct.error when a distance overflows.

    `regions` ascending; the first begins where the trampoline's frame does.
    """
    rows = call_sites(elf, fde)
    start = regions[0].start
    table = bytearray()
    for region in regions:
        row = next((c for c in rows if c.start <= region.original < c.end), None)
        if row is not None:
            pad = row.pad - tables.pad_base if row.pad else 0
            table += struct.pack("<III", region.start - start, region.end - region.start, pad)
            table += uleb(row.action)
    out = bytearray(b"\x1b" + struct.pack("<i", tables.pad_base - (at + 1)))
    out.append(tables.type_encoding)
    behind = 1 + _LENGTH_BYTES + len(table) + len(tables.block)
    if tables.type_base:
        out += _padded(behind)
    out.append(0x03)
    out += _padded(len(table)) + table
    block_at = at + len(out)
    out += tables.block + tables.specs
    if tables.type_base:
        _move_types(out, elf, tables, at, block_at + len(tables.block))
    return bytes(out)


def _padded(value: int) -> bytes:
    """ULEB128 of exactly _LENGTH_BYTES bytes."""
    if value >= 1 << 7 * _LENGTH_BYTES:
        raise struct.error
    return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))


def _move_types(out: bytearray, elf: Elf, tables: Tables, at: int, base: int) -> None:
    """Correct pc-relative type entries, which precede `base`, for their new place."""
    if tables.type_encoding & 0x70 != 0x10:
        return
    form = tables.type_encoding & 0x0F
    formats = {0x0B: "<i", 0x03: "<I", 0x0C: "<q", 0: "<Q" if elf.bits == 64 else "<I"}
    if form not in formats:
        raise struct.error
    entry = struct.Struct(formats[form])
    for i in range(1, tables.types + 1):
        place = base - at - i * entry.size
        (value,) = entry.unpack_from(out, place)
        if value:
            entry.pack_into(out, place, value + tables.type_base - base)
