# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF file: headers, segments, sections and symbols, checked while read.

Own parser rather than pyelftools: a rewrite reads few tables, reads them of
hostile files too, and libc has a second in all. Every offset is checked
against the file's length before it is used, so a truncated or mutated file
ends in `Corrupt`, never in a traceback or in an allocation of its choosing.

Addresses here are link-time addresses (`p_vaddr`), not run-time ones.
Source: System V ABI, chapters 4 and 5; glibc `elf/elf.h` for the numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from rewriter.errors import Corrupt, NotElf, Unsupported, WrongArchitecture

ET_EXEC: Final = 2
ET_DYN: Final = 3
EM_386: Final = 3
EM_X86_64: Final = 62
PT_NULL: Final = 0
PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_NOTE: Final = 4
PT_PHDR: Final = 6
PT_GNU_EH_FRAME: Final = 0x6474E550
PT_GNU_RELRO: Final = 0x6474E552
PT_GNU_PROPERTY: Final = 0x6474E553
PF_X: Final = 1
PF_W: Final = 2
PF_R: Final = 4
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_NOBITS: Final = 8
SHT_DYNSYM: Final = 11
SHF_ALLOC: Final = 2
SHF_EXECINSTR: Final = 4
STT_FUNC: Final = 2
STT_GNU_IFUNC: Final = 10

