# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding every synchronization instruction of a file.

Three sources of code, from the surest to the least sure:

1. ranges: frame descriptions, the function table of Go, symbols with a size.
   Each is swept linearly, or, where data lies among its code, read as control
   flows (untangle.py). Only those that hold a candidate byte are.
2. gaps between ranges, followed from strong roots only (symbols, the entry
   point, relocations, direct branches), as control flows. A linear sweep of
   gaps would take data for code: 392 sites that are none in libcrypto alone.
3. nothing else: what no root reaches is not touched. Where that could hold sites, and is
   most of the code (no unwind tables, no symbols) or reads as code, or where a range
   could that cannot be read, the code is `partial`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from rewriter.candidates import (
    NEAR,
    branches_into,
    code_areas,
    entry_points,
    pointed_to,
    site_candidates,
    within,
)
from rewriter.decode import Sweep, follow, sweep
from rewriter.elf import Elf, Symbol
from rewriter.errors import Corrupt
from rewriter.frames import Fde, call_sites, read_frames
from rewriter.golang import go_functions
from rewriter.kinds import Kind, Site
from rewriter.numeric import np
from rewriter.relocs import relocated_words
from rewriter.untangle import is_tangled, untangle

_TRACE_MAX: Final = 16_000_000
_LSDA_MAX: Final = 200_000


@dataclass
class Code:
    """What is known of a file's code.

    `ranges` are disjoint (start, end), ascending; `swept` the sweeps of those
    that were decoded, by start; `sites` ascending; `entries` addresses near a
    site that may be jumped to; `in_ranges` how many sites lie in ranges.
    """

    elf: Elf
    ranges: list[tuple[int, int]]
    frames: list[Fde]
    symbols: list[Symbol]
    swept: dict[int, Sweep] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    entries: set[int] = field(default_factory=set)
    in_ranges: int = 0
    is_go: bool = False
    partial: bool = False
    """whether bytes that could be sites lie in code that nothing tells how to read"""
    _keys: list[int] = field(default_factory=list)

    def sweep_of(self, address: int) -> Sweep | None:
        """The sweep that holds an instruction at exactly `address`."""
        s = self._sweeps_at(address)
        if s is None or address >= s.end:
            return None
        i = bisect.bisect_left(s.starts, address)
        return s if i < len(s.starts) and s.starts[i] == address else None

    def _sweeps_at(self, address: int) -> Sweep | None:
        if len(self._keys) != len(self.swept):
            self._keys = sorted(self.swept)
        i = bisect.bisect_right(self._keys, address) - 1
        return self.swept[self._keys[i]] if i >= 0 else None

    def function_at(self, address: int) -> str:
        """Name of the function around an address, '' when no symbol tells."""
        i = bisect.bisect_right(self.symbols, address, key=lambda s: s.address) - 1
        if i < 0:
            return ""
        s = self.symbols[i]
        if s.size:
            return s.name if address < s.address + s.size else ""
        frame = self.frame_at(address)
        return s.name if frame is not None and frame.start <= s.address else ""

    def frame_at(self, address: int) -> Fde | None:
        """The frame description whose range holds an address."""
        i = bisect.bisect_right(self.frames, address, key=lambda f: f.start) - 1
        return self.frames[i] if i >= 0 and address < self.frames[i].end else None


def find_code(elf: Elf, *, everything: bool = False) -> Code:
    """Find the sites of a file and the entry points around them.

    `everything` sweeps every range, candidate or not (a check of the filter).
    """
    frames = read_frames(elf)
    symbols = elf.functions()
    go = go_functions(elf)
    code = Code(elf, _ranges(elf, frames, symbols, go), frames, symbols, is_go=bool(go))
    candidates = site_candidates(elf)
    _sweep_ranges(code, candidates, everything)
    code.in_ranges = sum(len(s.sites) for s in code.swept.values())
    if len(candidates) or everything:
        _trace_gaps(code, candidates)
    code.sites = sorted(site for s in code.swept.values() for site in s.sites)
    if code.sites:
        _collect_entries(code)
    return code


