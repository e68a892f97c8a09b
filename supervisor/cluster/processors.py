# SPDX-License-Identifier: GPL-2.0-or-later
"""What hosts tell each other of their processors, and the one that programs are shown.

A program asks CPUID once, where it happens to run, and keeps to the answer on every
host. So it is shown what all hosts have: features, and the states of registers (XCR0)
that all have enabled and lay out alike in an XSAVE area, for what a program or glibc has
saved there may be read back on another host. XGETBV tells each host's own and does not
trap: what it names beyond CPUID is of no use without the features, which are hidden too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import msgspec

from supervisor.arch import cpuid
from supervisor.arch.cpuid import EXTENDED, HWCAP, HYPERVISOR, SUBLEAVES, WORDS, Word
from supervisor.tracee import cpuid as real
from supervisor.tracee.xstate import ALL_STATES

_ZEROS: Final = (0, 0, 0, 0)
_ALL_32: Final = 0xFFFF_FFFF
_LEGACY: Final = 0b11
"""x87 and SSE, which every XSAVE area begins with."""
_LEGACY_AREA: Final = 576
"""Bytes of an XSAVE area that has no more states than those (SDM volume 1, 13.4)."""
_ALIGNMENT: Final = 64


class Processor(msgspec.Struct, frozen=True, array_like=True):
    """One host's processor.

    `features` are the flags of /proc/cpuinfo, sorted; `words` are CPUID's (arch.cpuid.WORDS)
    and `state` is tracee.cpuid.saved_state's, both empty where CPUID could not be asked;
    `capabilities` is AT_HWCAP2; `faults` tells whether CPUID can be made to raise a signal.
    """

    features: tuple[str, ...] = ()
    words: tuple[int, ...] = ()
    state: tuple[int, ...] = ()
    capabilities: int = 0
    faults: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """The processor that the program sees in place of this host's own.

    Invariant: the same at all hosts of a run, for it follows from what all have told.
    """

    features: frozenset[str] | None = None
    """Which flags of home's /proc/cpuinfo; None for all."""
    words: dict[Word, int] | None = None
    """What CPUID answers in these words; None where each host may answer for itself."""
    capabilities: int = (1 << 64) - 1
    """Bits that AT_HWCAP2 may have."""
    hidden: frozenset[str] = frozenset()
    """Features that some hosts have and some lack, or cannot use everywhere."""
    states: int = ALL_STATES
    """States of registers (bits of XCR0) that hosts give each other."""
    area: int = 0
    """Bytes of the largest XSAVE area of any host, where they differ in their states."""
    faults: bool = False
    """Whether all hosts can have CPUID raise a signal."""

    @property
    def questions_trap(self) -> bool:
        """Whether the program's files are rewritten so that each CPUID traps."""
        return self.words is not None and not self.faults

    @property
    def questions_fault(self) -> bool:
        """Whether each CPUID raises a signal, that of code which is not rewritten too."""
        return self.words is not None and self.faults

    @property
    def first_capabilities(self) -> int:
        """Bits that AT_HWCAP may have."""
        return _ALL_32 if self.words is None else self.words[HWCAP]

    def answer(self, leaf: int, subleaf: int) -> real.Answer:
        """What CPUID answers: where hosts tell nothing of a leaf, what this host's says."""
        words = self.words
        assert words is not None
        if leaf >= EXTENDED:
            absent = leaf > words[cpuid.MAX_EXTENDED]
        else:
            absent = words[cpuid.MAX_BASIC] < leaf < HYPERVISOR
        if absent or (leaf == 7 and subleaf > words[cpuid.MAX_SUBLEAF_7]):
            return _ZEROS
        native = real.ask(leaf, subleaf)
        if leaf == cpuid.XSAVE and self.area:
            native = self._area(subleaf, native)
        at = subleaf if leaf in SUBLEAVES else 0
        eax, ebx, ecx, edx = (
            words.get(Word(leaf, at, register), value)
            for register, value in zip(cpuid.Register, native, strict=True)
        )
        return eax, ebx, ecx, edx

    def _area(self, subleaf: int, native: real.Answer) -> real.Answer:
        """Of the XSAVE area; any host's fits, whatever XCR0 has it saved there."""
        if subleaf == 0:
            return self.states & _ALL_32, self.area, self.area, self.states >> 32
        if subleaf == 1:
            return native[0], self.area, native[2], native[3]
        return native if self.states >> subleaf & 1 else _ZEROS


