# SPDX-License-Identifier: GPL-2.0-or-later
"""The program's signal handlers, and delivering to them.

The kernel's forced signals (SIGSEGV, SIGILL, SIGTRAP, SIGBUS) are our trap
mechanism. force_sig_info (kernel/signal.c) resets the action to default when
the signal is blocked or ignored, before the tracer hears of it. So these four
are never blocked nor ignored in the kernel: the program's wishes about them
are kept here.

A handler's frame is written by the kernel, which gives up with SIGSEGV where
it may not write: the stack's pages are made writable here first, and stay so
until the handler's first instruction.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from supervisor.arch import Arch
from supervisor.coherence.messages import Access, Fault
from supervisor.driver.ranges import mapped_runs
from supervisor.tracee import inject, ptrace

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

def mask_of(numbers: Iterable[int]) -> int:
    """As in a sigset_t: bit 0 is signal 1."""
    return sum(1 << (number - 1) for number in numbers)


FORCED: Final = frozenset((signal.SIGSEGV, signal.SIGILL, signal.SIGTRAP, signal.SIGBUS))
FAULTS: Final = FORCED | {signal.SIGFPE}
FORCED_MASK: Final = mask_of(FORCED)
FORCED_WORD: Final = 4
"""Bytes of a mask, its first ones, with all of these in them."""

SA_SIGINFO: Final = 0x00000004
SA_RESTORER: Final = 0x04000000
SA_ONSTACK: Final = 0x08000000
SA_RESTART: Final = 0x10000000
SA_NODEFER: Final = 0x40000000
SA_RESETHAND: Final = 0x80000000
SIG_DFL: Final = 0
SIG_IGN: Final = 1
IGNORED_BY_DEFAULT: Final = (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)

ACTION: Final = struct.Struct("<QQQQ")
"""struct kernel_sigaction as it is kept here, that of x86-64: handler, flags, restorer, mask."""
SIGSET_SIZE: Final = 8
SI_ADDR: Final = 16
"""Offset in siginfo, which ptrace shows in its 64-bit form for i386 programs too."""
FRAME_SIZE: Final = 16 << 10
"""More than any signal frame: the red zone, the frame, and XSAVE state (about 11 KiB with AMX)."""


def forced_pending(task: int) -> bool:
    """Has a stopped task a fault or a trap to tell of? (A stop asked for comes before it.)"""
    try:
        with open(f"/proc/{task}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("SigPnd:"):
                    return bool(int(line.split()[1], 16) & FORCED_MASK)
    except (OSError, ProcessLookupError):
        pass  # it is gone
    return False


def deliverable(task: int) -> list[int]:
    """The signals that a stopped task will find pending, and not blocked, when it goes on."""
    masks = {"SigPnd:": 0, "ShdPnd:": 0, "SigBlk:": 0}
    try:
        with open(f"/proc/{task}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line[:7] in masks:
                    masks[line[:7]] = int(line[7:], 16)
    except (OSError, ProcessLookupError):
        return []  # it is gone
    found = (masks["SigPnd:"] | masks["ShdPnd:"]) & ~masks["SigBlk:"]
    return [number for number in range(1, 65) if found >> number - 1 & 1]


class Actions:
    """What the program wants done with each signal (struct kernel_sigaction bytes)."""

    def __init__(self) -> None:
        self._actions: dict[int, bytes] = {}

    def copy(self) -> Actions:
        """For a process that starts with these (fork)."""
        other = Actions()
        other._actions = dict(self._actions)
        return other

    def executed(self) -> None:
        """execve(2): handlers are gone, what was ignored still is."""
        self._actions = {
            number: action
            for number, action in self._actions.items()
            if ACTION.unpack(action)[0] == SIG_IGN
        }

    def inherit(self, ignored: Iterable[int]) -> None:
        """Signals that were ignored when the program was started (nohup) still are."""
        for number in ignored:
            self._actions[number] = ACTION.pack(SIG_IGN, 0, 0, 0)

    def get(self, number: int) -> bytes:
        return self._actions.get(number, bytes(ACTION.size))

    def set(self, number: int, action: bytes) -> None:
        self._actions[number] = action

    def about_forced(self) -> list[tuple[int, bytes]]:
        """Actions that the kernel has not as they were set."""
        return [
            (number, action)
            for number, action in self._actions.items()
            if number in FORCED or ACTION.unpack(action)[3] & FORCED_MASK
        ]

    def runs_handler(self, number: int) -> bool:
        handler: int = ACTION.unpack(self.get(number))[0]
        return handler not in (SIG_DFL, SIG_IGN)

    def ignored(self, number: int) -> bool:
        return bool(ACTION.unpack(self.get(number))[0] == SIG_IGN)

    def does_nothing(self, number: int) -> bool:
        """Would it not even wake a task that nobody traces?"""
        handler: int = ACTION.unpack(self.get(number))[0]
        return handler == SIG_IGN or (handler == SIG_DFL and number in IGNORED_BY_DEFAULT)

    def flags(self, number: int) -> int:
        return int(ACTION.unpack(self.get(number))[1])

    def delivered(self, number: int) -> None:
        """SA_RESETHAND takes effect at delivery: on the handler alone."""
        _, flags, restorer, mask = ACTION.unpack(self.get(number))
        if flags & SA_RESETHAND:
            self._actions[number] = ACTION.pack(SIG_DFL, flags, restorer, mask)

    def restarts(self, number: int, code: int) -> bool:
        """Does a call that ended with this kernel-internal code begin again after the handler?"""
        if code == -513:  # ERESTARTNOINTR
            return True
        return code == -512 and (number == 0 or bool(self.flags(number) & SA_RESTART))


def _returning(action: bytes, arch: Arch) -> tuple[int, int, int, int]:
    handler, flags, restorer, mask = ACTION.unpack(action)
    if not flags & SA_RESTORER and any(arch.restorers):
        restorer = arch.restorers[bool(flags & SA_SIGINFO)]
        flags |= SA_RESTORER
    return handler, flags, restorer, mask


def with_restorer(action: bytes, arch: Arch) -> bytes:
    """The action as the program wants it, in its kernel's layout.

    A handler without a restorer would return through the vDSO, which is not there.
    """
    return arch.action.pack(*_returning(action, arch))


def for_kernel(number: int, action: bytes, arch: Arch) -> bytes:
    """The action as the kernel may have it: forced signals neither ignored nor deferred."""
    handler, flags, restorer, mask = _returning(action, arch)
    if number in FORCED:
        if handler == SIG_IGN:
            handler = SIG_DFL
        elif handler != SIG_DFL:
            flags |= SA_NODEFER
    return arch.action.pack(handler, flags, restorer, mask & ~FORCED_MASK)


def arrived(home: Home, thread: Thread, number: int) -> None:
    """A signal of the program's own, at a thread that is here and runs its own code."""
    if number in FORCED:
        blocked = bool(thread.virtual_mask >> (number - 1) & 1)
        if keeps(home, thread, number) or drops(thread, number):
            thread.cont()
            return
        if blocked:
            reset(home, number)
            thread.cont(number)
            return
    if home.processor_timers.discards(thread):
        thread.cont()
        return
    if not thread.actions.runs_handler(number):
        if thread.actions.does_nothing(number):
            home.calls.idle_signals += 1
            if home.hosts == 1 and home.calls.completes(thread):
                return
        thread.cont(number)
        return
    thread.resumes = None
    if home.hosts == 1 and not _masks_forced(thread, number):
        as_if_unmoved(home, thread, number, ptrace.get_siginfo_bytes(thread.task))
        thread.actions.delivered(number)
        thread.cont(number)
        return
    ptrace.get_registers(thread.task, thread.registers)
    info = home.processor_timers.taken(ptrace.get_siginfo_bytes(thread.task))
    thread.pending_signals.append((number, info))
    deliver_pending(home, thread)