def _ranges(
    elf: Elf, frames: list[Fde], symbols: list[Symbol], go: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Disjoint code ranges: frames first, then Go's functions, then sized symbols in between."""
    out = _merged(elf, [(f.start, f.end) for f in frames], go, trusted=True)
    sized = [(s.address, s.address + s.size) for s in symbols if s.size]
    return _merged(elf, out, sized, trusted=False)


def _merged(
    elf: Elf, known: list[tuple[int, int]], more: list[tuple[int, int]], *, trusted: bool
) -> list[tuple[int, int]]:
    """`known` ranges and those of `more` that lie wholly between them.

    A range that is not `trusted` must decode to its end: hand-written code may
    hold tables, and a symbol's size is what its author wrote.
    """
    added: list[tuple[int, int]] = []
    starts = [r[0] for r in known]
    end = 0
    for lo, hi in sorted(more):
        i = bisect.bisect_right(starts, lo) - 1
        covered = i >= 0 and known[i][1] > lo
        following = i + 1 < len(known) and known[i + 1][0] < hi
        if covered or following or lo < end or not elf.is_code(lo) or not elf.is_code(hi - 1):
            continue
        if trusted or _is_clean(elf, lo, hi):
            added.append((lo, hi))
            end = hi
    return sorted(known + added)


def _is_clean(elf: Elf, lo: int, hi: int) -> bool:
    """Whether a range decodes to its end."""
    s = sweep(elf.bits, elf.read(lo, hi - lo), lo)
    return s.end == hi


def _sweep_ranges(code: Code, candidates: np.ndarray, everything: bool) -> None:
    elf = code.elf
    if not code.ranges:
        return
    starts = np.array([r[0] for r in code.ranges], np.int64)
    ends = np.array([r[1] for r in code.ranges], np.int64)
    at = np.searchsorted(starts, candidates, side="right") - 1
    at = at[(at >= 0) & (candidates < ends[np.maximum(at, 0)])]
    chosen = range(len(starts)) if everything else np.unique(at).tolist()
    roots: list[int] | None = None
    for i in chosen:
        lo, hi = code.ranges[i]
        s = sweep(elf.bits, elf.read(lo, hi - lo), lo)
        if is_tangled(elf, s, hi):
            roots = _sure_roots(code) if roots is None else roots
            _untangle(code, lo, hi, roots, candidates)
        elif s.sites:
            code.swept[lo] = s
            # Short branches reach 128 bytes: neighbours may aim beside a site.
            for j in (i - 1, i + 1):
                if 0 <= j < len(starts) and code.ranges[j][0] not in code.swept:
                    a, b = code.ranges[j]
                    if b - a < 1 << 16 and (lo - b if j < i else a - hi) < 128:
                        code.swept[a] = sweep(elf.bits, elf.read(a, b - a), a)


def _untangle(
    code: Code, lo: int, hi: int, roots: list[int], candidates: np.ndarray
) -> None:
    """A range that holds data too, read as control flows."""
    inside = roots[bisect.bisect_left(roots, lo) : bisect.bisect_left(roots, hi)]
    found = untangle(code.elf, lo, hi, inside)
    code.swept.update((s.start, s) for s in found.sweeps if s.sites or s.targets)
    code.partial = code.partial or bool(_holding(found.doubtful, candidates))


def _strong_roots(code: Code) -> set[int]:
    """The entry point, symbols, and what relocations point to."""
    return {code.elf.entry} | {s.address for s in code.symbols} | relocated_words(code.elf)


def _sure_roots(code: Code) -> list[int]:
    """Addresses that surely are code, ascending: those and landing pads."""
    roots = _strong_roots(code)
    for frame in [f for f in code.frames if f.lsda][:_LSDA_MAX]:
        roots.update(c.pad for c in call_sites(code.elf, frame) if c.pad)
    return sorted(roots)


def _gaps(code: Code) -> list[tuple[int, int]]:
    """What code areas hold outside the ranges."""
    out = []
    for lo, hi in code_areas(code.elf):
        i = bisect.bisect_right(code.ranges, (lo, 1 << 63)) - 1
        if i >= 0:
            lo = max(lo, code.ranges[i][1])
        for a, b in code.ranges[max(i + 1, 0) :]:
            if a >= hi:
                break
            if lo < a:
                out.append((lo, a))
            lo = max(lo, b)
        if lo < hi:
            out.append((lo, hi))
    return out


def _trace_gaps(code: Code, candidates: np.ndarray) -> None:
    """Follow control flow inside the gaps and add what it reaches as sweeps."""
    gaps = _gaps(code)
    if not _holding(gaps, candidates):
        return
    elf = code.elf
    roots = _strong_roots(code)
    known: dict[int, Sweep] = {}
    sources, targets = branches_into(elf, gaps)
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        if target not in roots and _is_boundary(code, known, source):
            roots.add(target)
    runs = _trace(elf, gaps, roots)
    left = _holding(_without(gaps, runs), candidates)
    if left and (_is_mostly_unknown(code) or _may_be_code(elf, left)):
        code.partial = True
    _add_traced(code, runs)


def _is_mostly_unknown(code: Code) -> bool:
    """Whether less than half of the code lies in ranges."""
    known = sum(hi - lo for lo, hi in code.ranges)
    return 2 * known < sum(hi - lo for lo, hi in code_areas(code.elf))


def _without(gaps: list[tuple[int, int]], runs: list[Sweep]) -> list[tuple[int, int]]:
    """The parts of the gaps that no run covers."""
    out = []
    covered = sorted((r.start, r.end) for r in runs)
    starts = [c[0] for c in covered]
    for lo, hi in gaps:
        for a, b in covered[bisect.bisect_left(starts, lo) : bisect.bisect_left(starts, hi)]:
            if lo < a:
                out.append((lo, a))
            lo = max(lo, b)
        if lo < hi:
            out.append((lo, hi))
    return out


def _holding(gaps: list[tuple[int, int]], candidates: np.ndarray) -> list[tuple[int, int]]:
    """The gaps that hold a candidate, ascending."""
    starts = [g[0] for g in gaps]
    inside = candidates[within(gaps, candidates)].tolist()
    return sorted({gaps[bisect.bisect_right(starts, at) - 1] for at in inside})


def _may_be_code(elf: Elf, gaps: list[tuple[int, int]]) -> bool:
    """Whether a gap has a site and reads as code: from end to end, or from where a pointer leads.

    Tables among code do not: bytes that are no instructions come before a site.
    """
    for lo, hi in gaps:
        s = sweep(elf.bits, elf.read(lo, hi - lo), lo)
        if s.sites and not is_tangled(elf, s, hi):
            return True
    return any(run.sites for run in _trace(elf, gaps, pointed_to(elf, gaps)))


def _is_boundary(code: Code, known: dict[int, Sweep], address: int) -> bool:
    """Whether an instruction with a branch at `address` really begins there, in a range."""
    i = bisect.bisect_right(code.ranges, (address, 1 << 63)) - 1
    if i < 0 or code.ranges[i][1] <= address:
        return False
    lo, hi = code.ranges[i]
    s = code.swept.get(lo) or known.get(lo)
    if s is None:
        s = known[lo] = sweep(code.elf.bits, code.elf.read(lo, hi - lo), lo)
    k = bisect.bisect_right(s.starts, address) - 1
    # A prefix may stand before the opcode.
    return k >= 0 and s.starts[k] in (address, address - 1) and s.end > address


def _trace(elf: Elf, gaps: list[tuple[int, int]], roots: set[int]) -> list[Sweep]:
    """Recursive descent from the roots, inside the gaps; one sweep a run of instructions."""
    known: set[int] = set()
    runs: list[Sweep] = []
    starts = [g[0] for g in gaps]
    work = list(roots)
    while work and len(known) < _TRACE_MAX:
        at = work.pop()
        i = bisect.bisect_right(starts, at) - 1
        if i < 0 or at >= gaps[i][1] or at in known:
            continue
        data = elf.read(at, min(gaps[i][1] - at, 1 << 20))
        run, broken = follow(elf.bits, data, at, known)
        if broken:
            # What leads to no instruction is no code, whatever pointed to it.
            continue
        known.update(run.starts)
        runs.append(run)
        work.extend(run.targets)
    return runs


def _add_traced(code: Code, runs: list[Sweep]) -> None:
    """Join adjacent runs into sweeps; of two readings of the same bytes trust neither."""
    joined: list[Sweep] = []
    bad_until = 0
    for run in sorted(runs):
        if run.start < bad_until:
            bad_until = max(bad_until, run.end)
            continue
        last = joined[-1] if joined else None
        if last is not None and last.end > run.start:
            bad_until = max(last.end, run.end)
            joined.pop()
        elif last is not None and last.end == run.start:
            joined[-1] = Sweep(
                last.start, run.end, last.starts + run.starts, last.sites + run.sites,
                last.targets | run.targets, run.falls, [],
            )  # fmt: skip
        else:
            joined.append(run)
    for run in joined:
        code.swept[run.start] = run


def _collect_entries(code: Code) -> None:
    addresses = np.array([s.address for s in code.sites], np.int64)
    entries = entry_points(code.elf, addresses)
    for s in code.swept.values():
        entries |= s.targets
    entries.update(s.address for s in code.symbols)
    entries.update(f.start for f in code.frames)
    for f in [f for f in code.frames if f.lsda][:_LSDA_MAX]:
        entries.update(c.pad for c in call_sites(code.elf, f) if c.pad)
    near = set()
    for address in entries:
        i = bisect.bisect_left(addresses, address - NEAR)
        if i < len(addresses) and addresses[i] <= address + NEAR:
            near.add(address)
    code.entries = near


def iterate_kinds(sites: list[Site]) -> Iterator[tuple[Kind, int]]:
    """(kind, number of sites), in the order of the table of kinds."""
    for kind in Kind:
        number = sum(1 for s in sites if s.kind is kind)
        if number:
            yield kind, number


def check_code(code: Code) -> None:
    """Raise Corrupt when sites overlap, as no honest file's do."""
    for a, b in pairwise(code.sites):
        if a.address + a.length > b.address:
            raise Corrupt(code.elf.name, f"code at {b.address:#x} overlaps itself")
