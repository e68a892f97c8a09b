# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's supervisor: the program's kernel side.

Every thread of the program has its kernel task here. A thread that runs on
another host leaves it parked in a ptrace stop as its *shadow*; a forwarded
system call runs on the shadow, at the control block's gadget. Home owns the
address space and the scratch memory, and decides where threads run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from errno import EINTR
from typing import Any, Final

from supervisor.arch import X86_64, Arch
from supervisor.arch.base import NO_CALL
from supervisor.areas import AddressSpace, Area, Kind
from supervisor.cluster.transport import Link
from supervisor.coherence import home as coherence_home
from supervisor.coherence.messages import Access, Discarded
from supervisor.driver import bystanders, exit_status, signals
from supervisor.driver.aliases import FileMappings
from supervisor.driver.bystander_calls import BystanderCalls
from supervisor.driver.code import CodeMap, CodeObject, start_to_prepare
from supervisor.driver.core import Supervisor
from supervisor.driver.forks import Forks
from supervisor.driver.jobs import Jobs
from supervisor.driver.joint import Joint
from supervisor.driver.machine import PATHS, Machine
from supervisor.driver.messages import (
    AnyControl,
    AreasChanged,
    BringHome,
    CallDone,
    ClockAnswer,
    ClockProbe,
    CodeLoaded,
    Departed,
    Fenced,
    LinkLost,
    Shutdown,
    SpecialCall,
    StartThread,
    Statistics,
    SystemCall,
    ThreadEnded,
    TimesTold,
    Trouble,
    UserSignal,
)
from supervisor.driver.operations import (
    AcquireLocked,
    Background,
    Flush,
    Native,
    Operation,
    Proceed,
    Steps,
    Wait,
)
from supervisor.driver.placement import Placement
from supervisor.driver.processor_time import ProcessorTime
from supervisor.driver.scratch import Scratch
from supervisor.driver.surroundings import Surroundings
from supervisor.driver.thread import Thread
from supervisor.driver.turns import Turns
from supervisor.driver.untrapped import OneWriterAtATime
from supervisor.errors import EXIT_SIGNAL_BASE, DsmsupError, GuestDied, PeerError
from supervisor.program import check_header
from supervisor.syscalls import handlers
from supervisor.syscalls.handlers import clocks, memory
from supervisor.syscalls.handlers import signals as sigcalls
from supervisor.syscalls.marshal import Call, Result, collect, gather, goes_on, place, scatter
from supervisor.syscalls.spec import Row, Where
from supervisor.syscalls.table import TABLES, is_plain
from supervisor.tracee import clock, control, image, ptrace, seccomp, spawn
from supervisor.tracee.bootstrap import Caller
from supervisor.tracee.maps import maps_max, read_maps
from supervisor.tracee.stops import Stop, StopKind
from supervisor.units import HOME, PAGE_SHIFT, PAGE_SIZE, HostId, PageNumber

MAPS_SPARE: Final = 500
"""Mappings of a process that are kept for the supervisor: it splits areas by pages."""

RETURNS: Final = frozenset(("rt_sigreturn", "sigreturn"))
"""Calls of a handler's end: their frame is for the kernel at home."""
LOOK_S: Final = 0.05
"""How often threads elsewhere are looked after for signals that wait for them."""

TERMINATION_S: Final = 5.0
"""How long the program may take to end after dsmsup was sent SIGTERM."""

SUPERVISOR_END_S: Final = 0.5
"""How long until the end of a host's process tells why its link was lost."""

PROGRAM_END_S: Final = 30.0
"""How long until the end of a program that can be injected nothing more: it may dump core."""

LINK_LOST_S: Final = 1.0
"""A host that lost another may just have heard sooner that the run, or that host, is over."""

RESTART_CODES: Final = range(-516, -511)
"""ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND and ERESTART_RESTARTBLOCK (linux/errno.h)."""
ERESTARTNOINTR: Final = -513
ERESTARTNOHAND: Final = -514
ERESTART_RESTARTBLOCK: Final = -516


