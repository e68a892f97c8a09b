# SPDX-License-Identifier: GPL-2.0-or-later
"""Frame descriptions of trampolines, so that unwinders pass through them.

A signal that arrives inside a trampoline, a debugger that stops there, an
asynchronous cancellation: each looks the address up in the object's frame
table. A trampoline gets, piece by piece, the state of the original instruction,
with the stack pointer corrected inside the check.

Two forms of the same descriptions: `.eh_frame` with a search table that covers
the original functions too, for unwinding at run time; `.debug_frame` for gdb,
which reads only one section named `.eh_frame`.

No personality routine is named: control never leaves a trampoline by a call, so
no exception is thrown from one, and a forced unwind merely passes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rewriter.cfi import State, advance, lowered, state_at, transition, uleb
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
        for p in placed.pieces:
            original = p.piece.address if p.piece.address is not None else p.piece.back
            state = state_at(fde, original, bits // 8)
            rows = [(p.start, 0)]
            if p.piece.check is not None:
                rows = [(p.start + o, depth) for o, depth in p.piece.check.depths]
                rows.append((p.native, 0))
            for address, depth in rows:
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
    return TrampolineFrame(placed.address, placed.pieces[-1].end, bytes(out))


def _cie(bits: int, eh: bool) -> bytes:
    convention = CONVENTIONS[bits]
    body = b"\x01zR\0" if eh else b"\x01\0"
    body += uleb(1) + bytes((convention.data_align & 0x7F, convention.return_register))
    if eh:
        body += b"\x01\x1b"
    return _record(struct.pack("<I", 0 if eh else 0xFFFFFFFF) + body, bits // 8)


def _record(body: bytes, align: int) -> bytes:
    body += bytes(-(len(body) + 4) % align)
    return struct.pack("<I", len(body)) + body


def eh_frame(frames: list[TrampolineFrame], bits: int, address: int) -> tuple[bytes, list[int]]:
    """The bytes of an `.eh_frame` placed at `address`, and each FDE's address."""
    out = bytearray(_cie(bits, True))
    places = []
    for f in frames:
        at = len(out)
        places.append(address + at)
        body = struct.pack("<I", at + 4)
        body += struct.pack("<iI", f.start - (address + at + 8), f.end - f.start) + b"\0"
        out += _record(body + f.instructions, bits // 8)
    out += bytes(4)
    return bytes(out), places


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
