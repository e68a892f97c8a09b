# SPDX-License-Identifier: GPL-2.0-or-later
"""Child processes of the program: they run at home, with memory of their own.

They inherit the system call filter and the trace, so they stay traced and are
let go at every stop; what they do is between them and the kernel, but for what
they are told of the machine (bystander_calls.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from supervisor.driver.bystander_calls import BystanderCalls
from supervisor.tracee import ptrace
from supervisor.tracee.stops import Stop, StopKind

PTRACE_EVENT_FORK: Final = 1
PTRACE_EVENT_VFORK: Final = 2
PTRACE_EVENT_CLONE: Final = 3
PTRACE_EVENT_EXEC: Final = 4
FORK_EVENTS: Final = frozenset((PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE))

_STOPPING: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


class Bystanders:
    """The tasks of the program's child processes."""

    def __init__(self, newborn: set[int], calls: BystanderCalls) -> None:
        self.tasks: set[int] = set()
        self._newborn = newborn
        """New tasks in their first stop, of which no parent has told yet."""

        self._calls = calls

    def add(self, task: int, affinity: int | None) -> None:
        """A task that a thread of the program has made, with the thread's affinity."""
        self.tasks.add(task)
        if affinity is not None:
            self._calls.masks[task] = affinity

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
                    self._calls.gone(stop.pid)
                case StopKind.EVENT:
                    if stop.detail in FORK_EVENTS:
                        self._born(stop.pid, ptrace.get_event_message(stop.pid))
                    ptrace.cont(stop.pid)
                case StopKind.GROUP_STOP if stop.detail in _STOPPING:
                    ptrace.listen(stop.pid)
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

    def _born(self, parent: int, task: int) -> None:
        """A bystander has made a task: one too, whose first stop may have come before."""
        self.tasks.add(task)
        self._calls.born(parent, task)
        if task in self._newborn:
            self._newborn.discard(task)
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.cont(task)
