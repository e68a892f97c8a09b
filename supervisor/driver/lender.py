# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor of a host other than home: it lends processors and memory.

Its guest process is a vessel whose threads run the program's code on pages
fetched from home; what a thread wants of the kernel is gathered here and done
at home, but for a few calls that need no home (clocks).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from supervisor.arch import of_selector
from supervisor.areas import WRITE, Area, Kind
from supervisor.cluster.processors import AS_IT_IS, Shown
from supervisor.cluster.transport import Link
from supervisor.coherence.messages import Access, Fault
from supervisor.driver import exit_status, fences
from supervisor.driver.code import CodeObject
from supervisor.driver.core import Supervisor
from supervisor.driver.forwarding import Forwarding, GoesHome
from supervisor.driver.messages import (
    AnyControl,
    AreasChanged,
    BringHome,
    CallDone,
    ClockAnswer,
    CodeLoaded,
    Departed,
    Fence,
    LinkLost,
    Pause,
    Shutdown,
    StartThread,
    Statistics,
    StayOver,
    ThreadEnded,
    TimesAsked,
    TimesTold,
    Trouble,
    UserSignal,
)
from supervisor.driver.operations import Operation, Reply, Steps, flush_first
from supervisor.driver.probes import Probes
from supervisor.driver.ranges import runs_of
from supervisor.driver.thread import Thread
from supervisor.errors import EXIT_FAILURE, DsmsupError, GuestDied, PeerError, PeerLost
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.table import TABLES
from supervisor.tasks import NO_MORE
from supervisor.tracee import clock, control, inject, ptrace, seccomp
from supervisor.tracee.stops import Stop, StopKind
from supervisor.tracee.usage import Times
from supervisor.tracee.vessel import launch_vessel
from supervisor.tracee.xstate import restore_xstate
from supervisor.units import HOME, PAGE_SHIFT, HostId

LEAVE_S: Final = 2.0
"""How long home has to receive this host's last words."""

NEAR_BYTES: Final = 32 << 10
"""A thread block no further above the stack pointer is in the same stack."""
STACK_PAGES: Final = 16
"""Never-touched ones that a thread gets with the top of its stack; then its faults are a stream."""


