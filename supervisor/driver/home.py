# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's supervisor: the program's kernel side.

Every thread of the program has its kernel task here. A thread that runs on
another host leaves it parked in a ptrace stop as its *shadow*; a forwarded
system call runs on the shadow, at the control block's gadget. Home owns the
address space and the scratch memory, and decides where threads run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, Final

from supervisor import given_signals
from supervisor.arch import X86_64, Arch
from supervisor.areas import Kind
from supervisor.cluster.processors import AS_IT_IS, Shown
from supervisor.cluster.transport import Link
from supervisor.coherence.messages import Access
from supervisor.driver import bystanders, exit_status, signals
from supervisor.driver.away import Away
from supervisor.driver.bystander_calls import BystanderCalls
from supervisor.driver.calls import Calls, native_at_home
from supervisor.driver.code import CodeMap, CodeObject, kinds_that_trap
from supervisor.driver.core import Supervisor
from supervisor.driver.endings import Endings
from supervisor.driver.fences import Fences
from supervisor.driver.forks import Forks
from supervisor.driver.futex_words import FutexWords
from supervisor.driver.jobs import Jobs
from supervisor.driver.joint import Joint
from supervisor.driver.kept_signals import KeptSignals
from supervisor.driver.layout import Layout
from supervisor.driver.machine import Machine
from supervisor.driver.made_files import MadeFiles
from supervisor.driver.memory_limits import MemoryLimits
from supervisor.driver.messages import (
    AnyControl,
    ClockAnswer,
    ClockProbe,
    CodeLoaded,
    Departed,
    Fenced,
    LinkLost,
    SpecialCall,
    Statistics,
    StayOver,
    SystemCall,
    ThreadEnded,
    TimesTold,
    Trouble,
    UserSignal,
)
from supervisor.driver.misdirected import Misdirected
from supervisor.driver.operations import (
    Background,
    Native,
    Operation,
    Proceed,
    Steps,
    Wait,
)
from supervisor.driver.placement import Placement
from supervisor.driver.processor_time import ProcessorTime
from supervisor.driver.processor_timers import ProcessorTimers
from supervisor.driver.rewritten_files import RewrittenFiles
from supervisor.driver.scratch import Scratch
from supervisor.driver.surroundings import Surroundings
from supervisor.driver.thread import Thread
from supervisor.driver.trials import Trials
from supervisor.driver.untrapped import UntrappedCode
from supervisor.errors import DsmsupError, GuestDied, PeerError
from supervisor.given_environment import given_environment
from supervisor.program import check_header
from supervisor.syscalls import handlers
from supervisor.tracee import control, image, ptrace, seccomp, spawn
from supervisor.tracee.bootstrap import Caller
from supervisor.tracee.maps import openable, read_maps
from supervisor.tracee.stops import Stop, StopKind
from supervisor.tracee.usage import NS_PER_S
from supervisor.units import HOME, HostId

SUPERVISOR_END_S: Final = 0.5
"""How long until the end of a host's process tells why its link was lost."""

PROGRAM_END_S: Final = 30.0
"""How long until the end of a program that can be injected nothing more: it may dump core."""

