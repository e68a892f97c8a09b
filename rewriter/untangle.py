# SPDX-License-Identifier: GPL-2.0-or-later
"""Data among code: functions that a linear sweep misreads.

Hand-written code holds tables between its instructions, and bytes that are jumped over. A
sweep that decodes them goes on out of step: it misses sites, and finds some in the middle of
instructions, where a patch would destroy them. What gives it away is a branch to where the
sweep saw no instruction begin, bytes that are none, or what looks like a table behind an
instruction that nothing runs past, whose address is taken. Such a function is read as
control flows, from its entry and whatever else surely is code; what lies between is code
only if it reads so to its end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from iced_x86 import Decoder, Instruction, Register

from rewriter.decode import ENDS, NEAR, STOPS, Sweep, kind_of, sweep
from rewriter.elf import Elf
from rewriter.kinds import Site

LOCK: Final = 0xF0
_ENTRIES_MIN: Final = 2
_ALIGNMENTS: Final = (1, 4, 8, 16)
_PAIR: Final = struct.Struct("<2i")
_WIDE_PAIR: Final = struct.Struct("<2q")


class Untangled(NamedTuple):
    """`sweeps` of what is code, ascending; `doubtful` are (start, end) of what may be."""

    sweeps: list[Sweep]
    doubtful: list[tuple[int, int]]


class _Table(NamedTuple):
    start: int
    end: int
    targets: frozenset[int]


def is_tangled(elf: Elf, s: Sweep, end: int) -> bool:
    """Whether a sweep of the range up to `end` has read something that cannot be so."""
    if s.end < end:
        return True
    starts = set(s.starts)
    misread = [at for at in s.targets if s.start <= at < s.end and at not in starts]
    if any(at - 1 not in starts or elf.read(at - 1, 1)[0] != LOCK for at in misread):
        return True
    tables = {
        at for at in _pairs_behind(elf, s, end) if _table_at(elf, at, s.start, end) is not None
    }
    return bool(tables) and not tables.isdisjoint(_all_taken(elf, s.start, end))


def untangle(elf: Elf, start: int, end: int, roots: Iterable[int]) -> Untangled:
    """Read the range [start, end) from its start and `roots` on as control flows."""
    reading = _Reading(elf, start, end)
    reading.follow((start, *roots))
    return reading.result()


@dataclass
class _Reading:
    elf: Elf
    start: int
    end: int
    lengths: dict[int, int] = field(default_factory=dict)
    """Of the instructions reached, by address."""
    sites: list[Site] = field(default_factory=list)
    targets: set[int] = field(default_factory=set)
    tables: dict[int, _Table] = field(default_factory=dict)
    referred: set[int] = field(default_factory=set)
    """Addresses in the range that reached instructions take, or index from."""

    def follow(self, roots: Iterable[int]) -> None:
        work = [at for at in roots if self.start <= at < self.end]
        while work:
            while work:
                work += self._run(work.pop())
            for at in sorted(self.referred):
                if at not in self.lengths and at not in self.tables:
                    work += self._found(_table_at(self.elf, at, self.start, self.end))

    def _run(self, at: int) -> list[int]:
        """Decode from here on until control cannot go on; where else it may go."""
        data = self.elf.read(at, self.end - at)
        decoder = Decoder(self.elf.bits, data, ip=at)
        ins = Instruction()
        onward: list[int] = []
        while at < self.end and at not in self.lengths:
            decoder.decode_out(ins)
            if ins.code == 0 or ins.next_ip > self.end:
                break
            self.lengths[at] = ins.len
            kind = kind_of(ins)
            if kind is not None:
                self.sites.append(Site(at, ins.len, kind))
            taken = _taken(ins)
            if self.start < taken < self.end:
                self.referred.add(taken)
            at = ins.next_ip
            flow = ins.flow_control
            if flow and ins.op_count and ins.op0_kind in NEAR:
                target = ins.near_branch_target
                self.targets.add(target)
                if self.start <= target < self.end:
                    onward.append(target)
            if flow in ENDS or ins.mnemonic in STOPS:
                break
        return onward

    def _found(self, table: _Table | None) -> list[int]:
        if table is None:
            return []
        self.tables[table.start] = table
        return list(table.targets)

    def result(self) -> Untangled:
        """What was reached, and between it what reads as code to its end."""
        sweeps: list[Sweep] = []
        doubtful: list[tuple[int, int]] = []
        known = {site.address: site for site in self.sites}
        piece: list[int] = []

        def close(end: int) -> None:
            if piece:
                sites = [known[at] for at in piece if at in known]
                # Of what comes behind a piece, nothing is padding.
                sweeps.append(Sweep(piece[0], end, list(piece), sites, set(), True, []))
                piece.clear()

        at = self.start
        for begin, finish, code in self._parts():
            if at < begin:
                between = sweep(self.elf.bits, self.elf.read(at, begin - at), at)
                if not is_tangled(self.elf, between, begin):
                    piece += between.starts
                    known |= {site.address: site for site in between.sites}
                    self.targets |= between.targets
                else:
                    close(at)
                    doubtful.append((at, begin))
            if code:
                piece.append(begin)
            else:
                close(begin)
                if begin < finish and begin not in self.tables:
                    doubtful.append((begin, finish))
            at = finish
        close(at)
        if sweeps:
            sweeps[0].targets.update(self.targets)
        return Untangled(sweeps, doubtful)

    def _parts(self) -> Iterator[tuple[int, int, bool]]:
        """Instructions (True), and tables and bytes that are read in two ways (False),
        ascending and disjoint; an empty one at the end."""
        spans = [(at, at + length, True) for at, length in self.lengths.items()]
        spans += [(table.start, table.end, False) for table in self.tables.values()]
        spans.sort()
        held: tuple[int, int, bool] | None = None
        for span in spans:
            if held is None or span[0] >= held[1]:
                if held is not None:
                    yield held
                held = span
            elif not self._is_without_lock(held, span):
                held = (held[0], max(held[1], span[1]), False)
        if held is not None:
            yield held
        yield self.end, self.end, False

    def _is_without_lock(self, whole: tuple[int, int, bool], inner: tuple[int, int, bool]) -> bool:
        """Whether one reading is the other's behind its LOCK prefix."""
        at, end, code = whole
        return code and inner == (at + 1, end, True) and self.elf.read(at, 1)[0] == LOCK


