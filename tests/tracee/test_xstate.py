# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers that go to a host with fewer or more of them."""

from __future__ import annotations

import os
import signal

from supervisor.tracee import ptrace
from supervisor.tracee.stops import wait_for
from supervisor.tracee.xstate import ALL_STATES, fitted, restore_xstate

SSE = 160
"""Where %xmm0 is."""
PRESENT = 512


def area(size: int, present: int) -> bytes:
    state = bytearray(index % 251 for index in range(size))
    state[PRESENT : PRESENT + 64] = present.to_bytes(64, "little")
    return bytes(state)


def test_what_the_other_host_lacks_is_left_out() -> None:
    wide = area(2696, 0x2E7)
    narrow = fitted(wide, 832, 0x7)
    assert len(narrow) == 832
    assert narrow[PRESENT : PRESENT + 64] == (0x7).to_bytes(64, "little")
    assert narrow[:PRESENT] + narrow[576:] == wide[:PRESENT] + wide[576:832]


def test_what_only_the_other_host_has_is_as_at_first() -> None:
    narrow = area(832, 0x7)
    wide = fitted(narrow, 2696, 0x7)
    assert wide == narrow + bytes(2696 - 832)


def test_the_kernel_takes_an_area_of_another_host() -> None:
    """Cut short, without the wide registers; the others arrive."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    try:
        ptrace.seize(pid)
        ptrace.interrupt(pid)
        wait_for(pid)
        own = ptrace.get_xstate(pid)
        changed = bytearray(own)
        changed[SSE : SSE + 16] = bytes(range(16))
        present = int.from_bytes(own[PRESENT : PRESENT + 8], "little") | 0b10
        changed[PRESENT : PRESENT + 8] = present.to_bytes(8, "little")
        short = bytes(changed[:832])
        restore_xstate(pid, short, 0b111)
        assert ptrace.get_xstate(pid)[SSE : SSE + 16] == bytes(range(16))
        restore_xstate(pid, own, ALL_STATES)
        assert ptrace.get_xstate(pid)[:PRESENT] == own[:PRESENT]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