def as_if_unmoved(home: Home, thread: Thread, number: int, info: bytes) -> None:
    """A handler of a fault finds the instruction pointer in the code that it knows.

    Go panics only for faults in its own functions, Java's implicit null checks
    are looked up by address. Returning there runs into the patch, as any jump.
    """
    (code,) = struct.unpack_from("<i", info, 8)
    if number not in FAULTS or code <= 0:
        return
    registers = ptrace.get_registers(thread.task)
    original = home.code.original(registers.rip)
    if original == registers.rip:
        return
    (address,) = struct.unpack_from("<Q", info, SI_ADDR)
    if number in (signal.SIGFPE, signal.SIGILL) and address == registers.rip:
        # Of these the kernel tells the instruction's address, not an operand's.
        told = info[:SI_ADDR] + original.to_bytes(8, "little") + info[SI_ADDR + 8 :]
        ptrace.set_siginfo_bytes(thread.task, told)
    registers.rip = original
    ptrace.set_registers(thread.task, registers)


def keeps(home: Home, thread: Thread, number: int) -> bool:
    """A forced signal that was sent while the program has it blocked: kept until it has not."""
    if number not in FORCED or not thread.virtual_mask >> (number - 1) & 1:
        return False
    info = ptrace.get_siginfo_bytes(thread.task)
    if int.from_bytes(info[8:12], "little", signed=True) > 0:
        return False  # caused, not sent
    home.kept_signals.keep(thread, number, info)
    return True