PAGE_SIZE: Final = 4096
_TYPE_NAMES: Final = {0: "no type", 1: "a relocatable object", 4: "a core dump"}
_MACHINE_NAMES: Final = {
    2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM",
    43: "SPARC V9", 50: "IA-64", 183: "AArch64", 243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip


class Segment(NamedTuple):
    """One program header; sizes and offsets in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int

    @property
    def file_end(self) -> int:
        """First address past the bytes that the file backs."""
        return self.vaddr + self.filesz


class Section(NamedTuple):
    """One section header, its name resolved ('' where the string table is unusable)."""

    name: str
    name_offset: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    addralign: int
    entsize: int


class Symbol(NamedTuple):
    """A function symbol with an address in this file."""

    address: int
    size: int
    name: str


@dataclass(frozen=True)
class Layout:
    """The structures of one ELF class, as `struct` formats, little-endian."""

    bits: int
    ehdr: struct.Struct
    phdr: struct.Struct
    shdr: struct.Struct
    sym: struct.Struct

    @property
    def word(self) -> int:
        """Bytes of an address."""
        return self.bits // 8


LAYOUT_64: Final = Layout(
    64,
    struct.Struct("<HHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQQQ"),
    struct.Struct("<IIQQQQIIQQ"),
    struct.Struct("<IBBHQQ"),
)
LAYOUT_32: Final = Layout(
    32,
    struct.Struct("<HHIIIIIHHHHHH"),
    struct.Struct("<IIIIIIII"),
    struct.Struct("<IIIIIIIIII"),
    struct.Struct("<IIIBBH"),
)
_IDENT: Final = 16


def pack_segment(layout: Layout, s: Segment) -> bytes:
    """One program header as the file holds it (the two classes order fields differently)."""
    if layout.bits == 64:
        return layout.phdr.pack(
            s.type, s.flags, s.offset, s.vaddr, s.paddr, s.filesz, s.memsz, s.align
        )
    return layout.phdr.pack(s.type, s.offset, s.vaddr, s.paddr, s.filesz, s.memsz, s.flags, s.align)


class Elf:
    """A parsed x86-64 or i386 executable or shared object.

    `data` is the whole file; `segments` in the order of the table; `loads` the
    PT_LOADs, ascending and disjoint (checked); `sections` empty when the file
    has none or they are unusable (sections are never needed to rewrite).
    """

    def __init__(self, data: bytes, name: str) -> None:
        """Parse; raises NotElf, WrongArchitecture, Unsupported or Corrupt."""
        self.data = data
        self.name = name
        if len(data) < _IDENT or data[:4] != b"\x7fELF":
            raise NotElf(name, "not an ELF file")
        if data[5] == 2:
            raise WrongArchitecture(name, "a big-endian ELF file, not one of x86-64 or i386")
        if data[4] not in (1, 2) or data[5] != 1:
            raise Corrupt(name, "the ELF identification is damaged")
        self.layout = LAYOUT_64 if data[4] == 2 else LAYOUT_32
        self.bits = self.layout.bits
        if len(data) < _IDENT + self.layout.ehdr.size:
            raise Corrupt(name, "the ELF header is cut short")
        (
            self.type, self.machine, _, self.entry, self.phoff, self.shoff, _, self.ehsize,
            self.phentsize, self.phnum, self.shentsize, self.shnum, self.shstrndx,
        ) = self.layout.ehdr.unpack_from(data, _IDENT)  # fmt: skip
        self._check_machine()
        self.segments = self._read_segments()
        self.loads = self._check_loads()
        self.sections = self._read_sections()

    def _check_machine(self) -> None:
        if self.machine not in (EM_X86_64, EM_386):
            what = _MACHINE_NAMES.get(self.machine, f"machine {self.machine}")
            raise WrongArchitecture(self.name, f"an ELF file for {what}, not for x86-64 or i386")
        if (self.machine == EM_X86_64) != (self.bits == 64):
            if self.machine == EM_X86_64:
                raise Unsupported(self.name, "an x32 (ILP32) file, which is not supported")
            raise Corrupt(self.name, "an i386 file of the 64-bit class")
        if self.type not in (ET_EXEC, ET_DYN):
            what = _TYPE_NAMES.get(self.type, f"of ELF type {self.type}")
            raise Unsupported(self.name, f"{what}, neither an executable nor a shared library")

    def _read_segments(self) -> tuple[Segment, ...]:
        size = self.layout.phdr.size
        if self.phnum == 0 or self.phnum == 0xFFFF:
            raise Unsupported(self.name, "no program headers, so nothing to load")
        if self.phentsize != size or self.phoff + size * self.phnum > len(self.data):
            raise Corrupt(self.name, "the program header table is damaged or cut short")
        rows = self.layout.phdr.iter_unpack(self.data[self.phoff : self.phoff + size * self.phnum])
        if self.bits == 64:
            return tuple(Segment(*row) for row in rows)
        return tuple(Segment(t, f, o, v, p, fs, ms, a) for t, o, v, p, fs, ms, f, a in rows)

    def _check_loads(self) -> tuple[Segment, ...]:
        loads = tuple(s for s in self.segments if s.type == PT_LOAD)
        if not loads:
            raise Unsupported(self.name, "no loadable segment")
        end = 0
        for s in loads:
            if s.offset + s.filesz > len(self.data):
                raise Corrupt(self.name, f"the segment at {s.vaddr:#x} reaches past the file's end")
            if s.filesz > s.memsz or s.vaddr + s.memsz >= 1 << (self.bits - 1):
                raise Corrupt(self.name, f"the segment at {s.vaddr:#x} has impossible sizes")
            if s.vaddr < end:
                raise Corrupt(self.name, f"the segment at {s.vaddr:#x} overlaps the one before it")
            if (s.vaddr - s.offset) % PAGE_SIZE and s.memsz:
                raise Corrupt(self.name, f"the segment at {s.vaddr:#x} cannot be mapped by pages")
            end = s.vaddr + s.memsz
        if end - loads[0].vaddr > 1 << 40:
            raise Unsupported(self.name, "segments that span more than a terabyte")
        return loads

    def _read_sections(self) -> tuple[Section, ...]:
        size = self.layout.shdr.size
        if not self.shoff or not self.shnum or self.shentsize != size:
            return ()
        if self.shoff + size * self.shnum > len(self.data):
            return ()
        rows = list(
            self.layout.shdr.iter_unpack(self.data[self.shoff : self.shoff + size * self.shnum])
        )
        strings = b""
        if self.shstrndx < len(rows):
            row = rows[self.shstrndx]
            if row[1] == SHT_STRTAB and row[4] + row[5] <= len(self.data):
                strings = self.data[row[4] : row[4] + row[5]]
        return tuple(Section(_string(strings, row[0]), *row) for row in rows)

    # -- addresses -----------------------------------------------------------

    def segment_at(self, address: int) -> Segment | None:
        """The PT_LOAD whose file-backed bytes hold `address`."""
        for s in self.loads:
            if s.vaddr <= address < s.vaddr + s.filesz:
                return s
        return None

    def offset_of(self, address: int) -> int | None:
        """File offset of a link-time address; None where the file backs no byte there."""
        s = self.segment_at(address)
        return None if s is None else s.offset + address - s.vaddr

    def read(self, address: int, length: int) -> bytes:
        """The bytes at `address`, fewer than `length` at the end of a segment's file part."""
        s = self.segment_at(address)
        if s is None or length <= 0:
            return b""
        start = s.offset + address - s.vaddr
        return self.data[start : min(start + length, s.offset + s.filesz)]

    @property
    def code(self) -> tuple[Segment, ...]:
        """Executable PT_LOADs with bytes in the file."""
        return tuple(s for s in self.loads if s.flags & PF_X and s.filesz)

    def is_code(self, address: int) -> bool:
        """Whether `address` lies in a file-backed executable byte."""
        s = self.segment_at(address)
        return s is not None and bool(s.flags & PF_X)

    @property
    def image_end(self) -> int:
        """First address past the last PT_LOAD in memory."""
        return self.loads[-1].vaddr + self.loads[-1].memsz

    def section(self, name: str) -> Section | None:
        """The first section of that name whose bytes lie in the file."""
        for s in self.sections:
            if s.name == name and s.type != SHT_NOBITS and s.offset + s.size <= len(self.data):
                return s
        return None

    def segment(self, kind: int) -> Segment | None:
        """The first program header of that type."""
        return next((s for s in self.segments if s.type == kind), None)

    # -- symbols -------------------------------------------------------------

    def functions(self) -> list[Symbol]:
        """Function symbols of .symtab and .dynsym inside code, ascending, one an address."""
        found: dict[int, Symbol] = {}
        for table in self.sections:
            if table.type not in (SHT_SYMTAB, SHT_DYNSYM):
                continue
            for symbol in self._symbols_of(table):
                known = found.get(symbol.address)
                if known is None or (symbol.size and not known.size):
                    found[symbol.address] = symbol
        return [found[a] for a in sorted(found)]

    def _symbols_of(self, table: Section) -> list[Symbol]:
        size = self.layout.sym.size
        if table.entsize != size or table.offset + table.size > len(self.data):
            return []
        strings = b""
        if table.link < len(self.sections):
            s = self.sections[table.link]
            if s.offset + s.size <= len(self.data):
                strings = self.data[s.offset : s.offset + s.size]
        count = table.size // size
        rows = self.layout.sym.iter_unpack(self.data[table.offset : table.offset + count * size])
        out = []
        code = [(s.vaddr, s.vaddr + s.filesz) for s in self.code]
        for row in rows:
            if self.bits == 64:
                name, info, _, shndx, value, length = row
            else:
                name, value, length, info, _, shndx = row
            if shndx == 0 or info & 15 not in (STT_FUNC, STT_GNU_IFUNC):
                continue
            if any(lo <= value < hi for lo, hi in code):
                out.append(Symbol(value, length, _string(strings, name)))
        return out


def _string(strings: bytes, offset: int) -> str:
    """The NUL-terminated string at `offset`, '' when it is outside; 512 bytes at most."""
    if offset >= len(strings):
        return ""
    end = strings.find(b"\0", offset, offset + 512)
    return strings[offset : end if end >= 0 else offset + 512].decode("utf-8", "replace")
