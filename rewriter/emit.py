# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing the rewritten file: the original's bytes, patched, and one segment more.

The header table stays where it is and as long as it is: a moved one crashes
ld.so, and the auxiliary vector has its address and length before anything of
ours is mapped. So one entry that nobody misses becomes the new PT_LOAD: a note
that only repeats PT_GNU_PROPERTY, or that entry itself, before the note of the
build id, and PT_GNU_RELRO last.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rewriter.elf import (
    PAGE_SIZE,
    PF_R,
    PF_X,
    PT_GNU_EH_FRAME,
    PT_GNU_PROPERTY,
    PT_GNU_RELRO,
    PT_LOAD,
    PT_NOTE,
    PT_NULL,
    SHF_EXECINSTR,
    Elf,
    Segment,
    pack_segment,
)
from rewriter.errors import Unsupported
from rewriter.frames import frame_section
from rewriter.plan import Plan
from rewriter.sections import Added, add_sections
from rewriter.sidemap import Extra
from rewriter.unwind import TrampolineFrame, describe, eh_frame, search_table

_NT_GNU_BUILD_ID: Final = 3


def emit(plan: Plan) -> tuple[bytes, tuple[Extra, ...]]:
    """The rewritten file and the segments it has more than the original."""
    elf = plan.elf
    out = bytearray(elf.data)
    # A patch that made room first, then the jump that goes into the room.
    for placed in sorted(plan.placed, key=lambda p: bool(p.patch.pad)):
        for address, new in placed.text:
            offset = elf.offset_of(address)
            assert offset is not None
            out[offset : offset + len(new)] = new
    lo, hi = plan.span
    frames = describe(plan)
    tail, added, search = _frame_bytes(plan, frames, hi)
    offset = -(-len(out) // PAGE_SIZE) * PAGE_SIZE
    out += bytes(offset - len(out)) + bytes(hi - lo) + tail
    for placed in plan.placed:
        at = offset + placed.address - lo
        out[at : at + len(placed.code)] = placed.code
    size = hi - lo + len(tail)
    segment = Segment(PT_LOAD, PF_R | PF_X, offset, lo, lo, size, size, PAGE_SIZE)
    table = header_table(elf, segment, search)
    out[elf.phoff : elf.phoff + len(table)] = table
    sections = [Added(".dsm.text", SHF_EXECINSTR, lo, offset, hi - lo, 16)]
    sections += [replace(a, offset=offset + a.addr - lo) for a in added]
    add_sections(plan, out, sections, frames)
    return bytes(out), (Extra(lo, size, offset, size, PF_R | PF_X),)


def _frame_bytes(
    plan: Plan, frames: list[TrampolineFrame], at: int
) -> tuple[bytes, list[Added], tuple[int, int]]:
    """What follows the trampolines at `at`: frames and their search table.

    Also their sections (offsets not yet known) and the table's (address, size),
    (0, 0) when there is none.
    """
    elf = plan.elf
    section = frame_section(elf)
    if not frames or section is None:
        return b"", [], (0, 0)
    table = eh_frame(elf, frames, at)
    search_at = table.records_at + len(table.records) + -len(table.records) % 8
    original = [(f.start, f.address) for f in plan.code.frames]
    search = search_table(original, table.starts, section[0], search_at)
    tail = table.lsdas + table.records
    tail += bytes(search_at - at - len(tail)) + search
    added = [
        Added(".dsm.eh_frame", 0, table.records_at, 0, len(table.records), 8),
        Added(".dsm.eh_frame_hdr", 0, search_at, 0, len(search), 4),
    ]
    if table.lsdas:
        added.append(Added(".dsm.gcc_except_table", 0, at, 0, len(table.lsdas), 4))
    return tail, added, (search_at, len(search))


def header_table(elf: Elf, added: Segment, search: tuple[int, int] = (0, 0)) -> bytes:
    """The program header table with one spare entry given up for `added`.

    `search` is the (address, size) of the frame search table that replaces the
    original's, (0, 0) to leave that.
    """
    rows = list(elf.segments)
    victim = spare_entry(elf, rows)
    if victim < 0:
        raise Unsupported(elf.name, "no program header to spare for the trampolines")
    del rows[victim]
    at, size = search
    offset = added.offset + at - added.vaddr
    index = next((i for i, s in enumerate(rows) if s.type == PT_GNU_EH_FRAME), -1)
    if index < 0:
        # Static programs register their frames at start and have no such header; the
        # unwinder looks for one all the same. Only a note nobody misses makes way.
        index = spare_entry(elf, rows, rank_max=_PROPERTY)
    if index >= 0 and size:
        rows[index] = Segment(PT_GNU_EH_FRAME, PF_R, offset, at, at, size, size, 4)
    last = max(i for i, s in enumerate(rows) if s.type == PT_LOAD)
    rows.insert(last + 1, added)
    return b"".join(pack_segment(elf.layout, s) for s in rows)


_EMPTY, _NOTE_REPEATED, _PROPERTY, _BUILD_ID, _RELRO = range(5)
"""How much a program header is missed, least first. Without PT_GNU_RELRO a program runs as
before, its relocated constants left writable; files linked without notes have nothing less."""


def spare_entry(elf: Elf, rows: Sequence[Segment], rank_max: int = _RELRO) -> int:
    """Index of the program header that is missed least, -1 when each is needed."""

    def rank(s: Segment) -> int | None:
        if s.type == PT_NULL:
            return _EMPTY
        if s.type == PT_NOTE:
            return _BUILD_ID if _has_build_id(elf, s) else _NOTE_REPEATED
        if s.type == PT_GNU_RELRO:
            return _RELRO
        return _PROPERTY if s.type == PT_GNU_PROPERTY else None

    ranked = [(r, i) for i, s in enumerate(rows) if (r := rank(s)) is not None and r <= rank_max]
    return min(ranked)[1] if ranked else -1


def _has_build_id(elf: Elf, s: Segment) -> bool:
    """Whether a PT_NOTE holds the GNU build id."""
    raw = elf.data[s.offset : s.offset + min(s.filesz, 1 << 16)]
    at = 0
    align = 8 if s.align == 8 else 4
    while at + 12 <= len(raw):
        name, desc, kind = struct.unpack_from("<III", raw, at)
        if kind == _NT_GNU_BUILD_ID and raw[at + 12 : at + 16] == b"GNU\0":
            return True
        at += 12 + -(-name // align) * align + -(-desc // align) * align
    return False
