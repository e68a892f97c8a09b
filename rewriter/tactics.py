# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to divert control at a site, in order of preference.

Each tactic looks at a site and its neighbours and gives a patch or nothing;
the first patch is taken. The order is by cost at run time:

    lock-group        a jump over the LOCK prefix: both paths, as one
    direct            jmp rel32 over a site of 5 bytes or more
    following         ... over the site and instructions after it
    preceding         ... over instructions before it, and after it if need be
    split             jumps over LOCK from afar, diverted by the redirect map
    padding           a 2-byte jump to a jmp rel32 in padding nobody runs through
    neighbour         ... in room made by moving instructions nearby out of line
    in-place          8e c8 over the site, the instruction out of line: a trap each time

Invariant: no patch covers an address in `entries` but at its start; a boundary
that analysis took for unreachable is covered by the redirect map.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rewriter.decode import Flow, Insn
from rewriter.kinds import Kind
from rewriter.relocate import JUMP, Piece, movable, without_lock
from rewriter.templates import Check

SHORT_JUMP: Final = 2
_ABSORB_MAX: Final = 4
_LOOP_MAX: Final = 3
_SHORT_BACK, _SHORT_FORWARD = -128, 127


class Patch(NamedTuple):
    """Bytes [start, end) of the text to overwrite, and the trampoline they lead to.

    `boundaries` are the instruction starts inside, without the first; `pad` the
    address of the long jump that a short one leads to, 0 otherwise, with the
    `pad_boundaries` inside it; `evicted` the patch that made room for it.
    """

    tactic: str
    start: int
    end: int
    pieces: tuple[Piece, ...]
    boundaries: tuple[int, ...]
    pad: int = 0
    pad_boundaries: tuple[int, ...] = ()
    evicted: Patch | None = None
    nop: tuple[int, int] = (0, 0)
    """the nop around `pad`, (0, 0) for none"""


@dataclass
class Place:
    """What a tactic may look at.

    `insns` are consecutive instructions around the site, `index` the site's;
    `splits` are the targets of decoded branches, for jumps over a LOCK prefix
    (`entries` is a superset, and would find some that are none); `floor` is the
    first address free of earlier patches, `ceiling` the first past what may be
    overwritten (the range's end and the padding behind it).
    """

    insns: list[Insn]
    index: int
    entries: set[int]
    splits: set[int]
    floor: int
    ceiling: int
    check: Callable[[Kind, bool], Check]
    pads: Pads
    occupied: Callable[[int, int], bool]
    safe: bool
    """whether a boundary that is jumped to can be made to trap (64-bit)"""

    @property
    def site(self) -> Insn:
        """The site's instruction."""
        return self.insns[self.index]

    def piece(self, insn: Insn) -> Piece:
        """An instruction as a step of a trampoline; a site brings its check."""
        if insn.kind is None:
            return Piece(insn.address, insn)
        return Piece(insn.address, insn, self.check(insn.kind, self.flags_are_dead(insn)))

    def flags_are_dead(self, site: Insn) -> bool:
        """Whether the flags before a site are overwritten, by it or after it, before any use."""
        if site.reads_flags:
            return False
        if site.writes_flags:
            return True
        for insn in self.insns:
            if insn.address < site.end:
                continue
            if insn.reads_flags or insn.flow is not Flow.NEXT:
                return False
            if insn.writes_flags:
                return True
        return False

    def is_entry(self, insn: Insn) -> bool:
        """Whether something may jump to the instruction, or into its prefix."""
        return insn.address in self.entries or self.is_split(insn)

    def is_split(self, insn: Insn) -> bool:
        """Whether something jumps over the instruction's LOCK prefix."""
        return insn.raw[0] == 0xF0 and insn.address + 1 in self.splits


@dataclass
class Pads:
    """Nops of 6 bytes or more that nothing runs into, as (start, end), ascending.

    The first byte becomes an invalid opcode, so that a jump to the nop which
    analysis missed is redirected behind it; the long jump goes after that byte.
    """

    free: list[tuple[int, int]] = field(default_factory=list)

    def take(self, lo: int, hi: int) -> tuple[int, int] | None:
        """A nop whose second byte is in [lo, hi], None when there is none."""
        i = bisect.bisect_left(self.free, (lo - 1, 0))
        if i < len(self.free) and self.free[i][0] + 1 <= hi:
            return self.free.pop(i)
        return None

    def drop(self, lo: int, hi: int) -> None:
        """Nops that a patch overwrote are not free any more."""
        self.free = [(a, b) for a, b in self.free if b <= lo or a >= hi]


