# SPDX-License-Identifier: GPL-2.0-or-later
"""What hosts tell each other of their processors, and the one that programs are shown.

A program asks CPUID once, where it happens to run, and keeps to the answer on every
host. So it is shown what all hosts have. What cannot be hidden from it must agree: the
registers themselves. XGETBV tells which the kernel has enabled and does not trap, and
the XSAVE area in which a program or glibc has some of them saved may be read back on
another host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import msgspec

from supervisor.arch import cpuid
from supervisor.arch.cpuid import EXTENDED, HWCAP, HYPERVISOR, SUBLEAVES, WORDS, Word
from supervisor.tracee import cpuid as real

_ZEROS: Final = (0, 0, 0, 0)
_ALL_32: Final = 0xFFFF_FFFF


class Processor(msgspec.Struct, frozen=True, array_like=True):
    """One host's processor.

    `features` are the flags of /proc/cpuinfo, sorted; `words` are CPUID's (arch.cpuid.WORDS)
    and `state` is tracee.cpuid.saved_state's, both empty where CPUID could not be asked;
    `capabilities` is AT_HWCAP2.
    """

    features: tuple[str, ...] = ()
    words: tuple[int, ...] = ()
    state: tuple[int, ...] = ()
    capabilities: int = 0


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
    """Features that some hosts have and some lack."""

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
        at = subleaf if leaf in SUBLEAVES else 0
        eax, ebx, ecx, edx = (
            words.get(Word(leaf, at, register), value)
            for register, value in zip(cpuid.Register, native, strict=True)
        )
        return eax, ebx, ecx, edx


AS_IT_IS: Final = Shown()
"""A machine of one host, or of hosts that are alike."""


def local_processor(features: Iterable[str]) -> Processor:
    """This host's processor, of which the kernel shows these flags."""
    try:
        words, state = real.words(), real.saved_state()
    except OSError:  # no code may be mapped here
        words, state = (), ()
    return Processor(tuple(features), words, state, real.second_capabilities())


def unfit(home: Processor, other: Processor) -> str:
    """Why a program cannot run on both, in words of the other; "" when it can."""
    if len(other.words) not in (0, len(WORDS)) or not all(
        0 <= word < 1 << 32 for word in other.words
    ):
        return "tells what no CPUID says"
    if not home.words or not other.words:
        differs = _differing(frozenset(home.features), frozenset(other.features))
        return differs and f"{differs} (and CPUID could not be asked on both)"
    if home.state != other.state:
        return _state_differs(home.state, other.state)
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


def _state_differs(home: Sequence[int], other: Sequence[int]) -> str:
    ours, theirs = (set(_states(state)) for state in (home, other))
    parts = []
    if ours - theirs:
        parts.append(f"lacks {', '.join(sorted(ours - theirs))} registers, which home's has")
    if theirs - ours:
        parts.append(f"has {', '.join(sorted(theirs - ours))} registers, which home's lacks")
    return " and ".join(parts) or "lays out the registers in memory (XSAVE) otherwise than home's"


def _states(state: Sequence[int]) -> Iterable[str]:
    """Names of the states that XCR0 has enabled."""
    xcr0 = state[0] if state else 0b11
    for bit in range(xcr0.bit_length()):
        if xcr0 >> bit & 1:
            yield cpuid.XSAVE_STATES.get(bit, f"XCR0[{bit}]")


def shown(processors: Sequence[Processor]) -> Shown:
    """The processor that a program sees which runs on all of these, home's first."""
    if len(processors) == 1:
        return AS_IT_IS
    features = reduce(
        frozenset.intersection, (frozenset(each.features) for each in processors if each.features),
        frozenset(processors[0].features),
    )
    capabilities = reduce(int.__and__, (each.capabilities for each in processors))
    words, hidden = None, frozenset[str]()
    if all(each.words for each in processors):
        had = [cpuid.instructions(each.words) for each in processors]
        hidden = frozenset.union(*had) - frozenset.intersection(*had)
        if hidden:
            words = cpuid.combined([each.words for each in processors])
    return Shown(features, words, capabilities, hidden)
