# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and numbers of x86-64 system calls, for messages and for tables keyed by name."""

from __future__ import annotations

from supervisor.arch import X86_64


def name_of(number: int) -> str:
    """The call's name, or `syscall_N` for a number that this table does not have."""
    return X86_64.names.get(number, f"syscall_{number}")


def number_of(name: str) -> int:
    """The call's number; KeyError for a name that this table does not have."""
    return X86_64.numbers[name]
