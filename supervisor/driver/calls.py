# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls at home: those of the threads that are here, and running one on a kernel task.

A call that the kernel may not do on guest memory itself is gathered into scratch
memory, runs on the thread's own task (here, or its shadow), and is scattered back.
"""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING, Any, Final

from supervisor.arch import Arch
from supervisor.arch.base import NO_CALL
from supervisor.driver import own_memory, signals, temporary_masks
from supervisor.driver.interrupted import ENDED, SOCKETS, TIMEOUTS, Wait, name_of
from supervisor.driver.machine import PATHS
from supervisor.driver.made_files import CALLS
from supervisor.driver.messages import BringHome, SpecialCall
from supervisor.driver.operations import (
    Flush,
    Native,
    Operation,
    Steps,
    Unhold,
    flush_first,
)
from supervisor.driver.processor_timers import WAITS
from supervisor.driver.restarts import (
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    RESTART_CODES,
    RETURNS,
    repeat,
)
from supervisor.driver.written_files import TARGETS, written
from supervisor.syscalls import handlers
from supervisor.syscalls.marshal import Call, Result, collect, gather, goes_on, place, scatter
from supervisor.syscalls.rows_network import wants_all
from supervisor.syscalls.spec import Row, Where
from supervisor.syscalls.table import TABLES, is_plain
from supervisor.tracee import control, ptrace
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread


WHOLE: Final = ("write", "sendto", "recvfrom", "writev")
"""Transfers that the kernel makes in full, the last with several lengths."""


def native_at_home(hosts: int) -> dict[Arch, frozenset[int]]:
    """Calls at which neither a thread at home stops, nor a child, which has its filter."""
    return {
        arch: table.native_at_home.union(
            number for number, row in table.rows.items() if hosts == 1 and _is_kernels_alone(row)
        )
        for arch, table in TABLES.items()
    }


def _is_kernels_alone(row: Row) -> bool:
    """With one host: is a call the kernel's, whatever its arguments? (Where they matter, see
    `Calls._is_more`.)"""
    return row.handler == "futex" or (
        row.where is Where.HOME
        and row.choose is None
        and row.unwrap is None
        and row.name not in handlers.OVERRIDES
        and row.name not in PATHS
        and row.name not in CALLS
        and name_of(row) not in (*ENDED, *SOCKETS, *temporary_masks.MASKS)
    )


class Calls:
    """Of the program's threads; `call` is a thread elsewhere's, None that of one that is here."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.idle_signals = 0
        """How many came that do nothing: those of a traced process are not ignored."""

    def on_call(self, thread: Thread) -> None:
        """A thread that is here has stopped at a call."""
        home = self._home
        registers = ptrace.get_registers(thread.task, thread.registers)
        row = home.called_row(thread)
        where = row.where
        if thread.destination is not None and row.name not in RETURNS:
            repeat(registers, thread.arch.call_length)
            ptrace.set_registers(thread.task, registers)
            thread.resumes = None
            home.away.depart(thread)
            return
        thread.entered = False
        temporary_masks.restore(thread)  # of a wait that begins again
        if where is Where.SPACE or where is Where.HANDLER or row.name in handlers.OVERRIDES:
            handler = handlers.find(row)
            if handler is None:
                raise handlers.unsupported_call(row)
            steps = handler(home, thread, thread.arch.arguments_of(registers), None)
        elif row.unwrap is not None:
            steps = self._unwrapped(thread, row, thread.arch.arguments_of(registers))
        elif where is Where.ANSWER or where is Where.REFUSE:
            self._finish(thread, handlers.refusal(row))
            return
        elif (
            home.hosts == 1 and row.choose is None and name_of(row) not in ENDED
            and not self._is_more(row, thread.arch.arguments_of(registers))
        ) or (is_plain(row) and row.name not in TARGETS):
            if home.node.armed and not row.quiet:
                home.operations.begin(
                    row.name, thread, flush_first(), lambda _: home.resume(thread)
                )
            else:
                home.resume(thread)  # the kernel may do it on guest memory itself
            return
        else:
            steps = self.run_marshalled(thread, row, thread.arch.arguments_of(registers))
        if home.node.armed and not row.quiet:
            steps = flush_first(steps)
        home.operations.begin(row.name, thread, steps, lambda value: self._finish(thread, value))

    def _is_more(self, row: Row, arguments: list[int]) -> bool:
        """With one host: is a call more than what the kernel makes of it?"""
        home = self._home
        return (
            temporary_masks.takes_one(row, arguments)
            or home.made_files.concerns(row, arguments)
            or (home.socket_timeouts and row.name in SOCKETS)
        )

    def _unwrapped(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        """A call that stands for another."""
        assert row.unwrap is not None
        found = yield from row.unwrap(arguments, self._home)
        if isinstance(found, int):
            return found
        row, arguments = found
        if not row.handler:
            return (yield from self.run_marshalled(thread, row, arguments))
        handler = handlers.find(row)
        if handler is None:
            raise handlers.unsupported_call(row)
        return (yield from handler(self._home, thread, arguments, None))

    def row_of(self, thread: Thread, call: SpecialCall | None) -> Row:
        """The row of the call that a thread has stopped at."""
        number = thread.registers.orig_rax if call is None else call.number
        return TABLES[thread.arch].rows[number]

    def context_of(self, thread: Thread, call: SpecialCall | None) -> ptrace.Registers:
        """The registers of the call that a thread has stopped at."""
        if call is None:
            return thread.registers
        return self._home.registers_of(call.registers)

    def run_marshalled(
        self, thread: Thread, row: Row, arguments: list[int], done: int = 0
    ) -> Steps:
        """Gather at home, run on the thread's task, scatter at home.

        `done` bytes of a transfer have been made before.
        """
        home = self._home
        while True:
            call = yield from gather(row, arguments, home, done)
            if isinstance(call, int):
                return done or call
            result = yield from self.run(thread, row, call)
            value = yield from scatter(row, arguments, call, result, home)
            if result.ret in RESTART_CODES:
                return done or result.ret
            if value < 0:
                return done or value
            done += value
            if not goes_on(call, value, result.cut_short):
                return done

    def run(self, thread: Thread, row: Row, call: Call) -> Steps:
        """Run a gathered call on a thread's kernel task; its Result."""
        home = self._home
        instead = None
        if row.handler == "clock_nanosleep":
            slept = yield from home.processor_timers.sleep(thread, row, call)
            if slept is not None:
                return slept
        if row.name in PATHS:
            instead = yield from home.surroundings.redirect(thread, row, call)
            if isinstance(instead, Result):
                return instead
        elif home.made_files.concerns(row, call.args):
            yield from home.made_files.prepare(thread, row, call)
        masked = name_of(row) in temporary_masks.MASKS
        if masked:
            again = temporary_masks.swap(home, thread, row, call)
            if again is not None:
                return again
        own: tuple[own_memory.Range, ...] = ()
        if home.surroundings.memory_opened:
            own = own_memory.touched(home, thread, row, call)
        if own:
            yield from own_memory.keep(home, own)
        lease = home.scratch.lease()
        wait = Wait(home, thread, row, call) if row.blocks else None
        try:
            final = place(call, lease)
            idle_signals = self.idle_signals
            while True:
                value = yield Native(call.nr, final)
                if wait is not None and wait.goes_on(value, final, lease):
                    continue
                result = collect(row, call, value, lease)
                if row.name not in WAITS:
                    break
                seen = home.processor_timers.waited_for(thread, result)
                if seen is not None:
                    result = seen
                    break
                if wait is not None:
                    wait.again(final, lease)
            if instead is not None and result.ret >= 0:
                home.made_files.opened(thread, result.ret, instead)
        finally:
            lease.release()
            if instead is not None:
                os.close(instead.descriptor)
        if result.ret >= 0 and row.name in TARGETS and home.away.synced:
            written(home, thread, row, call, result.ret)
        if own:
            yield Unhold()
            yield Flush()
        if row.name == "setsockopt" and call.args[2] in TIMEOUTS:
            home.socket_timeouts = True
        if wait is not None:
            result = wait.end(result)
        if masked:
            temporary_masks.call_ended(thread, result.ret)
        if 0 < result.ret < call.whole:
            result.cut_short = self._is_cut_short(thread, call.args[0], idle_signals)
        return (yield from home.processor_time.amend(thread, row, call, result))

    def completes(self, thread: Thread) -> bool:
        """Begin to make the rest of a transfer that was let run, if a signal that does nothing,
        which the thread has stopped by, has cut it short."""
        home = self._home
        registers = ptrace.get_registers(thread.task)
        row = TABLES[thread.arch].rows.get(registers.orig_rax)
        done = thread.arch.result_of(registers.rax)
        if row is None or row.name not in WHOLE or done <= 0:
            return False
        arguments = thread.arch.arguments_of(registers)
        if row.name != "writev" and done >= arguments[2]:
            return False
        if row.name == "recvfrom" and not wants_all(arguments):
            return False
        if not self._is_cut_short(thread, arguments[0], self.idle_signals - 1):
            return False
        thread.registers = registers
        thread.entered = True
        home.operations.begin(
            row.name, thread, self.run_marshalled(thread, row, arguments, done),
            lambda value: self._finish(thread, value),
        )  # fmt: skip
        return True

    def _is_cut_short(self, thread: Thread, descriptor: int, idle_signals: int) -> bool:
        """Has a transfer ended early for a signal that does nothing, or a stop that we want?

        Nobody else's process would have been woken by it. It is still pending, or has come,
        perhaps to another thread (`idle_signals` had come before).
        """
        pending = signals.deliverable(thread.task)
        if thread.pending_signals or not all(map(thread.actions.does_nothing, pending)):
            return False
        if not pending and self.idle_signals == idle_signals and not thread.interrupted:
            return False
        try:
            mode = os.stat(f"/proc/{thread.task}/fd/{descriptor}").st_mode
        except OSError:
            return False
        return not stat.S_ISREG(mode) and not stat.S_ISBLK(mode)

    def _finish(self, thread: Thread, value: Any) -> None:
        """Give a thread that is here its result and let it go on.

        A value of None: the handler has resumed the thread itself, or it is gone.
        """
        if value is None:
            return
        registers = thread.registers
        if value in RESTART_CODES and thread.entered:
            # The kernel restarts the call from the program's own registers, or
            # makes it EINTR, by what the signal's handler says. A restart block
            # would name scratch memory given back meanwhile: restart as a whole.
            registers.rax = (value if value != ERESTART_RESTARTBLOCK else ERESTARTNOHAND) & NO_CALL
        else:
            registers.rax = value & 0xFFFF_FFFF_FFFF_FFFF
            registers.orig_rax = NO_CALL
        try:
            ptrace.set_registers(thread.task, registers)
            if thread.pending_signals:
                self._home.deliver_pending(thread)
            elif thread.destination is not None and value not in RESTART_CODES:
                self._home.away.depart(thread)
            else:
                thread.cont()
        except ptrace.TraceeGone:
            pass

    # Native calls: an operation has the thread's task run one ------------------------

    def proceed(self, operation: Operation) -> None:
        """Let the call that the operation's thread stopped at run as it is."""
        thread = operation.thread
        thread.native = operation
        self._home.in_kernel.begins(thread.task)
        thread.entered = True
        thread.at_gadget = False
        thread.cont_to_syscall()

    def start_native(self, operation: Operation, want: Native) -> None:
        thread = operation.thread
        thread.native = operation
        self._home.in_kernel.begins(thread.task)
        registers = ptrace.Registers.from_buffer_copy(thread.registers)
        try:
            if thread.away == HOME and not thread.entered:
                # In its seccomp stop: the call itself runs, with other arguments.
                thread.entered = True
                thread.at_gadget = False
                thread.arch.set_arguments(registers, want.arguments)
                registers.orig_rax = want.number
                ptrace.set_registers(thread.task, registers)
                thread.cont_to_syscall()
            else:
                thread.entered = thread.at_gadget = True
                thread.arch.begin_call(registers, want.number, want.arguments)
                ptrace.set_registers(thread.task, registers)
                thread.cont()
        except ptrace.TraceeGone:
            pass

    def _native_done(self, thread: Thread, rax: int) -> None:
        operation, thread.native = thread.native, None
        self._home.in_kernel.done(thread.task)
        assert operation is not None
        self._home.operations.advance(operation, thread.arch.result_of(rax))

    def on_exit(self, thread: Thread) -> None:
        """A task has stopped at the end of the call that it was let run to."""
        if thread.native is None:
            self._home.resume(thread)
            return
        self._native_done(thread, ptrace.get_registers(thread.task).rax)

    def gives_up(self, thread: Thread) -> bool:
        """End a wait that the kernel has not begun, if what it is for has come meanwhile."""
        if not thread.at_gadget or not self._home.kept_signals.is_awaited(thread):
            return False
        if ptrace.get_registers(thread.task).rip != thread.arch.gadget:
            return False
        self._native_done(thread, ERESTARTNOINTR & NO_CALL)
        return True

    def on_signal(self, thread: Thread, number: int) -> None:
        """A signal stop of a task that runs a native call; the gadget's end is one, too."""
        registers = ptrace.get_registers(thread.task)
        if number == signal.SIGTRAP and registers.rip == thread.arch.gadget + control.GADGET_SIZE:
            self._native_done(thread, registers.rax)
            return
        home = self._home
        home.misdirected.restore(thread, number)
        if (
            signals.keeps(home, thread, number)
            or signals.drops(thread, number)
            or home.processor_timers.discards(thread)
        ):
            self.idle_signals += 1
            thread.cont()
            return
        if not thread.actions.runs_handler(number):
            self.idle_signals += thread.actions.does_nothing(number)
            thread.cont(number)  # the kernel stops, ends or restarts as it must
            return
        thread.resumes = None
        info = self._home.processor_timers.taken(ptrace.get_siginfo_bytes(thread.task))
        thread.pending_signals.append((number, info))
        thread.at_signal = True
        if thread.away != HOME:
            self._home.send(thread.away, BringHome(thread.tid))
        # At the gadget's first byte the call has not begun; it begins again later.
        begun = registers.rip != thread.arch.gadget
        self._native_done(thread, registers.rax if begun else ERESTARTNOINTR & NO_CALL)
