# SPDX-License-Identifier: GPL-2.0-or-later
"""Frame descriptions of trampolines, so that unwinders pass through them.

A signal that arrives inside a trampoline, a debugger that stops there, an
asynchronous cancellation: each looks the address up in the object's frame
table. A trampoline gets, piece by piece, the state of the original instruction,
with the stack pointer corrected inside the check.

Two forms of the same descriptions: `.eh_frame` with a search table that covers
the original functions too, for unwinding at run time; `.debug_frame` for gdb,
which reads only one section named `.eh_frame`.

A trampoline of a function with landing pads has a table of them, too (lsda.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from rewriter import lsda
from rewriter.cfi import State, advance, lowered, state_at, transition, uleb
from rewriter.elf import Elf
from rewriter.frames import Fde
from rewriter.lsda import Region
from rewriter.plan import Placed, Plan


@dataclass(frozen=True)
class Convention:
    """DWARF register numbers and sizes of a machine (psABI, DWARF register mapping)."""

    stack_register: int
    return_register: int
    data_align: int


CONVENTIONS = {64: Convention(7, 16, -8), 32: Convention(4, 8, -4)}


@dataclass(frozen=True)
class TrampolineFrame:
    """Code range [start, end) and the instructions that describe it."""

    start: int
    end: int
    instructions: bytes
    function: Fde
    regions: tuple[Region, ...]


def describe(plan: Plan) -> list[TrampolineFrame]:
    """The frame of each trampoline whose function has one; ascending."""
    out = []
    for placed in plan.placed:
        frame = _describe(plan, placed)
        if frame is not None:
            out.append(frame)
    return sorted(out, key=lambda f: f.start)


def _describe(plan: Plan, placed: Placed) -> TrampolineFrame | None:
    bits = plan.elf.bits
    convention = CONVENTIONS[bits]
    fde = plan.code.frame_at(placed.patch.start)
    if fde is None or fde.cie.return_register != convention.return_register:
        return None
    if fde.cie.signal_frame:
        return None
    out = bytearray()
    known: State | None = None
    at = placed.address
    try:
        for address, original, depth in _depths(placed):
            state = state_at(fde, original, bits // 8)
            new = lowered(state, convention.stack_register, depth)
            if new == known:
                continue
            if address > at:
                out += advance(address - at)
                at = address
            out += transition(known, new, convention.data_align)
            known = new
    except (IndexError, AssertionError):
        return None
    regions = [Region(p.start, p.end, p.original) for p in placed.pieces]
    regions += [Region(*p.away, p.original) for p in placed.pieces if any(p.away)]
    end = placed.address + len(placed.code)
    return TrampolineFrame(placed.address, end, bytes(out), fde, tuple(regions))


def _depths(placed: Placed) -> Iterator[tuple[int, int, int]]:
    """(address, original address, bytes the stack is lower than there) in a trampoline, ascending.

    Each holds up to the next one.
    """
    for p in placed.pieces:
        if p.piece.check is None:
            yield p.start, p.original, 0
            continue
        for offset, depth in p.piece.check.depths:
            yield p.start + offset, p.original, depth
        yield p.native, p.original, 0
    for p in placed.pieces:
        if p.piece.check is None or not p.piece.check.outlying:
            continue
        for offset, depth in p.piece.check.outlying_depths:
            yield p.away[0] + offset, p.original, depth


def _cie(bits: int, eh: bool) -> bytes:
    convention = CONVENTIONS[bits]
    body = b"\x01zR\0" if eh else b"\x01\0"
    body += uleb(1) + bytes((convention.data_align & 0x7F, convention.return_register))
    if eh:
        body += b"\x01\x1b"
    return _record(struct.pack("<I", 0 if eh else 0xFFFFFFFF) + body, bits // 8)


def _personal_cie(bits: int, personality: tuple[int, int], at: int) -> bytes:
    """A CIE at `at` that names a personality routine, for frames with an LSDA."""
    convention = CONVENTIONS[bits]
    body = struct.pack("<I", 0) + b"\x01zPLR\0"
    body += uleb(1) + bytes((convention.data_align & 0x7F, convention.return_register))
    encoding, routine = personality
    body += uleb(7) + bytes((encoding & 0x80 | 0x1B,))
    body += struct.pack("<i", routine - (at + 4 + len(body))) + b"\x1b\x1b"
    return _record(body, bits // 8)


def _record(body: bytes, align: int) -> bytes:
    body += bytes(-(len(body) + 4) % align)
    return struct.pack("<I", len(body)) + body


@dataclass(frozen=True)
class FrameTable:
    """An `.eh_frame` with LSDAs before it; `starts` are (code address, FDE address)."""

    lsdas: bytes
    records_at: int
    records: bytes
    starts: list[tuple[int, int]]


def eh_frame(elf: Elf, frames: list[TrampolineFrame], address: int) -> FrameTable:
    """LSDAs from `address` on, and the frame records behind them."""
    align = elf.bits // 8
    lsdas = bytearray()
    places: list[int] = []
    for f in frames:
        made = _lsda_of(elf, f, address + len(lsdas))
        places.append(address + len(lsdas) if made else 0)
        lsdas += made + bytes(-len(made) % 4)
    lsdas += bytes(-len(lsdas) % 8)
    base = address + len(lsdas)
    out = bytearray(_cie(elf.bits, True))
    cies: dict[tuple[int, int], int] = {}
    starts = []
    for f, own in zip(frames, places, strict=True):
        cie = 0
        personality = f.function.cie.personality
        if own and personality is not None:
            cie = cies.get(personality, 0)
            if not cie:
                cie = cies[personality] = len(out)
                out += _personal_cie(elf.bits, personality, base + cie)
        at = len(out)
        starts.append((f.start, base + at))
        body = struct.pack("<I", at + 4 - cie)
        body += struct.pack("<iI", f.start - (base + at + 8), f.end - f.start)
        body += b"\x04" + struct.pack("<i", own - (base + at + 17)) if cie else b"\0"
        out += _record(body + f.instructions, align)
    out += bytes(4)
    return FrameTable(bytes(lsdas), base, bytes(out), starts)


def _lsda_of(elf: Elf, frame: TrampolineFrame, at: int) -> bytes:
    """A trampoline's LSDA, b"" where its function has none or it cannot be repeated."""
    fde = frame.function
    if not fde.lsda or fde.cie.personality is None:
        return b""
    tables = lsda.read_tables(elf, fde)
    if tables is None:
        return b""
    try:
        return lsda.make(elf, fde, tables, list(frame.regions), at)
    except struct.error:
        return b""


def debug_frame(frames: list[TrampolineFrame], bits: int, base: int) -> bytes:
    """The same as `.debug_frame`, to follow `base` bytes already in that section."""
    out = bytearray(_cie(bits, False))
    pair = struct.Struct("<QQ" if bits == 64 else "<II")
    for f in frames:
        body = struct.pack("<I", base) + pair.pack(f.start, f.end - f.start)
        out += _record(body + f.instructions, bits // 8)
    return bytes(out)


def search_table(
    original: list[tuple[int, int]], added: list[tuple[int, int]], frames_at: int, at: int
) -> bytes:
    """`.eh_frame_hdr` placed at `at`: (start, FDE address) of all, sorted by start.

    `frames_at` is the original `.eh_frame`, which readers without use for the
    table fall back on. struct.error when a distance needs more than 32 bits.
    """
    table = sorted({**dict(original), **dict(added)}.items())
    out = bytearray((1, 0x1B, 0x03, 0x3B))
    out += struct.pack("<iI", frames_at - (at + 4), len(table))
    for start, place in table:
        out += struct.pack("<ii", start - at, place - at)
    return bytes(out)
