# SPDX-License-Identifier: GPL-2.0-or-later
"""Function ranges and landing pads from `.eh_frame`.

Every function compiled for x86-64 Linux has a frame description entry (FDE),
stripped files included, since unwinding must work. Its range is the one sure
statement in a binary of where code is: decoding inside such ranges meets no
data (median 97 % of text).

Source: Linux Standard Base 5.0, "Exception Frames"; DWARF 5 section 6.4;
the Itanium C++ ABI exception tables (LSDA) as gcc writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from rewriter.elf import PT_GNU_EH_FRAME, Elf
from rewriter.errors import Unsupported

OMIT: Final = 0xFF
_TABLE_ENCODING: Final = 0x3B
"""DW_EH_PE_datarel | sdata4, the only form linkers make, and the only one that unwinders search."""
_FDES_MAX: Final = 4_000_000
_CALL_SITES_MAX: Final = 100_000


class Cie(NamedTuple):
    """A common information entry. `instructions` are its initial CFI bytes."""

    address: int
    augmentation: str
    code_align: int
    data_align: int
    return_register: int
    pointer_encoding: int
    lsda_encoding: int
    personality: tuple[int, int] | None
    """(encoding, address; of the pointer to it when the encoding is indirect)"""
    signal_frame: bool
    instructions: bytes


class Fde(NamedTuple):
    """A frame description entry: code range [start, end), link-time addresses."""

    start: int
    end: int
    cie: Cie
    lsda: int
    """address of the language-specific data, 0 for none"""
    address: int
    instructions: bytes


class Reader:
    """A cursor over the bytes of a segment; reading past the end raises IndexError."""

    def __init__(self, data: bytes, base: int, word: int) -> None:
        self.data, self.base, self.word, self.at = data, base, word, 0

    def take(self, length: int, *, signed: bool = False) -> int:
        """An integer of `length` bytes."""
        raw = self.data[self.at : self.at + length]
        if len(raw) != length:
            raise IndexError
        self.at += length
        return int.from_bytes(raw, "little", signed=signed)

    def uleb(self) -> int:
        """Unsigned LEB128 of at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise IndexError

    def sleb(self) -> int:
        """Signed LEB128 of at most 64 bits."""
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def encoded(self, encoding: int, data_base: int = 0) -> int:
        """A DW_EH_PE pointer; the indirect bit is the caller's; 0 stays 0 (no pointer)."""
        if encoding == OMIT:
            return 0
        here = self.base + self.at
        form = encoding & 0x0F
        if form == 0x01:
            value = self.uleb()
        elif form == 0x09:
            value = self.sleb()
        else:
            sizes = {0: self.word, 2: 2, 3: 4, 4: 8, 8: self.word, 0x0A: 2, 0x0B: 4, 0x0C: 8}
            if form not in sizes:
                raise IndexError
            value = self.take(sizes[form], signed=form >= 8)
        if value == 0:
            return 0
        relative = encoding & 0x70
        if relative == 0x10:
            value += here
        elif relative == 0x30:
            value += data_base
        elif relative:
            raise IndexError
        return value & ((1 << 8 * self.word) - 1)


def frame_section(elf: Elf) -> tuple[int, int] | None:
    """(address, bytes) of `.eh_frame`, from its section or else from PT_GNU_EH_FRAME.

    The header says where the table begins; its last record is the last that the
    search table behind the header names.
    """
    s = elf.section(".eh_frame")
    if s is not None and s.size and elf.segment_at(s.addr) is not None:
        return s.addr, s.size
    header = elf.segment(PT_GNU_EH_FRAME)
    if header is None:
        return None
    raw = elf.read(header.vaddr, header.filesz)
    if len(raw) < 8 or raw[0] != 1:
        return None
    reader = Reader(raw, header.vaddr, elf.layout.word)
    reader.at = 4
    try:
        start = reader.encoded(raw[1], header.vaddr)
        last = _last_record(reader, raw[2], raw[3])
    except IndexError:
        return None
    length = elf.read(last, 4)
    if elf.segment_at(start) is None or last < start or len(length) < 4:
        return None
    return start, last + 4 + int.from_bytes(length, "little") - start


def _last_record(r: Reader, count_encoding: int, encoding: int) -> int:
    """The highest frame record that the search table, at the cursor, names; IndexError."""
    if encoding != _TABLE_ENCODING:
        raise IndexError
    count = r.encoded(count_encoding, r.base)
    table = r.data[r.at : r.at + 8 * count]
    if not count or len(table) != 8 * count:
        raise IndexError
    last: int = max(place for _, place in struct.iter_unpack("<ii", table))
    return last + r.base