def _taken(ins: Instruction) -> int:
    """The address that an instruction takes, or indexes from; 0 for none."""
    if ins.is_ip_rel_memory_operand:
        return int(ins.ip_rel_memory_address)
    return int(ins.memory_displacement) if ins.memory_index != Register.NONE else 0


def _all_taken(elf: Elf, start: int, end: int) -> set[int]:
    """What the instructions of a range take, as a sweep reads them."""
    return {_taken(ins) for ins in Decoder(elf.bits, elf.read(start, end - start), ip=start)}


def _pairs_behind(elf: Elf, s: Sweep, end: int) -> Iterator[int]:
    """Where two words that lead into the range stand behind an instruction that nothing runs
    past, as at the beginning of a table; most functions have none."""
    data = elf.read(s.start, end - s.start)
    size = len(data)
    inside = range(s.start, end)
    for begin in s.ends:
        last = -1
        for alignment in _ALIGNMENTS:
            at = begin + -begin % alignment
            offset = at - s.start
            if at == last or offset + _PAIR.size > size:
                continue
            last = at
            first, second = _PAIR.unpack_from(data, offset)
            if elf.bits == 32:
                found = first in inside and second in inside
            else:
                found = 0 <= offset + first < size and 0 <= offset + second < size
                if not found and offset + _WIDE_PAIR.size <= size:
                    first, second = _WIDE_PAIR.unpack_from(data, offset)
                    found = first in inside and second in inside
            if found:
                yield at


def _table_at(elf: Elf, at: int, start: int, end: int) -> _Table | None:
    """A table at an address of the range: offsets from it, or addresses, all in the range.

    An offset in a short function has two bytes that are zero or all ones, an address has
    four of its own; instructions that read so twice in a row are few.
    """
    forms = (("<i", at), ("<q", 0)) if elf.bits == 64 else (("<i", 0),)
    for form, base in forms:
        width = struct.calcsize(form)
        targets: list[int] = []
        for size in (_ENTRIES_MIN * width, end - at):  # most are none, and seen at once
            data = elf.read(at, size)
            words = struct.iter_unpack(form, data[: len(data) // width * width])
            targets = list(_targets(words, at, width, base, range(start, end)))
            if len(targets) < _ENTRIES_MIN:
                break
        else:
            return _Table(at, at + width * len(targets), frozenset(targets))
    return None


def _targets(
    words: Iterator[tuple[int, ...]], at: int, width: int, base: int, inside: range
) -> Iterator[int]:
    """What a table leads to, which ends where the first of that begins."""
    first = inside.stop
    for here, (word,) in enumerate(words, 1):
        target = base + word
        if at < target:
            first = min(first, target)
        if target not in inside or target == at or at + here * width > first:
            return
        yield target
