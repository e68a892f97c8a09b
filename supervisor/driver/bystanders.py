# SPDX-License-Identifier: GPL-2.0-or-later
"""Child processes of the program: they run at home, with memory of their own.

They inherit the system call filter and the trace, so they stay traced and are
let go at every stop; what they do is between them and the kernel, but for what
they are told of the machine (bystander_calls.py), and for the traps of the rewritten
code that they have from the program, until they execute another.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from supervisor.cluster.processors import AS_IT_IS, Shown
from supervisor.driver import questions
from supervisor.driver.bystander_calls import BystanderCalls
from supervisor.driver.code import TrapMap
from supervisor.tracee import foreign, processor_number, ptrace
from supervisor.tracee.access import INSTRUCTION_LENGTH_MAX
from supervisor.tracee.stops import Stop, StopKind

PTRACE_EVENT_FORK: Final = 1
PTRACE_EVENT_VFORK: Final = 2
PTRACE_EVENT_CLONE: Final = 3
PTRACE_EVENT_EXEC: Final = 4
FORK_EVENTS: Final = frozenset((PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE))

_FAULTS: Final = frozenset((signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP))
_STOPPING: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


class Bystanders:
    """The tasks of the program's child processes."""

    def __init__(
        self, newborn: set[int], calls: BystanderCalls, shown: Shown = AS_IT_IS
    ) -> None:
        self.tasks: set[int] = set()
        self._traps: dict[int, TrapMap] = {}
        """Of tasks that run the program's rewritten code."""
        self._shown = shown
        self._newborn = newborn
        """New tasks in their first stop, of which no parent has told yet."""

        self._calls = calls

    def add(self, task: int, affinity: int | None, traps: TrapMap | None = None) -> None:
        """A task that a thread of the program has made, with the thread's affinity.

        `traps` are those of its code, where that is the program's.
        """
        self.tasks.add(task)
        if traps is not None:
            self._traps[task] = traps
        if affinity is not None:
            self._calls.masks[task] = affinity

    @staticmethod
    def executed(task: int) -> None:
        """A task has executed a file, whose first instruction it has yet to run."""
        with contextlib.suppress(OSError):
            processor_number.ask_kernel(task)

    def file(self, process: int, task: int, name: str) -> bytes | None:
        """What one of its files under /proc shows; None where it is as the kernel's."""
        return self._calls.file(process, task, name, self.tasks)

    def kill(self) -> None:
        """End those that are left; they are reaped like any tracee."""
        for task in self.tasks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(task, signal.SIGKILL)

    def on_stop(self, stop: Stop) -> bool:
        """Let a bystander go on; False when the task is not one."""
        if stop.pid not in self.tasks:
            return False
        try:
            match stop.kind:
                case StopKind.EXITED | StopKind.KILLED:
                    self.tasks.discard(stop.pid)
                    self._traps.pop(stop.pid, None)
                    self._calls.gone(stop.pid)
                case StopKind.EVENT:
                    if stop.detail in FORK_EVENTS:
                        self._born(stop.pid, ptrace.get_event_message(stop.pid))
                    elif stop.detail == PTRACE_EVENT_EXEC:
                        self._traps.pop(stop.pid, None)
                        self.executed(stop.pid)
                    ptrace.cont(stop.pid)
                case StopKind.GROUP_STOP if stop.detail in _STOPPING:
                    ptrace.listen(stop.pid)
                case StopKind.SIGNAL if stop.pid in self._traps and self._redirected(stop):
                    ptrace.cont(stop.pid)
                case StopKind.SIGNAL:
                    ptrace.cont(stop.pid, stop.detail)
                case StopKind.SECCOMP if self._calls.entered(stop.pid, self.tasks):
                    ptrace.cont_to_syscall(stop.pid)
                case StopKind.SYSCALL if self._calls.amended(stop.pid):
                    self._calls.left(stop.pid)
                    ptrace.cont(stop.pid)
                case _:
                    ptrace.cont(stop.pid)
        except ptrace.TraceeGone:
            pass
        return True

    def _redirected(self, stop: Stop) -> bool:
        """Take a task whose code traps, or was overwritten, to where it goes on."""
        if stop.detail not in _FAULTS:
            return False
        registers = ptrace.get_registers(stop.pid)
        if stop.detail == signal.SIGTRAP:
            registers.rip -= 1  # int3 leaves rip behind itself
        found = self._traps[stop.pid].find(registers.rip)
        # A code above 0: the kernel's own; nobody has sent the signal.
        code = ptrace.get_siginfo(stop.pid)[1]
        if found is not None and code > 0:
            questions.follow(found, registers, self._shown)
        elif code != ptrace.SI_KERNEL or not self._asked(stop, registers):
            return False
        ptrace.set_registers(stop.pid, registers)
        return True

    def _asked(self, stop: Stop, registers: ptrace.Registers) -> bool:
        """Answer (in registers) a CPUID that raised a signal; False where it is none."""
        if stop.detail != signal.SIGSEGV or not self._shown.questions_fault:
            return False
        try:
            code = foreign.read(stop.pid, registers.rip, INSTRUCTION_LENGTH_MAX)
        except OSError:
            return False
        behind = questions.asked(code, registers)
        if behind:
            questions.answer(registers, self._shown, behind)
        return behind != 0

    def _born(self, parent: int, task: int) -> None:
        """A bystander has made a task: one too, whose first stop may have come before."""
        self.tasks.add(task)
        if parent in self._traps:
            self._traps[task] = self._traps[parent]
        self._calls.born(parent, task)
        if task in self._newborn:
            self._newborn.discard(task)
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.cont(task)
