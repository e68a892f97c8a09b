# SPDX-License-Identifier: GPL-2.0-or-later
"""From a file to everything that is to be done to it: the patches, placed and encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rewriter.elf import Elf
from rewriter.errors import Unsupported
from rewriter.kinds import ARMED_ADDRESS, KINDS, Kind
from rewriter.placement import FILL, Arena, NoRoom
from rewriter.relocate import (
    JUMP,
    OutOfReach,
    PlacedPiece,
    encode,
    jump,
    lay_out,
    size_of,
    within_reach,
)
from rewriter.select import select_patches
from rewriter.sidemap import TrapSite
from rewriter.sites import Code, check_code, find_code
from rewriter.tactics import SHORT_JUMP, Patch
from rewriter.templates import Check, always, check

SPAN_BYTES_MAX = 512 << 20
"""The added segment is one; it holds the trampolines of all code, and is mostly holes
that cost nothing on disk, but address space in each process that maps it."""


@dataclass(frozen=True)
class Options:
    """What a rewrite depends on besides the file; enters the cache's key."""

    armed_address: int = ARMED_ADDRESS
    always_trap: frozenset[Kind] = frozenset()

    def key(self) -> str:
        """A text that two options share exactly when they give the same output."""
        kinds = ",".join(k.value for k in KINDS if k in self.always_trap)
        return f"armed={self.armed_address:#x} always={kinds}"


@dataclass(frozen=True)
class Placed:
    """A patch with its trampoline; `text` are (address, bytes) to overwrite."""

    patch: Patch
    address: int
    code: bytes
    pieces: tuple[PlacedPiece, ...]
    text: tuple[tuple[int, bytes], ...]


@dataclass
class Plan:
    """What is to be done to a file. All addresses link-time.

    Invariant: patches are disjoint and ascending; every site is in exactly one.
    """

    elf: Elf
    code: Code
    options: Options
    placed: list[Placed] = field(default_factory=list)
    span: tuple[int, int] = (0, 0)
    redirects: dict[int, int] = field(default_factory=dict)
    heads: dict[int, int] = field(default_factory=dict)
    """first instructions of patches that are no sites: new address to original"""
    traps: dict[int, TrapSite] = field(default_factory=dict)

    def tactic_of(self) -> dict[int, str]:
        """Site address to the name of the tactic that serves it."""
        return {
            p.address: placed.patch.tactic
            for placed in self.placed
            for p in placed.patch.pieces
            if p.address is not None and p.insn is not None and p.insn.kind is not None
        }


def make_plan(elf: Elf, options: Options) -> Plan:
    """Find the sites of a file, choose a patch for each, place and encode; RewriteError."""
    code = find_code(elf)
    check_code(code)
    plan = Plan(elf, code, options)
    if not code.sites:
        return plan
    arena = Arena(elf.bits, elf.code[0].vaddr, elf.image_end)
    patches = select_patches(code, _checks(options, elf.bits))
    # The most constrained first: the others fill what is left between them.
    for patch in sorted(patches, key=_freedom):
        plan.placed.append(_place(elf, arena, patch))
    plan.placed.sort(key=lambda p: p.patch.start)
    plan.span = arena.span()
    if plan.span[1] - plan.span[0] > SPAN_BYTES_MAX:
        raise Unsupported(elf.name, "code spread so wide that no one segment serves it")
    for placed in plan.placed:
        _record(plan, placed)
    return plan


def _checks(options: Options, bits: int) -> Callable[[Kind, bool], Check]:
    """The check of a kind of site, by whether it may overwrite flags."""
    forms = {light: check(bits, options.armed_address, light) for light in (False, True)}
    trap = always(bits)
    return lambda kind, light: trap if kind in options.always_trap else forms[light]


def _freedom(patch: Patch) -> tuple[int, int]:
    source, boundaries = _jump_of(patch)
    held = {b - source for b in boundaries if b - source < JUMP}
    rank = next((r for r, byte in enumerate((1, 2, 3, 4)) if byte in held), 4)
    return rank, patch.start


def _jump_of(patch: Patch) -> tuple[int, tuple[int, ...]]:
    """Where a patch's long jump stands, and the instruction boundaries it may cover."""
    return (patch.pad, patch.pad_boundaries) if patch.pad else (patch.start, patch.boundaries)


def _place(elf: Elf, arena: Arena, patch: Patch) -> Placed:
    """Give a patch's trampoline an address, and encode it there."""
    reached = within_reach(patch.pieces)
    source, held = _jump_of(patch)
    try:
        address = arena.place(source, held, size_of(reached))
        pieces = lay_out(reached, address)
        code = encode(pieces)
        text = _overwrite(elf.bits, patch, address)
    except (NoRoom, OutOfReach):
        raise Unsupported(
            elf.name, f"no room for trampolines within reach of {patch.start:#x}"
        ) from None
    return Placed(patch, address, code, tuple(pieces), text)


def _overwrite(bits: int, patch: Patch, address: int) -> tuple[tuple[int, bytes], ...]:
    fill = bytes((FILL[bits],))
    size = patch.end - patch.start
    if patch.tactic == "in-place":
        return ((patch.start, b"\x8e\xc8" + fill * (size - 2)),)
    if patch.pad:
        short = bytes((0xEB, (patch.pad - patch.start - SHORT_JUMP) & 0xFF))
        room = jump(patch.pad, address)
        lo, hi = patch.nop
        if lo:
            room = fill * (patch.pad - lo) + room + fill * (hi - patch.pad - JUMP)
        return (
            (patch.start, short + fill * (size - SHORT_JUMP)),
            (lo or patch.pad, room),
        )
    if patch.tactic == "evicted":
        # The five bytes in between belong to the patch that this one makes room for.
        rest = patch.start + 2 * JUMP
        return (
            (patch.start, jump(patch.start, address)),
            (rest, fill * (patch.end - rest)),
        )
    return ((patch.start, jump(patch.start, address) + fill * (size - JUMP)),)


def _checked(p: PlacedPiece) -> int:
    """The first address at which a thread has read the armed byte; 0 without a check."""
    check = p.piece.check
    return p.start + check.checked if check is not None and check.checked else 0


def _record(plan: Plan, placed: Placed) -> None:
    """Enter a placed patch into the redirect map and the trap map."""
    patch = placed.patch
    in_place_trap = patch.tactic == "in-place"
    for p in placed.pieces:
        piece = p.piece
        if piece.address is None or piece.insn is None:
            continue
        if piece.address != patch.start or in_place_trap:
            plan.redirects[piece.address] = p.start
        elif piece.insn.kind is None:
            plan.heads[p.start] = piece.address
        if piece.insn.kind is None:
            continue
        at = patch.start if in_place_trap else p.trap
        plan.traps[at] = TrapSite(
            piece.address, p.native, p.end - p.native, p.end, piece.insn.kind,
            plan.code.function_at(piece.address), _checked(p),
        )  # fmt: skip
    if patch.nop[0]:
        plan.redirects[patch.nop[0]] = patch.nop[1]
    for address in patch.boundaries:
        # Padding that was covered: a nop leads to where the padding ends.
        if address not in plan.redirects and plan.elf.read(address, 1) != b"\xcc":
            plan.redirects[address] = patch.end
