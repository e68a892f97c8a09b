# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing a patch for each site of a file.

Two passes: first the tactics that need only a site's neighbours, in ascending
order of addresses; then, for the few sites left, those that take room
elsewhere, which must know all patches of the first pass.

Invariant: patches are disjoint; every site is a step of exactly one.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Final

from rewriter.decode import Flow, Insn, Sweep, details
from rewriter.errors import Unsupported
from rewriter.kinds import Kind
from rewriter.relocate import JUMP
from rewriter.sites import Code
from rewriter.tactics import FIRST, LAST, Pads, Patch, Place, choose
from rewriter.templates import Check

_BEFORE: Final = 5
_AFTER: Final = 6
_REACH: Final = 132
"""Bytes around a site in which the second pass looks for room."""
_PADDING_MAX: Final = 64


def select_patches(code: Code, checks: Callable[[Kind, bool], Check]) -> list[Patch]:
    """A patch for every site, ascending; Unsupported when one cannot be diverted soundly."""
    splits = {t for s in code.swept.values() for t in s.targets}
    taken = _Taken()
    out: list[Patch] = []
    left: list[int] = []

    def place_at(address: int, before: int, after: int, floor: int, pads: Pads) -> Place:
        insns, index, ceiling = _around(code, address, before, after)
        return Place(
            insns, index, code.entries, splits, max(floor, insns[0].address), ceiling, checks,
            pads, taken.overlaps, code.elf.bits == 64,
        )  # fmt: skip

    floor = 0
    for site in code.sites:
        if site.address < floor:
            continue
        patch = choose(place_at(site.address, _BEFORE, _AFTER, floor, Pads()), FIRST)
        if patch is None:
            left.append(site.address)
            continue
        out.append(patch)
        floor = patch.end
    for patch in out:
        taken.add(patch.start, patch.end)
    lengths = {s.address: s.length for s in code.sites}
    # A later site's patch may have covered a site left over before it.
    left = [a for a in left if not taken.overlaps(a, a + lengths[a])]
    for address in left:
        taken.add(address, address + lengths[address])
    pads = Pads([(a, b) for a, b in _find_pads(code, left) if not taken.overlaps(a, b)])
    for address in left:
        patch = choose(place_at(address, _REACH // 2, _REACH // 2, 0, pads), LAST)
        if patch is None:
            kind = next(s.kind for s in code.sites if s.address == address)
            raise Unsupported(code.elf.name, f"the {kind} at {address:#x} cannot be diverted")
        out.append(patch)
        if patch.evicted is not None:
            out.append(patch.evicted)
            taken.add(patch.evicted.start, patch.evicted.end)
            pads.drop(patch.evicted.start, patch.evicted.end)
        elif patch.pad:
            taken.add(*patch.nop)
    return sorted(out, key=lambda p: p.start)


class _Taken:
    """Disjoint address ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, lo: int, hi: int) -> None:
        """Take [lo, hi), which must be free."""
        assert not self.overlaps(lo, hi)
        i = bisect.bisect_left(self._starts, lo)
        self._starts.insert(i, lo)
        self._ends.insert(i, hi)

    def overlaps(self, lo: int, hi: int) -> bool:
        """Whether any byte of [lo, hi) is taken."""
        i = bisect.bisect_left(self._starts, hi)
        return i > 0 and self._ends[i - 1] > lo


def _around(code: Code, address: int, before: int, after: int) -> tuple[list[Insn], int, int]:
    """Instructions around a site in detail, its index, and where overwriting must stop."""
    sweep = code.sweep_of(address)
    assert sweep is not None
    i = bisect.bisect_left(sweep.starts, address)
    start = sweep.starts[max(i - before, 0)]
    last = sweep.starts[i + after] if i + after < len(sweep.starts) else sweep.end
    ceiling = _padding_end(code, sweep) if last == sweep.end else last
    insns = list(details(code.elf.bits, code.elf.read(start, ceiling - start), start))
    index = next(k for k, insn in enumerate(insns) if insn.address == address)
    return insns, index, ceiling


def _padding_end(code: Code, sweep: Sweep) -> int:
    """The end of the nops behind code that control does not run past; its end when it does."""
    at = sweep.end
    if sweep.falls:
        return at
    i = bisect.bisect_left(code.ranges, (at, 0))
    stop = code.ranges[i][0] if i < len(code.ranges) else at + _PADDING_MAX
    return _nops_end(code, at, stop)


def _nops_end(code: Code, at: int, stop: int) -> int:
    """The end of the run of nops from `at` on that nothing jumps into."""
    end = at
    raw = code.elf.read(at, min(stop - at, _PADDING_MAX))
    for insn in details(code.elf.bits, raw, at):
        if not insn.filler or insn.address in code.entries:
            break
        end = insn.end
    return end


def _find_pads(code: Code, sites: list[int]) -> list[tuple[int, int]]:
    """Long nops within reach of sites that nothing runs into, as (start, end)."""
    out: set[tuple[int, int]] = set()
    for address in sites:
        sweep = code.sweep_of(address)
        assert sweep is not None
        lo = bisect.bisect_left(sweep.starts, address - _REACH)
        hi = bisect.bisect_left(sweep.starts, address + _REACH)
        start = sweep.starts[lo]
        stop = sweep.starts[hi] if hi < len(sweep.starts) else _padding_end(code, sweep)
        idle = False
        for insn in details(code.elf.bits, code.elf.read(start, stop - start), start):
            if idle and insn.filler and insn.address not in code.entries:
                if insn.length > JUMP:
                    out.add((insn.address, insn.end))
            else:
                idle = insn.flow in (Flow.JMP, Flow.END)
    return sorted(out)
