# SPDX-License-Identifier: GPL-2.0-or-later
"""Code addresses that relocations write: RELA addends, REL and RELR places, init arrays.

Source: System V ABI, chapter 5 (dynamic linking); RELR as in glibc `elf/dynamic-link.h`.
"""

from __future__ import annotations

import struct
from typing import Final

from rewriter.elf import PT_DYNAMIC, Elf

DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ = 7, 8, 17, 18
DT_INIT, DT_FINI, DT_INIT_ARRAY, DT_INIT_ARRAYSZ = 12, 13, 25, 27
DT_FINI_ARRAY, DT_FINI_ARRAYSZ = 26, 28
DT_RELRSZ, DT_RELR = 35, 36
_RELATIVE: Final = {64: (8, 37), 32: (8, 42)}
"""R_*_RELATIVE and R_*_IRELATIVE of the two machines."""
_BYTES_MAX: Final = 1 << 28


def dynamic(elf: Elf) -> dict[int, int]:
    """Tags of the dynamic section to their values (the first of each)."""
    s = elf.segment(PT_DYNAMIC)
    if s is None:
        return {}
    raw = elf.read(s.vaddr, s.filesz)
    pair = struct.Struct("<QQ" if elf.bits == 64 else "<II")
    out: dict[int, int] = {}
    for tag, value in pair.iter_unpack(raw[: len(raw) // pair.size * pair.size]):
        if tag == 0:
            break
        out.setdefault(tag, value)
    return out


def relocated_words(elf: Elf) -> set[int]:
    """Addresses in executable sections that relocations and init arrays point to."""
    tags = dynamic(elf)
    word = elf.layout.word
    one = struct.Struct("<Q" if word == 8 else "<I")
    out: set[int] = {tags[t] for t in (DT_INIT, DT_FINI) if t in tags}

    def block(start: int, size: int) -> bytes:
        return elf.read(tags.get(start, 0), min(tags.get(size, 0), _BYTES_MAX))

    def word_at(address: int) -> int:
        raw = elf.read(address, word)
        return one.unpack(raw)[0] if len(raw) == word else 0

    rela = struct.Struct("<QQq" if word == 8 else "<IIi")
    raw = block(DT_RELA, DT_RELASZ)
    for _, info, addend in rela.iter_unpack(raw[: len(raw) // rela.size * rela.size]):
        if info & (0xFFFFFFFF if word == 8 else 0xFF) in _RELATIVE[elf.bits]:
            out.add(addend)
    rel = struct.Struct("<QQ" if word == 8 else "<II")
    raw = block(DT_REL, DT_RELSZ)
    for place, info in rel.iter_unpack(raw[: len(raw) // rel.size * rel.size]):
        if info & (0xFFFFFFFF if word == 8 else 0xFF) in _RELATIVE[elf.bits]:
            out.add(word_at(place))
    place = 0
    raw = block(DT_RELR, DT_RELRSZ)
    for (entry,) in one.iter_unpack(raw[: len(raw) // word * word]):
        if entry & 1 == 0:
            out.add(word_at(entry))
            place = entry + word
            continue
        for bit in range(1, 8 * word):
            if entry >> bit & 1:
                out.add(word_at(place + (bit - 1) * word))
        place += (8 * word - 1) * word
    for start, size in ((DT_INIT_ARRAY, DT_INIT_ARRAYSZ), (DT_FINI_ARRAY, DT_FINI_ARRAYSZ)):
        raw = block(start, size)
        out.update(v for (v,) in one.iter_unpack(raw[: len(raw) // word * word]))
    return out
