# SPDX-License-Identifier: GPL-2.0-or-later
"""The side map of a rewritten file: its traps and redirects, and its form on disk.

Light to import and quick to load (libc's, 966 traps, in a millisecond): the numbers are
arrays.

Form, little-endian: `DSMMAP`, a version byte, a zero byte, the SHA-256 of what
follows; then a JSON header's length (u32) and the JSON header; then arrays.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from rewriter.kinds import KINDS, Kind

MAGIC: Final = b"DSMMAP\x03\0"
_COLUMNS: Final = 8
_HEAD: Final = len(MAGIC) + 32 + 4


class TrapSite(NamedTuple):
    """One `8e c8`; link-time addresses.

    Whoever handles the trap resumes at `native`, where the original instruction
    (or its equivalent, rip-relative operand moved) stands, `length` bytes long;
    `after` is the address behind it. `address` is the instruction's own.

    A thread whose instruction pointer is in [`checked`, `native`] has read the
    armed byte but not yet begun the instruction: whoever sets the byte must see
    to it. `checked` is 0 where no byte is read (the site always traps).
    """

    address: int
    native: int
    length: int
    after: int
    kind: Kind
    function: str
    checked: int


class Extra(NamedTuple):
    """A PT_LOAD that the rewritten file has and the original has not."""

    vaddr: int
    memsz: int
    file_offset: int
    filesz: int
    flags: int


class SideMap(NamedTuple):
    """What is stored beside a rewritten file. `header` holds strings and small numbers."""

    header: dict[str, Any]
    redirects: Mapping[int, int]
    traps: Mapping[int, TrapSite]
    extra: tuple[Extra, ...]
    heads: Mapping[int, int]
    """First instructions of patches that are no sites: new address -> original."""


def moved_instructions(
    redirects: Mapping[int, int], traps: Mapping[int, TrapSite], heads: Mapping[int, int]
) -> dict[int, int]:
    """New address of every instruction that was moved -> where it stood."""
    moved = {to: at for at, to in redirects.items()}
    moved.update((site.native, site.address) for site in traps.values())
    moved.update(heads)
    return moved


def pack(side: SideMap) -> bytes:
    """The bytes of a side map."""
    names = sorted({t.function for t in side.traps.values()})
    index = {name: i for i, name in enumerate(names)}
    rows = [
        (
            at,
            t.address,
            t.native,
            t.length,
            t.after,
            KINDS.index(t.kind),
            index[t.function],
            t.checked,
        )
        for at, t in sorted(side.traps.items())
    ]
    header = dict(side.header)
    header.update(
        traps=len(rows), redirects=len(side.redirects), heads=len(side.heads),
        extra=len(side.extra), names=names,
    )  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    body = bytearray(len(text).to_bytes(4, "little") + text)
    for column in zip(*rows, strict=True):
        body += _bytes(array("Q", column))
    for table in (side.redirects, side.heads):
        for column in zip(*sorted(table.items()), strict=True):
            body += _bytes(array("Q", column))
    for extra in side.extra:
        body += _bytes(array("Q", extra))
    return MAGIC + hashlib.sha256(body).digest() + bytes(body)


def unpack(data: bytes) -> SideMap:
    """A side map from its bytes; ValueError when they are damaged."""
    if len(data) < _HEAD or data[: len(MAGIC)] != MAGIC:
        raise ValueError("not a side map")
    body = memoryview(data)[len(MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : len(MAGIC) + 32]:
        raise ValueError("a damaged side map")
    length = int.from_bytes(body[:4], "little")
    header = json.loads(bytes(body[4 : 4 + length]))
    at = 4 + length

    def column(count: int) -> array[int]:
        nonlocal at
        out = array("Q")
        out.frombytes(body[at : at + 8 * count])
        if sys.byteorder != "little":
            out.byteswap()
        at += 8 * count
        return out

    traps = header.pop("traps")
    columns = [column(traps) for _ in range(_COLUMNS)] if traps else [array("Q")] * _COLUMNS
    names = header.pop("names")
    sites = {
        at: TrapSite(address, native, length, after, KINDS[kind], names[name], checked)
        for at, address, native, length, after, kind, name, checked in zip(*columns, strict=True)
    }
    tables = []
    for name in ("redirects", "heads"):
        count = header.pop(name)
        tables.append(dict(zip(column(count), column(count), strict=True)))
    extra = tuple(Extra(*column(5)) for _ in range(header.pop("extra")))
    return SideMap(header, tables[0], sites, extra, tables[1])


def _bytes(values: array[int]) -> bytes:
    if sys.byteorder != "little":
        values = array("Q", values)
        values.byteswap()
    return values.tobytes()
