# SPDX-License-Identifier: GPL-2.0-or-later
"""From an exec stop to a guest process with a control block and a parked agent.

Before the control block is mapped there is no gadget to run system calls at,
so the first ones run on two bytes poked over the entry point and put back.
"""

from __future__ import annotations

import errno
import os
import signal

from supervisor.arch import X86_64, Arch, of_selector
from supervisor.areas import EXEC
from supervisor.errors import CannotExecute, DsmsupError, GuestDied
from supervisor.tasks import NO_MORE
from supervisor.tracee import control, cpuid, handing, inject, priority, ptrace
from supervisor.tracee.control import ControlBlock
from supervisor.tracee.inject import Agent
from supervisor.tracee.maps import read_maps
from supervisor.tracee.memory import GuestMemory
from supervisor.tracee.stops import StopKind, wait_for

_ALL_SIGNALS_BUT_TRAP = ~(1 << (signal.SIGTRAP - 1)) & 0xFFFF_FFFF_FFFF_FFFF


class Caller:
    """Runs single system calls on one stopped thread, at a gadget.

    They are 64-bit ones whatever the thread's own code is, unless asked for otherwise.
    Signals that come meanwhile stay pending: they are the program's.
    """

    def __init__(self, pid: int, gadget: int) -> None:
        self.pid = pid
        self.gadget = gadget
        self.born: list[int] = []

    def call(self, number: int, *arguments: int) -> int:
        return self._run(X86_64, self.gadget, number, arguments)

    def call_as(self, arch: Arch, name: str, *arguments: int) -> int:
        """A call of an architecture's own, where the kernel takes note of which it was of."""
        return self._run(arch, arch.gadget, arch.numbers[name], arguments)

    def _run(self, arch: Arch, gadget: int, number: int, arguments: tuple[int, ...]) -> int:
        registers = ptrace.get_registers(self.pid)
        saved = ptrace.Registers.from_buffer_copy(registers)
        arch.begin_call(registers, number, arguments)
        registers.cs = arch.code_selector
        registers.rip = gadget
        ptrace.set_registers(self.pid, registers)
        mask = ptrace.get_signal_mask(self.pid)
        ptrace.set_signal_mask(self.pid, _ALL_SIGNALS_BUT_TRAP)
        later = []
        while True:
            ptrace.cont(self.pid)
            stop = wait_for(self.pid)
            if stop.kind is StopKind.SIGNAL and stop.detail == signal.SIGTRAP:
                break
            if stop.kind is StopKind.EVENT:
                self.born.append(ptrace.get_event_message(self.pid))
            elif stop.kind in (StopKind.EXITED, StopKind.KILLED):
                raise GuestDied("the program was killed while it was being set up")
            elif stop.kind is StopKind.SIGNAL:
                later.append(stop.detail)  # SIGSTOP: nothing blocks it
        ptrace.set_signal_mask(self.pid, mask)
        for number in later:
            os.kill(self.pid, number)
        result = ptrace.get_registers(self.pid).rax
        ptrace.set_registers(self.pid, saved)
        return arch.result_of(result)

    def must(self, number: int, *arguments: int) -> int:
        result = self.call(number, *arguments)
        if -4096 < result < 0:
            why = NO_MORE if result == -errno.EAGAIN else os.strerror(-result)
            raise DsmsupError(f"cannot prepare the guest process: system call {number}: {why}")
        return result


