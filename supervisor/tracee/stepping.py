# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a program one instruction at a time, all its threads and processes.

Where no hardware counter tells, this is the only way to know how many
instructions a program executes, and it knows which: PTRACE_SINGLESTEP sets the
trap flag, and each SIGTRAP stop is one instruction further. A repeated string
instruction stops after each repetition and still counts once.

The trap is a forced signal: where the program has SIGTRAP blocked, the kernel
unblocks it and resets its handler (force_sig_info, kernel/signal.c). So a
program that handles SIGTRAP itself cannot be stepped through its handler.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final, NamedTuple

from iced_x86 import Decoder

from supervisor.tracee import ptrace
from supervisor.tracee.maps import Mapping, read_maps
from supervisor.tracee.stops import Stop, StopKind, decode
from supervisor.units import PAGE_MASK, PAGE_SIZE

INSTRUCTION_LENGTH_MAX: Final = 15

_EVENT_CLONE: Final = 3
_EVENT_EXEC: Final = 4
_STEPPED: Final = signal.SIGTRAP << 8 | 0x7F
"""The wait status of a SIGTRAP stop without an event."""
_RIP: Final = ptrace.Registers.rip.offset
_CS: Final = ptrace.Registers.cs.offset
_COMPATIBILITY_CS: Final = 0x23
"""The kernel's __USER32_CS: the task runs i386 code."""
_STEP_CODES: Final = (1, 2)
"""si_code of a step: TRAP_BRKPT after a system call, TRAP_TRACE after anything else."""
_JOB_STOPS: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Instruction(NamedTuple):
    """An instruction that was executed, and where it stands.

    `offset` is in the file `path`; in memory, if the path does not begin with '/'.
    """

    path: str
    offset: int
    code: bytes
    bits: int
    repeats: bool
    """Has a REP prefix: stops at the same address are repetitions."""


class _Image:
    """The code of one process's address space, as far as it has been executed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seen: dict[int, int] = {}
        """Index of the instruction at each address in `Stepper.instructions`."""
        self._maps: list[Mapping] = []

    def meet(self, address: int, bits: int) -> Instruction:
        """An instruction that this address space executes for the first time."""
        found = self._mapping(address)
        if found is None:
            self._maps = read_maps(self.pid)
            found = self._mapping(address)
        path, offset = "", address
        if found is not None:
            path = found.path
            if path.startswith("/"):
                offset += found.offset - found.start
        code = _read_code(self.pid, address)
        decoded = Decoder(bits, code, ip=address).decode()
        repeats = decoded.has_rep_prefix or decoded.has_repne_prefix
        return Instruction(path, offset, code[: decoded.len], bits, repeats)

    def _mapping(self, address: int) -> Mapping | None:
        return next((each for each in self._maps if each.start <= address < each.end), None)


class _Task:
    __slots__ = ("image", "repeating", "started")

    def __init__(self, image: _Image) -> None:
        self.image = image
        self.repeating = 0
        """Address of the repeated instruction that is being stepped, 0 for none."""
        self.started = False


class Stepper:
    """Steps a started program (at the exit of its execve) to its end.

    At most `limit` instructions are counted; the program then goes on at full
    speed, and `complete` is False. `instructions` and `counts` run in parallel.
    """

    def __init__(self, pid: int, limit: int) -> None:
        self.pid = pid
        self.limit = limit
        self.instructions: list[Instruction] = []
        self.counts: list[int] = []
        self.total = 0
        self._index: dict[Instruction, int] = {}
        self._tasks: dict[int, _Task] = {pid: _Task(_Image(pid))}
        self._early: set[int] = set()
        """New tasks whose first stop came before their parent told of them."""

    @property
    def complete(self) -> bool:
        return self.total < self.limit

    def run(self) -> Stop:
        """Step until the program's main process has ended; how it did."""
        tasks = self._tasks
        self._step(self.pid, tasks[self.pid])
        while True:
            pid, status = os.waitpid(-1, ptrace.WALL)
            task = tasks.get(pid)
            with contextlib.suppress(ptrace.TraceeGone):
                if status == _STEPPED and task is not None:
                    number, code, _ = ptrace.get_siginfo(pid)
                    if code in _STEP_CODES:
                        self._step(pid, task)
                    else:
                        self._go_on(pid, number)
                    continue
                stop = decode(pid, status)
                if stop.kind in (StopKind.EXITED, StopKind.KILLED):
                    tasks.pop(pid, None)
                    if pid == self.pid:
                        return stop
                elif task is None:
                    self._early.add(pid)
                else:
                    self._on_stop(stop, task)

    def _step(self, pid: int, task: _Task) -> None:
        """Count the instruction that a task stands before, and let it run."""
        task.started = True
        if self.complete:
            address = ptrace.peek_user(pid, _RIP)
            if address != task.repeating:
                self._count(pid, task, address)
        self._go_on(pid)

    def _count(self, pid: int, task: _Task, address: int) -> None:
        index = task.image.seen.get(address)
        if index is None:
            bits = 32 if ptrace.peek_user(pid, _CS) == _COMPATIBILITY_CS else 64
            met = task.image.meet(address, bits)
            index = self._index.setdefault(met, len(self.instructions))
            if index == len(self.instructions):
                self.instructions.append(met)
                self.counts.append(0)
            task.image.seen[address] = index
        task.repeating = address if self.instructions[index].repeats else 0
        self.counts[index] += 1
        self.total += 1

    def _go_on(self, pid: int, number: int = 0) -> None:
        if self.complete:
            ptrace.single_step(pid, number)
        else:
            ptrace.cont(pid, number)

    def _on_stop(self, stop: Stop, task: _Task) -> None:
        pid = stop.pid
        if stop.kind is StopKind.GROUP_STOP and stop.detail in _JOB_STOPS:
            ptrace.listen(pid)
            return
        if stop.kind is StopKind.GROUP_STOP and not task.started:
            self._step(pid, task)
            return
        if stop.kind is StopKind.EVENT:
            if stop.detail == _EVENT_EXEC:
                # The process's other threads are gone, and so is its code.
                self._tasks.pop(ptrace.get_event_message(pid), None)
                self._tasks[pid] = _Task(_Image(pid))
            else:
                self._born(ptrace.get_event_message(pid), task, stop.detail)
        self._go_on(pid, stop.detail if stop.kind is StopKind.SIGNAL else 0)

    def _born(self, child: int, parent: _Task, event: int) -> None:
        image = parent.image if event == _EVENT_CLONE else _Image(child)
        task = self._tasks[child] = _Task(image)
        if child in self._early:
            self._early.remove(child)
            with contextlib.suppress(ptrace.TraceeGone):
                self._step(child, task)


def _read_code(pid: int, address: int) -> bytes:
    """Up to 15 bytes at an address, whatever is mapped of them."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        here = PAGE_SIZE - (address & PAGE_MASK)
        for length in (INSTRUCTION_LENGTH_MAX, min(here, INSTRUCTION_LENGTH_MAX)):
            with contextlib.suppress(OSError):
                return os.pread(memory.fileno(), length, address)
    return b""