class Lender(Supervisor):
    """Host 1 and up."""

    def __init__(
        self,
        host: HostId,
        hosts: int,
        links: dict[HostId, Link],
        names: list[str],
        policy: str,
        verbose: Callable[[str], None],
        paths: frozenset[tuple[HostId, HostId]] = frozenset(),
        shown: Shown = AS_IT_IS,
    ) -> None:
        super().__init__(host, hosts, links, names, policy, verbose, paths, shown)
        self.by_tid: dict[int, Thread] = {}
        self.migrate = True
        """Threads that thrash here go home."""
        self.quitting = False
        self.exit_status = EXIT_FAILURE
        self.pid = 0
        self.events.on_user_signal = self._on_user_signal
        self.forwarding = Forwarding(self)
        self.probes = Probes(self)
        self._early: deque[AnyControl] = deque()
        """What home said before this host's clocks were known."""
        self._spent = Times()
        """Processor time of workers that are no more."""

    def start(self, cpus: Iterable[int] | None) -> None:
        self.pid, agent, self.native_clock = launch_vessel(
            self.memory, self.control,
            seccomp.build({arch: table.native_everywhere for arch, table in TABLES.items()}), cpus,
            questions_fault=self.shown.questions_fault,
        )  # fmt: skip
        self.adopt_agent(agent)
        pidfd = os.pidfd_open(self.pid)
        try:
            self.start_pager(pidfd, lambda *call: agent.run([call])[0])
        finally:
            os.close(pidfd)
        self.probes.begin()

    # Threads ------------------------------------------------------------------------------

    def on_control(self, host: HostId, message: AnyControl) -> None:
        if host != HOME:
            raise PeerError(f"host {host} sent a message that only home sends")
        if isinstance(message, ClockAnswer):
            self.probes.answered(message)
            while self._early and self.probes.known:
                self._obey(self._early.popleft())
        elif not self.probes.known and not isinstance(message, Shutdown):
            self._early.append(message)  # no thread starts whose clock would go back
        else:
            self._obey(message)

    def _obey(self, message: AnyControl) -> None:
        if isinstance(message, CallDone):
            thread = self.by_tid.get(message.tid)
            operation = None if thread is None else thread.native
            if thread is None or operation is None:
                raise PeerError(f"home answered a call that thread {message.tid} did not make")
            thread.native = None
            self.operations.advance(operation, message.result)
        elif isinstance(message, AreasChanged):
            self._areas_changed(message)
        elif isinstance(message, CodeLoaded):
            self.traps.add(
                CodeObject(
                    message.bias, message.traps, message.redirects, message.checked,
                    message.questions,
                )
            )
        elif isinstance(message, StartThread):
            self._start_thread(message)
        elif isinstance(message, Pause):
            self.links.patient = message.stopped
            if message.stopped:
                self.standstill.begin()
            else:
                self.standstill.end()
        elif isinstance(message, TimesAsked):
            self.send(HOME, TimesTold(message.number, self._times(message.tid)))
        elif isinstance(message, Fence):
            fences.answer(self, message)
        elif isinstance(message, BringHome):
            thread = self.by_tid.get(message.tid)
            if thread is not None:
                self._bring_home(thread)
        elif isinstance(message, ThreadEnded):
            thread = self.by_tid.get(message.tid)
            if thread is not None:
                thread.ended = True
                self._stop(thread)
        elif isinstance(message, Shutdown):
            self.quitting = True
            self.exit_status = message.status
            if message.reason:
                self.trouble = DsmsupError(message.reason)
            self.send(HOME, Statistics(self.statistics()))
            self.links.flush()
            self.finished = True
        else:
            raise PeerError("home sent a message that only other hosts send")

    def _start_thread(self, message: StartThread) -> None:
        registers = self.registers_of(message.registers)
        self._ask_for_stack(registers)
        result = self.agent.run([(inject.SYS_CLONE, inject.THREAD_FLAGS | 0x400, 0)])[0]
        if result < 0:
            why = NO_MORE if result == -errno.EAGAIN else os.strerror(-result)
            self.verbose(f"host {self.host}: a thread goes back home: {why}")
            self.send(HOME, Departed(message.tid, message.registers, message.xstate, Times()))
            return
        self.agent.take_born()
        self.stops.next_of(result)
        ptrace.set_signal_mask(result, 0)
        thread = self.add_thread(message.tid, result, of_selector(registers.cs))
        self.by_tid[message.tid] = thread
        self.counters["threads_started"] += 1
        self.set_context(thread, message.registers)
        ptrace.set_thread_areas(result, message.tls)
        ptrace.set_registers(result, thread.registers)
        restore_xstate(result, message.xstate, self.shown.states)
        self.operations.begin("arrive", thread, self._arrival(thread), lambda _: self._go(thread))

    def _ask_for_stack(self, registers: ptrace.Registers) -> None:
        """Have the top of a thread's stack, where its thread block most often is, on its way
        while its worker is made."""
        low, block = registers.rsp - 8, registers.fs_base
        high = block + 8 if 0 < block - low < NEAR_BYTES else low + 16
        area = self.space.find(low)
        if area is None or area.kind is not Kind.GUEST or not area.protection & WRITE:
            return
        runs = runs_of(((low, min(high, area.end) - low, Access.WRITE),))
        fresh = min(runs[0].first - (area.start >> PAGE_SHIFT), STACK_PAGES)
        self.operations.ask_early(Fault(0, runs, fresh=fresh))
        self.links.flush()

    def _arrival(self, thread: Thread) -> Steps:
        """Fetch at once what a thread will touch first, and in turn: stack and thread block."""
        registers = thread.registers
        wanted = ((registers.rsp - 8, 16), (registers.fs_base, 8))
        yield Acquire(tuple(
            (address, length, Access.WRITE) for address, length in wanted
            if not self.is_joint(address, length) and self.check(address, length, Access.WRITE)
        ))  # fmt: skip

    def _go(self, thread: Thread) -> None:
        if not thread.leaving and self.node.armed and self.checks.catch(thread):
            self.checks.trap_caught()  # it read home's armed byte
        else:
            self.move_on(thread)

    def drop(self, thread: Thread) -> None:
        """End a worker whose thread goes on elsewhere, or has ended."""
        self._spent = self._spent.plus(thread.meter.read(self.pid, thread.task))
        self.by_tid.pop(thread.tid, None)
        self.remove_thread(thread)
        registers = ptrace.Registers.from_buffer_copy(thread.registers)
        thread.arch.begin_call(registers, thread.arch.numbers["exit"], [0])
        try:
            ptrace.set_registers(thread.task, registers)
            thread.cont()
        except ptrace.TraceeGone:
            pass

    def _times(self, tid: int) -> Times:
        """Processor time of a thread's worker; of all that there were, for 0."""
        if tid:
            thread = self.by_tid.get(tid)
            return Times() if thread is None else thread.meter.read(self.pid, thread.task)
        used = self._spent
        for thread in self.threads.values():
            used = used.plus(thread.meter.read(self.pid, thread.task))
        return used

    def thrashes(self, thread: Thread) -> bool:
        if not self.migrate or not thread.account.thrashes(self.pid, thread.task):
            return False
        self.verbose(f"host {self.host}: thread {thread.tid} waits for pages all the time: "
                     "it goes on at home")
        self._stay_over(thread)
        thread.gives_up = True
        if thread.stopped:
            self.leave(thread)
        else:
            self._bring_home(thread)
        return True

    def exits(self, thread: Thread) -> None:
        """A thread is about to exit here."""
        if self.migrate:
            self._stay_over(thread)

    def _stay_over(self, thread: Thread) -> None:
        self.send(HOME, StayOver(thread.account.gained_ns(self.pid, thread.task)))

    def touches_joint(self, thread: Thread) -> None:
        if thread.stopped:
            self.leave(thread)
        else:
            self._bring_home(thread)

    def _bring_home(self, thread: Thread) -> None:
        if not thread.leaving:
            thread.leaving = True
            if thread.operation is None:  # else as soon as its system call is done
                self._stop(thread)

    def _stop(self, thread: Thread) -> None:
        """Stop a worker, to end it or to send it home."""
        if thread.ended and thread.operation is not None:
            self.drop(thread)
        elif thread.waiting:
            # At a fault, which it repeats wherever it goes on; it gets its page here first
            # where its code is of this host only.
            if thread.ended or not clock.is_native(thread.registers.rip):
                self._stopped(thread)
        else:
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.interrupt(thread.task)

    def _stopped(self, thread: Thread) -> None:
        if thread.ended:
            self.drop(thread)
        else:
            self.leave(thread)

    def move_on(self, thread: Thread) -> None:
        if thread.leaving and thread.operation is None:
            self.leave(thread)
        else:
            self.resume(thread)

    def leave(self, thread: Thread) -> None:
        """Let a stopped thread go on at home, where its stores so far must be seen.

        It is stepped out of code that home does not have first.
        """
        thread.leaving = True
        try:
            registers = ptrace.get_registers(thread.task, thread.registers)
            if clock.is_native(registers.rip):
                thread.stepping = True
                thread.single_step()
                return
        except ptrace.TraceeGone:
            return
        self.forget_fault(thread)
        if self.node.armed:
            self.operations.begin("leave", thread, flush_first(), lambda _: self._depart(thread))
        else:
            self._depart(thread)

    def _depart(self, thread: Thread) -> None:
        """Send a stopped thread's context home."""
        try:
            ptrace.get_registers(thread.task, thread.registers)
            xstate = ptrace.get_xstate(thread.task)
        except ptrace.TraceeGone:
            return
        used = thread.meter.read(self.pid, thread.task)
        self.send(HOME, Departed(
            thread.tid, bytes(thread.registers), xstate, used, thread.gives_up
        ))  # fmt: skip
        self.drop(thread)

    def on_group_stop(self, thread: Thread, detail: int) -> None:
        if thread.ended or (thread.leaving and thread.operation is None):
            self._stopped(thread)
        elif thread.stepping:
            thread.single_step()
        else:
            self.resume(thread)

    def on_own_signal(self, thread: Thread, number: int) -> None:
        # Its own fault: at home it happens again, for the kernel to deliver.
        self.leave(thread)

    def on_event(self, thread: Thread, event: int) -> None:
        self.resume(thread)

    def on_call_exit(self, thread: Thread) -> None:
        self.resume(thread)

    def on_thread_exit(self, thread: Thread, stop: Stop) -> None:
        self.by_tid.pop(thread.tid, None)
        if stop.kind is StopKind.KILLED:
            self._guest_killed(stop)
        self.remove_thread(thread)

    def on_unknown_stop(self, stop: Stop) -> None:
        if stop.pid == self.pid and stop.kind in (StopKind.EXITED, StopKind.KILLED):
            self._guest_killed(stop)
        elif stop.kind is StopKind.SIGNAL:
            # A worker that was dropped at a fault: its thread has it elsewhere again.
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.cont(stop.pid)
        # Else one that was dropped has exited.

    def _guest_killed(self, stop: Stop) -> None:
        if not self.quitting:
            self.fail(GuestDied(f"its guest process {exit_status.describe(stop)}"))

    # Areas ----------------------------------------------------------------------------------

    def _areas_changed(self, message: AreasChanged) -> None:
        calls: list[tuple[int, ...]] = []
        for start, end in message.removed:
            self._check_area(Area(start, end, 0))
            if self.space.remove(start, end):
                calls.append((inject.SYS_MUNMAP, start, end - start))
                self.pager.forget(start, end)
        if calls:
            self.agent.check(calls)
        for area in message.mapped:
            self._check_area(area)
            self.space.add(area)
        self.pager.map(message.mapped)
        for area in message.protected:
            self._check_area(area)
            self.space.add(area)
        self.pager.apply(message.protected)
        self.decoder.forget()
        joint = [
            area for area in (*message.mapped, *message.protected)
            if area.kind is Kind.JOINT and area.protection  # else nobody can touch it
        ]  # fmt: skip
        if joint:
            self.has_joint = True
            for thread in list(self.threads.values()):
                if any(self._waits_in(thread, area) for area in joint):
                    self.touches_joint(thread)

    @staticmethod
    def _waits_in(thread: Thread, area: Area) -> bool:
        if thread.paging:
            return area.start <= thread.fault_address < area.end
        key = thread.fault_key
        return bool(thread.waiting and key and area.start <= key[1] < area.end)

    @staticmethod
    def _check_area(area: Area) -> None:
        ours = area.start < control.END and area.end > control.BASE
        if ours or not 0 < area.start < area.end <= 1 << 47:
            raise PeerError(f"home mapped an area at {area.start:#x}-{area.end:#x}")

    # System calls ---------------------------------------------------------------------------

    def on_call(self, thread: Thread) -> None:
        self.forwarding.on_call(thread)

    def check(self, address: int, length: int, access: Access) -> bool:
        if self.has_joint and self.is_joint(address, length):
            raise GoesHome
        return super().check(address, length, access)

    def wait_for(self, operation: Operation, want: Any) -> None:
        assert type(want) is Reply, want
        operation.thread.native = operation

    # The end --------------------------------------------------------------------------------

    def peer_lost(self, host: HostId, why: str) -> None:
        if host == HOME and not self.quitting:
            self.send(HOME, Trouble(why))  # it may hear, if it was only silent
            self.links.flush()
        self.links.drop(host)
        if host != HOME:
            # Home sees to it: the run ends, now, or is over there already.
            self.send(HOME, LinkLost(host, why))
            return
        if not self.quitting and not self.finished:
            self.trouble = DsmsupError(why)
        self.finished = True

    def guest_died(self, error: GuestDied) -> None:
        if not self.finished:
            self.fail(error)

    def fail(self, error: DsmsupError) -> None:
        """Home tells the user; this host just ends."""
        if self.finished:
            return
        self.send(HOME, Trouble(str(error)))
        self.links.flush()
        self.trouble = DsmsupError(f"host {self.host} ({self.names[self.host]}): {error}")
        self.finished = True

    def take_leave(self) -> None:
        """Let home have all that was said to it, and close: until it does so too, or for a time.

        Closing a socket in which something is unread resets the connection, and what
        the other end has not received by then is gone.
        """
        link = self.links.by_host.get(HOME)
        if link is None:
            return
        deadline = time.monotonic() + LEAVE_S
        poll = select.poll()
        with contextlib.suppress(PeerLost, PeerError):
            while (left := deadline - time.monotonic()) > 0:
                if link.flush():
                    link.end_sending()
                poll.register(link, select.POLLIN | (select.POLLOUT if link.wants_write else 0))
                poll.poll(left * 1000)
                link.receive()

    def _on_user_signal(self, number: int, from_kernel: bool) -> None:
        self.send(HOME, UserSignal(number))

    def kill_guest(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