def drops(thread: Thread, number: int) -> bool:
    """A forced signal that was sent while the program ignores it."""
    if number not in FORCED or not thread.actions.ignored(number):
        return False
    return ptrace.get_siginfo(thread.task)[1] <= 0


def reset(home: Home, number: int) -> None:
    """The program is to end by a signal that it has a handler for, but blocked."""
    at = home.agent.control.write_data(bytes(ACTION.size))
    home.agent.run([(inject.SYS_RT_SIGACTION, number, at, 0, SIGSET_SIZE)])


def _masks_forced(thread: Thread, number: int) -> bool:
    """Will one of the forced signals be blocked in the handler, in the program's eyes?"""
    mask = ACTION.unpack(thread.actions.get(number))[3]
    return (
        number in FORCED
        or thread.mask_before is not None
        or bool((mask | thread.virtual_mask) & FORCED_MASK)
    )


def entered(home: Home, thread: Thread) -> None:
    """A thread stands at its handler's first instruction: complete the frame's mask.

    The kernel has put its own there, which has none of the forced signals;
    sigreturn reads it, and so may the handler.
    """
    mask, thread.frame_mask = thread.frame_mask, 0
    at = ptrace.get_registers(thread.task).rsp + thread.frame_mask_at
    word = int.from_bytes(home.read(at, FORCED_WORD), "little") | mask
    home.write(at, word.to_bytes(FORCED_WORD, "little"))


def deliver_pending(home: Home, thread: Thread) -> None:
    """Get the stack ready for the first pending signal's frame; `deliver` follows."""
    thread.delivering = True
    runs = mapped_runs(home.space, _frame_ranges(thread))
    if runs:
        home.step(Fault(thread.requester, runs))
    else:
        deliver(home, thread)


def _frame_ranges(thread: Thread) -> list[tuple[int, int, Access]]:
    """Where the kernel may build the frame of the first pending signal."""
    stack = thread.registers.rsp
    ranges = [(stack - FRAME_SIZE, FRAME_SIZE, Access.WRITE)]
    base, size = thread.alternate_stack
    if size and thread.actions.flags(thread.pending_signals[0][0]) & SA_ONSTACK:
        length = min(size, FRAME_SIZE)
        ranges.append((base + size - length, length, Access.WRITE))
    return ranges


def deliver(home: Home, thread: Thread) -> None:
    """The pages are there and pinned: let the kernel build the frame."""
    thread.delivering = False
    home.pager.reach(_frame_ranges(thread))
    number, info = thread.pending_signals.pop(0)
    _, flags, _, mask = ACTION.unpack(thread.actions.get(number))
    before, thread.mask_before = thread.mask_before, None
    thread.frame_mask = thread.virtual_mask if before is None else before
    thread.frame_mask_at = thread.arch.frame_mask_at[bool(flags & SA_SIGINFO)]
    thread.virtual_mask |= mask & FORCED_MASK
    if number in FORCED and not flags & SA_NODEFER:
        thread.virtual_mask |= 1 << (number - 1)
    thread.actions.delivered(number)
    ptrace.set_siginfo_bytes(thread.task, info)
    as_if_unmoved(home, thread, number, info)
    home.faults.step_pinned(thread, number)
