# SPDX-License-Identifier: GPL-2.0-or-later
"""Trampolines: original instructions at a new address, doing what they did.

A trampoline is a list of pieces, each the equivalent of one original
instruction (a site with its check before it) or a jump back; behind them stand
the traps of checks whose trap is outlying, each with a jump to its instruction.
Sizes do not depend on the address, so a trampoline is measured, then placed, then
encoded.

Bytes are copied, never re-encoded: only rip-relative displacements and direct
branches change (short branches become near ones).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from rewriter.decode import Flow, Insn
from rewriter.kinds import Kind
from rewriter.templates import Check

JUMP: Final = 5
SHORT_MAX: Final = 127
_BRANCH_PREFIXES: Final = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0xF2, 0xF3))


class OutOfReach(Exception):
    """A displacement does not fit 32 bits at the place chosen."""


class Piece(NamedTuple):
    """One step of a trampoline.

    `address` is the original boundary it stands for (None for a jump back, whose
    destination is then `back`); `insn` what to copy; `check` goes before it.
    """

    address: int | None
    insn: Insn | None
    check: Check | None = None
    back: int = 0


@dataclass(frozen=True)
class PlacedPiece:
    """Where a piece's parts ended up; link-time addresses."""

    piece: Piece
    start: int
    native: int
    end: int
    trap: int
    """address of the `8e c8`, 0 without a check"""
    away: tuple[int, int] = (0, 0)
    """[start, end) of the check's outlying part, (0, 0) without one"""

    @property
    def original(self) -> int:
        """The instruction boundary that the piece stands for or leads to."""
        return self.piece.back if self.piece.address is None else self.piece.address


def without_lock(insn: Insn) -> Insn:
    """The instruction that begins behind a LOCK prefix, as a jump over the prefix runs it."""
    assert insn.raw[0] == 0xF0
    return insn._replace(
        address=insn.address + 1,
        raw=insn.raw[1:],
        displacement=max(insn.displacement - 1, 0),
        kind=Kind.XCHG if insn.raw[1] in (0x86, 0x87) else None,
    )


def movable(insn: Insn) -> bool:
    """Whether an instruction may run at another address."""
    return insn.flow is not Flow.PINNED


def moved_length(insn: Insn) -> int:
    """Bytes of the instruction once moved."""
    if insn.flow is Flow.JCC:
        return 6
    return JUMP if insn.flow is Flow.JMP else len(insn.raw)


def size_of(pieces: tuple[Piece, ...]) -> int:
    """Bytes of a trampoline, wherever it is placed."""
    return sum(_piece_size(p) + _outlying_size(p) for p in pieces)


def _outlying_size(p: Piece) -> int:
    return len(p.check.outlying) + JUMP if p.check is not None and p.check.outlying else 0


def within_reach(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The pieces with traps in line where an outlying one is too far away for the check."""
    for at, placed in enumerate(lay_out(pieces, 0)):
        check = placed.piece.check
        if check is not None and check.in_line is not None and check.distance is not None:
            distance = placed.away[0] - placed.start - check.distance.behind
            if distance > SHORT_MAX:
                nearer = placed.piece._replace(check=check.in_line)
                return within_reach((*pieces[:at], nearer, *pieces[at + 1 :]))
    return pieces


def _piece_size(p: Piece) -> int:
    if p.insn is None:
        return JUMP
    return (len(p.check.code) if p.check else 0) + moved_length(p.insn)


def lay_out(pieces: tuple[Piece, ...], at: int) -> list[PlacedPiece]:
    """The addresses of each piece of a trampoline placed at `at`."""
    out = []
    away = at + sum(_piece_size(p) for p in pieces)
    for p in pieces:
        native = at + (len(p.check.code) if p.check else 0)
        end = at + _piece_size(p)
        trap, outlying = 0, (0, 0)
        if p.check is not None and p.check.outlying:
            outlying = (away, away + _outlying_size(p))
            trap, away = away + p.check.trap, outlying[1]
        elif p.check is not None:
            trap = at + p.check.trap
        out.append(PlacedPiece(p, at, native, end, trap, outlying))
        at = end
    return out


def encode(placed: list[PlacedPiece]) -> bytes:
    """The bytes of a placed trampoline; OutOfReach when a displacement overflows."""
    inside = {p.piece.address: p.start for p in placed if p.piece.address is not None}
    out = bytearray()
    for p in placed:
        if p.piece.insn is None:
            out += jump(p.start, p.piece.back)
            continue
        if p.piece.check:
            out += _check_code(p, p.piece.check)
        out += _moved(p.piece.insn, p.native, inside)
    for p in placed:
        if p.piece.check and p.piece.check.outlying:
            out += p.piece.check.outlying + jump(p.away[1] - JUMP, p.native)
    return bytes(out)


def _check_code(p: PlacedPiece, check: Check) -> bytes:
    if check.distance is None:
        return check.code
    at, size, behind = check.distance
    distance = p.away[0] - p.start - behind
    filled = _rel32(distance) if size > 1 else struct.pack("<b", distance)
    return check.code[:at] + filled + check.code[at + size :]


def jump(at: int, to: int) -> bytes:
    """`jmp rel32` from `at` to `to`."""
    return b"\xe9" + _rel32(to - at - JUMP)


def _rel32(value: int) -> bytes:
    if not -(1 << 31) <= value < 1 << 31:
        raise OutOfReach
    return struct.pack("<i", value)


def _moved(insn: Insn, at: int, inside: dict[int, int]) -> bytes:
    if insn.flow is Flow.JMP:
        return jump(at, inside.get(insn.target, insn.target))
    if insn.flow is Flow.JCC:
        raw = insn.raw
        i = 0
        while raw[i] in _BRANCH_PREFIXES or 0x40 <= raw[i] <= 0x4F:
            i += 1
        condition = (raw[i + 1] if raw[i] == 0x0F else raw[i]) & 0x0F
        to = inside.get(insn.target, insn.target)
        return bytes((0x0F, 0x80 | condition)) + _rel32(to - at - 6)
    if insn.displacement:
        end = at + len(insn.raw)
        d = insn.displacement
        return insn.raw[:d] + _rel32(insn.target - end) + insn.raw[d + 4 :]
    return insn.raw
