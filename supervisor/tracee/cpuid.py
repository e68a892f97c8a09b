# SPDX-License-Identifier: GPL-2.0-or-later
"""This host's processor, asked directly: CPUID, XGETBV and what follows from them.

Python has neither instruction.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from supervisor.arch import cpuid
from supervisor.arch.cpuid import EAX, EBX, EXTENDED, Register
from supervisor.tracee import own_code, ptrace

_CPUID: Final = bytes.fromhex(
    "53 4989d0 89f8 89f1 0fa2"  # push %rbx; mov %rdx,%r8; mov %edi,%eax; mov %esi,%ecx; cpuid
    "418900 41895804 41894808 4189500c"  # the four registers to (%r8)
    "5b c3"
)
_XGETBV: Final = bytes.fromhex("31c9 0f01d0 48c1e220 4809d0 c3")  # XCR0, edx:eax, in %rax
_OSXSAVE: Final = 1 << 27
SYS_ARCH_PRCTL: Final = 158
_ARCH_GET_CPUID: Final = 0x1011
ARCH_SET_CPUID: Final = 0x1012
"""With 0, the thread's CPUIDs raise SIGSEGV, and those of the tasks that it makes."""
_STATES_MAX: Final = 63
AT_HWCAP2: Final = 26

Answer = tuple[int, int, int, int]
"""eax, ebx, ecx, edx."""


def ask(leaf: int, subleaf: int = 0) -> Answer:
    """CPUID on the processor that this happens to run on. OSError where code cannot be mapped."""
    out = (ctypes.c_uint32 * 4)()
    question = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    question(own_code.mapped(_CPUID))(leaf, subleaf, ctypes.addressof(out))
    return (out[0], out[1], out[2], out[3])


def words() -> tuple[int, ...]:
    """This host's part of arch.cpuid.WORDS; 0 for a word of a leaf that it has not."""
    basic, extended = ask(0)[EAX], ask(EXTENDED)[EAX]
    subleaves = ask(7)[EAX] if basic >= 7 else 0

    def value(leaf: int, subleaf: int, register: Register) -> int:
        if leaf > (extended if leaf >= EXTENDED else basic) or (leaf == 7 and subleaf > subleaves):
            return 0
        return ask(leaf, subleaf)[register]

    return tuple(value(*word) for word in cpuid.WORDS)


def saved_state() -> tuple[int, ...]:
    """XCR0, then size and offset (bytes) of each of its states from AVX on in an XSAVE area.

    Offsets are the standard format's. Empty for a processor (or a kernel) without XSAVE.
    """
    if not ask(1)[Register.ECX] & _OSXSAVE:
        return ()
    xcr0 = ctypes.CFUNCTYPE(ctypes.c_uint64)(own_code.mapped(_XGETBV))()
    states = [state for state in range(2, _STATES_MAX) if xcr0 >> state & 1]
    return (xcr0, *(part for state in states for part in ask(0xD, state)[EAX : EBX + 1]))


def can_fault() -> bool:
    """Whether CPUID can be made to raise SIGSEGV here (arch_prctl(2)), and does not already."""
    try:
        runs = ptrace.raw_syscall(SYS_ARCH_PRCTL, _ARCH_GET_CPUID, 0) == 1
        ptrace.raw_syscall(SYS_ARCH_PRCTL, ARCH_SET_CPUID, int(runs))
    except OSError:
        return False
    return runs


def second_capabilities() -> int:
    """AT_HWCAP2: what the kernel lets programs do, as getauxval(3) tells."""
    with open("/proc/self/auxv", "rb") as file:
        entries: dict[int, int] = dict(struct.iter_unpack("QQ", file.read()))
    return entries.get(AT_HWCAP2, 0)
