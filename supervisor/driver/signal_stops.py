# SPDX-License-Identifier: GPL-2.0-or-later
"""What a signal stop means: a page fault, the end of a step, a trap, or the program's own."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from supervisor.tracee import ptrace
from supervisor.tracee.ptrace import SI_KERNEL

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor
    from supervisor.driver.thread import Thread

# As plain numbers: comparing with the enumeration's takes as long as reading registers.
_SIGSEGV: Final = int(signal.SIGSEGV)
_SIGTRAP: Final = int(signal.SIGTRAP)
_SIGILL: Final = int(signal.SIGILL)

_TRAP_FLAG: Final = 0x100
_PUSHED_SIZES: Final = (2, 4, 8)
"""Less than any frame: what has been stepped may be the way into a handler."""


class SignalStops:
    """Of a host's threads."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def on_stop(self, thread: Thread, number: int) -> None:
        supervisor = self._supervisor
        if thread.native is not None:
            supervisor.on_native_signal(thread, number)
            return
        if number == _SIGSEGV:
            _, code, address = ptrace.get_siginfo(thread.task)
            ptrace.get_registers(thread.task, thread.registers)
            # SEGV_MAPERR and SEGV_ACCERR; of others (a kill, a non-canonical address) only
            # CPUIDs are ours.
            if code in (1, 2) and supervisor.faults.arrived(thread, address):
                return
            if code == SI_KERNEL and supervisor.checks.asked(thread):
                return
            if supervisor.checks.redirected(thread):
                return
        elif number == _SIGTRAP:
            _, code, _ = ptrace.get_siginfo(thread.task)
            if thread.stepping and code > 0:
                self._stepped(thread)
                return
            registers = ptrace.get_registers(thread.task, thread.registers)
            # int3 leaves rip behind itself.
            registers.rip -= 1
            if code == SI_KERNEL and supervisor.checks.redirected(thread):
                return
            registers.rip += 1
        elif number == _SIGILL:
            ptrace.get_registers(thread.task, thread.registers)
            if supervisor.checks.redirected(thread):
                return
        supervisor.holds.end(thread.requester)
        supervisor.on_own_signal(thread, number)

    def _stepped(self, thread: Thread) -> None:
        """A thread has run one instruction, or stands at the first one of a handler."""
        supervisor = self._supervisor
        thread.stepping = False
        if supervisor.decoder.pushes_flags(thread.registers.rip):
            self._hide_trap_flag(thread)
        if thread.frame_mask:
            supervisor.entered_handler(thread)
        supervisor.holds.stepped(thread.requester)
        if thread.pending_signals:
            ptrace.get_registers(thread.task, thread.registers)
            supervisor.deliver_pending(thread)
        else:
            supervisor.move_on(thread)

    def _hide_trap_flag(self, thread: Thread) -> None:
        """A PUSHF that has been stepped has stored the flag that steps it; its page is pinned."""
        before = thread.registers
        after = ptrace.get_registers(thread.task)
        if before.rsp - after.rsp in _PUSHED_SIZES and not before.eflags & _TRAP_FLAG:
            memory, at = self._supervisor.memory, after.rsp + 1
            memory.write_bytes(at, bytes([memory.read_bytes(at, 1)[0] & ~(_TRAP_FLAG >> 8)]))
