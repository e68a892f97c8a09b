# SPDX-License-Identifier: GPL-2.0-or-later
"""From a file to everything that is to be done to it: the patches, placed and encoded."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rewriter.decode import Insn, details
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
)
from rewriter.sidemap import TrapSite
from rewriter.sites import Code, check_code, find_code
from rewriter.tactics import SHORT_JUMP, Pads, Patch, Place, choose, in_place
from rewriter.templates import Check, always, check

_BEFORE: Final = 5
_AFTER: Final = 6
_PADDING: Final = frozenset((0x90, 0xCC))


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
    patches = _patches(code, options)
    # The most constrained first: the others fill what is left between them.
    for patch in sorted(patches, key=_freedom):
        plan.placed.append(_place(elf, arena, patch))
    plan.placed.sort(key=lambda p: p.patch.start)
    plan.span = arena.span()
    for placed in plan.placed:
        _record(plan, placed)
    return plan


def _checks(options: Options, bits: int) -> Callable[[Kind], Check]:
    usual = check(bits, options.armed_address)
    return lambda kind: always(bits) if kind in options.always_trap else usual


def _patches(code: Code, options: Options) -> list[Patch]:
    elf = code.elf
    checks = _checks(options, elf.bits)
    splits = {t for s in code.swept.values() for t in s.targets}
    pads = Pads(_find_pads(code))
    out: list[Patch] = []
    floor = 0
    for site in code.sites:
        if site.address < floor:
            continue
        insns, index, ceiling = _around(code, site.address)
        floor_here = max(floor, insns[0].address)
        place = Place(
            insns, index, code.entries, splits, floor_here, ceiling, checks, pads, elf.bits == 64
        )
        patch = choose(place)
        if patch is None:
            raise Unsupported(elf.name, f"the {site.kind} at {site.address:#x} cannot be diverted")
        if patch.tactic == "in-place":
            place.pads.drop(patch.start, patch.end)
        pads.drop(patch.start, patch.end)
        out.append(patch)
        floor = patch.end
    return out


def _around(code: Code, address: int) -> tuple[list[Insn], int, int]:
    """Instructions around a site in detail, its index, and where overwriting must stop."""
    sweep = code.sweep_of(address)
    assert sweep is not None
    i = bisect.bisect_left(sweep.starts, address)
    start = sweep.starts[max(i - _BEFORE, 0)]
    last = sweep.starts[i + _AFTER] if i + _AFTER < len(sweep.starts) else sweep.end
    ceiling = _padding_end(code, sweep.end, sweep.falls) if last == sweep.end else last
    insns = list(details(code.elf.bits, code.elf.read(start, ceiling - start), start))
    index = next(k for k, insn in enumerate(insns) if insn.address == address)
    return insns, index, ceiling


def _padding_end(code: Code, at: int, falls: bool) -> int:
    """The end of the nops behind a function that control does not run into; `at` when none."""
    if falls:
        return at
    i = bisect.bisect_left(code.ranges, (at, 0))
    stop = code.ranges[i][0] if i < len(code.ranges) else at + 32
    end = at
    for insn in details(code.elf.bits, code.elf.read(at, min(stop - at, 32)), at):
        if not insn.filler or insn.address in code.entries:
            break
        end = insn.end
    return end


def _find_pads(code: Code) -> list[int]:
    """Five-byte pieces of padding near sites: nops between ranges that nothing runs into."""
    out: list[int] = []
    near = [s.address for s in code.sites if s.length < JUMP]
    ranges = code.ranges
    seen: set[int] = set()
    for address in near:
        i = bisect.bisect_right(ranges, (address, 1 << 63)) - 1
        for j in range(max(i - 3, 0), min(i + 3, len(ranges))):
            lo, hi = ranges[j][1], ranges[j + 1][0] if j + 1 < len(ranges) else ranges[j][1]
            if j in seen or hi - lo < JUMP or hi - lo > 64 or abs(lo - address) > 256:
                continue
            seen.add(j)
            a, b = ranges[j]
            sweep = code.swept.get(a)
            if sweep is None or sweep.falls or sweep.end != b:
                continue
            end = _padding_end(code, lo, False)
            out.extend(range(lo, end - JUMP + 1, JUMP))
    return sorted(out)


def _freedom(patch: Patch) -> tuple[int, int]:
    held = {b - patch.start for b in patch.boundaries if b - patch.start < JUMP}
    rank = next((r for r, byte in enumerate((1, 2, 3, 4)) if byte in held), 4)
    return rank, patch.start


def _place(elf: Elf, arena: Arena, patch: Patch) -> Placed:
    """Give a patch's trampoline an address; the trap in place where none is within reach."""
    size = size_of(patch.pieces)
    source = patch.pad or patch.start
    held = () if patch.pad or patch.tactic == "in-place" else patch.boundaries
    try:
        address = arena.place(source, held, size)
        pieces = lay_out(patch.pieces, address)
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
        return (
            (patch.start, short + fill * (size - SHORT_JUMP)),
            (patch.pad, jump(patch.pad, address)),
        )
    return ((patch.start, jump(patch.start, address) + fill * (size - JUMP)),)


def _record(plan: Plan, placed: Placed) -> None:
    """Enter a placed patch into the redirect map and the trap map."""
    patch = placed.patch
    in_place_trap = patch.tactic == in_place.__name__.replace("_", "-")
    for p in placed.pieces:
        piece = p.piece
        if piece.address is None or piece.insn is None:
            continue
        if piece.address != patch.start or in_place_trap:
            plan.redirects[piece.address] = p.start
        if piece.insn.kind is None:
            continue
        at = patch.start if in_place_trap else p.trap
        plan.traps[at] = TrapSite(
            piece.address, p.native, p.end - p.native, p.end, piece.insn.kind,
            plan.code.function_at(piece.address),
        )  # fmt: skip
    for address in patch.boundaries:
        # Padding that was covered: a nop leads to where the padding ends.
        if address not in plan.redirects and plan.elf.read(address, 1) != b"\xcc":
            plan.redirects[address] = patch.end
