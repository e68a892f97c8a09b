# SPDX-License-Identifier: GPL-2.0-or-later
"""What every host's supervisor does, and the parts that it is made of.

Here: coherence effects, stops, threads, and the loop. The parts own the rest:
links to other hosts, page faults, how long their pages are held, operations,
checks of the armed byte. `Home` and `Lender` add what differs: where system
calls run, and who starts and ends threads.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from select import EPOLLIN
from typing import Any, Final

from supervisor.arch import Arch
from supervisor.areas import READ, WRITE, AddressSpace, Kind
from supervisor.cluster.processors import AS_IT_IS, Shown
from supervisor.cluster.transport import Link
from supervisor.coherence.messages import (
    Access,
    Arm,
    Cancelled,
    Event,
    GoOn,
    ModeChanged,
    Protect,
    Protected,
    Resume,
    Retry,
    Send,
    StandStill,
    StoodStill,
    Tick,
    WakeAt,
)
from supervisor.coherence.node import Node
from supervisor.driver import waits
from supervisor.driver.checks import Checks
from supervisor.driver.code import TrapMap
from supervisor.driver.events import Events
from supervisor.driver.faults import Faults
from supervisor.driver.holds import Holds
from supervisor.driver.host_clock import HostClock
from supervisor.driver.in_kernel import InKernel
from supervisor.driver.links import Links
from supervisor.driver.messages import AnyControl, ControlMessage
from supervisor.driver.operations import Operation, Operations
from supervisor.driver.pager import SignalPager, UserfaultPager, uses_userfaultfd
from supervisor.driver.signal_stops import SignalStops
from supervisor.driver.signals import Actions
from supervisor.driver.standstill import Standstill
from supervisor.driver.stop_queue import StopQueue
from supervisor.driver.thread import Thread
from supervisor.errors import DsmsupError, GuestDied, PeerError, UnsupportedError
from supervisor.syscalls import handlers
from supervisor.syscalls.spec import Row
from supervisor.syscalls.table import TABLES
from supervisor.tracee import ptrace
from supervisor.tracee.access import AccessDecoder
from supervisor.tracee.clock import vdso_image
from supervisor.tracee.control import ControlBlock
from supervisor.tracee.inject import Agent
from supervisor.tracee.memory import GuestMemory
from supervisor.tracee.stops import Stop, StopKind
from supervisor.tracee.userfault import create_in
from supervisor.units import PAGE_SHIFT, HostId

_SIGNAL: Final = StopKind.SIGNAL


class Supervisor:
    """One host's supervisor."""

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
        self.host = host
        self.hosts = hosts
        self.shown = shown
        self.names = names
        self.verbose = verbose
        self.events = Events()
        self.memory = GuestMemory()
        self.control = ControlBlock()
        self.control.set_image(vdso_image())
        self.space = AddressSpace()
        self.node = Node(host, hosts, self.memory, policy, paths)
        self.decoder = AccessDecoder()
        self.traps = TrapMap()
        """Where the traps, redirects and checks of the code in the guest lead."""
        self.pager = SignalPager(self)
        self.pager_choice = "auto"
        self.agent: Agent
        self.threads: dict[int, Thread] = {}
        """By kernel task id on this host."""
        self.actions = Actions()
        self.finished = False
        self.trouble: DsmsupError | None = None
        self.counters = {"threads_started": 0, "traps": 0, "syscalls_forwarded": 0}
        self.native_clock = 0
        """Where the kernel's own clock_gettime is in the guest; 0 for nowhere."""
        self.clock = HostClock()
        self._requester_ids = itertools.count(1)
        self._by_requester: dict[int, Thread] = {}
        self._ready: deque[tuple[int, bool]] = deque()
        self._asked = False
        """Something may have been asked for since pages were last released."""
        self.has_joint = False
        """Elsewhere than at home: there may be memory that only home has (Kind.JOINT)."""
        self.several_writers = policy != "single-writer" and hosts > 1
        self._next_tick = 0.0
        self.may_spin = False
        """No other host of the run uses this host's processors."""
        self.in_kernel = InKernel(self.events)
        self.stops = StopQueue()
        # Handled one by one in `settle`: none may be lost where handling one raises.
        self.events.on_children = self.stops.drain
        self.standstill = Standstill(self.threads, self.stops)
        self.checks = Checks(self)
        self.stops.passed = self.checks.passed
        self.holds = Holds(self)
        self.faults = Faults(self)
        self.signal_stops = SignalStops(self)
        self.operations = Operations(self, self._requester_ids)
        self.links = Links(self, links)

    # Other hosts -----------------------------------------------------------------

    def send(self, host: HostId, message: ControlMessage) -> None:
        """To the supervisor of another host, if its link is open."""
        self.links.send(host, message)

    def peer_lost(self, host: HostId, why: str) -> None:
        raise NotImplementedError

    def on_control(self, host: HostId, message: AnyControl) -> None:
        raise NotImplementedError

    # Coherence -------------------------------------------------------------------

    def step(self, event: Event) -> None:
        """Step the node and carry its effects out, in order."""
        self._asked = True
        pending: list[Event] = [event]
        for next_event in pending:  # it grows meanwhile
            for effect in self.node.step(next_event):
                if isinstance(effect, Send):
                    self.links.send_coherence(effect.host, effect.message)
                elif isinstance(effect, Protect):
                    self.pager.protect(effect.runs, effect.lowered)
                    pending.append(Protected(effect.token))
                elif isinstance(effect, Resume):
                    self._ready.append((effect.requester, False))
                elif isinstance(effect, Retry):
                    self._ready.append((effect.requester, True))
                elif isinstance(effect, Arm):
                    self.checks.arm(effect.armed)
                elif isinstance(effect, StandStill):
                    self.standstill.begin()
                    pending.append(StoodStill())
                elif isinstance(effect, GoOn):
                    self.standstill.end()
                elif isinstance(effect, ModeChanged):
                    mode = "multiple-writer" if effect.multiple else "single-writer"
                    self.verbose(
                        f"{effect.count} pages at {effect.first << PAGE_SHIFT:#x} are {mode}: "
                        f"{effect.why}"
                    )
                else:
                    assert isinstance(effect, WakeAt)
                    self._wake_at(effect.now_us / 1e6)
        self.checks.trap_caught()

    def _wake_at(self, deadline: float) -> None:
        if self._next_tick <= time.monotonic() or deadline < self._next_tick:
            self._next_tick = deadline
            self.events.at(deadline, self._tick)

    def _tick(self) -> None:
        self._next_tick = 0.0
        self.step(Tick(int(time.monotonic() * 1e6)))

    def run_ready(self) -> None:
        """Go on with every requester whose pages are there."""
        while self._ready:
            requester, retry = self._ready.popleft()
            thread = self._by_requester.get(requester)
            if thread is not None:
                self.faults.go_on(thread, retry)
            else:
                self.operations.go_on(requester, retry)

    # The guest -------------------------------------------------------------------

    def adopt_agent(self, agent: Agent) -> None:
        self.agent = agent
        agent.others = self.stops.stops

    def start_pager(self, pidfd: int, call: Callable[..., int]) -> None:
        """The chosen pager for a fresh guest process; `call` runs a system call there."""
        if self.hosts == 1 or not uses_userfaultfd(self.pager_choice):
            return
        try:
            faults = create_in(pidfd, call)
        except OSError as error:  # the program may have no more descriptors, say
            self.verbose(f"host {self.host}: page faults are stops: userfaultfd: {error.strerror}")
            if self.pager_choice == "userfaultfd":
                raise DsmsupError(f"cannot use userfaultfd: {error.strerror}") from None
            return
        self.verbose(f"host {self.host}: page faults come by userfaultfd")
        self.pager = pager = UserfaultPager(self, faults)
        self.events.watch(faults.descriptor, EPOLLIN, lambda _: waits.arrived(self, pager))

    def drop_pager(self) -> None:
        """The guest process is gone."""
        if isinstance(self.pager, UserfaultPager):
            self.events.unwatch(self.pager.faults.descriptor)
            self.pager.close()
            self.pager = SignalPager(self)

    def tell_clock(self) -> None:
        """Let the guest's clocks go by what is known of them now."""
        self.control.set_clock(self.host, self.native_clock, self.clock.readings)

    def is_joint(self, address: int, length: int) -> bool:
        """Is any of these bytes memory that only home has?"""
        return any(
            area.kind is Kind.JOINT for area in self.space.overlapping(address, address + length)
        )

    # Threads ---------------------------------------------------------------------

    def add_thread(self, tid: int, task: int, arch: Arch) -> Thread:
        thread = Thread(tid, task, next(self._requester_ids), self.actions, arch)
        thread.still = self.standstill.on
        self.threads[task] = thread
        self._by_requester[thread.requester] = thread
        return thread

    @staticmethod
    def registers_of(data: bytes) -> ptrace.Registers:
        """A register set that another host sent."""
        if len(data) != ptrace.REGISTERS_SIZE:
            raise PeerError("a register set of the wrong size")
        return ptrace.Registers.from_buffer_copy(data)

    def set_context(self, thread: Thread, registers: bytes) -> None:
        """Take over a register set that another host sent."""
        ctypes.pointer(thread.registers)[0] = self.registers_of(registers)

    def remove_thread(self, thread: Thread) -> None:
        self.threads.pop(thread.task, None)
        thread.still = False  # it is not told when the others go on: it executes, or has ended
        self.forget_fault(thread)
        thread.paging = False
        if thread.call_file >= 0:
            os.close(thread.call_file)
            thread.call_file = -1
        self._by_requester.pop(thread.requester, None)
        operation = thread.operation
        if operation is not None:
            self.operations.abandon(operation)

    def forget_fault(self, thread: Thread) -> None:
        self.holds.forget(thread.requester)
        self.step(Cancelled(thread.requester))

    def move_on(self, thread: Thread) -> None:
        """Resume a thread after a fault, a trap or a step, unless it is to go elsewhere."""
        self.resume(thread)

    def resume(self, thread: Thread, signal_number: int = 0) -> None:
        try:
            thread.cont(signal_number)
        except ptrace.TraceeGone:
            return  # (contextlib.suppress costs as much as a system call)

    def thrashes(self, thread: Thread) -> bool:
        """Does a thread do little but wait for pages? True when it has been moved."""
        return False

    # Stops -----------------------------------------------------------------------

    def on_stop(self, stop: Stop) -> None:
        thread = self.threads.get(stop.pid)
        if thread is None:
            self.on_unknown_stop(stop)
            return
        thread.stopped = True
        try:
            kind = stop.kind
            if (
                thread.paging
                and waits.left(self, thread)
                and kind is StopKind.GROUP_STOP
                and stop.detail == signal.SIGTRAP
            ):
                waits.scrutinise(self, thread)
            elif kind is _SIGNAL:
                self.signal_stops.on_stop(thread, stop.detail)
            elif kind is StopKind.SECCOMP:
                self.holds.end(thread.requester)
                thread.fault_key = None  # it is past what faulted last
                self.on_call(thread)
            elif kind is StopKind.SYSCALL:
                self.on_call_exit(thread)
            elif kind is StopKind.EVENT:
                self.on_event(thread, stop.detail)
            elif kind is StopKind.GROUP_STOP:
                if stop.detail == signal.SIGTRAP:
                    thread.interrupted = False
                self.on_group_stop(thread, stop.detail)
            else:
                self.on_thread_exit(thread, stop)
        except ptrace.TraceeGone:
            pass  # its exit is on the way

    def called_row(self, thread: Thread) -> Row:
        """The row of the call that a thread has stopped at."""
        arch, number = thread.arch, thread.registers.orig_rax
        bits = ptrace.get_event_message(thread.task)
        if bits != arch.bits:
            raise UnsupportedError(
                f"the program, a {arch.bits}-bit one, made a {bits}-bit system call ({number})"
            )
        row = TABLES[arch].rows.get(number)
        if row is None:
            raise handlers.unknown_call(arch, number)
        return row

    # What differs between home and the others ------------------------------------

    def on_unknown_stop(self, stop: Stop) -> None:
        raise NotImplementedError

    def on_call(self, thread: Thread) -> None:
        raise NotImplementedError

    def on_call_exit(self, thread: Thread) -> None:
        raise NotImplementedError

    def on_event(self, thread: Thread, event: int) -> None:
        raise NotImplementedError

    def on_group_stop(self, thread: Thread, detail: int) -> None:
        raise NotImplementedError

    def on_thread_exit(self, thread: Thread, stop: Stop) -> None:
        raise NotImplementedError

    def on_own_signal(self, thread: Thread, number: int) -> None:
        """A signal that is the program's."""
        raise NotImplementedError

    def on_native_signal(self, thread: Thread, number: int) -> None:
        """A signal stop of a task that runs a native call at the gadget."""
        raise NotImplementedError

    def grow(self, address: int) -> bool:
        """Extend an area that grows downwards to an address; False where there is none."""
        return False

    def touches_joint(self, thread: Thread) -> None:
        """A thread elsewhere than home has touched memory that only home has."""
        raise NotImplementedError

    def deliver_pending(self, thread: Thread) -> None:
        """Begin to deliver the first of a thread's pending signals."""
        raise NotImplementedError

    def entered_handler(self, thread: Thread) -> None:
        """A thread stands at the first instruction of a handler."""
        raise NotImplementedError

    def deliver(self, thread: Thread) -> None:
        """The stack pages for its frame are there."""
        raise NotImplementedError

    def wait_for(self, operation: Operation, want: Any) -> None:
        """An operation wants something only this kind of host has."""
        raise NotImplementedError

    def guest_died(self, error: GuestDied) -> None:
        """A guest process vanished in the middle of an injection; its exit status follows."""
        raise NotImplementedError

    def fail(self, error: DsmsupError) -> None:
        raise NotImplementedError

    # Guest memory as operations see it (the marshaller's `guest`) ----------------

    def read(self, address: int, length: int) -> bytes:
        return self.memory.read_bytes(address, length)

    def write(self, address: int, data: bytes) -> None:
        self.memory.write_bytes(address, data)
        advancing = self.operations.advancing
        if advancing is not None:
            advancing.wrote = True

    def check(self, address: int, length: int, access: Access) -> bool:
        """Is this mapped for the program with that right? (For EFAULT.)"""
        if length <= 0:
            return True
        right = WRITE if access is Access.WRITE else READ
        area = self.space.find(address)
        if area is not None and address + length <= area.end:
            return area.protection & right == right and area.kind is not Kind.RESERVED
        return self.space.covers(address, address + length, right)

    # The loop --------------------------------------------------------------------

    def settle(self) -> None:
        """After each batch of events: go on with whoever can, and send what is due."""
        stops, ready, links = self.stops.stops, self._ready, self.links
        if links.unheard:
            links.hear_rest()
        if ready:
            self.run_ready()
        while stops:
            self.on_stop(stops.popleft())
            if ready:
                self.run_ready()
        while self._asked:
            # Only now, with those held that this very batch has granted: what it
            # recalls may be one of them. Whose turn it is then may keep another waiting.
            self._asked = False
            self.holds.release_due()
            self.run_ready()
        if links.flush_wanted:
            links.flush()

    def is_idle(self) -> bool:
        """Has no task of this host the processor to use (for all we know)?"""
        for thread in self.threads.values():
            waits = thread.paging and not thread.scrutinise
            if not (thread.stopped or thread.native or waits):
                return False
        return not self.in_kernel.busy

    async def run(self) -> None:
        self.links.begin()
        while not self.finished:
            try:
                self.settle()
                if self.finished:
                    break
                if not self.events.wait_briefly(self.may_spin and self.is_idle()):
                    await self.events.wait()
            except ptrace.TraceeGone:
                pass  # a task that an operation went on with: its exit is on the way
            except GuestDied as error:
                self.guest_died(error)
            except DsmsupError as error:
                self.fail(error)

    def statistics(self) -> dict[str, int]:
        """The row of this host in --stats."""
        return {
            **self.counters,
            **self.node.counters,
            **self.links.counters(),
        }