def read_frames(elf: Elf) -> list[Fde]:
    """All FDEs over code, ascending by start, disjoint; raises Unsupported.

    Of identical code folded by the linker several FDEs share a start: the
    longest is kept. One that reaches into the next is cut there.
    """
    where = frame_section(elf)
    if where is None:
        return []
    start, size = where
    reader = Reader(elf.read(start, size), start, elf.layout.word)
    try:
        rows = sorted(_records(elf, reader), key=lambda f: (f.start, -f.end))
    except IndexError:
        # The kernel reads no such table: the program may run well without it.
        raise Unsupported(elf.name, "the .eh_frame unwind table is damaged") from None
    out: list[Fde] = []
    for f in rows:
        if out and out[-1].start == f.start:
            continue
        if out and out[-1].end > f.start:
            out[-1] = out[-1]._replace(end=f.start)
        out.append(f)
    return out


def _records(elf: Elf, r: Reader) -> Iterator[Fde]:
    cies: dict[int, Cie] = {}
    size = len(r.data)
    code = [(s.vaddr, s.vaddr + s.filesz) for s in elf.code]
    count = 0
    while r.at + 4 <= size:
        record = r.at
        length = r.take(4)
        if length == 0:
            # A zero terminator ends the table for unwinders, but a linker may
            # have concatenated more behind it (crtend.o not last).
            continue
        wide = length == 0xFFFFFFFF
        if wide:
            length = r.take(8)
        body = r.at
        end = body + length
        if end > size:
            raise IndexError
        delta = r.take(8 if wide else 4)
        if delta:
            count += 1
            if count > _FDES_MAX:
                raise IndexError
            cie_at = body - delta
            if cie_at < 0:
                raise IndexError
            cie = cies.get(cie_at)
            if cie is None:
                cie = cies[cie_at] = _read_cie(Reader(r.data, r.base, r.word), cie_at)
            lo = r.encoded(cie.pointer_encoding)
            span = r.encoded(cie.pointer_encoding & 0x0F)
            lsda = 0
            if cie.augmentation.startswith("z"):
                extra = r.uleb()
                rest = r.at + extra
                if cie.lsda_encoding != OMIT:
                    lsda = r.encoded(cie.lsda_encoding)
                r.at = rest
            if span and any(a <= lo and lo + span <= b for a, b in code):
                yield Fde(lo, lo + span, cie, lsda, r.base + record, r.data[r.at : end])
        r.at = end


def _read_cie(r: Reader, at: int) -> Cie:
    r.at = at
    length = r.take(4)
    wide = length == 0xFFFFFFFF
    if wide:
        length = r.take(8)
    end = r.at + length
    if end > len(r.data) or r.take(8 if wide else 4) != 0:
        raise IndexError
    version = r.take(1)
    stop = r.data.find(b"\0", r.at, end)
    if version not in (1, 3, 4) or stop < 0:
        raise IndexError
    text = r.data[r.at : stop].decode("latin-1")
    r.at = stop + 1
    if version == 4:
        r.take(2)
    code_align, data_align = r.uleb(), r.sleb()
    return_register = r.take(1) if version == 1 else r.uleb()
    pointer, lsda, personality, signal = 0, OMIT, None, False
    if text.startswith("z"):
        rest = r.uleb() + r.at
        for letter in text[1:]:
            if letter == "R":
                pointer = r.take(1)
            elif letter == "L":
                lsda = r.take(1)
            elif letter == "P":
                encoding = r.take(1)
                personality = (encoding, r.encoded(encoding & 0x7F))
            elif letter == "S":
                signal = True
            elif letter != "B":
                break
        r.at = rest
    elif text:
        raise IndexError
    return Cie(
        r.base + at, text, code_align, data_align, return_register, pointer, lsda,
        personality, signal, r.data[r.at : end],
    )  # fmt: skip


class CallSite(NamedTuple):
    """A row of an LSDA's call-site table; addresses link-time, `pad` 0 for none."""

    start: int
    end: int
    pad: int
    action: int


def call_sites(elf: Elf, fde: Fde) -> list[CallSite]:
    """The call-site table of a function's LSDA; empty where there is none or it is unreadable."""
    if not fde.lsda:
        return []
    r = Reader(elf.read(fde.lsda, 1 << 20), fde.lsda, elf.layout.word)
    out: list[CallSite] = []
    try:
        encoding = r.take(1)
        base = fde.start if encoding == OMIT else r.encoded(encoding)
        if r.take(1) != OMIT:
            r.uleb()
        encoding = r.take(1)
        end = r.uleb() + r.at
        while r.at < end and len(out) < _CALL_SITES_MAX:
            start, length = r.encoded(encoding & 0x0F), r.encoded(encoding & 0x0F)
            pad, action = r.encoded(encoding & 0x0F), r.uleb()
            lo = fde.start + start
            out.append(CallSite(lo, lo + length, base + pad if pad else 0, action))
    except IndexError:
        return out
    return out