def _cover(place: Place, first: int, last: int) -> tuple[tuple[Piece, ...], tuple[int, ...], int]:
    """Pieces, inner boundaries and end of instructions first..last."""
    insns = place.insns[first : last + 1]
    pieces = [place.piece(i) for i in insns if not _is_filler(insns, i)]
    end = insns[-1].end
    # Padding covered is no step of the trampoline, but a boundary all the same.
    if insns[len(pieces) - 1].flow not in (Flow.JMP, Flow.END):
        pieces.append(Piece(None, None, None, end))
    return tuple(pieces), tuple(i.address for i in insns[1:]), end


def _is_filler(insns: list[Insn], insn: Insn) -> bool:
    """Whether an instruction comes after one that never goes on to it."""
    return any(i.flow in (Flow.JMP, Flow.END) for i in insns if i.address < insn.address)


def _extend(place: Place, first: int, last: int, need: int) -> int:
    """The last index such that first..last spans `need` bytes by absorbing what follows; -1."""
    ended = place.insns[last].flow in (Flow.JMP, Flow.END)
    absorbed = 0
    while place.insns[last].end - place.insns[first].address < need:
        last += 1
        absorbed += 1
        if last >= len(place.insns) or place.insns[last].end > place.ceiling:
            return -1
        insn = place.insns[last]
        if place.is_entry(insn):
            return -1
        if ended:
            # Nothing runs on into these bytes: only padding may be there.
            if not insn.filler:
                return -1
        elif not movable(insn) or absorbed > _ABSORB_MAX:
            return -1
        else:
            ended = insn.flow in (Flow.JMP, Flow.END)
    return last


def _with_loop(place: Place, first: int, last: int) -> int:
    """The index of a branch back to the patch's start just behind it, else `last`.

    A tight loop around a site then runs in the trampoline altogether, without a
    jump there and back each time.
    """
    start = place.insns[first].address
    if place.insns[last].flow in (Flow.JMP, Flow.END):
        return last
    for index in range(last + 1, min(last + 1 + _LOOP_MAX, len(place.insns))):
        insn = place.insns[index]
        if place.is_entry(insn) or not movable(insn) or insn.end > place.ceiling:
            break
        if insn.flow in (Flow.JMP, Flow.JCC) and insn.target == start:
            return index
        if insn.flow is not Flow.NEXT:
            break
    return last


def lock_group(place: Place) -> Patch | None:
    """`je .+1; lock insn`: both the branch and the instruction, each path in the trampoline."""
    site, i = place.site, place.index
    if not place.is_split(site) or i == 0:
        return None
    before = place.insns[i - 1]
    if before.flow is not Flow.JCC or before.target != site.address + 1:
        return None
    if before.address < place.floor:
        return None
    if site.address in place.entries and not place.safe:
        return None
    if before.end != site.address or site.end - before.address < JUMP:
        return None
    bare = without_lock(site)
    back = Piece(None, None, None, site.end)
    pieces = (place.piece(before), place.piece(site), back, place.piece(bare), back)
    inner = (site.address, bare.address)
    return Patch("lock-group", before.address, site.end, pieces, inner)


def direct(place: Place) -> Patch | None:
    """The site alone is long enough."""
    site = place.site
    if site.length < JUMP or place.is_split(site) or site.address < place.floor:
        return None
    pieces, inner, end = _cover(place, place.index, _with_loop(place, place.index, place.index))
    return Patch("direct", site.address, end, pieces, inner)


def following(place: Place) -> Patch | None:
    """The site and as many instructions after it as make 5 bytes."""
    if place.is_split(place.site) or place.site.address < place.floor:
        return None
    last = _extend(place, place.index, place.index, JUMP)
    if last < 0:
        return None
    pieces, inner, end = _cover(place, place.index, _with_loop(place, place.index, last))
    return Patch("following", place.site.address, end, pieces, inner)


