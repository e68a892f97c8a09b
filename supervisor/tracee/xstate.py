# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread's registers beyond the general ones, as they go from host to host.

ptrace(2) gives and takes them as an XSAVE area in the standard format (NT_X86_XSTATE; Intel
SDM volume 1, 13.4), always with all states that its host has.
"""

from __future__ import annotations

from typing import Final

from supervisor.tracee import ptrace

ALL_STATES: Final = (1 << 64) - 1
_PRESENT: Final = slice(512, 520)
"""XSTATE_BV: which states are not as at the start of a program."""


def restore_xstate(pid: int, state: bytes, states: int) -> None:
    """Give a stopped thread the registers that it had on a host.

    Where hosts differ, `states` (bits of XCR0) are those that all have, at the same places.
    """
    if states != ALL_STATES:
        state = fitted(state, len(ptrace.get_xstate(pid)), states)
    ptrace.set_xstate(pid, state)


def fitted(state: bytes, size: int, states: int) -> bytes:
    """An XSAVE area for a host whose areas have this many bytes; other states are as at first."""
    area = bytearray(state[:size].ljust(size, b"\0"))
    present = int.from_bytes(area[_PRESENT], "little") & states
    area[_PRESENT] = present.to_bytes(8, "little")
    return bytes(area)
