# SPDX-License-Identifier: GPL-2.0-or-later
"""Child processes of the program: they run at home, with memory of their own.

They inherit the system call filter and the trace, so they stay traced and are
let go at every stop; what they do is between them and the kernel.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Final

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

    def __init__(self, newborn: set[int]) -> None:
        self.tasks: set[int] = set()
        self._newborn = newborn
        """New tasks in their first stop, of which no parent has told yet."""

    def add(self, task: int) -> None:
        self.tasks.add(task)

    def _born(self, child: int) -> None:
        self.tasks.add(child)
        if child in self._newborn:  # its own first stop came before its parent's
            self._newborn.discard(child)
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.cont(child)

    def on_stop(self, stop: Stop) -> bool:
        """Let a bystander go on; False when the task is not one."""
        if stop.pid not in self.tasks:
            return False
        try:
            match stop.kind:
                case StopKind.EXITED | StopKind.KILLED:
                    self.tasks.discard(stop.pid)
                case StopKind.EVENT:
                    if stop.detail in FORK_EVENTS:
                        self._born(ptrace.get_event_message(stop.pid))
                    ptrace.cont(stop.pid)
                case StopKind.GROUP_STOP if stop.detail in _STOPPING:
                    ptrace.listen(stop.pid)
                case StopKind.SIGNAL:
                    ptrace.cont(stop.pid, stop.detail)
                case _:
                    ptrace.cont(stop.pid)
        except ptrace.TraceeGone:
            pass
        return True

    def _born(self, task: int) -> None:
        """A bystander has made a task: one too, whose first stop may have come before."""
        self.tasks.add(task)
        if task in self._newborn:
            self._newborn.discard(task)
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.cont(task)
