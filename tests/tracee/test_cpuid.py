# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID and XGETBV as Python runs them, against what the kernel says of the processor."""

from __future__ import annotations

import struct
from pathlib import Path

from supervisor.arch.cpuid import EAX, WORDS, Word
from supervisor.tracee import cpuid, ptrace


def cpuinfo(name: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith(name))


def test_cpuid_names_the_processor() -> None:
    _, ebx, ecx, edx = cpuid.ask(0)
    assert struct.pack("<III", ebx, edx, ecx).decode() == cpuinfo("vendor_id")
    brand = b"".join(struct.pack("<IIII", *cpuid.ask(0x8000_0002 + part)) for part in range(3))
    assert brand.rstrip(b"\0").strip().decode() == cpuinfo("model name")


def test_words_are_what_is_told_of_a_processor() -> None:
    words = dict(zip(WORDS, cpuid.words(), strict=True))
    assert words[Word(1, 0, EAX)] == cpuid.ask(1)[EAX]
    assert words[Word(7, 2, EAX + 3)] == (cpuid.ask(7, 2)[3] if cpuid.ask(7)[EAX] >= 2 else 0)


def test_the_saved_state_is_what_ptrace_moves() -> None:
    """The highest state's end is the size of the area of a stopped thread."""
    state = cpuid.saved_state()
    assert state[0] & 3 == 3
    ends = [size + offset for size, offset in zip(state[1::2], state[2::2], strict=True)]
    assert max(ends, default=576) == cpuid.ask(0xD)[1] <= ptrace.XSTATE_SIZE_MAX
