# SPDX-License-Identifier: GPL-2.0-or-later
"""What CPUID tells: which of its words hosts must agree in, and how several become one.

Leaves and bits are those of the Intel SDM (volume 2, CPUID) and of AMD's APM (volume 3,
appendix E); the names are /proc/cpuinfo's (arch/x86/include/asm/cpufeatures.h), or would
be if the kernel had one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import reduce
from typing import Final, NamedTuple


class Register(IntEnum):
    EAX = 0
    EBX = 1
    ECX = 2
    EDX = 3


EAX, EBX, ECX, EDX = Register


class Word(NamedTuple):
    """One register of the answer to one question."""

    leaf: int
    subleaf: int
    register: Register


EXTENDED: Final = 0x8000_0000
HYPERVISOR: Final = 0x4000_0000
"""The first leaf of those that a hypervisor answers."""
XSAVE: Final = 0xD
"""The leaf of the XSAVE area."""
MAX_BASIC: Final = Word(0, 0, EAX)
MAX_EXTENDED: Final = Word(EXTENDED, 0, EAX)
MAX_SUBLEAF_7: Final = Word(7, 0, EAX)
HWCAP: Final = Word(1, 0, EDX)
"""What the kernel shows as AT_HWCAP too."""
SUBLEAVES: Final = frozenset((4, 7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1B, 0x1D, 0x1E,
                              0x1F, 0x20, 0x23, 0x24, 0x8000_001D, 0x8000_0020, 0x8000_0026))
"""Leaves whose answer depends on ECX."""

_NAMES: Final[Mapping[Word, Mapping[int, str]]] = {
    HWCAP: {
        8: "cx8", 15: "cmov", 19: "clflush", 23: "mmx", 24: "fxsr", 25: "sse", 26: "sse2",
    },
    Word(1, 0, ECX): {
        0: "pni", 1: "pclmulqdq", 9: "ssse3", 12: "fma", 13: "cx16", 19: "sse4_1", 20: "sse4_2",
        22: "movbe", 23: "popcnt", 25: "aes", 26: "xsave", 27: "osxsave", 28: "avx", 29: "f16c",
        30: "rdrand",
    },
    Word(7, 0, EBX): {
        0: "fsgsbase", 3: "bmi1", 4: "hle", 5: "avx2", 8: "bmi2", 11: "rtm", 14: "mpx",
        16: "avx512f", 17: "avx512dq", 18: "rdseed", 19: "adx", 21: "avx512ifma",
        23: "clflushopt", 24: "clwb", 26: "avx512pf", 27: "avx512er", 28: "avx512cd",
        29: "sha_ni", 30: "avx512bw", 31: "avx512vl",
    },
    Word(7, 0, ECX): {
        0: "prefetchwt1", 1: "avx512vbmi", 3: "pku", 4: "ospke", 5: "waitpkg",
        6: "avx512_vbmi2", 8: "gfni", 9: "vaes", 10: "vpclmulqdq", 11: "avx512_vnni",
        12: "avx512_bitalg", 14: "avx512_vpopcntdq", 22: "rdpid", 23: "key_locker",
        25: "cldemote", 27: "movdiri", 28: "movdir64b", 29: "enqcmd",
    },
    Word(7, 0, EDX): {
        2: "avx512_4vnniw", 3: "avx512_4fmaps", 5: "uintr", 8: "avx512_vp2intersect",
        14: "serialize", 16: "tsxldtrk", 22: "amx_bf16", 23: "avx512_fp16", 24: "amx_tile",
        25: "amx_int8",
    },
    Word(7, 1, EAX): {
        0: "sha512", 1: "sm3", 2: "sm4", 3: "raoint", 4: "avx_vnni", 5: "avx512_bf16",
        7: "cmpccxadd", 21: "amx_fp16", 23: "avx_ifma", 31: "movrs",
    },
    Word(7, 1, EDX): {
        4: "avx_vnni_int8", 5: "avx_ne_convert", 8: "amx_complex", 10: "avx_vnni_int16",
        14: "prefetchi", 15: "user_msr", 19: "avx10", 21: "apx",
    },
    Word(0xD, 1, EAX): {0: "xsaveopt", 1: "xsavec", 2: "xgetbv1"},
    Word(0x14, 0, EBX): {4: "ptwrite"},
    Word(EXTENDED + 1, 0, ECX): {
        0: "lahf_lm", 5: "abm", 6: "sse4a", 7: "misalignsse", 8: "3dnowprefetch", 11: "xop",
        15: "lwp", 16: "fma4", 21: "tbm", 29: "mwaitx",
    },
    Word(EXTENDED + 1, 0, EDX): {
        22: "mmxext", 25: "fxsr_opt", 27: "rdtscp", 30: "3dnowext", 31: "3dnow",
    },
    Word(EXTENDED + 8, 0, EBX): {0: "clzero", 4: "rdpru"},
}  # fmt: skip
"""Features that a program can tell by running an instruction: word, bit, name."""

INSTRUCTIONS: Final = frozenset(name for names in _NAMES.values() for name in names.values())
BASELINE: Final = frozenset(("cx8", "cmov", "mmx", "fxsr", "sse", "sse2"))
"""What every x86-64 program takes for granted without asking."""

Combine = Callable[[Sequence[int]], int]
"""What the hosts' words (home's first) become."""


def _home(words: Sequence[int]) -> int:
    return words[0]


def _all(words: Sequence[int]) -> int:
    return reduce(int.__and__, words)


def _bytewise_least(words: Sequence[int]) -> int:
    return int.from_bytes(bytes(map(min, *(word.to_bytes(4, "little") for word in words))),
                          "little")


def _all_but(inverted: int) -> Combine:
    """As `_all`; in bits that tell of something taken away, what any host has."""
    return lambda words: (
        _all(words) & ~inverted | reduce(int.__or__, words) & inverted
    )


def _version_and_all(words: Sequence[int]) -> int:
    return min(word & 0xFF for word in words) | _all(words) & ~0xFF


WORDS: Final[Mapping[Word, Combine]] = {
    MAX_BASIC: min,
    **{Word(0, 0, register): _home for register in (EBX, ECX, EDX)},  # the vendor
    Word(1, 0, EAX): _home,  # family, model, stepping
    Word(1, 0, ECX): _all,
    HWCAP: _all,
    Word(6, 0, EAX): _all,
    MAX_SUBLEAF_7: min,
    # The x87's last operand is saved for exceptions only; its selectors not at all.
    Word(7, 0, EBX): _all_but(1 << 6 | 1 << 13),
    **{Word(7, 0, register): _all for register in (ECX, EDX)},
    **{Word(7, 1, register): _all for register in Register},
    Word(7, 2, EDX): _all,
    Word(0xD, 1, EAX): _all,
    Word(0x14, 0, EBX): _all,
    Word(0x24, 0, EBX): _version_and_all,  # AVX10
    MAX_EXTENDED: min,
    Word(EXTENDED + 1, 0, EAX): _home,
    Word(EXTENDED + 1, 0, ECX): _all,
    Word(EXTENDED + 1, 0, EDX): _all,
    **{
        Word(EXTENDED + leaf, 0, register): _home for leaf in (2, 3, 4) for register in Register
    },  # the brand
    Word(EXTENDED + 7, 0, EDX): _all,
    Word(EXTENDED + 8, 0, EAX): _bytewise_least,  # bits of addresses
    Word(EXTENDED + 8, 0, EBX): _all,
    Word(EXTENDED + 0xA, 0, EDX): _all,
    Word(EXTENDED + 0x1F, 0, EAX): _all,
    Word(EXTENDED + 0x21, 0, EAX): _all,
}
"""The words that a host tells of its processor, in this order."""

_OF_YMM: Final = frozenset((
    "avx", "avx2", "f16c", "fma", "fma4", "xop", "vaes", "vpclmulqdq", "avx_vnni", "avx_ifma",
    "avx_vnni_int8", "avx_vnni_int16", "avx_ne_convert", "sha512", "sm3", "sm4",
))  # fmt: skip
_OF_ZMM: Final = frozenset(name for name in INSTRUCTIONS if name.startswith(("avx512", "avx10")))
_OF_STATE: Final[Mapping[int, frozenset[str]]] = {
    2: _OF_YMM | _OF_ZMM,
    3: frozenset(("mpx",)),
    4: frozenset(("mpx",)),
    **dict.fromkeys((5, 6, 7), _OF_ZMM),
    9: frozenset(("pku", "ospke")),
    **dict.fromkeys((17, 18), frozenset(n for n in INSTRUCTIONS if n.startswith("amx_"))),
    19: frozenset(("apx",)),
}
"""State of XCR0 -> the features whose instructions use it (SDM volume 1, chapter 13)."""


def combined(hosts: Sequence[Sequence[int]]) -> dict[Word, int]:
    """One processor's words from those of each host's, home's first; each in WORDS' order."""
    columns = zip(*hosts, strict=True)
    return {
        word: combine(column)
        for (word, combine), column in zip(WORDS.items(), columns, strict=True)
    }


def instructions(words: Sequence[int]) -> frozenset[str]:
    """Names of the features that a program can tell by running an instruction."""
    return frozenset(
        name
        for word, value in zip(WORDS, words, strict=True)
        for bit, name in _NAMES.get(word, {}).items()
        if value >> bit & 1
    )


def users_of(states: int) -> frozenset[str]:
    """Names of the features that use any of these states (bits of XCR0)."""
    return frozenset[str]().union(*(
        names for state, names in _OF_STATE.items() if states >> state & 1
    ))  # fmt: skip


def without(words: Sequence[int], names: Iterable[str]) -> tuple[int, ...]:
    """The words of a processor that lacks these features."""
    lacking = frozenset(names)
    return tuple(
        value & ~sum(1 << bit for bit, name in _NAMES.get(word, {}).items() if name in lacking)
        for word, value in zip(WORDS, words, strict=True)
    )
