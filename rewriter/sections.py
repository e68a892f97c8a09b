# SPDX-License-Identifier: GPL-2.0-or-later
"""Section headers and symbols for what was added: for objdump, nm, gdb and perf.

None of it is loaded. The original's sections keep their indices; symbol and
string tables are replaced by longer copies at the file's end. Trampolines are
named `FUNCTION.dsm.ADDRESS`, after the site they serve.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from rewriter.elf import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_STRTAB,
    SHT_SYMTAB,
    Elf,
    Section,
)
from rewriter.plan import Plan
from rewriter.unwind import TrampolineFrame, debug_frame

SHT_PROGBITS = 1
_SHF_COMPRESSED = 0x800
_STB_GLOBAL_FUNC = 0x12
_STV_HIDDEN = 2
_SECTIONS_MAX = 0xFE00


@dataclass
class Added:
    """A section that is part of the added segment; its bytes are in place already."""

    name: str
    flags: int
    addr: int
    offset: int
    size: int
    align: int


@dataclass
class Writer:
    """Appends sections to a file image and finally the header table."""

    elf: Elf
    out: bytearray
    rows: list[Section] = field(default_factory=list)
    names: bytearray = field(default_factory=bytearray)

    def append(self, data: bytes, align: int) -> int:
        """Put bytes at the file's end; their offset."""
        self.out += bytes(-len(self.out) % align)
        offset = len(self.out)
        self.out += data
        return offset

    def name(self, text: str) -> int:
        """Offset of a section name in the string table."""
        offset = len(self.names)
        self.names += text.encode() + b"\0"
        return offset

    def add(self, section: Section) -> int:
        """Append a section header; its index."""
        self.rows.append(section)
        return len(self.rows) - 1


def add_sections(
    plan: Plan, out: bytearray, added: list[Added], frames: list[TrampolineFrame]
) -> None:
    """Append section headers, symbols and `.debug_frame` to the file image `out`."""
    elf = plan.elf
    strings = elf.sections[elf.shstrndx] if elf.shstrndx < len(elf.sections) else None
    if strings is None or strings.type != SHT_STRTAB or len(elf.sections) > _SECTIONS_MAX:
        return
    raw = elf.data[strings.offset : strings.offset + strings.size]
    w = Writer(elf, out, list(elf.sections), bytearray(raw))
    text_index = 0
    for a in added:
        row = _section(w, a.name, SHT_PROGBITS, a.flags | SHF_ALLOC, a.addr, a.offset, a.size)
        index = w.add(row._replace(addralign=a.align))
        text_index = index if a.flags & SHF_EXECINSTR else text_index
    _debug_frame(w, frames)
    _symbols(w, plan, text_index)
    offset = w.append(bytes(w.names), 1)
    w.rows[elf.shstrndx] = strings._replace(offset=offset, size=len(w.names))
    _write_table(w)


def _section(
    w: Writer, name: str, kind: int, flags: int, addr: int, offset: int, size: int
) -> Section:
    return Section(name, w.name(name), kind, flags, addr, offset, size, 0, 0, 8, 0)


def _debug_frame(w: Writer, frames: list[TrampolineFrame]) -> None:
    if not frames:
        return
    index = next((i for i, s in enumerate(w.rows) if s.name == ".debug_frame"), -1)
    old = b""
    if index >= 0:
        s = w.rows[index]
        old = w.elf.data[s.offset : s.offset + s.size]
        if s.flags & _SHF_COMPRESSED or len(old) != s.size:
            return
    data = old + debug_frame(frames, w.elf.bits, len(old))
    offset = w.append(data, 8)
    if index >= 0:
        w.rows[index] = w.rows[index]._replace(offset=offset, size=len(data))
    else:
        w.add(_section(w, ".debug_frame", SHT_PROGBITS, 0, 0, offset, len(data)))


def _symbols(w: Writer, plan: Plan, text_index: int) -> None:
    elf = plan.elf
    index = next((i for i, s in enumerate(w.rows) if s.type == SHT_SYMTAB), -1)
    symbols, strings = bytearray(elf.layout.sym.size), bytearray(b"\0")
    link = -1
    if index >= 0:
        table = w.rows[index]
        link = table.link
        if link >= len(elf.sections) or table.entsize != elf.layout.sym.size:
            return
        s = elf.sections[link]
        if max(s.offset + s.size, table.offset + table.size) > len(elf.data):
            return
        symbols = bytearray(elf.data[table.offset : table.offset + table.size])
        strings = bytearray(elf.data[s.offset : s.offset + s.size])
    for placed in plan.placed:
        name = plan.code.function_at(placed.patch.start) or "code"
        offset = len(strings)
        strings += f"{name}.dsm.{placed.patch.start:x}".encode() + b"\0"
        symbols += _symbol(elf, offset, placed.address, len(placed.code), text_index)
    symbols_at = w.append(bytes(symbols), 8)
    strings_at = w.append(bytes(strings), 1)
    if index >= 0:
        w.rows[index] = w.rows[index]._replace(offset=symbols_at, size=len(symbols))
        w.rows[link] = w.rows[link]._replace(offset=strings_at, size=len(strings))
        return
    link = w.add(_section(w, ".strtab", SHT_STRTAB, 0, 0, strings_at, len(strings)))
    row = _section(w, ".symtab", SHT_SYMTAB, 0, 0, symbols_at, len(symbols))
    w.add(row._replace(link=link, info=1, entsize=elf.layout.sym.size))


def _symbol(elf: Elf, name: int, address: int, size: int, index: int) -> bytes:
    if elf.bits == 64:
        return elf.layout.sym.pack(name, _STB_GLOBAL_FUNC, _STV_HIDDEN, index, address, size)
    return elf.layout.sym.pack(name, address, size, _STB_GLOBAL_FUNC, _STV_HIDDEN, index)


def _write_table(w: Writer) -> None:
    """The header table at the file's end, and its place and length in the ELF header."""
    table = b"".join(w.elf.layout.shdr.pack(*row[1:]) for row in w.rows)
    offset = w.append(table, 8)
    at_shoff, at_shnum = (40, 60) if w.elf.bits == 64 else (32, 48)
    struct.pack_into("<Q" if w.elf.bits == 64 else "<I", w.out, at_shoff, offset)
    struct.pack_into("<H", w.out, at_shnum, len(w.rows))