class Fresh:
    """A process that stands at the exit of its execve, with nothing of ours in it yet.

    Raises CannotExecute where there is nothing to execute at its entry point.
    Our descriptors are opened in it through the supervisor's /proc/PID/fd, or handed to it: an
    image that the program itself executes (execve) inherits none.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        registers = ptrace.get_registers(pid)
        self.arch = of_selector(registers.cs)
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._entry = registers.rip
        try:
            self._text = os.pread(self._memory, 3, self._entry)
        except OSError:
            raise self._refusal("nothing is mapped at its entry point") from None
        if not any(
            mapping.start <= self._entry < mapping.end and mapping.protection & EXEC
            for mapping in read_maps(pid)
        ):
            raise self._refusal("what is at its entry point may not be executed")
        os.pwrite(self._memory, b"\x0f\x05\xcc", self._entry)  # syscall; int3
        self._path = (registers.rsp - 1024) & ~15
        self._below = os.pread(self._memory, handing.SPACE, self._path)
        self.caller = Caller(pid, self._entry)

    def _refusal(self, why: str) -> CannotExecute:
        os.close(self._memory)
        path = os.readlink(f"/proc/{self.pid}/exe")
        return CannotExecute(f"cannot execute '{path}': {why} (a damaged ELF file?)")

    def open(self, descriptor: int) -> int:
        """Open one of the supervisor's descriptors in the process; its number there."""
        path = f"/proc/{os.getpid()}/fd/{descriptor}".encode() + b"\0"
        os.pwrite(self._memory, path, self._path)
        opened = self.caller.call(
            inject.SYS_OPENAT, inject.AT_FDCWD, self._path, os.O_RDWR | os.O_CLOEXEC, 0
        )
        if opened >= 0:
            return opened
        return handing.hand(self.pid, self._memory, self._path, self.caller.must, descriptor)

    def restore(self) -> None:
        """Put back what was poked over."""
        os.pwrite(self._memory, self._text, self._entry)
        os.pwrite(self._memory, self._below, self._path)
        os.close(self._memory)


def map_control_block(
    pid: int, block: ControlBlock, memory: GuestMemory, questions_fault: bool
) -> int:
    """Map the control block into a fresh process; guest memory's descriptor there.

    With `questions_fault`, its CPUIDs raise SIGSEGV from then on.
    """
    fresh = Fresh(pid)
    try:
        caller = fresh.caller
        control_descriptor = fresh.open(block.descriptor)
        memory_descriptor = fresh.open(memory.descriptor)
        caller.must(
            inject.SYS_MMAP, control.BASE, control.SIZE, inject.PROT_READ | inject.PROT_WRITE,
            inject.MAP_SHARED | inject.MAP_FIXED, control_descriptor, 0,
        )  # fmt: skip
        caller.must(
            inject.SYS_MPROTECT, control.CODE, 0x1000, inject.PROT_READ | inject.PROT_EXEC
        )
        caller.must(inject.SYS_MPROTECT, control.ARMED, 0x1000, inject.PROT_READ)
        caller.must(
            inject.SYS_MPROTECT, control.VDSO, 0x1000, inject.PROT_READ | inject.PROT_EXEC
        )
        caller.must(inject.SYS_MPROTECT, control.CLOCK, 0x1000, inject.PROT_READ)
        caller.must(inject.SYS_CLOSE, control_descriptor)
        if questions_fault:
            caller.must(cpuid.SYS_ARCH_PRCTL, cpuid.ARCH_SET_CPUID, 0)
    finally:
        fresh.restore()
    return memory_descriptor


def make_agent_thread(pid: int, block: ControlBlock, memory_descriptor: int) -> Agent:
    """Clone the agent off a program's main thread (at home)."""
    caller = Caller(pid, control.GADGET)
    tid = caller.must(inject.SYS_CLONE, inject.THREAD_FLAGS, 0)
    wait_for(tid)
    # The program's table loses our descriptor, the agent's loses all others.
    caller.must(inject.SYS_CLOSE, memory_descriptor)
    return _park(tid, block, memory_descriptor)


def make_agent_of(pid: int, block: ControlBlock, memory_descriptor: int) -> Agent:
    """Make a vessel's only thread its agent."""
    return _park(pid, block, memory_descriptor)


def _park(tid: int, block: ControlBlock, memory_descriptor: int) -> Agent:
    ptrace.set_signal_mask(tid, _ALL_SIGNALS_BUT_TRAP)
    registers = ptrace.get_registers(tid)
    registers.rip = control.STUB
    registers.cs = X86_64.code_selector
    registers.orig_rax = -1 & 0xFFFF_FFFF_FFFF_FFFF
    ptrace.set_registers(tid, registers)
    ptrace.cont(tid)
    stop = wait_for(tid)
    if stop.kind is not StopKind.SIGNAL or stop.detail != signal.SIGTRAP:
        raise GuestDied("the guest process died while it was being set up")
    priority.put_first(tid)
    agent = Agent(tid, block, memory_descriptor)
    kept = memory_descriptor
    agent.check(
        ([(inject.SYS_CLOSE_RANGE, 0, kept - 1, 0)] if kept else [])
        + [(inject.SYS_CLOSE_RANGE, kept + 1, 0xFFFFFFFF, 0)]
    )
    return agent
