# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls of a thread that is elsewhere than at home.

Most are gathered here, run at home on the thread's shadow, and scattered here. Home's
handlers carry out those that are more than marshalling; a few need no home (clocks).
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT
from typing import TYPE_CHECKING, Final

from supervisor.arch.base import NO_CALL
from supervisor.areas import Kind
from supervisor.coherence.messages import Access
from supervisor.driver.messages import SpecialCall, SystemCall
from supervisor.driver.operations import Reply, Steps, flush_first
from supervisor.driver.restarts import ERESTARTNOINTR, RESTART_CODES, RETURNS, repeat
from supervisor.syscalls import handlers
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import clocks, futex
from supervisor.syscalls.handlers.new_tasks import ARGS_MOST as CLONE_ARGS_MOST
from supervisor.syscalls.handlers.signals import SIGSET_SIZE
from supervisor.syscalls.marshal import gather, goes_on, scatter
from supervisor.syscalls.spec import Row, Where
from supervisor.tracee import ptrace
from supervisor.units import HOME, PAGE_SHIFT

if TYPE_CHECKING:
    from supervisor.driver.lender import Lender
    from supervisor.driver.thread import Thread

UNANSWERED: Final = frozenset(("set_robust_list",))
"""Calls that only tell home something. With arguments that are in order they succeed."""
ARCH_SET_GS: Final = 0x1001
ARCH_SET_FS: Final = 0x1002


class GoesHome(Exception):
    """A thread's system call needs memory that only home has: the thread repeats it there."""