def repeat(registers: ptrace.Registers, call_length: int) -> None:
    """Have a thread make its system call anew, by an instruction of so many bytes."""
    registers.rax = registers.orig_rax
    registers.rip -= call_length
    registers.orig_rax = NO_CALL


class Home(Supervisor):
    """Host 0."""

    def __init__(
        self,
        hosts: int,
        links: dict[HostId, Link],
        names: list[str],
        cpus: list[int],
        policy: str,
        verbose: Callable[[str], None],
        paths: frozenset[tuple[HostId, HostId]] = frozenset(),
    ) -> None:
        super().__init__(HOME, hosts, links, names, policy, verbose, paths)
        self.scratch = Scratch(X86_64)
        self.code = CodeMap(self._on_code)
        self.machine = Machine(cpus)
        self.placement = Placement(cpus)
        self.file_mappings = FileMappings()
        self.space_turns = Turns(self.wake)
        """Changes of the address space: one chooses a place and has it mapped before the next."""
        self.by_tid: dict[int, Thread] = {}
        self.forks = Forks(self)
        self.joint = Joint(self)
        self.surroundings = Surroundings(self)
        self.jobs = Jobs(self)
        self.processor_time = ProcessorTime(self)
        self.growing = AddressSpace()
        """MAP_GROWSDOWN areas."""
        self.newborn: set[int] = set()
        """New tasks in their first stop, of which no parent has told yet."""
        self.bystanders = bystanders.Bystanders(self.newborn, BystanderCalls(self.machine))
        self.synced: set[HostId] = set()
        """Hosts that have the area list; the others get it with their first thread."""
        self.areas_max = maps_max() - MAPS_SPARE
        """Beyond so many areas the program is told ENOMEM."""
        self._looks_for_signals = False
        self.pid = 0
        self.pidfd = -1
        self.break_start = 0
        self.break_end = 0
        self.exit_status: int | None = None
        self.terminating = False
        self.untrapped = ""
        self.host_statistics: dict[int, dict[str, int]] = {}
        self.events.on_user_signal = self.on_user_signal
        self.on_child_exit: Callable[[int], HostId | None] = lambda pid: None
        self.child_hosts: frozenset[HostId] = frozenset()
        """Hosts whose supervisors are processes of this one's: their ends are seen here."""
        self.background: Callable[[Callable[[], Any], Callable[[Any], None]], None]

    # Start --------------------------------------------------------------------------

    def start(self, path: str, arguments: list[str], cpus: list[int] | None) -> None:
        """Execute the program and take it over; it is left about to run."""
        self.pid = spawn.spawn(
            path,
            [os.fsencode(argument) for argument in arguments],
            os.environb,
            seccomp.build({arch: table.native_at_home for arch, table in TABLES.items()}),
            cpus=cpus,
        )
        self.pidfd = os.pidfd_open(self.pid)
        self.actions.inherit(self.pid)
        self.counters["threads_started"] += 1
        self._take_over()

    def _take_over(self) -> None:
        """Put the image that stands at the exit of its execve under the supervisor; let it run.

        Its files are rewritten first, which can take longer than a host may be silent.
        """
        paths = {mapping.path for mapping in read_maps(self.pid) if mapping.path.startswith("/")}
        self.begin("take over", None, self.prepared(paths), lambda _: self._take_over_prepared())

    @staticmethod
    def prepared(paths: Iterable[str]) -> Steps:
        """Have the rewritten files of these in the cache; see `start_to_prepare`."""
        yield Wait(("prepared", start_to_prepare(paths)))

    def _take_over_prepared(self) -> None:
        if self.finished:
            return
        taken = image.take_over(
            self.pid, self.memory, self.control, self._scratch_for, self.code.substitute
        )
        self.adopt_agent(taken.agent)
        self.space = taken.space
        self.native_backing = taken.native
        self.native_clock = taken.native_clock
        self.tell_clock()
        self.break_start = self.break_end = taken.break_start
        for loaded_path, bias in taken.loaded.items():
            self.code.loaded(loaded_path, bias)
        self._check_code()
        self.start_pager(self.pidfd, Caller(self.pid, control.GADGET).call)
        main = self.add_thread(self.pid, self.pid, self.scratch.arch)
        self.by_tid[self.pid] = main
        self.resume(main)

    def _scratch_for(self, arch: Arch) -> int:
        """The descriptor of the scratch memory of an image of this architecture."""
        if self.scratch.arch is not arch:
            self.scratch = Scratch(arch)
        return self.scratch.descriptor

    def restart(self) -> None:
        """The program has executed another: its threads are gone, on all hosts; begin anew."""
        for thread in list(self.threads.values()):
            if not thread.borrowed:
                self.remove_thread(thread)
                self.by_tid.pop(thread.tid, None)
                if thread.task != self.pid:
                    self.placement.ended(thread.away)
                if thread.away != HOME:
                    self.send(thread.away, ThreadEnded(thread.tid))
        self.drop_pager()
        old, self.space = list(self.space), AddressSpace()
        for area in old:
            self.memory.set_backing(area.start, area.end, None)
            self.discard(area.start, area.end)
        self.areas_changed([(area.start, area.end) for area in old], [], [])
        self.synced.clear()  # the new image's areas go out with its first thread elsewhere
        self.decoder.forget()
        self.code = CodeMap(self._on_code)
        self.actions.executed()
        self.processor_time.executed()
        spawn.finish_exec(self.pid)
        check_header(f"/proc/{self.pid}/exe")
        self._take_over()

    # System calls of threads that are here ------------------------------------------------

    def on_call(self, thread: Thread) -> None:
        registers = ptrace.get_registers(thread.task, thread.registers)
        row = self.called_row(thread)
        where = row.where
        if thread.destination is not None and row.name not in RETURNS:
            repeat(registers, thread.arch.call_length)
            ptrace.set_registers(thread.task, registers)
            self.depart(thread)
            return
        thread.entered = False
        if where is Where.SPACE or where is Where.HANDLER or row.name in handlers.OVERRIDES:
            handler = handlers.find(row)
            if handler is None:
                raise handlers.unsupported_call(row)
            steps = handler(self, thread, thread.arch.arguments_of(registers), None)
        elif row.unwrap is not None:
            steps = self._unwrapped(thread, row, thread.arch.arguments_of(registers))
        elif where is Where.ANSWER or where is Where.REFUSE:
            self._finish(thread, handlers.refusal(row))
            return
        elif (self.hosts == 1 and row.choose is None) or is_plain(row):
            if self.node.armed and not row.quiet:
                self.begin(row.name, thread, self._flush_first(), lambda _: self.resume(thread))
            else:
                self.resume(thread)  # the kernel may do it on guest memory itself
            return
        else:
            steps = self.run_marshalled(thread, row, thread.arch.arguments_of(registers))
        if self.node.armed and not row.quiet:
            steps = self._flush_first(steps)
        self.begin(row.name, thread, steps, lambda value: self._finish(thread, value))

    def _unwrapped(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        """A call that stands for another."""
        assert row.unwrap is not None
        found = yield from row.unwrap(arguments, self)
        if isinstance(found, int):
            return found
        row, arguments = found
        if not row.handler:
            return (yield from self.run_marshalled(thread, row, arguments))
        handler = handlers.find(row)
        if handler is None:
            raise handlers.unsupported_call(row)
        return (yield from handler(self, thread, arguments, None))

    def row_of(self, thread: Thread, call: SpecialCall | None) -> Row:
        """The row of the call that a thread has stopped at."""
        number = thread.registers.orig_rax if call is None else call.number
        return TABLES[thread.arch].rows[number]

    def context_of(self, thread: Thread, call: SpecialCall | None) -> ptrace.Registers:
        """The registers of the call that a thread has stopped at."""
        if call is None:
            return thread.registers
        return self.registers_of(call.registers)

    def is_linker_code(self, ip: int) -> bool:
        area = self.space.find(ip)
        return area is not None and area.kind is Kind.NATIVE and handlers.is_linker(area.name)

    def run_marshalled(self, thread: Thread, row: Row, arguments: list[int]) -> Steps:
        """Gather at home, run on the thread's task, scatter at home."""
        done = 0
        while True:
            call = yield from gather(row, arguments, self, done)
            if isinstance(call, int):
                return done or call
            result = yield from self.run_call(thread, row, call)
            value = yield from scatter(row, arguments, call, result, self)
            if result.ret in RESTART_CODES:
                return done or result.ret
            if value < 0:
                return done or value
            done += value
            if not goes_on(call, value):
                return done

    def run_call(self, thread: Thread, row: Row, call: Call) -> Steps:
        """Run a gathered call on a thread's kernel task; its Result."""
        instead = None
        if row.name in PATHS:
            instead = yield from self.surroundings.redirect(thread, row, call)
        lease = self.scratch.lease()
        try:
            final = place(call, lease)
            value = yield Native(call.nr, final)
            result = collect(row, call, value, lease)
        finally:
            lease.release()
            if instead is not None:
                os.close(instead)
        return (yield from self.processor_time.amend(thread, row, call, result))

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
                self.deliver_pending(thread)
            elif thread.destination is not None and value not in RESTART_CODES:
                self.depart(thread)
            else:
                thread.cont()
        except ptrace.TraceeGone:
            pass

    # Native calls -------------------------------------------------------------------------

    def wait_for(self, operation: Operation, want: Any) -> None:
        kind = type(want)
        if kind is Native:
            self._start_native(operation, want)
        elif kind is Proceed:
            thread = operation.thread
            thread.native = operation
            self.native_begun = True
            thread.entered = True
            thread.at_gadget = False
            thread.cont_to_syscall()
        elif kind is Wait:
            self._waiting[want.key] = operation
        elif kind is Background:
            self.background(want.work, lambda value: self.advance(operation, value))
        else:
            raise AssertionError(f"an operation yielded {want!r}")

    def wake(self, key: Any, value: Any) -> bool:
        """Answer a `Wait`; False when nobody waits for the key."""
        operation = self._waiting.pop(key, None)
        if operation is None:
            return False
        self.advance(operation, value)
        return True

    def _start_native(self, operation: Operation, want: Native) -> None:
        thread = operation.thread
        thread.native = operation
        self.native_begun = True
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
        assert operation is not None
        self.advance(operation, thread.arch.result_of(rax))

    def on_call_exit(self, thread: Thread) -> None:
        if thread.native is None:
            self.resume(thread)
            return
        self._native_done(thread, ptrace.get_registers(thread.task).rax)

    def on_native_signal(self, thread: Thread, number: int) -> None:
        registers = ptrace.get_registers(thread.task)
        if number == signal.SIGTRAP and registers.rip == thread.arch.gadget + control.GADGET_SIZE:
            self._native_done(thread, registers.rax)
            return
        if signals.keeps(thread, number):
            thread.cont()
            return
        if not self.actions.runs_handler(number):
            thread.cont(number)  # the kernel stops, ends or restarts as it must
            return
        thread.pending_signals.append((number, ptrace.get_siginfo_bytes(thread.task)))
        thread.at_signal = True
        if thread.away != HOME:
            self.send(thread.away, BringHome(thread.tid))
        # At the gadget's first byte the call has not begun; it begins again later.
        begun = registers.rip != thread.arch.gadget
        self._native_done(thread, registers.rax if begun else ERESTARTNOINTR & NO_CALL)

    # Other stops ----------------------------------------------------------------------------

    def on_unknown_stop(self, stop: Stop) -> None:
        if stop.pid == self.pid and stop.kind in (StopKind.EXITED, StopKind.KILLED):
            self.program_ended(exit_status.of(stop))  # before it was taken over
            return
        if self.by_tid and stop.pid == self.agent.tid:
            return  # its end is the process's
        if self.bystanders.on_stop(stop):
            return
        if stop.kind in (StopKind.EXITED, StopKind.KILLED):
            self.newborn.discard(stop.pid)
            if self.wake(("prepared", stop.pid), None):
                return
            host = self.on_child_exit(stop.pid)
            if host is not None:
                how = exit_status.describe(stop)
                self.hear_out(host)
                self.drop_link(host)
                self._lost(DsmsupError(f"host {host} is lost: its supervisor process {how}"))
            return
        self.newborn.add(stop.pid)
        self.wake(("born", stop.pid), None)

    def on_event(self, thread: Thread, event: int) -> None:
        if event == bystanders.PTRACE_EVENT_EXEC:
            self.forks.executed(thread)
            return
        if event in bystanders.FORK_EVENTS:
            child = ptrace.get_event_message(thread.task)
            thread.born.append(child)
            self.forks.born(thread, child)
        if thread.native is not None:
            thread.cont_to_syscall()
        else:
            self.resume(thread)

    def on_group_stop(self, thread: Thread, detail: int) -> None:
        if detail in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            thread.listen()
            self.jobs.stopped()
            return
        self.jobs.continued()
        if thread.stepping:
            thread.single_step()
        elif thread.destination is not None and thread.operation is None:
            if signals.forced_pending(thread.task):
                thread.cont()  # its task may not be left with it: the stop is near
                return
            ptrace.get_registers(thread.task, thread.registers)
            if self.node.armed and self.catch(thread):
                self.trap_caught()  # it departs at its next stop
            else:
                self.depart(thread)
        elif thread.native is not None and thread.away == HOME and not thread.at_gadget:
            thread.cont_to_syscall()
        else:
            self.resume(thread)

    def on_own_signal(self, thread: Thread, number: int) -> None:
        signals.arrived(self, thread, number)

    def find_trap(self, address: int) -> tuple[int, bool] | None:
        return self.code.traps.find(address)

    def past_check(self, address: int) -> int | None:
        return self.code.traps.past_check(address)

    def _on_code(self, found: CodeObject) -> None:
        for host in self.synced:
            self.send(host, CodeLoaded(*found))

    def refuse_traps(self, why: str) -> None:
        """Code runs whose synchronization instructions do not trap: no page may need them."""
        if self.several_writers and not self.untrapped:
            self.verbose(f"{why}: no page has several writers from here on")
            self.untrapped = why
            self.node.policy = OneWriterAtATime(self.node.policy)
            if not self.node.policy.locks_bus:
                self.begin("one writer", None, self._make_single(), lambda _: None)

    def _make_single(self) -> Steps:
        """Every page that has several writers now."""
        assert isinstance(self.node.side, coherence_home.Home)
        for span in self.node.side.directory.multiple(0, 1 << 47 - PAGE_SHIFT):
            for first in range(span.first, span.first + span.count):
                yield AcquireLocked(((first << PAGE_SHIFT, PAGE_SIZE, Access.WRITE),))

    def stay_home(self, why: str) -> None:
        """The program does what works at home only: its threads come home, and stay."""
        if not self.placement.home_only:
            self.verbose(f"{why}: all threads go on at home")
            self.placement.home_only = True
        for thread in self.by_tid.values():
            if thread.away != HOME:
                self.send(thread.away, BringHome(thread.tid))

    def on_thread_exit(self, thread: Thread, stop: Stop) -> None:
        if thread.task == self.pid:
            # At once: what it may have been waiting for is to be undone by a guest that is gone.
            self.program_ended(exit_status.of(stop))
            return
        self.remove_thread(thread)
        self.by_tid.pop(thread.tid, None)
        if thread.away != HOME:
            self.send(thread.away, ThreadEnded(thread.tid))
        if not thread.borrowed:
            self.placement.ended(thread.away)
            self._quit_agent_if_last()

    def _quit_agent_if_last(self) -> None:
        """The agent must not keep a program going whose last thread has exited."""
        if all(thread.exited for thread in self.threads.values()):
            self.agent.quit()

    def exit_task(self, thread: Thread, status: int) -> None:
        """Let a thread's kernel task exit."""
        thread.exited = True
        self._run_last_call(thread, "exit", status)
        if thread.task == self.pid:
            self._quit_agent_if_last()

    def exit_program(self, thread: Thread, status: int) -> None:
        self._run_last_call(thread, "exit_group", status)

    def _run_last_call(self, thread: Thread, name: str, status: int) -> None:
        try:
            if thread.away != HOME:
                registers = thread.registers
                thread.arch.begin_call(registers, thread.arch.numbers[name], [status])
                ptrace.set_registers(thread.task, registers)
            thread.cont()
        except ptrace.TraceeGone:
            pass

    def deliver_pending(self, thread: Thread) -> None:
        signals.deliver_pending(self, thread)

    def entered_handler(self, thread: Thread) -> None:
        signals.entered(self, thread)

    def deliver(self, thread: Thread) -> None:
        signals.deliver(self, thread)

    # Threads on other hosts -----------------------------------------------------------------

    def on_control(self, host: HostId, message: AnyControl) -> None:
        if isinstance(message, SystemCall):
            thread = self._thread_of(host, message.tid)
            if thread is None:
                return
            row = TABLES[thread.arch].rows.get(message.number)
            if row is None or not _may_be_forwarded(row):
                raise PeerError(f"host {host} forwarded system call {message.number}")
            self.counters["syscalls_forwarded"] += 1
            self.begin(
                row.name, thread, self.run_call(thread, row, message.call),
                lambda result: self.answer(thread, result),
            )  # fmt: skip
        elif isinstance(message, SpecialCall):
            thread = self._thread_of(host, message.tid)
            if thread is None:
                return
            row = TABLES[thread.arch].rows.get(message.number)
            if row is None:
                raise handlers.unknown_call(thread.arch, message.number)
            handler = handlers.find(row)
            if handler is None:
                raise handlers.unsupported_call(row)
            self.counters["syscalls_forwarded"] += 1
            self.begin(
                row.name, thread, self._visible(handler(self, thread, message.arguments, message)),
                lambda value: self.answer(thread, value),
            )  # fmt: skip
        elif isinstance(message, Departed):
            thread = self._thread_of(host, message.tid)
            if thread is not None:
                self._came_home(thread, message)
        elif isinstance(message, TimesTold):
            self.processor_time.told(host, message.number, message.used)
        elif isinstance(message, Fenced):
            self.wake(("fence", message.number), None)
        elif isinstance(message, ClockProbe):
            answer = ClockAnswer(
                message.asked_ns, time.monotonic_ns(), time.time_ns(), clocks.clock_id()
            )
            self.send(host, answer)
        elif isinstance(message, UserSignal):
            self.pass_on(message.number)
        elif isinstance(message, Trouble):
            raise DsmsupError(f"host {host} ({self.names[host]}): {message.reason}")
        elif isinstance(message, LinkLost):
            line = f"host {host} ({self.names[host]}) has lost its link: {message.why}"
            self.events.at(time.monotonic() + LINK_LOST_S, lambda: self._lost(DsmsupError(line)))
        elif isinstance(message, Statistics):
            self.host_statistics[host] = message.counters
        else:
            raise PeerError(f"host {host} sent a message that only home sends")

    def _visible(self, steps: Steps) -> Steps:
        """A call of a thread elsewhere: what is written for it here, it sees when it goes on."""
        value = yield from steps
        if self.advancing is not None and self.advancing.wrote:
            yield Flush()
        return value

    def _thread_of(self, host: HostId, tid: int) -> Thread | None:
        """The thread that a host speaks for; None when it has ended meanwhile."""
        thread = self.by_tid.get(tid)
        if thread is None:
            return None
        if thread.away != host:
            raise PeerError(f"host {host} speaks for thread {tid}, which it does not have")
        if thread.operation is not None:
            raise PeerError(f"host {host} sent two system calls of thread {tid} at once")
        return thread

    def answer(self, thread: Thread, result: Any) -> None:
        """Send a forwarded call's result back to the thread's host."""
        if result is None:
            return
        if not isinstance(result, Result):
            result = Result(result, [])
        if result.ret in RESTART_CODES:
            number = thread.pending_signals[-1][0] if thread.pending_signals else 0
            if not self.actions.restarts(number, result.ret):
                result = Result(-EINTR, result.outs)
        self.send(thread.away, CallDone(thread.tid, result))

    def send_away(self, thread: Thread, host: HostId, registers: bytes, xstate: bytes) -> None:
        """Let a thread go on at another host; its task here becomes the shadow."""
        thread.away = host
        ptrace.get_registers(thread.task, thread.registers)  # a valid frame for calls here
        if host not in self.synced:
            self.synced.add(host)
            self.send(host, AreasChanged([], list(self.space), []))
            for found in self.code.traps.objects:
                self.send(host, CodeLoaded(*found))
        if not self._looks_for_signals:
            self._looks_for_signals = True
            self.events.at(time.monotonic() + LOOK_S, self._look_for_signals)
        tls = ptrace.get_thread_areas(thread.task)
        self.send(host, StartThread(thread.tid, registers, xstate, tls))

    def _look_for_signals(self) -> None:
        """A shadow stands in a ptrace stop, where no signal wakes it: fetch its thread for one.

        Signals that the program itself sends are seen to at once; this is for
        those of timers and of other processes.
        """
        away = [thread for thread in self.by_tid.values() if thread.away != HOME]
        self._looks_for_signals = bool(away)
        if not away:
            return
        for thread in away:
            if thread.native is None and sigcalls.pending(self, thread):
                self.send(thread.away, BringHome(thread.tid))
                break  # it may be the process's: one will do
        self.events.at(time.monotonic() + LOOK_S, self._look_for_signals)

    def _came_home(self, thread: Thread, message: Departed) -> None:
        self.placement.moved(thread.away, HOME)
        thread.away = HOME
        thread.spent = thread.spent.plus(message.used)
        thread.entered = False
        self.set_context(thread, message.registers)
        self.begin("return", thread, self._settle_at_home(thread, message.xstate), lambda _: None)

    def _settle_at_home(self, thread: Thread, xstate: bytes) -> Steps:
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
            ptrace.set_xstate(thread.task, xstate)
            if thread.pending_signals:
                self.deliver_pending(thread)
            elif self.node.armed and self.catch(thread):
                self.trap_caught()  # it read the other host's armed byte
            elif thread.destination is not None:
                self.depart(thread)
            else:
                thread.cont()
        except ptrace.TraceeGone:
            pass

    def move(self, thread: Thread, host: HostId) -> None:
        """Let a thread go on at another host from its next stop on, which is seen to."""
        thread.destination = host
        if thread.away != HOME:
            self.send(thread.away, BringHome(thread.tid))
        elif thread.operation is None:  # else at the end of its call
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.interrupt(thread.task)

    def move_on(self, thread: Thread) -> None:
        if thread.destination is not None and thread.operation is None:
            self.depart(thread)
        else:
            self.resume(thread)

    def depart(self, thread: Thread) -> None:
        """Send a thread that has stopped here to where it is to go."""
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
        self.forget_fault(thread)
        registers.orig_rax = NO_CALL
        ptrace.set_registers(thread.task, registers)
        self.placement.moved(HOME, host)
        self.send_away(thread, host, bytes(registers), ptrace.get_xstate(thread.task))

    def code_mapped(self, file: int, start: int, offset: int, path: str) -> None:
        """The program has mapped executable pages of an open file."""
        self.code.mapped(os.fstat(file), start, offset, path)
        self._check_code()

    def _check_code(self) -> None:
        if self.code.untrapped:
            self.refuse_traps(f"the code of {self.code.untrapped} is not rewritten")

    # The address space ------------------------------------------------------------------------

    def is_reserved(self, start: int, end: int) -> bool:
        """Does a range touch the supervisor's own memory in the guest?"""
        arch = self.scratch.arch
        return any(
            start < high and low < end
            for low, high in (
                (control.BASE, control.END),
                (arch.scratch, arch.scratch + arch.scratch_size),
            )
        )

    def free_range(self, length: int, hint: int = 0) -> int | None:
        """An address for a new mapping of the program, clear of the supervisor's own memory."""
        found = self.space.free_range(length, hint)
        if found is not None and self.is_reserved(found, found + length):
            found = self.space.free_range(length)
            if found is not None and self.is_reserved(found, found + length):
                return None
        return found

    def areas_changed(
        self,
        removed: list[tuple[int, int]],
        mapped: list[Area],
        protected: list[Area],
    ) -> None:
        """Tell the hosts that have the area list."""
        message = AreasChanged(removed, mapped, protected)
        for host in self.synced:
            self.send(host, message)

    def forget_marks(self, start: int, end: int) -> None:
        """What the program asked for about a range does not hold for the next mapping there."""
        for marked in (self.growing, self.forks.left_out, self.forks.wiped):
            marked.remove(start, end)

    def grow(self, address: int) -> bool:
        return memory.grow(self, address)

    def owns(self, start: int, end: int) -> bool:
        """Is every page of a range exclusive here?"""
        return self.node.allows(start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT, Access.WRITE)

    def discard(self, start: int, end: int) -> None:
        """The contents of a range are gone, everywhere."""
        first = PageNumber(start >> PAGE_SHIFT)
        count = (end - start) >> PAGE_SHIFT
        self.memory.zero(first, count)
        if self.hosts > 1:
            self.step(Discarded(first, count))

    # The end ----------------------------------------------------------------------------------

    def program_ended(self, status: int) -> None:
        if self.exit_status is None:
            self.exit_status = status
        reason = "" if self.trouble is None else str(self.trouble)
        if not self.finished:
            for host in self.links:
                self.send(host, Shutdown(self.exit_status, reason))
        self.finished = True

    def peer_lost(self, host: HostId, why: str) -> None:
        self.drop_link(host)
        if host in self.child_hosts:
            self.events.at(
                time.monotonic() + SUPERVISOR_END_S, lambda: self._lost(DsmsupError(why))
            )
        else:
            self._lost(DsmsupError(why))

    def _lost(self, error: DsmsupError) -> None:
        if not self.finished:
            self.fail(error)

    def fail(self, error: DsmsupError) -> None:
        if self.trouble is None:
            self.trouble = error
        self.kill_program()
        self.program_ended(error.exit_status)

    def guest_died(self, error: GuestDied) -> None:
        """The program died under an injection; its own end tells how, and comes soon."""
        self.events.at(time.monotonic() + PROGRAM_END_S, lambda: self._lost(error))

    def on_user_signal(self, number: int, from_kernel: bool) -> None:
        """SIGINT, SIGTERM, ... sent to dsmsup: they are meant for the program.

        What the terminal sends, it sends to the program too.
        """
        if number == signal.SIGTSTP:
            self.jobs.asked()
        if from_kernel and number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
            return
        self.pass_on(number)

    def pass_on(self, number: int) -> None:
        """Give the program a signal meant for it; if it has to end, it ends within a time."""
        if self.finished:
            return
        if number == signal.SIGTERM and self.terminating:
            self.kill_program()
            return
        self.signal_program(number)
        if number == signal.SIGTERM:
            self.terminating = True
            self.events.at(time.monotonic() + TERMINATION_S, self._terminate)

    def _terminate(self) -> None:
        if not self.finished:
            self.exit_status = EXIT_SIGNAL_BASE + signal.SIGTERM
            self.kill_program()

    def signal_program(self, number: int) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill_program(self) -> None:
        self.signal_program(signal.SIGKILL)

    async def wait_for_statistics(self) -> None:
        """Until every host that is left has sent its counters (the caller bounds it)."""
        while not all(host in self.host_statistics for host in self.links):
            try:
                self.settle()
                await self.events.wait(False)
            except DsmsupError:
                pass  # the run is over: the guest is gone, or a host that has nothing to tell

    async def wait_for_children(self) -> None:
        """Until no child that the program has left behind is running (the caller bounds it)."""
        while self.bystanders.tasks and self.trouble is None and not self.terminating:
            try:
                self.settle()
                await self.events.wait(False)
            except DsmsupError:
                pass  # as above


def _may_be_forwarded(row: Row) -> bool:
    """May another host ask for this call to be run as it is?"""
    if row.name in handlers.OVERRIDES:
        return False
    return row.where in (Where.HOME, Where.HOME_NATIVE) or row.handler in handlers.MARSHALLED