def preceding(place: Place) -> Patch | None:
    """Instructions before the site, and after it where these do not suffice."""
    if place.is_split(place.site) or place.site.address in place.entries:
        return None
    for first in range(place.index - 1, max(place.index - 1 - _ABSORB_MAX, -1), -1):
        insn = place.insns[first]
        if insn.address < place.floor or not movable(insn) or place.is_split(insn):
            return None
        if insn.flow in (Flow.JMP, Flow.END) or insn.end != place.insns[first + 1].address:
            return None
        last = _extend(place, first, place.index, JUMP)
        if last >= 0:
            pieces, inner, end = _cover(place, first, _with_loop(place, first, last))
            return Patch("preceding", insn.address, end, pieces, inner)
        if insn.address in place.entries:
            return None
    return None


def split(place: Place) -> Patch | None:
    """A LOCK prefix jumped over from afar: that path goes through the redirect map."""
    site = place.site
    if not place.is_split(site) or not place.safe or site.address < place.floor:
        return None
    if site.length < JUMP:
        return None
    bare = without_lock(site)
    back = Piece(None, None, None, site.end)
    pieces = (place.piece(site), back, place.piece(bare), back)
    return Patch("split", site.address, site.end, pieces, (bare.address,))


def padding(place: Place) -> Patch | None:
    """A short jump to padding that has room for the long one."""
    site = place.site
    if place.is_split(site) or site.address < place.floor or site.length < SHORT_JUMP:
        return None
    after = site.address + SHORT_JUMP
    nop = place.pads.take(after + _SHORT_BACK, after + _SHORT_FORWARD)
    if nop is None:
        return None
    pieces, inner, end = _cover(place, place.index, place.index)
    return Patch("padding", site.address, end, pieces, inner, nop[0] + 1, nop=nop)


def neighbour(place: Place) -> Patch | None:
    """A short jump to 5 bytes behind a jump that moves other instructions out of line.

    The moved ones span 10 bytes: the jump to their own trampoline, then ours.
    """
    site = place.site
    if place.is_split(site) or site.address < place.floor or site.length < SHORT_JUMP:
        return None
    low = site.address + SHORT_JUMP + _SHORT_BACK - JUMP
    high = site.address + SHORT_JUMP + _SHORT_FORWARD - JUMP
    for first in sorted(range(len(place.insns)), key=lambda i: abs(i - place.index)):
        start = place.insns[first].address
        if not low <= start <= high:
            continue
        last = _movable_run(place, first)
        if last < 0:
            continue
        pieces, inner, end = _cover(place, first, last)
        pad = start + JUMP
        if pad in inner or place.occupied(start, end):
            continue
        evicted = Patch("evicted", start, end, pieces, inner)
        ours, _, site_end = _cover(place, place.index, place.index)
        behind = tuple(b for b in inner if b > pad)
        return Patch("neighbour", site.address, site_end, ours, (), pad, behind, evicted)
    return None


def _movable_run(place: Place, first: int) -> int:
    """Index of the last of the instructions from `first` on that make room for two jumps."""
    for last in range(first, len(place.insns)):
        insn = place.insns[last]
        if insn.kind is not None or not movable(insn) or insn.end > place.ceiling:
            return -1
        if last > first and place.is_entry(insn):
            return -1
        if insn.end - place.insns[first].address >= 2 * JUMP:
            return last
        if insn.flow in (Flow.JMP, Flow.END):
            return -1
    return -1


def in_place(place: Place) -> Patch | None:
    """The trap itself, and the instruction out of line."""
    site = place.site
    if place.is_split(site) or site.address < place.floor:
        return None
    pieces = (Piece(site.address, site), Piece(None, None, None, site.end))
    return Patch("in-place", site.address, site.end, pieces, ())


Tactic = Callable[[Place], Patch | None]
FIRST: Final[tuple[Tactic, ...]] = (lock_group, direct, following, preceding, split)
"""Those that need only the site's neighbours."""
LAST: Final[tuple[Tactic, ...]] = (padding, neighbour, in_place)
"""Those that take room elsewhere, left over when all others have been served."""


def choose(place: Place, tactics: tuple[Tactic, ...]) -> Patch | None:
    """The first patch a tactic offers; None when none does."""
    for tactic in tactics:
        patch = tactic(place)
        if patch is not None:
            return patch
    return None