class Forwarding:
    """Of a lender's threads."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender

    def on_call(self, thread: Thread) -> None:
        """A thread has stopped at a call."""
        lender = self._lender
        registers = ptrace.get_registers(thread.task, thread.registers)
        row = lender.called_row(thread)
        arguments = thread.arch.arguments_of(registers)
        where = row.where
        quiet = row.quiet
        if where is Where.ANSWER or where is Where.REFUSE:
            self._finish(thread, handlers.refusal(row))
            return
        if row.name in RETURNS:
            repeat(registers, thread.arch.call_length)
            ptrace.set_registers(thread.task, registers)
            lender.leave(thread)
            return
        if where is Where.HANDLER or where is Where.SPACE or row.name in handlers.OVERRIDES:
            local = clocks.LOCAL.get(row.handler)
            if row.name == "arch_prctl" and arguments[0] in (ARCH_SET_FS, ARCH_SET_GS):
                lender.resume(thread)
                return
            if local is not None and (
                row.handler != "clock_gettime" or clocks.readable(arguments)
            ):
                steps = local(lender, row, arguments)
            elif row.handler in handlers.MARSHALLED and not self._is_linker(registers.rip):
                steps = self._forward(thread, row, arguments)
            elif row.name == "exit":
                steps = self._exit(thread, row, arguments)
            else:
                steps = self._special(thread, row, arguments)
                quiet = False  # home reads the arguments in memory
        elif row.unwrap is not None:
            steps = self._unwrapped(thread, row, arguments)
        elif row.name == "set_thread_area":
            steps = self._set_thread_area(thread, row, arguments)
        else:
            steps = self._forward(thread, row, arguments)
        if lender.node.armed and not quiet:
            steps = flush_first(steps)
        steps = self._unless_joint(thread, steps)
        lender.operations.begin(
            row.name, thread, steps, lambda value: self._finish(thread, value)
        )

    def _unwrapped(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        """A call that stands for another."""
        assert row.unwrap is not None
        found = yield from row.unwrap(arguments, self._lender)
        if isinstance(found, int):
            return found
        carry_out = self._special if found[0].handler else self._forward
        return (yield from carry_out(thread, *found))

    def _is_linker(self, ip: int) -> bool:
        """Files that the dynamic linker opens are substituted, at home."""
        area = self._lender.space.find(ip)
        return area is not None and area.kind is Kind.NATIVE and handlers.is_linker(area.name)

    def _forward(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        lender = self._lender
        done = 0
        while True:
            call = yield from gather(row, arguments, lender, done)
            if isinstance(call, int):
                return done or call
            lender.send(HOME, SystemCall(thread.tid, row.number, call))
            result = yield Reply()
            if result.ret in RESTART_CODES:
                return done or result.ret
            value = yield from scatter(row, arguments, call, result, lender)
            if value < 0:
                return done or value
            done += value
            if not goes_on(call, value, result.cut_short):
                return done

    def _set_thread_area(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        """The shadow has chosen the entry; the worker's descriptor table gets it too."""
        value = yield from self._forward(thread, row, arguments)
        if value == 0:
            yield Acquire(((arguments[0], ptrace.USER_DESC_SIZE, Access.READ),))
            area = self._lender.read(arguments[0], ptrace.USER_DESC_SIZE)
            ptrace.set_thread_areas(thread.task, [area])
            ptrace.get_registers(thread.task, thread.registers)  # its segment bases
        return value

    def _unless_joint(self, thread: Thread, steps: Steps) -> Steps:
        """A call's steps, unless they want memory that only home has: it is repeated there."""
        try:
            return (yield from steps)
        except GoesHome:
            thread.leaving = True
            return ERESTARTNOINTR

    def _special(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        lender = self._lender
        payload = xstate = b""
        compared = False
        if row.handler == "futex":
            where = futex.timeout_address(arguments)
            payload = yield from self._bytes_at(where, row.timespec.size)
            equal = self._compares(arguments)
            if equal is False and not where:
                return -EAGAIN
            compared = equal is True
        elif row.name == "clone":
            xstate = ptrace.get_xstate(thread.task)
        elif row.name == "clone3":
            xstate = ptrace.get_xstate(thread.task)
            if arguments[1] <= CLONE_ARGS_MOST:
                payload = yield from self._bytes_at(arguments[0], arguments[1])
        elif row.name == "rt_sigprocmask":
            payload = yield from self._bytes_at(arguments[1], SIGSET_SIZE)
        told = row.name in UNANSWERED and row.arch.robust_list.size == arguments[1]
        lender.send(
            HOME,
            self._special_call(thread, row, arguments, payload, xstate, compared, not told),
        )
        if told:
            return 0
        result = yield Reply()
        if row.name != "rt_sigprocmask" or result.ret < 0 or not arguments[2]:
            return result.ret
        return (yield from self._put(arguments[2], result.outs[0][2]))

    def _put(self, address: int, data: bytes) -> Steps:
        """0, or -EFAULT when the program may not write there."""
        lender = self._lender
        if not lender.check(address, len(data), Access.WRITE):
            return -EFAULT
        yield Acquire(((address, len(data), Access.WRITE),))
        lender.write(address, data)
        return 0

    def _bytes_at(self, address: int, length: int) -> Steps:
        """What is there; nothing where the program may not read it."""
        lender = self._lender
        if not address or not lender.check(address, length, Access.READ):
            return b""
        yield Acquire(((address, length, Access.READ),))
        return lender.read(address, length)

    def _compares(self, arguments: list[int]) -> bool | None:
        """Whether the word that a private futex call is to wait for is as expected.

        None where this host cannot tell. What it can tell is worth something to home, by its
        directory, when the message arrives (see handlers/futex.py).
        """
        lender, address = self._lender, arguments[0]
        if (
            not futex.waits_privately(arguments)
            or not lender.check(address, futex.WORD_SIZE, Access.READ)
            or not lender.node.has_latest(address >> PAGE_SHIFT)
            or (lender.has_joint and lender.is_joint(address, futex.WORD_SIZE))
        ):
            return None
        return futex.is_expected(lender.read(address, futex.WORD_SIZE), arguments)

    @staticmethod
    def _special_call(
        thread: Thread, row: Row, arguments: list[int], payload: bytes = b"", xstate: bytes = b"",
        compared: bool = False, answer: bool = True,
    ) -> SpecialCall:  # fmt: skip
        return SpecialCall(
            thread.tid, row.number, arguments, payload, bytes(thread.registers), xstate, compared,
            answer,
        )  # fmt: skip

    def _exit(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        self._lender.exits(thread)
        self._lender.send(HOME, self._special_call(thread, row, arguments))
        return None
        yield

    def _finish(self, thread: Thread, value: int | None) -> None:
        """Give a thread its result and let it go on, here or at home."""
        if value is None:
            self._lender.drop(thread)  # it has exited
            return
        registers = thread.registers
        if value in RESTART_CODES:
            repeat(registers, thread.arch.call_length)
        else:
            registers.rax = value & 0xFFFF_FFFF_FFFF_FFFF
            registers.orig_rax = NO_CALL
        try:
            ptrace.set_registers(thread.task, registers)
            if thread.leaving:
                self._lender.leave(thread)
            else:
                thread.cont()
        except ptrace.TraceeGone:
            pass
