# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads on other hosts, as home sees them: how they go and come back, and their calls.

The task of such a thread stays here as its shadow, in a ptrace stop, for its calls.
"""

from __future__ import annotations

import contextlib
import time
from errno import EINTR
from typing import TYPE_CHECKING, Any, Final

from supervisor.arch.base import NO_CALL
from supervisor.driver import signals
from supervisor.driver.messages import (
    AreasChanged,
    BringHome,
    CallDone,
    CodeLoaded,
    ControlMessage,
    Departed,
    SpecialCall,
    StartThread,
    SystemCall,
)
from supervisor.driver.operations import Flush, Native, Steps
from supervisor.driver.restarts import RESTART_CODES
from supervisor.errors import PeerError
from supervisor.syscalls import handlers
from supervisor.syscalls.handlers import signals as sigcalls
from supervisor.syscalls.marshal import Result
from supervisor.syscalls.spec import Row, Where
from supervisor.syscalls.table import TABLES
from supervisor.tracee import clock, ptrace
from supervisor.tracee.xstate import restore_xstate
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

LOOK_S: Final = 0.05
"""How often threads elsewhere are looked after for signals that wait for them."""


class Away:
    """Home's threads elsewhere, and what their hosts have been told of the program."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.synced: set[HostId] = set()
        """Hosts that have the area list; the others get it with their first thread."""
        self._looks_for_signals = False

    def tell(self, message: ControlMessage) -> None:
        """Send the hosts that have the area list a change of it, or of the code in it."""
        for host in self.synced:
            self._home.send(host, message)

    # Their calls ------------------------------------------------------------------

    def on_system_call(self, host: HostId, message: SystemCall) -> None:
        """A gathered call, to be run on the shadow as it is."""
        thread = self._thread_of(host, message.tid)
        if thread is None:
            return
        home = self._home
        row = TABLES[thread.arch].rows.get(message.number)
        if row is None or not _may_be_forwarded(row):
            raise PeerError(f"host {host} forwarded system call {message.number}")
        home.counters["syscalls_forwarded"] += 1
        home.operations.begin(
            row.name, thread, home.calls.run(thread, row, message.call),
            lambda result: self._answer(thread, result),
        )  # fmt: skip

    def on_special_call(self, host: HostId, message: SpecialCall) -> None:
        """A call that a handler carries out."""
        thread = self._thread_of(host, message.tid)
        if thread is None:
            return
        home = self._home
        row = TABLES[thread.arch].rows.get(message.number)
        if row is None:
            raise handlers.unknown_call(thread.arch, message.number)
        handler = handlers.find(row)
        if handler is None:
            raise handlers.unsupported_call(row)
        home.counters["syscalls_forwarded"] += 1
        home.operations.begin(
            row.name, thread, self._visible(handler(home, thread, message.arguments, message)),
            lambda value: self._answer(thread, value) if message.answer else None,
        )  # fmt: skip

    def _visible(self, steps: Steps) -> Steps:
        """A call of a thread elsewhere: what is written for it here, it sees when it goes on."""
        value = yield from steps
        advancing = self._home.operations.advancing
        if advancing is not None and advancing.wrote:
            yield Flush()
        return value

    def _thread_of(self, host: HostId, tid: int) -> Thread | None:
        """The thread that a host speaks for; None when it has ended meanwhile."""
        thread = self._home.by_tid.get(tid)
        if thread is None:
            return None
        if thread.away != host:
            raise PeerError(f"host {host} speaks for thread {tid}, which it does not have")
        if thread.operation is not None:
            raise PeerError(f"host {host} sent two system calls of thread {tid} at once")
        return thread

    def _answer(self, thread: Thread, result: Any) -> None:
        """Send a forwarded call's result back to the thread's host."""
        if result is None:
            return
        if not isinstance(result, Result):
            result = Result(result, [])
        if result.ret in RESTART_CODES:
            number = thread.pending_signals[-1][0] if thread.pending_signals else 0
            if not self._home.actions.restarts(number, result.ret):
                result = Result(-EINTR, result.outs)
        self._home.send(thread.away, CallDone(thread.tid, result))

    # Going ------------------------------------------------------------------------

    def move(self, thread: Thread, host: HostId) -> None:
        """Let a thread go on at another host from its next stop on, which is seen to."""
        thread.destination = host
        if thread.away != HOME:
            self._home.send(thread.away, BringHome(thread.tid))
        elif thread.operation is None:  # else at the end of its call
            with contextlib.suppress(ptrace.TraceeGone):
                thread.interrupt()

    def depart(self, thread: Thread) -> None:
        """Send a thread that has stopped here to where it is to go."""
        home = self._home
        host, thread.destination = thread.destination, None
        if host is None or host == HOME:
            thread.cont()
            return
        registers = ptrace.get_registers(thread.task, thread.registers)
        if clock.is_native(registers.rip):  # not the same code there: it is stepped out of it
            thread.destination = host
            thread.stepping = True
            thread.single_step()
            return
        home.forget_fault(thread)
        registers.orig_rax = NO_CALL
        ptrace.set_registers(thread.task, registers)
        home.placement.moved(HOME, host, thread.task == home.pid)
        self.send(thread, host, bytes(registers), ptrace.get_xstate(thread.task))

    def send(self, thread: Thread, host: HostId, registers: bytes, xstate: bytes) -> None:
        """Let a thread go on at another host; its task here becomes the shadow."""
        home = self._home
        thread.away, thread.returns_to = host, HOME
        home.processor_time.placed(host)
        ptrace.get_registers(thread.task, thread.registers)  # a valid frame for calls here
        if host not in self.synced:
            self.synced.add(host)
            home.send(host, AreasChanged([], [area.for_others() for area in home.space], []))
            for found in home.traps.objects:
                home.send(host, CodeLoaded(*found))
        if not self._looks_for_signals:
            self._looks_for_signals = True
            home.events.at(time.monotonic() + LOOK_S, self._look_for_signals)
        tls = ptrace.get_thread_areas(thread.task)
        home.send(host, StartThread(thread.tid, registers, xstate, tls))

    # Coming back ------------------------------------------------------------------

    def bring_all_home(self) -> None:
        for thread in self._home.by_tid.values():
            if thread.away != HOME:
                self._home.send(thread.away, BringHome(thread.tid))

    def _look_for_signals(self) -> None:
        """A shadow stands in a ptrace stop, where no signal wakes it: fetch its thread for one.

        Signals that the program itself sends are seen to at once; this is for
        those of timers and of other processes.
        """
        home = self._home
        away = [thread for thread in home.by_tid.values() if thread.away != HOME]
        self._looks_for_signals = bool(away)
        if not away:
            return
        for thread in away:
            if thread.native is None and sigcalls.pending(home, thread):
                home.send(thread.away, BringHome(thread.tid))
                break  # it may be the process's: one will do
        home.events.at(time.monotonic() + LOOK_S, self._look_for_signals)

    def on_departed(self, host: HostId, message: Departed) -> None:
        """A thread has left another host: it goes on here."""
        thread = self._thread_of(host, message.tid)
        if thread is None:
            return
        home = self._home
        home.placement.moved(thread.away, HOME, thread.task == home.pid)
        thread.away = HOME
        thread.spent = thread.spent.plus(message.used)
        if message.gives_up:
            home.trials.comes_home(thread)
        thread.entered = False
        home.set_context(thread, message.registers)
        steps = self._settle_at_home(thread, message.xstate)
        home.operations.begin("return", thread, steps, lambda _: None)

    def _settle_at_home(self, thread: Thread, xstate: bytes) -> Steps:
        home = self._home
        if thread.pending_signals and not thread.at_signal:
            # A signal can be injected only at a signal stop: the gadget's int3 is one.
            # Others of the program's must not come there: they have their turn later.
            # (Where the shadow still stands at the signal's own stop, a mask that the
            # interrupted call put in force for a while is as the kernel wants it.)
            thread.entered = True
            mask = ptrace.get_signal_mask(thread.task)
            ptrace.set_signal_mask(thread.task, NO_CALL & ~signals.FORCED_MASK)
            yield Native(thread.arch.numbers["getpid"], [])
            ptrace.set_signal_mask(thread.task, mask)
        try:
            ptrace.set_registers(thread.task, thread.registers)
            restore_xstate(thread.task, xstate, home.shown.states)
            if thread.pending_signals:
                home.deliver_pending(thread)
            elif home.node.armed and home.checks.catch(thread):
                home.checks.trap_caught()  # it read the other host's armed byte
            elif thread.destination is not None:
                self.depart(thread)
            elif thread.returns_to != HOME and not sigcalls.pending(home, thread):
                home.processor_timers.takers.goes_back(thread)  # another has taken the signal
            else:
                thread.cont()
        except ptrace.TraceeGone:
            pass


def _may_be_forwarded(row: Row) -> bool:
    """May another host ask for this call to be run as it is?"""
    if row.name in handlers.OVERRIDES:
        return False
    return row.where in (Where.HOME, Where.HOME_NATIVE) or row.handler in handlers.MARSHALLED
