# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID where the hosts' processors differ: answered at its trap, not run.

What the program asks is what all hosts have (cluster/processors.py). Where they are
alike no CPUID is trapped for this, and each runs as any instruction does.
"""

from __future__ import annotations

from typing import Final

from supervisor.cluster.processors import Shown
from supervisor.driver.code import Lead
from supervisor.tracee.ptrace import Registers

_LOW: Final = 0xFFFF_FFFF


def follow(lead: Lead, registers: Registers, shown: Shown) -> None:
    """Take registers (in place) to where a lead goes on: behind a CPUID that it answers."""
    if not lead.behind:
        registers.rip = lead.target
        return
    answer = shown.answer(registers.rax & _LOW, registers.rcx & _LOW)
    registers.rax, registers.rbx, registers.rcx, registers.rdx = answer
    registers.rip = lead.behind
