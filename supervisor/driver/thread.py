# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest thread as a host's supervisor sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from supervisor.arch import Arch
from supervisor.driver.account import Account
from supervisor.tracee import ptrace
from supervisor.tracee.ptrace import Registers
from supervisor.tracee.usage import Meter, Times
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.driver.memory_limits import MemoryLimits
    from supervisor.driver.operations import Operation
    from supervisor.driver.signals import Actions


class Thread:
    """A kernel task of a guest process that is, or is the shadow of, a program's thread."""

    __slots__ = (
        "account",
        "actions",
        "affinity",
        "alternate_stack",
        "arch",
        "at_gadget",
        "at_signal",
        "away",
        "blocked_signals",
        "born",
        "borrowed",
        "call_file",
        "clear_child_tid",
        "cured",
        "delivering",
        "destination",
        "ended",
        "entered",
        "exited",
        "fault_address",
        "fault_key",
        "frame_mask",
        "frame_mask_at",
        "gives_up",
        "interrupted",
        "later",
        "leaving",
        "limits",
        "locked",
        "lost",
        "mask_before",
        "meter",
        "native",
        "operation",
        "paging",
        "pending_signals",
        "registers",
        "requester",
        "resumes",
        "returns_to",
        "robust_list",
        "scrutinise",
        "spent",
        "step_next",
        "stepping",
        "still",
        "stopped",
        "task",
        "tid",
        "virtual_mask",
        "waiting",
    )

    def __init__(
        self, tid: int, task: int, requester: int, actions: Actions, arch: Arch
    ) -> None:
        self.tid = tid
        """As the program sees it (the task id at home)."""
        self.task = task
        """Kernel task id on this host."""
        self.arch = arch
        self.requester = requester
        self.registers = Registers()
        """Read at a stop; written back at most once before the task goes on."""
        self.operation: Operation | None = None
        self.native: Operation | None = None
        """The operation whose `Native` call this task is running."""
        self.away: HostId = HOME
        """At home: the host on which the thread runs; this task is its shadow if not HOME."""
        self.clear_child_tid = 0
        self.robust_list = 0
        self.virtual_mask = 0
        """Those of SIGSEGV, SIGILL, SIGTRAP, SIGBUS that the program believes it has blocked."""
        self.mask_before: int | None = None
        """What that was before a call that has put another mask in force, until a handler's
        frame has it, or the call has ended without one: see temporary_masks.py."""
        self.affinity: int | None = None
        """Virtual processors that sched_setaffinity allowed, bit N for processor N; None: all."""
        self.destination: HostId | None = None
        """At home: the host to which the thread goes at its next stop."""
        self.returns_to: HostId = HOME
        """At home: where it goes back to when its handler returns, if not HOME."""
        self.entered = False
        """The call that the thread stopped at has run (its exit stop, or the gadget)."""
        self.actions = actions
        """The signal handlers of the thread's process."""
        self.borrowed = False
        """A vfork child's task: it shares the memory, but is no thread of the program."""
        self.limits: MemoryLimits | None = None
        """Of a borrowed task, whose process has its own."""
        self.exited = False
        """The thread has called exit; a main task's end is told only with the last one's."""
        self.at_gadget = False
        self.born: list[int] = []
        """Tasks that the current call has made."""
        self.alternate_stack = (0, 0)
        """ss_sp and ss_size of sigaltstack(2); size 0 when disabled."""
        self.pending_signals: list[tuple[int, bytes]] = []
        """Taken from the kernel, to be delivered when the current call ends: number, siginfo."""
        self.resumes: tuple[int, int] | None = None
        """The call that was interrupted, by the address behind it, and until when it waits (ns)
        if it begins again: see interrupted.py."""
        self.blocked_signals: list[tuple[int, bytes]] = []
        """Of the forced ones, sent while the program has them blocked: number, siginfo."""
        self.frame_mask = 0
        """Forced signals that the frame of the handler being entered is to show as blocked."""
        self.frame_mask_at = 0
        """Where: from the stack pointer."""
        self.at_signal = False
        """Stands at the delivery of a signal, where another can be put in its place."""
        self.delivering = False
        """Waits for its stack pages to deliver the first of the pending signals."""
        self.ended = False
        """Elsewhere: its kernel task at home is gone."""
        self.leaving = False
        """Elsewhere: goes home as soon as it can."""
        self.gives_up = False
        """Elsewhere: because it does little but wait for pages."""
        self.stopped = True
        """In a ptrace stop that has been taken note of."""
        self.interrupted = False
        """A stop has been asked for that has not come yet: a call is EINTR meanwhile."""
        self.waiting = False
        """Stopped at a fault, until its pages are there."""
        self.account = Account()
        self.meter = Meter()
        """What its task on this host has used."""
        self.spent = Times()
        """At home: processor time of its stays elsewhere that are over."""
        self.paging = False
        """Waits in the kernel for its pages, in no stop of ours (see driver/pager.py)."""
        self.fault_address = 0
        """What it waits for, or has waited for last, in either way."""
        self.lost = 0
        """How often in a row it has waited for that page again."""
        self.scrutinise = False
        """Interrupted in such a wait, for its registers to be looked at."""
        self.call_file = -1
        """Its open /proc/TID/syscall."""
        # Faults: the last one's key, and how often it came back although cured.
        self.fault_key: Any = None
        self.cured = 0
        self.step_next = False
        """The instruction at which it waits for pages is to run while they are pinned."""
        self.locked = False
        """It waits for them at a bus-locked instruction."""
        self.stepping = False
        self.still = False
        """Another host has the bus lock: going on waits in `later` until it is free."""
        self.later: Callable[[], None] | None = None

    # Going on: raises TraceeGone when the task is dead or dying.

    def cont(self, signal_number: int = 0) -> None:
        if self.still:
            self.later = partial(self.cont, signal_number)
            return
        self.stopped = self.at_signal = False
        ptrace.cont(self.task, signal_number)

    def cont_to_syscall(self) -> None:
        if self.still:
            self.later = self.cont_to_syscall
            return
        self.stopped = self.at_signal = False
        ptrace.cont_to_syscall(self.task)

    def single_step(self, signal_number: int = 0) -> None:
        if self.still:
            self.later = partial(self.single_step, signal_number)
            return
        self.stopped = self.at_signal = False
        ptrace.single_step(self.task, signal_number)

    def go_on(self) -> None:
        """The host does not stand still any more."""
        self.still = False
        later, self.later = self.later, None
        if later is not None:
            later()

    def interrupt(self) -> None:
        """Have it stop; another stop may come first."""
        self.interrupted = True
        ptrace.interrupt(self.task)

    def listen(self) -> None:
        """Stay in a group stop (job control) until SIGCONT."""
        ptrace.listen(self.task)