LINK_LOST_S: Final = 1.0
"""A host that lost another may just have heard sooner that the run, or that host, is over."""


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
        shown: Shown = AS_IT_IS,
    ) -> None:
        super().__init__(HOME, hosts, links, names, policy, verbose, paths, shown)
        self.scratch = Scratch(X86_64)
        self.files = RewrittenFiles(self.verbose)
        self.code = CodeMap(self.files, self._on_code, questions_trap=shown.questions_trap)
        self.traps = self.code.traps
        self.machine = Machine(cpus, shown.features)
        self.placement = Placement(cpus)
        self.trials = Trials(self)
        self.by_tid: dict[int, Thread] = {}
        self.futex_words = FutexWords()
        self.calls = Calls(self)
        self.away = Away(self)
        self.endings = Endings(self)
        self.layout = Layout(self)
        self.untrapped = UntrappedCode(self)
        self.forks = Forks(self)
        self.joint = Joint(self)
        self.fences = Fences(self)
        self.surroundings = Surroundings(self)
        self.made_files = MadeFiles(self)
        self.socket_timeouts = False
        """Has the program set one (SO_RCVTIMEO)?"""
        self.jobs = Jobs(self)
        self.processor_time = ProcessorTime(self)
        self.processor_timers = ProcessorTimers(self)
        self.limits = MemoryLimits()
        self.kept_signals = KeptSignals(self)
        self.misdirected = Misdirected(self)
        self.newborn: set[int] = set()
        """New tasks in their first stop, of which no parent has told yet."""
        self.bystanders = bystanders.Bystanders(
            self.newborn,
            BystanderCalls(self.machine, self.surroundings.told_to_child),
            shown,
        )
        self.pid = 0
        self.pidfd = -1
        self.is_prepared_for = False
        """The program stands at its first instruction, while its files are rewritten."""
        self._forced_blocked = 0
        """The forced signals that the next image's first thread has blocked, as a mask."""
        self.host_statistics: dict[int, dict[str, int]] = {}
        self.events.on_user_signal = self.endings.on_user_signal
        self.on_child_exit: Callable[[int], HostId | None] = lambda pid: None
        self.child_hosts: frozenset[HostId] = frozenset()
        """Hosts whose supervisors are processes of this one's: their ends are seen here."""
        self.background: Callable[[Callable[[], Any], Callable[[Any], None]], None]

    # Start --------------------------------------------------------------------------

    def start(self, path: str, arguments: list[str], cpus: Iterable[int] | None) -> None:
        """Execute the program and take it over; it is left about to run."""
        self.pid = spawn.spawn(
            path,
            [os.fsencode(argument) for argument in arguments],
            given_environment(),
            seccomp.build(native_at_home(self.hosts)),
            cpus=cpus,
            own_signals=signals.FORCED,
        )
        self.pidfd = os.pidfd_open(self.pid)
        self.actions.inherit(given_signals.ignored())
        self._forced_blocked = signals.mask_of(signals.FORCED & given_signals.blocked())
        self.counters["threads_started"] += 1
        self._take_over()

    def _take_over(self) -> None:
        """Put the image that stands at the exit of its execve under the supervisor; let it run.

        Its files are rewritten first, which can take longer than a host may be silent.
        """
        self.is_prepared_for = True
        mapped = {mapping.path for mapping in read_maps(self.pid) if mapping.path.startswith("/")}
        paths = {openable(self.pid, path) for path in mapped}
        self.operations.begin(
            "take over", None, self.prepared(paths), lambda _: self._take_over_prepared()
        )

    def prepared(self, paths: Iterable[str]) -> Steps:
        """Have the rewritten files of these made; see `RewrittenFiles.start_to_prepare`."""
        paths = list(paths)
        always_trap = kinds_that_trap(self.shown.questions_trap)
        while True:
            pid = self.files.start_to_prepare(paths, always_trap)
            status = yield Wait(("prepared", pid))
            if self.files.prepared(pid, status):
                return

    def _take_over_prepared(self) -> None:
        self.is_prepared_for = False
        if self.finished:
            return
        taken = image.take_over(
            self.pid, self.memory, self.control, self._scratch_for, self.code.substitute,
            self.shown,
        )
        self.adopt_agent(taken.agent)
        self.space = taken.space
        self.native_backing = taken.native
        self.native_clock = taken.native_clock
        self.tell_clock()
        self.layout.break_start = self.layout.break_end = taken.break_start
        for start, end, file in taken.copied:
            self.layout.copies.add(start, end, file)
        for loaded_path, bias in taken.loaded.items():
            self.code.loaded(loaded_path, bias)
        self._check_code()
        self.start_pager(self.pidfd, Caller(self.pid, control.GADGET).call)
        main = self.add_thread(self.pid, self.pid, self.scratch.arch)
        main.virtual_mask = self._forced_blocked
        self.by_tid[self.pid] = main
        self.processor_timers.limited()
        self.resume(main)

    def _scratch_for(self, arch: Arch) -> int:
        """The descriptor of the scratch memory of an image of this architecture."""
        if self.scratch.arch is not arch:
            self.scratch = Scratch(arch)
        return self.scratch.descriptor

    def restart(self, leader: Thread) -> None:
        """The program has executed another: its threads are gone, on all hosts; begin anew."""
        former = ptrace.get_event_message(self.pid)  # the thread that is the leader now
        self._forced_blocked = self.threads.get(former, leader).virtual_mask
        for thread in list(self.threads.values()):
            if not thread.borrowed:
                self.remove_thread(thread)
                self.by_tid.pop(thread.tid, None)
                if thread.task != self.pid or thread.away != HOME:
                    self.placement.ended(thread.away)
                if thread.away != HOME:
                    self.send(thread.away, ThreadEnded(thread.tid))
        self.trials = Trials(self)
        self.futex_words.close()
        self.futex_words = FutexWords()
        self.drop_pager()
        self.layout.clear()
        self.away.synced.clear()  # the new image's areas go out with its first thread elsewhere
        self.decoder.forget()
        self.code = CodeMap(
            self.files, self._on_code, questions_trap=self.shown.questions_trap
        )
        self.traps = self.code.traps
        self.actions.executed()
        self.kept_signals.clear()
        self.processor_time.executed()
        self.processor_timers.executed()
        spawn.finish_exec(self.pid)
        check_header(f"/proc/{self.pid}/exe")
        self._take_over()

    def is_idle(self) -> bool:
        """The program's children are let go on at their stops, and use what is left of it."""
        return not self.bystanders.tasks and super().is_idle()

    def limits_of(self, thread: Thread) -> MemoryLimits:
        """Those of a thread's process."""
        return self.limits if thread.limits is None else thread.limits

    def check(self, address: int, length: int, access: Access) -> bool:
        """Also what a file does not reach to is no memory: SIGBUS, EFAULT."""
        if not super().check(address, length, access):
            return False
        area = self.space.find(address)
        if length <= 0 or (
            area is not None and area.kind is Kind.GUEST and address + length <= area.end
        ):
            return True
        return not self.layout.is_beyond_file(address, length)

    # System calls -----------------------------------------------------------------------

    def on_call(self, thread: Thread) -> None:
        self.calls.on_call(thread)

    def on_call_exit(self, thread: Thread) -> None:
        self.calls.on_exit(thread)

    def on_native_signal(self, thread: Thread, number: int) -> None:
        self.calls.on_signal(thread, number)

    def wait_for(self, operation: Operation, want: Any) -> None:
        kind = type(want)
        if kind is Native:
            self.calls.start_native(operation, want)
        elif kind is Proceed:
            self.calls.proceed(operation)
        elif kind is Background:
            self.background(want.work, lambda value: self.operations.advance(operation, value))
        else:
            raise AssertionError(f"an operation yielded {want!r}")

    # Other stops ----------------------------------------------------------------------------

    def on_unknown_stop(self, stop: Stop) -> None:
        if stop.pid == self.pid and stop.kind in (StopKind.EXITED, StopKind.KILLED):
            self.endings.program_ended(exit_status.of(stop))  # before it was taken over
            return
        if self.by_tid and stop.pid == self.agent.tid:
            if stop.kind is StopKind.SIGNAL:
                self.misdirected.arrived(self.agent.sent.popleft())
            return  # its end is the process's
        if self.bystanders.on_stop(stop):
            return
        if stop.kind in (StopKind.EXITED, StopKind.KILLED):
            self.newborn.discard(stop.pid)
            if self.operations.wake(("prepared", stop.pid), stop.detail):
                return
            host = self.on_child_exit(stop.pid)
            if host is not None:
                how = exit_status.describe(stop)
                self.links.hear_out(host)
                self.links.drop(host)
                why = f"host {host} is lost: its supervisor process {how}"
                self.endings.fail_if_running(DsmsupError(why))
            return
        self.newborn.add(stop.pid)
        self.operations.wake(("born", stop.pid), None)

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
            if self.node.armed and self.checks.catch(thread):
                self.checks.trap_caught()  # it departs at its next stop
            else:
                self.away.depart(thread)
        elif thread.native is not None and self.calls.gives_up(thread):
            pass
        elif thread.native is not None and thread.away == HOME and not thread.at_gadget:
            thread.cont_to_syscall()
        else:
            self.resume(thread)

    def on_own_signal(self, thread: Thread, number: int) -> None:
        self.misdirected.restore(thread, number)
        signals.arrived(self, thread, number)

    def stay_home(self, why: str) -> None:
        """The program does what works at home only: its threads come home, and stay."""
        if not self.placement.home_only:
            self.verbose(f"{why}: all threads go on at home")
            self.placement.home_only = True
        self.away.bring_all_home()

    def on_thread_exit(self, thread: Thread, stop: Stop) -> None:
        if thread.task == self.pid:
            # At once: what it may have been waiting for is to be undone by a guest that is gone.
            self.endings.program_ended(exit_status.of(stop))
            return
        self.remove_thread(thread)
        self.by_tid.pop(thread.tid, None)
        self.trials.ended(thread)
        self.misdirected.forget(thread)
        self.processor_timers.takers.ended(thread.tid)
        if thread.away != HOME:
            self.send(thread.away, ThreadEnded(thread.tid))
        if not thread.borrowed:
            self.placement.ended(thread.away)
            self.endings.quit_agent_if_last()

    def deliver_pending(self, thread: Thread) -> None:
        signals.deliver_pending(self, thread)

    def entered_handler(self, thread: Thread) -> None:
        signals.entered(self, thread)

    def deliver(self, thread: Thread) -> None:
        signals.deliver(self, thread)

    # Other hosts ------------------------------------------------------------------------

    def on_control(self, host: HostId, message: AnyControl) -> None:
        if isinstance(message, SystemCall):
            self.away.on_system_call(host, message)
        elif isinstance(message, SpecialCall):
            self.away.on_special_call(host, message)
        elif isinstance(message, Departed):
            self.away.on_departed(host, message)
        elif isinstance(message, StayOver):
            self.trials.stay_over(message.gained_ns / NS_PER_S)
        elif isinstance(message, TimesTold):
            self.processor_time.told(host, message.number, message.used)
        elif isinstance(message, Fenced):
            self.fences.answered(message.number)
        elif isinstance(message, ClockProbe):
            self.send(host, ClockAnswer(message.asked_ns, self.clock.id, *self.clock.tell()))
        elif isinstance(message, UserSignal):
            self.endings.pass_on(message.number)
        elif isinstance(message, Trouble):
            raise DsmsupError(f"host {host} ({self.names[host]}): {message.reason}")
        elif isinstance(message, LinkLost):
            line = f"host {host} ({self.names[host]}) has lost its link: {message.why}"
            self.endings.fail_in(LINK_LOST_S, DsmsupError(line))
        elif isinstance(message, Statistics):
            self.host_statistics[host] = message.counters
        else:
            raise PeerError(f"host {host} sent a message that only home sends")

    def grow(self, address: int) -> bool:
        return self.layout.grow(address)

    def move_on(self, thread: Thread) -> None:
        if thread.destination is not None and thread.operation is None:
            self.away.depart(thread)
        else:
            self.resume(thread)

    # Code ---------------------------------------------------------------------------------

    def is_linker_code(self, ip: int) -> bool:
        area = self.space.find(ip)
        return area is not None and area.kind is Kind.NATIVE and handlers.is_linker(area.name)

    def code_mapped(self, file: int, start: int, offset: int, path: str) -> None:
        """The program has mapped executable pages of an open file."""
        self.code.mapped(os.fstat(file), start, offset, path)
        self._check_code()

    def _check_code(self) -> None:
        if self.code.untrapped:
            self.untrapped.found(f"the code of {self.code.untrapped} is not rewritten")

    def _on_code(self, found: CodeObject) -> None:
        self.away.tell(CodeLoaded(*found))

    # The end ----------------------------------------------------------------------------------

    def peer_lost(self, host: HostId, why: str) -> None:
        self.links.drop(host)
        if host in self.child_hosts:
            self.endings.fail_in(SUPERVISOR_END_S, DsmsupError(why))
        else:
            self.endings.fail_if_running(DsmsupError(why))

    def fail(self, error: DsmsupError) -> None:
        self.endings.fail(error)

    def guest_died(self, error: GuestDied) -> None:
        """The program died under an injection; its own end tells how, and comes soon."""
        self.endings.fail_in(PROGRAM_END_S, error)

    async def wait_for_statistics(self) -> None:
        """Until every host that is left has sent its counters (the caller bounds it)."""
        while not all(host in self.host_statistics for host in self.links.by_host):
            try:
                self.settle()
                await self.events.wait()
            except (DsmsupError, ptrace.TraceeGone):
                pass  # the run is over: the guest is gone, or a host that has nothing to tell

    async def wait_for_children(self) -> None:
        """Until no child that the program has left behind is running (the caller bounds it)."""
        while self.bystanders.tasks and self.trouble is None and not self.endings.terminating:
            try:
                self.settle()
                await self.events.wait()
            except (DsmsupError, ptrace.TraceeGone):
                pass  # as above
