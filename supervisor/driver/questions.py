# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID where the hosts' processors differ: answered instead of run.

What the program asks is what all hosts have (cluster/processors.py). Where all processors
can do so, each CPUID of the guest raises SIGSEGV (arch_prctl(2), ARCH_SET_CPUID), that of
code made at run time too; elsewhere those of rewritten code trap. Where hosts are alike,
each runs as any instruction does.
"""

from __future__ import annotations

from typing import Final

import iced_x86

from supervisor.arch import of_selector
from supervisor.cluster.processors import Shown
from supervisor.driver.code import Lead
from supervisor.tracee.ptrace import Registers

_LOW: Final = 0xFFFF_FFFF


def follow(lead: Lead, registers: Registers, shown: Shown) -> None:
    """Take registers (in place) to where a lead goes on: behind a CPUID that it answers."""
    if not lead.behind:
        registers.rip = lead.target
        return
    answer(registers, shown, lead.behind)


def asked(code: bytes, registers: Registers) -> int:
    """Behind the instruction at rip, whose bytes are `code`, where it is a CPUID; else 0."""
    instruction = iced_x86.Decoder(
        of_selector(registers.cs).bits, code, ip=registers.rip
    ).decode()
    return instruction.next_ip if instruction.code == iced_x86.Code.CPUID else 0


def answer(registers: Registers, shown: Shown, behind: int) -> None:
    """Have registers (in place) as a CPUID leaves them that ends at `behind`."""
    answers = shown.answer(registers.rax & _LOW, registers.rcx & _LOW)
    registers.rax, registers.rbx, registers.rcx, registers.rdx = answers
    registers.rip = behind
