# SPDX-License-Identifier: GPL-2.0-or-later
"""Function ranges of Go programs, which have no `.eh_frame` but a table of their own.

The table (`.gopclntab`, found by section name or by its magic number) begins
with a header whose layout changed with Go 1.2, 1.16, 1.18 and 1.20; its
function table holds the start of each function and, last, the end of all.

Source: Go `src/internal/abi/symtab.go`, `src/debug/gosym/pclntab.go`.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

from rewriter.elf import Elf
from rewriter.errors import Unsupported

_MAGICS: Final = {
    0xFFFFFFFB: "1.2",
    0xFFFFFFFA: "1.16",
    0xFFFFFFF0: "1.18",
    0xFFFFFFF1: "1.20",
}
_SECTIONS: Final = (
    ".gopclntab", ".data.rel.ro.gopclntab", ".go.buildinfo", ".note.go.buildid",
)  # fmt: skip
_BUILD_INFO: Final = b"\xff Go buildinf:"
_FUNCTIONS_MAX: Final = 4_000_000


def go_functions(elf: Elf) -> list[tuple[int, int]]:
    """(start, end) of each Go function, ascending; empty for other files.

    Unsupported for a Go program whose table is not to be found or not understood:
    it has no other description of its code.
    """
    if not _is_go(elf):
        return []
    found = _functions(elf)
    if not found:
        raise Unsupported(elf.name, "a Go program whose function table cannot be read")
    return found


def _is_go(elf: Elf) -> bool:
    if elf.sections:
        return any(elf.section(name) is not None for name in _SECTIONS)
    return elf.data.find(_BUILD_INFO) >= 0


def _functions(elf: Elf) -> list[tuple[int, int]]:
    raw = _table(elf)
    if len(raw) < 16:
        return []
    version = _MAGICS.get(int.from_bytes(raw[:4], "little"), "")
    word = raw[7]
    if not version or raw[4:6] != b"\0\0" or raw[6] != 1 or word != elf.layout.word:
        return []
    try:
        starts = _starts(elf, raw, version, word)
    except struct.error:
        return []
    if any(a > b for a, b in pairwise(starts)):
        return []
    pairs = pairwise(starts)
    return [(a, b) for a, b in pairs if a < b and elf.is_code(a) and elf.is_code(b - 1)]


def _table(elf: Elf) -> bytes:
    for name in (".gopclntab", ".data.rel.ro.gopclntab"):
        s = elf.section(name)
        if s is not None:
            return elf.data[s.offset : s.offset + s.size]
    for magic in _MAGICS:
        for load in elf.loads:
            stop = load.offset + load.filesz
            for tail in (b"\0\0\x01\x08", b"\0\0\x01\x04"):
                at = elf.data.find(struct.pack("<I", magic) + tail, load.offset, stop)
                if at >= 0:
                    return elf.data[at:stop]
    return b""


def _starts(elf: Elf, raw: bytes, version: str, word: int) -> list[int]:
    def at(index: int) -> int:
        size = struct.calcsize("<Q" if word == 8 else "<I")
        return int(struct.unpack_from("<Q" if word == 8 else "<I", raw, 8 + index * size)[0])

    count = at(0)
    if count > _FUNCTIONS_MAX:
        return []
    if version == "1.2":
        pair = struct.Struct("<QQ" if word == 8 else "<II")
        base = 8 + word
        rows = [pair.unpack_from(raw, base + i * pair.size)[0] for i in range(count)]
        end = struct.unpack_from("<Q" if word == 8 else "<I", raw, base + count * pair.size)[0]
        return [*rows, end]
    if version == "1.16":
        functions = at(6)
        pair = struct.Struct("<QQ" if word == 8 else "<II")
        rows = [pair.unpack_from(raw, functions + i * pair.size)[0] for i in range(count)]
        tail = functions + count * pair.size
        return [*rows, struct.unpack_from("<Q" if word == 8 else "<I", raw, tail)[0]]
    text, functions = at(2), at(7)
    if text == 0:
        # Position-independent executables leave it to a relocation.
        s = elf.section(".text")
        if s is None:
            return []
        text = s.addr
    size = struct.calcsize("<II")
    rows = [struct.unpack_from("<I", raw, functions + i * size)[0] for i in range(count + 1)]
    return [text + r for r in rows]
