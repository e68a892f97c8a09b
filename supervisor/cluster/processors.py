# SPDX-License-Identifier: GPL-2.0-or-later
"""Which instructions a processor has, as far as programs can use them.

A program asks CPUID once, where it happens to run, and keeps to the answer on
every host; the state of its registers goes with its threads in an XSAVE area,
whose size follows from the same features. So hosts must agree in these. What
only the kernel uses, or makes an instruction faster, may differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_INSTRUCTIONS: Final = re.compile(
    r"avx\w*|amx_\w+|apx\w*|sse\w*|pni|ssse3|mmx|mmxext|fxsr|fxsr_opt|misalignsse|"
    r"3dnow|3dnowext|3dnowprefetch|cx8|cx16|cmov|movbe|popcnt|abm|bmi1|bmi2|tbm|adx|f16c|"
    r"fma4?|xop|lwp|aes|vaes|pclmulqdq|vpclmulqdq|gfni|sha_ni|sha512|sm3|sm4|rdrand|rdseed|"
    r"rdtscp|rdpid|rdpru|fsgsbase|lahf_lm|xsave|xsaveopt|xsavec|xgetbv1|clflush|clflushopt|"
    r"clwb|clzero|cldemote|movdiri|movdir64b|serialize|rtm|hle|tsxldtrk|waitpkg|enqcmd|mwaitx|"
    r"monitorx|pku|ospke|user_shstk|cmpccxadd|raoint|prefetchi|ptwrite|uintr|msrlist|la57"
)
"""Names of /proc/cpuinfo's flags (arch/x86/include/asm/cpufeatures.h). la57 is in it for
the addresses that a program may get."""


def instructions(flags: Iterable[str]) -> frozenset[str]:
    """Those of /proc/cpuinfo's flags that a program can tell by running an instruction."""
    return frozenset(flag for flag in flags if _INSTRUCTIONS.fullmatch(flag))


def difference(home: Iterable[str], other: Iterable[str]) -> str:
    """What one of two processors has and the other lacks, in words; "" for nothing.

    No flags at all are a kernel that does not tell: nothing is said of those.
    """
    ours, theirs = instructions(home), instructions(other)
    if not ours or not theirs:
        return ""
    lacks, more = sorted(ours - theirs), sorted(theirs - ours)
    parts = []
    if lacks:
        parts.append(f"lacks {', '.join(lacks)}, which home's has")
    if more:
        parts.append(f"has {', '.join(more)}, which home's lacks")
    return " and ".join(parts)
