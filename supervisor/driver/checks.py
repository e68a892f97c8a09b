# SPDX-License-Identifier: GPL-2.0-or-later
"""Synchronization instructions while pages have several writers.

Each is diverted through a check of the armed byte, and traps where that is set
(rewriter/). A thread that traps asks for what the instruction needs of all
hosts, and then runs it natively. One that stands between a check and its
instruction when the byte is set or a host is reached whose byte differs would
run it as if no page had several writers: it is caught, and treated as trapped.
"""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access, BusLock, Serialize
from supervisor.driver import questions
from supervisor.driver.ranges import runs_of
from supervisor.driver.thread import Thread
from supervisor.tracee import ptrace
from supervisor.tracee.stops import StopKind

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor

CHECK_STEPS_MAX: Final = 8


class Checks:
    """Where traps, redirects and checks are is `Supervisor.traps`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._caught: deque[Thread] = deque()
        """Threads that stood in a check of the armed byte, yet to be treated as trapped."""

    def arm(self, armed: bool) -> None:
        """Set the armed byte, and see to threads that have just read it as clear.

        A thread between its check and its instruction would run the instruction
        as if no page had several writers. Only a thread that computes can be
        there; it is stopped, and if it is there, taken to the instruction's
        start and treated as trapped once the other effects of the step are in
        force.
        """
        self._supervisor.control.set_armed(armed)
        if not armed:
            return
        for thread in list(self._supervisor.threads.values()):
            # A task that steps or runs a call for us is not at a check either; and one that
            # waits for a page at a checked instruction is looked at when it has the page.
            busy = thread.stopped or thread.stepping or thread.still or thread.paging
            if not busy and thread.operation is None:
                self._out_of_check(thread)

    def _out_of_check(self, thread: Thread) -> None:
        stops = self._supervisor.stops
        if stops.has(thread.task):
            return  # it has stopped, for reasons of its own
        try:
            thread.interrupt()
            stop = stops.next_of(thread.task)
            if stop.kind is not StopKind.GROUP_STOP:
                stops.put(stop)  # the interrupt's own stop follows, and is let go
                return
            thread.stopped, thread.interrupted = True, False
            ptrace.get_registers(thread.task, thread.registers)
            if not self.catch(thread):
                self._supervisor.resume(thread)
        except ptrace.TraceeGone:
            pass

    def catch(self, thread: Thread) -> bool:
        """Take a stopped thread that has read the armed byte to what it is a check for.

        True if it stood in a check: `trap_caught` goes on with it (or a stop of its own).
        """
        supervisor = self._supervisor
        traps = supervisor.traps
        if traps.find(thread.registers.rip) is not None:
            return False  # it traps, or has: its SIGILL comes after this stop
        native = traps.past_check(thread.registers.rip)
        if native is None:
            return False
        for _ in range(CHECK_STEPS_MAX):
            found = traps.find(thread.registers.rip)
            if thread.registers.rip == native or found is not None:
                break
            thread.single_step()
            stop = supervisor.stops.next_of(thread.task)
            if stop != (thread.task, StopKind.SIGNAL, signal.SIGTRAP):
                supervisor.stops.put(stop)
                return True
            thread.stopped = True
            ptrace.get_registers(thread.task, thread.registers)
        thread.registers.rip = native
        ptrace.set_registers(thread.task, thread.registers)
        self._caught.append(thread)
        return True

    def trap_caught(self) -> None:
        while self._caught:
            thread = self._caught.popleft()
            self._supervisor.holds.end(thread.requester)
            self._trap(thread)

    def passed(self, task: int) -> bool:
        """A trap met before, of an instruction that touches no memory, with nothing to drain:
        its thread goes on. The task has just stopped at SIGILL, which nobody knows yet."""
        supervisor = self._supervisor
        thread = supervisor.threads.get(task)
        if thread is None or thread.native is not None or thread.paging:
            return False
        try:
            native = supervisor.traps.bare.get(ptrace.get_instruction_pointer(task))
            if native is None or not (
                supervisor.decoder.is_bare(native) and supervisor.node.drained
            ):
                return False
            thread.stopped = True
            supervisor.counters["traps"] += 1
            ptrace.set_instruction_pointer(task, native)
        except ptrace.TraceeGone:
            return True  # its exit is on the way
        supervisor.holds.end(thread.requester)
        supervisor.move_on(thread)
        return True

    def redirected(self, thread: Thread) -> bool:
        """A trap site or an overwritten instruction boundary: go on where the map says.

        The thread has stopped at a signal, its registers are read; False where it is at
        neither.
        """
        supervisor = self._supervisor
        registers, traps, decoder = thread.registers, supervisor.traps, supervisor.decoder
        trap = registers.rip
        found = traps.find(trap)
        if found is None:
            return False
        questions.follow(found, registers, supervisor.shown)
        ptrace.set_registers(thread.task, registers)
        supervisor.holds.end(thread.requester)
        if found.is_trap:
            supervisor.counters["traps"] += 1
        if found.behind:
            self._serialized(thread)
        elif found.is_trap and supervisor.node.armed:
            self._trap(thread)
            if decoder.is_bare(found.target):
                traps.bare[trap] = found.target
        else:
            supervisor.move_on(thread)
        return True

    def asked(self, thread: Thread) -> bool:
        """A CPUID that raised a signal: answer it. Registers are read; False where it is none."""
        supervisor = self._supervisor
        registers = thread.registers
        if not supervisor.shown.questions_fault:
            return False
        behind = questions.asked(supervisor.faults.instruction_at(registers.rip), registers)
        if not behind:
            return False
        questions.answer(registers, supervisor.shown, behind)
        ptrace.set_registers(thread.task, registers)
        supervisor.counters["traps"] += 1
        supervisor.holds.end(thread.requester)
        self._serialized(thread)
        return True

    def _serialized(self, thread: Thread) -> None:
        """A CPUID has been answered, which drains the store buffer as one that is run does."""
        supervisor = self._supervisor
        if supervisor.node.armed:
            thread.waiting = True
            supervisor.step(Serialize(thread.requester))
        else:
            supervisor.move_on(thread)

    def _trap(self, thread: Thread) -> None:
        """A synchronization instruction, about to run natively, must drain the store buffer."""
        supervisor = self._supervisor
        touched = supervisor.decoder.touches(supervisor.faults.code_at(thread), thread.registers)
        if supervisor.has_joint and any(
            supervisor.is_joint(t.address, max(t.length, 1)) for t in touched
        ):
            touched = []  # coherence has no part in it: its fault takes the thread home
        if not touched and supervisor.node.drained:
            supervisor.move_on(thread)
            return
        thread.waiting, thread.locked = True, False
        if touched:
            thread.step_next = True  # it runs before its pages may change their mode
            runs = runs_of([(t.address, max(t.length, 1), Access.WRITE) for t in touched])
            supervisor.step(BusLock(thread.requester, runs))
        else:
            supervisor.step(Serialize(thread.requester))
