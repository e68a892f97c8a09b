# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that begin again: the kernel's codes for them (linux/errno.h)."""

from __future__ import annotations

from typing import Final

from supervisor.arch.base import NO_CALL
from supervisor.tracee.ptrace import Registers

RETURNS: Final = frozenset(("rt_sigreturn", "sigreturn"))
"""Calls of a handler's end: their frame is for the kernel at home."""

RESTART_CODES: Final = range(-516, -511)
"""ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND and ERESTART_RESTARTBLOCK."""
ERESTARTSYS: Final = -512
ERESTARTNOINTR: Final = -513
ERESTARTNOHAND: Final = -514
ERESTART_RESTARTBLOCK: Final = -516


def repeat(registers: Registers, call_length: int) -> None:
    """Have a thread make its system call anew, by an instruction of so many bytes."""
    registers.rax = registers.orig_rax
    registers.rip -= call_length
    registers.orig_rax = NO_CALL