AS_IT_IS: Final = Shown()
"""A machine of one host, or of hosts that are alike."""


def local_processor(features: Iterable[str]) -> Processor:
    """This host's processor, of which the kernel shows these flags."""
    try:
        words, state = real.words(), real.saved_state()
    except OSError:  # no code may be mapped here
        words, state = (), ()
    return Processor(
        tuple(features), words, state, real.second_capabilities(), real.can_fault()
    )


def unfit(home: Processor, other: Processor) -> str:
    """Why a program cannot run on both, in words of the other; "" when it can."""
    if len(other.words) not in (0, len(WORDS)) or not all(
        0 <= word < 1 << 32 for word in other.words
    ):
        return "tells what no CPUID says"
    if not home.words or not other.words:
        differs = _differing(frozenset(home.features), frozenset(other.features))
        return differs and f"{differs} (and CPUID could not be asked on both)"
    lacks = cpuid.BASELINE - cpuid.instructions(other.words)
    return f"lacks {', '.join(sorted(lacks))}, which every program uses" if lacks else ""


def _differing(home: frozenset[str], other: frozenset[str]) -> str:
    """By flags of /proc/cpuinfo alone. None at all are a kernel that does not tell."""
    if not home or not other:
        return ""
    names = cpuid.INSTRUCTIONS
    lacks, more = sorted((home - other) & names), sorted((other - home) & names)
    parts = []
    if lacks:
        parts.append(f"lacks {', '.join(lacks)}, which home's has")
    if more:
        parts.append(f"has {', '.join(more)}, which home's lacks")
    return " and ".join(parts)


def _layout(processor: Processor) -> dict[int, tuple[int, int]]:
    """Size and offset, in an XSAVE area, of each of a processor's states; legacy ones lie first."""
    xcr0, *parts = processor.state or (_LEGACY,)
    states = [state for state in range(2, xcr0.bit_length()) if xcr0 >> state & 1]
    layout = dict(zip(states, zip(parts[::2], parts[1::2], strict=False), strict=False))
    return layout | {state: (0, 0) for state in range(2) if xcr0 >> state & 1}


def _area_of(layout: Mapping[int, tuple[int, int]]) -> int:
    """Bytes of an XSAVE area in the standard format or, if that is more, the compacted one."""
    compacted = _LEGACY_AREA + sum(size + -size % _ALIGNMENT for size, _ in layout.values())
    return max(compacted, *(offset + size for size, offset in layout.values()))


def shown(processors: Sequence[Processor]) -> Shown:
    """The processor that a program sees which runs on all of these, home's first."""
    if len(processors) == 1:
        return AS_IT_IS
    features = reduce(
        frozenset.intersection, (frozenset(each.features) for each in processors if each.features),
        frozenset(processors[0].features),
    )
    capabilities = reduce(int.__and__, (each.capabilities for each in processors))
    if not all(each.words for each in processors):
        return Shown(features, capabilities=capabilities)
    layouts = [_layout(each) for each in processors]
    states = {
        state for state, where in layouts[0].items()
        if all(layout.get(state) == where for layout in layouts)
    }  # fmt: skip
    more = set().union(*layouts) - states
    unusable = cpuid.users_of(sum(1 << state for state in more))
    had = [cpuid.instructions(each.words) for each in processors]
    usable = frozenset.intersection(*had) - unusable
    hidden = frozenset.union(*had) - usable
    if not hidden and not more:
        return Shown(features, capabilities=capabilities)
    return Shown(
        features - unusable,
        cpuid.combined([cpuid.without(each.words, unusable) for each in processors]),
        capabilities,
        hidden,
        sum(1 << state for state in states) if more else ALL_STATES,
        max(map(_area_of, layouts)) if more else 0,
        all(each.faults for each in processors),
    )
