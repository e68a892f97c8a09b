# SPDX-License-Identifier: GPL-2.0-or-later
"""What every host's supervisor does: coherence effects, page faults, operations, links.

`Home` and `Lender` add what differs: where system calls run, and who starts
and ends threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from select import EPOLLIN, EPOLLOUT
from typing import Any, Final

from supervisor.arch import Arch
from supervisor.areas import EXEC, READ, WRITE, AddressSpace, Area, Kind
from supervisor.cluster.processors import AS_IT_IS, Shown
from supervisor.cluster.transport import SILENCE_S_MAX, Frame, Link
from supervisor.coherence import wire
from supervisor.coherence.messages import (
    Access,
    Arm,
    BusLock,
    Cancelled,
    Event,
    Fault,
    GoOn,
    ModeChanged,
    Protect,
    Protected,
    Received,
    Released,
    Resume,
    Retry,
    Run,
    Send,
    Serialize,
    StandStill,
    StoodStill,
    Tick,
    WakeAt,
)
from supervisor.coherence.node import Node
from supervisor.coherence.policy import WINDOW_PAGES_MAX
from supervisor.driver import messages, questions, waits
from supervisor.driver.code import Lead
from supervisor.driver.events import Events
from supervisor.driver.messages import COHERENCE, CONTROL, ControlMessage
from supervisor.driver.migratory import Migratory
from supervisor.driver.operations import (
    AcquireLocked,
    Flush,
    Hold,
    Operation,
    Steps,
    Unhold,
)
from supervisor.driver.pager import SignalPager, UserfaultPager, uses_userfaultfd
from supervisor.driver.signals import Actions
from supervisor.driver.thread import Thread
from supervisor.errors import DsmsupError, GuestDied, PeerError, PeerLost, UnsupportedError
from supervisor.syscalls import handlers
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.spec import Row
from supervisor.syscalls.table import TABLES
from supervisor.tracee import ptrace
from supervisor.tracee.access import INSTRUCTION_LENGTH_MAX, AccessDecoder, needs_of_fault
from supervisor.tracee.clock import vdso_image
from supervisor.tracee.control import ControlBlock, is_ours
from supervisor.tracee.inject import Agent
from supervisor.tracee.memory import GuestMemory
from supervisor.tracee.stops import Stop, StopKind, drain, wait_among
from supervisor.tracee.userfault import create_in
from supervisor.units import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, HostId, PageNumber

HOLD_S: Final = {Access.READ: 50e-6, Access.WRITE: 300e-6}
"""How long a granted page is kept from others if its thread has not been seen to progress.

About a round trip for a page to write: a thread that uses it again and again
then works half of the time that it contends for the page. Less for one to
read: a thread that polls it keeps the writer from what it polls for.
"""
AT_ONCE_BYTES: Final = 1 << 18
"""Page data that is sent before anything else is handled: the next window is read while
this one is on its way."""
FOREVER: Final = float("inf")
BEAT_S: Final = 0.5
CHECK_STEPS_MAX: Final = 8


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
        self.links = links
        self.names = names
        self.verbose = verbose
        self.events = Events()
        self.memory = GuestMemory()
        self.control = ControlBlock()
        self.control.set_image(vdso_image())
        self.space = AddressSpace()
        self.node = Node(host, hosts, self.memory, policy, paths)
        self.decoder = AccessDecoder()
        self.migratory = Migratory()
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
        self.clock_offset_ns = 0
        """What home's CLOCK_MONOTONIC is ahead of this host's."""
        self.wall_offset_ns = 0
        self._requester_ids = itertools.count(1)
        self._requesters: dict[int, Thread | Operation] = {}
        self._holders: dict[int, Operation] = {}
        self._ready: deque[tuple[int, bool]] = deque()
        self.held: dict[int, float] = {}
        """Until when each requester keeps its pages if others ask for them."""
        self._hold_timer = False
        self._asked = False
        """Something may have been asked for since pages were last released."""
        self._waiting: dict[Any, Operation] = {}
        self.advancing: Operation | None = None
        """The operation whose code runs now."""
        self._caught: deque[Thread] = deque()
        """Threads that stood in a check of the armed byte, yet to be treated as trapped."""
        self._late: deque[Stop] = deque()
        """Stops that have been taken from the kernel and not handled yet."""
        self.paused = False
        """Elsewhere than at home: the program is stopped, and home's supervisor may be too."""
        self.has_joint = False
        """Elsewhere than at home: there may be memory that only home has (Kind.JOINT)."""
        self.still = False
        """Another host has the bus lock: no thread here may execute."""
        self.several_writers = policy != "single-writer" and hosts > 1
        self._next_tick = 0.0
        self.silence_s_max = SILENCE_S_MAX
        """How long a host may say nothing, seconds."""
        self.may_spin = False
        """No other host of the run uses this host's processors."""
        self.native_begun = False
        """A task has been sent into the kernel since the last sleep; it needs the processor."""
        self._flush_wanted: set[HostId] = set()
        self._unheard: deque[tuple[HostId, Frame]] = deque()
        """Frames that were received behind one whose handling raised."""
        self.events.on_children = self._on_children
        for peer, link in links.items():
            self.events.watch(link.fileno(), EPOLLIN, self._link_handler(peer, link))
        if links:
            self._beat()

    # Links ------------------------------------------------------------------------

    def _link_handler(self, peer: HostId, link: Link) -> Callable[[int], None]:
        def on_ready(interest: int) -> None:
            if interest & EPOLLOUT:
                self._flush_wanted.add(peer)
            if interest & ~EPOLLOUT:
                try:
                    frames = link.receive()
                except PeerLost as error:
                    self.peer_lost(peer, str(error))
                    return
                self._hear(peer, frames)

        return on_ready

    def _hear(self, peer: HostId, frames: list[Frame]) -> None:
        """Handle frames; where handling one raises, `settle` goes on with those behind it."""
        rest = iter(frames)
        try:
            if self.several_writers and frames:
                self.step(Tick(int(time.monotonic() * 1e6)))
            for kind, payload in rest:
                if kind == COHERENCE:
                    self.step(Received(peer, wire.decode(payload)))
                elif kind == CONTROL:
                    self.on_control(peer, messages.decode(payload))
        except BaseException:
            self._unheard.extend((peer, frame) for frame in rest)
            raise

    def _hear_the_unheard(self) -> None:
        while self._unheard:
            peer, frame = self._unheard.popleft()
            self._hear(peer, [frame])

    def hear_out(self, host: HostId) -> None:
        """Handle what a host, whose process is gone, sent before its end."""
        link = self.links.get(host)
        if link is None:
            return
        with contextlib.suppress(PeerLost):
            while frames := link.receive():
                self._unheard.extend((host, frame) for frame in frames)
        self._hear_the_unheard()

    def send(self, host: HostId, message: ControlMessage) -> None:
        link = self.links.get(host)
        if link is not None:
            link.send(CONTROL, messages.encode(message))
            self._flush_wanted.add(host)

    def flush_links(self) -> None:
        if not self._flush_wanted:
            return
        wanted, self._flush_wanted = self._flush_wanted, set()
        for host in wanted:
            link = self.links.get(host)
            if link is None:
                continue
            try:
                drained = link.flush()
            except PeerLost as error:
                self.peer_lost(host, str(error))
                continue
            self.events.rewatch(link.fileno(), EPOLLIN if drained else EPOLLIN | EPOLLOUT)

    def _beat(self) -> None:
        now = time.monotonic()
        for host, link in list(self.links.items()):
            link.beat(now)
            self._flush_wanted.add(host)
            if link.silent_s(now) > self.silence_s_max and not self.paused:
                why = f"host {host} is lost: nothing heard for {self.silence_s_max:g} s"
                self.peer_lost(host, why)
        self.events.at(now + BEAT_S, self._beat)

    def drop_link(self, host: HostId) -> None:
        link = self.links.pop(host, None)
        if link is not None:
            self.events.unwatch(link.fileno())
            link.close()

    def peer_lost(self, host: HostId, why: str) -> None:
        raise NotImplementedError

    def on_control(self, host: HostId, message: messages.AnyControl) -> None:
        raise NotImplementedError

    def adopt_agent(self, agent: Agent) -> None:
        self.agent = agent
        agent.others = self._late

    # Coherence --------------------------------------------------------------------

    def step(self, event: Event) -> None:
        """Step the node and carry its effects out, in order."""
        self._asked = True
        pending: deque[Event] = deque((event,))
        while pending:
            for effect in self.node.step(pending.popleft()):
                kind = type(effect)
                if kind is Send:
                    link = self.links.get(effect.host)
                    if link is not None:
                        link.send(COHERENCE, wire.encode(effect.message))
                        self._flush_wanted.add(effect.host)
                        if link.bytes_queued > AT_ONCE_BYTES:
                            link.flush()
                elif kind is Protect:
                    self.pager.protect(effect.runs)
                    pending.append(Protected(effect.token))
                elif kind is Resume:
                    self._ready.append((effect.requester, False))
                elif kind is Retry:
                    self._ready.append((effect.requester, True))
                elif kind is Arm:
                    self._arm(effect.armed)
                elif kind is StandStill:
                    self.stand_still()
                    pending.append(StoodStill())
                elif kind is GoOn:
                    self.end_standstill()
                elif kind is ModeChanged:
                    mode = "multiple-writer" if effect.multiple else "single-writer"
                    self.verbose(
                        f"{effect.count} pages at {effect.first << PAGE_SHIFT:#x} are {mode}: "
                        f"{effect.why}"
                    )
                else:
                    assert kind is WakeAt
                    self._wake_at(effect.now_us / 1e6)
        self.trap_caught()

    def _wake_at(self, deadline: float) -> None:
        if self._next_tick <= time.monotonic() or deadline < self._next_tick:
            self._next_tick = deadline
            self.events.at(deadline, self._tick)

    def _tick(self) -> None:
        self._next_tick = 0.0
        self.step(Tick(int(time.monotonic() * 1e6)))

    def _arm(self, armed: bool) -> None:
        """Set the armed byte, and see to threads that have just read it as clear.

        A thread between its check and its instruction would run the instruction
        as if no page had several writers. Only a thread that computes can be
        there; it is stopped, and if it is there, taken to the instruction's
        start and treated as trapped once the other effects of the step are in
        force.
        """
        self.control.set_armed(armed)
        if not armed:
            return
        for thread in list(self.threads.values()):
            # A task that steps or runs a call for us is not at a check either; and one that
            # waits for a page at a checked instruction is looked at when it has the page.
            busy = thread.stopped or thread.stepping or thread.still or thread.paging
            if not busy and thread.operation is None:
                self._out_of_check(thread)

    def next_stop(self, task: int) -> Stop:
        """The next stop of a task that is certain and near; others' are kept for later.

        It may have been taken already, in a wait for another task.
        """
        for at, stop in enumerate(self._late):
            if stop.pid == task:
                del self._late[at]
                return stop
        return wait_among(task, self._late)

    def _out_of_check(self, thread: Thread) -> None:
        if any(stop.pid == thread.task for stop in self._late):
            return  # it has stopped, for reasons of its own
        try:
            ptrace.interrupt(thread.task)
            stop = self.next_stop(thread.task)
            if stop.kind is not StopKind.GROUP_STOP:
                self._late.append(stop)  # the interrupt's own stop follows, and is let go
                return
            thread.stopped = True
            ptrace.get_registers(thread.task, thread.registers)
            if not self.catch(thread):
                self.resume(thread)
        except ptrace.TraceeGone:
            pass

    def stand_still(self) -> None:
        """No thread executes the program's code until `end_standstill` (see Thread.still)."""
        self.still = True
        for thread in list(self.threads.values()):
            thread.still = True
            # One in a call of its own kernel task does not execute; what it does with
            # the result comes after its stop. One that exits need not be waited for.
            if thread.stopped or thread.native is not None or thread.exited:
                continue
            if any(stop.pid == thread.task for stop in self._late):
                continue
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.interrupt(thread.task)
                self._late.append(self.next_stop(thread.task))  # it goes on later as from any

    def end_standstill(self) -> None:
        self.still = False
        for thread in list(self.threads.values()):
            with contextlib.suppress(ptrace.TraceeGone):
                thread.go_on()

    def catch(self, thread: Thread) -> bool:
        """Take a stopped thread that has read the armed byte to what it is a check for.

        True if it stood in a check: `trap_caught` goes on with it (or a stop of its own).
        """
        if self.find_trap(thread.registers.rip) is not None:
            return False  # it traps, or has: its SIGILL comes after this stop
        native = self.past_check(thread.registers.rip)
        if native is None:
            return False
        for _ in range(CHECK_STEPS_MAX):
            found = self.find_trap(thread.registers.rip)
            if thread.registers.rip == native or found is not None:
                break
            thread.single_step()
            stop = self.next_stop(thread.task)
            if stop != (thread.task, StopKind.SIGNAL, signal.SIGTRAP):
                self._late.append(stop)
                return True
            thread.stopped = True
            ptrace.get_registers(thread.task, thread.registers)
        thread.registers.rip = native
        ptrace.set_registers(thread.task, thread.registers)
        self._caught.append(thread)
        return True

    def trap_caught(self) -> None:
        while self._caught:
            thread = self._caught.popleft()
            self._made_progress(thread)
            self._trap(thread)

    def start_pager(self, pidfd: int, call: Callable[..., int]) -> None:
        """The chosen pager for a fresh guest process; `call` runs a system call there."""
        if self.hosts == 1 or not uses_userfaultfd(self.pager_choice):
            return
        try:
            faults = create_in(pidfd, call)
        except OSError as error:
            raise DsmsupError(f"cannot use userfaultfd: {error.strerror}") from None
        self.verbose(f"host {self.host}: page faults come by userfaultfd")
        self.pager = pager = UserfaultPager(self, faults)
        self.events.watch(faults.descriptor, EPOLLIN, lambda _: waits.arrived(self, pager))

    def drop_pager(self) -> None:
        """The guest process is gone."""
        if isinstance(self.pager, UserfaultPager):
            self.events.unwatch(self.pager.faults.descriptor)
            self.pager.close()
            self.pager = SignalPager(self)

    def run_ready(self) -> None:
        """Go on with every requester whose pages are there."""
        while self._ready:
            requester, retry = self._ready.popleft()
            owner = self._requesters.get(requester)
            if isinstance(owner, Thread):
                self._go_on_after_fault(owner, retry)
            elif owner is not None:
                self._acquired(owner, retry)
            else:
                holder = self._holders.get(requester)
                if holder is None:
                    self.step(Released(requester))  # its operation was given up
                elif retry:
                    self._holders.pop(requester)
                    holder.hold_requester = 0
                    self.advance(holder, None)
                else:
                    self.advance(holder, None)

    def _release_held(self) -> None:
        """Let granted pages go, those granted long enough ago, because somebody may ask."""
        now = time.monotonic()
        next_due = None
        for requester, until in list(self.held.items()):
            if now >= until:
                del self.held[requester]
                self.step(Released(requester))
            elif next_due is None or until < next_due:
                next_due = until
        if next_due is not None and next_due != FOREVER and not self._hold_timer:
            self._hold_timer = True
            self.events.at(next_due, self._on_hold_timer)

    def _on_hold_timer(self) -> None:
        self._hold_timer = False
        if self.held:
            self._release_held()

    # Threads ------------------------------------------------------------------------

    def add_thread(self, tid: int, task: int, arch: Arch) -> Thread:
        thread = Thread(tid, task, next(self._requester_ids), self.actions, arch)
        thread.still = self.still
        self.threads[task] = thread
        self._requesters[thread.requester] = thread
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
        self.forget_fault(thread)
        thread.paging = False
        if thread.call_file >= 0:
            os.close(thread.call_file)
            thread.call_file = -1
        self._requesters.pop(thread.requester, None)
        operation = thread.operation
        if operation is not None:
            self.abandon(operation)

    def forget_fault(self, thread: Thread) -> None:
        self.held.pop(thread.requester, None)
        self.step(Cancelled(thread.requester))

    def tell_clock(self) -> None:
        """Let the guest's clocks go by what is known of them now."""
        self.control.set_clock(
            self.host, self.native_clock, self.wall_offset_ns, self.clock_offset_ns
        )

    def move_on(self, thread: Thread) -> None:
        """Resume a thread after a fault, a trap or a step, unless it is to go elsewhere."""
        self.resume(thread)

    def resume(self, thread: Thread, signal_number: int = 0) -> None:
        with contextlib.suppress(ptrace.TraceeGone):
            thread.cont(signal_number)

    # Stops --------------------------------------------------------------------------

    def _on_children(self) -> None:
        # Handled one by one in `settle`: none may be lost where handling one raises.
        self._late += drain()

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
            elif kind is StopKind.SECCOMP:
                self._made_progress(thread)
                self.on_call(thread)
            elif kind is StopKind.SIGNAL:
                self._on_signal_stop(thread, stop.detail)
            elif kind is StopKind.SYSCALL:
                self.on_call_exit(thread)
            elif kind is StopKind.EVENT:
                self.on_event(thread, stop.detail)
            elif kind is StopKind.GROUP_STOP:
                self.on_group_stop(thread, stop.detail)
            else:
                self.on_thread_exit(thread, stop)
        except ptrace.TraceeGone:
            pass  # its exit is on the way

    def on_unknown_stop(self, stop: Stop) -> None:
        raise NotImplementedError

    def on_call(self, thread: Thread) -> None:
        raise NotImplementedError

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

    def past_check(self, address: int) -> int | None:
        """See TrapMap.past_check."""
        raise NotImplementedError

    def find_trap(self, address: int) -> Lead | None:
        """Where a trap or redirect at this address goes on."""
        raise NotImplementedError

    def _made_progress(self, thread: Thread) -> None:
        if self.held.pop(thread.requester, None) is not None:
            self.step(Released(thread.requester))

    def on_native_signal(self, thread: Thread, number: int) -> None:
        """A signal stop of a task that runs a native call at the gadget."""
        raise NotImplementedError

    def _on_signal_stop(self, thread: Thread, number: int) -> None:
        if thread.native is not None:
            self.on_native_signal(thread, number)
            return
        if number == signal.SIGSEGV:
            _, code, address = ptrace.get_siginfo(thread.task)
            registers = ptrace.get_registers(thread.task, thread.registers)
            # SEGV_MAPERR and SEGV_ACCERR; others (a kill, a non-canonical address) are not ours.
            if code in (1, 2) and self.page_fault(thread, address):
                return
            if self._redirected(thread):
                return
        elif number == signal.SIGTRAP:
            _, code, _ = ptrace.get_siginfo(thread.task)
            if thread.stepping and code > 0:
                thread.stepping = False
                if thread.frame_mask:
                    self.entered_handler(thread)
                if thread.requester in self.held:  # progress is made; now it is as any other
                    self.held[thread.requester] = time.monotonic() + HOLD_S[thread.wanted]
                    self._release_held()
                if thread.pending_signals:
                    ptrace.get_registers(thread.task, thread.registers)
                    self.deliver_pending(thread)
                else:
                    self.move_on(thread)
                return
            registers = ptrace.get_registers(thread.task, thread.registers)
            # int3 leaves rip behind itself.
            registers.rip -= 1
            if code == 0x80 and self._redirected(thread):
                return
            registers.rip += 1
        elif number == signal.SIGILL:
            ptrace.get_registers(thread.task, thread.registers)
            if self._redirected(thread):
                return
        self._made_progress(thread)
        self.on_own_signal(thread, number)

    def _redirected(self, thread: Thread) -> bool:
        """A trap site or an overwritten instruction boundary: go on where the map says."""
        found = self.find_trap(thread.registers.rip)
        if found is None:
            return False
        questions.follow(found, thread.registers, self.shown)
        if found.is_trap:
            self.counters["traps"] += 1
        ptrace.set_registers(thread.task, thread.registers)
        self._made_progress(thread)
        if found.behind and self.node.armed:
            thread.waiting = True
            self.step(Serialize(thread.requester))
        elif found.is_trap and self.node.armed:
            self._trap(thread)
        else:
            self.move_on(thread)
        return True

    def _trap(self, thread: Thread) -> None:
        """A synchronization instruction, about to run natively, must drain the store buffer."""
        thread.waiting = True
        touched = self.decoder.touches(self.code_at(thread), thread.registers)
        if touched:
            thread.step_next = True  # it runs before its pages may change their mode
            self.step(
                BusLock(
                    thread.requester,
                    self._runs([(t.address, max(t.length, 1), Access.WRITE) for t in touched]),
                )
            )
        else:
            self.step(Serialize(thread.requester))

    # Page faults --------------------------------------------------------------------

    def code_at(self, thread: Thread) -> bytes:
        """The instruction at rip, as far as it is on this host; empty if decoded already."""
        ip = thread.registers.rip
        if self.decoder.cached(ip):
            return b""
        length = INSTRUCTION_LENGTH_MAX
        if is_ours(ip):
            return self.agent.code(ip, length)
        here = PAGE_SIZE - (ip & PAGE_MASK)
        if here < length and not self.node.allows((ip >> PAGE_SHIFT) + 1, 1, Access.READ):
            length = here
        return self.memory.read_bytes(ip, length)

    def page_fault(self, thread: Thread, address: int) -> bool:
        """Ask for what the faulting instruction needs; False when the fault is the program's."""
        area = self.space.find(address)
        if area is None and self.grow(address):
            self.resume(thread)
            return True
        if area is None or not area.protection or area.kind is Kind.RESERVED:
            return False
        registers = thread.registers
        ranges = self._wanted(thread, address, area)
        if not ranges:
            return False
        if self.has_joint and any(self.is_joint(start, length) for start, length, _ in ranges):
            self.touches_joint(thread)
            return True
        key = (registers.rip, address, registers.rsp, registers.rcx, registers.rax)
        if self.held.pop(thread.requester, None) is not None:
            self.step(Released(thread.requester))
        runs = self._runs(ranges)
        locked = self.several_writers and self.decoder.is_locked(registers.rip)
        if self.node.satisfied(runs, locked):
            # Cured meanwhile by another thread's fault, or the access is more than decoded.
            thread.cured = thread.cured + 1 if key == thread.fault_key else 1
            thread.fault_key = key
            if thread.cured == 2:
                self.pager.protect(self.node.access_runs(PageNumber(address >> PAGE_SHIFT), 1))
            if thread.cured < 3:
                self.resume(thread)
                return True
            if thread.cured > 100 or not area.protection & WRITE:
                raise DsmsupError(
                    f"host {self.host}: page fault at {address:#x} (rip {registers.rip:#x}) "
                    "comes back although the page is there"
                )
            runs = self._runs([*ranges, (address, 1, Access.WRITE)])
        else:
            thread.cured = 0
            # Perhaps the page was taken, its hold over, before the thread got to use it.
            thread.step_next = thread.step_next or key == thread.fault_key
        thread.fault_key = key
        if len(runs) == 1 and runs[0].count == 1:
            page, _, access = runs[0]
            runs = (Run(page, 1, self.wish(page, access, area)),)
        thread.waiting = True
        thread.account.asks()
        thread.wanted = max(run.access for run in runs)
        if locked:
            thread.step_next = True
            self.step(BusLock(thread.requester, runs))
        else:
            self.step(Fault(thread.requester, runs, *self.room(runs)))
        return True

    def wish(self, page: PageNumber, access: Access, area: Area) -> Access:
        """With which access to ask for a page of an area that `access` is needed of."""
        if not self.links or not area.protection & WRITE:
            return access
        return self.migratory.asks(page, access, time.monotonic())

    def room(self, runs: tuple[Run, ...]) -> tuple[int, int]:
        """How many pages behind the last of these are of the same area as it, and before
        the first of these as that, within bounds."""
        start, end = runs[0].first << PAGE_SHIFT, runs[-1].first + runs[-1].count << PAGE_SHIFT
        high = self.space.find(end - 1)
        low = high if high is not None and high.start <= start else self.space.find(start)
        return (
            0 if high is None else min(high.end - end >> PAGE_SHIFT, 2 * WINDOW_PAGES_MAX),
            0 if low is None else min(start - low.start >> PAGE_SHIFT, WINDOW_PAGES_MAX),
        )

    def is_joint(self, address: int, length: int) -> bool:
        """Is any of these bytes memory that only home has?"""
        return any(
            area.kind is Kind.JOINT for area in self.space.overlapping(address, address + length)
        )

    def grow(self, address: int) -> bool:
        """Extend an area that grows downwards to an address; False where there is none."""
        return False

    def touches_joint(self, thread: Thread) -> None:
        """A thread elsewhere than home has touched memory that only home has."""
        raise NotImplementedError

    def _wanted(
        self, thread: Thread, address: int, area: Area
    ) -> list[tuple[int, int, Access]]:
        """What the instruction that faulted at an address of this area wants.

        Empty where the program itself (its logical protection) is at fault.
        """
        ip = thread.registers.rip
        fetch = [(address, 1, Access.READ)] if area.protection & EXEC else []
        if not (is_ours(ip) or self.node.allows(ip >> PAGE_SHIFT, 1, Access.READ)):
            return fetch  # its bytes are not here yet: decoding them would tell lies
        touched = self.decoder.touches(self.code_at(thread), thread.registers)
        if 0 <= address - ip < INSTRUCTION_LENGTH_MAX and not any(
            touch.address <= address < touch.address + max(touch.length, 1) for touch in touched
        ):
            return fetch
        ranges: list[tuple[int, int, Access]] = []
        for start, length, access in needs_of_fault(touched, address):
            right = WRITE if access is Access.WRITE else 0
            if start <= address < start + length:
                if area.protection & right != right:
                    return []
            elif not self.space.covers(start, start + length, right):
                continue  # this operand will fault on its own account
            ranges.append((start, length, access))
        return ranges

    def _runs(self, ranges: Iterable[tuple[int, int, Access]]) -> tuple[Run, ...]:
        """Pages of byte ranges, ascending, disjoint, each with the greatest access wanted."""
        spans = [
            (address >> PAGE_SHIFT, (address + length - 1 >> PAGE_SHIFT) + 1, access)
            for address, length, access in ranges
            if length > 0
        ]
        if len(spans) == 1:
            low, high, access = spans[0]
            return (Run(PageNumber(low), high - low, access),)
        bounds = sorted({bound for low, high, _ in spans for bound in (low, high)})
        runs: list[Run] = []
        for low, high in itertools.pairwise(bounds):
            wanted = [access for start, end, access in spans if start <= low and high <= end]
            if not wanted:
                continue
            access = max(wanted)
            if runs and runs[-1].access == access and runs[-1].first + runs[-1].count == low:
                runs[-1] = Run(runs[-1].first, runs[-1].count + high - low, access)
            else:
                runs.append(Run(PageNumber(low), high - low, access))
        return tuple(runs)

    def _go_on_after_fault(self, thread: Thread, retry: bool) -> None:
        if thread.paging:
            thread.paging = False
            assert isinstance(self.pager, UserfaultPager)
            if not retry:
                self.held[thread.requester] = time.monotonic() + HOLD_S[thread.wanted]
            if not self.thrashes(thread):
                self.pager.fill(thread.fault_address & ~PAGE_MASK)
            return
        if not thread.waiting and not thread.delivering:
            self.step(Released(thread.requester))  # it was interrupted, and waits no more
            return
        thread.waiting = False
        if thread.delivering:
            self.deliver(thread)
            return
        if self.thrashes(thread):
            return
        if not retry:
            self.held[thread.requester] = time.monotonic() + HOLD_S[thread.wanted]
            if thread.step_next:
                thread.step_next = False
                self.step_pinned(thread)
                return
        self.move_on(thread)

    def thrashes(self, thread: Thread) -> bool:
        """Does a thread do little but wait for pages? True when it has been moved."""
        return False

    def step_pinned(self, thread: Thread, signal_number: int = 0) -> None:
        """Run one instruction (or enter a handler) before its pages may be taken."""
        thread.stepping = True
        self.held[thread.requester] = FOREVER
        with contextlib.suppress(ptrace.TraceeGone):
            thread.single_step(signal_number)

    def deliver_pending(self, thread: Thread) -> None:
        """Begin to deliver the first of a thread's pending signals."""
        raise NotImplementedError

    def entered_handler(self, thread: Thread) -> None:
        """A thread stands at the first instruction of a handler."""
        raise NotImplementedError

    def deliver(self, thread: Thread) -> None:
        """The stack pages for its frame are there."""
        raise NotImplementedError

    # Operations ---------------------------------------------------------------------

    @staticmethod
    def _flush_first(steps: Steps | None = None) -> Steps:
        """An operation that others can observe: stores made before it come first."""
        yield Flush()
        return None if steps is None else (yield from steps)

    def begin(
        self, name: str, thread: Thread | None, steps: Steps, done: Callable[[Any], None]
    ) -> None:
        operation = Operation(name, next(self._requester_ids), thread, steps, done)
        if thread is not None:
            thread.operation = operation
        self.advance(operation, None)

    def abandon(self, operation: Operation) -> None:
        """The thread is gone: give up what the operation holds and waits for."""
        operation.steps.close()
        if self._requesters.pop(operation.requester, None) is not None:
            self.step(Cancelled(operation.requester))
        self._unhold(operation)
        if operation.thread is not None:
            operation.thread.operation = None

    def _unhold(self, operation: Operation) -> None:
        if operation.hold_requester:
            self._holders.pop(operation.hold_requester, None)
            self.step(Cancelled(operation.hold_requester))
            operation.hold_requester = 0

    def advance(self, operation: Operation, value: Any) -> None:
        """Run an operation until it has to wait, or is done."""
        while True:
            outer, self.advancing = self.advancing, operation
            try:
                want = operation.steps.send(value)
            except StopIteration as end:
                self._settle(operation)
                self._unhold(operation)
                if operation.thread is not None and operation.thread.operation is operation:
                    operation.thread.operation = None
                operation.done(end.value)
                return
            finally:
                self.advancing = outer
            self._settle(operation)
            kind = type(want)
            if kind is Acquire or (kind is AcquireLocked and not self.several_writers):
                runs = self.mapped_runs(want.ranges)
                if self.node.satisfied(runs):
                    value = None
                    continue
                operation.wanted = want
                self._requesters[operation.requester] = operation
                self.step(Fault(operation.requester, runs))
                return
            if kind is Flush:
                if not self.node.armed:
                    value = None
                    continue
                self._requesters[operation.requester] = operation
                self.step(Serialize(operation.requester))
                return
            if kind is AcquireLocked and self.several_writers:
                operation.wanted = want
                self._requesters[operation.requester] = operation
                self.step(BusLock(operation.requester, self.mapped_runs(want.ranges)))
                return
            if kind is Hold:
                self._unhold(operation)
                operation.hold_requester = next(self._requester_ids)
                self._holders[operation.hold_requester] = operation
                self.step(Fault(operation.hold_requester, self.mapped_runs(want.ranges)))
                return
            if kind is Unhold:
                self._unhold(operation)
                value = None
                continue
            self.wait_for(operation, want)
            return

    def _settle(self, operation: Operation) -> None:
        """Drop the pins of the step that has just run."""
        if self._requesters.pop(operation.requester, None) is not None:
            self.step(Released(operation.requester))

    def mapped_runs(self, ranges: Iterable[tuple[int, int, Access]]) -> tuple[Run, ...]:
        """Pages of ranges; those that are not mapped any more are left out."""
        mapped = []
        for address, length, access in ranges:
            for area in self.space.pieces(address & ~PAGE_MASK, address + length + PAGE_MASK
                                          & ~PAGE_MASK):
                mapped.append((area.start, area.end - area.start, access))
        return self._runs(mapped)

    def _acquired(self, operation: Operation, retry: bool) -> None:
        if retry:
            runs = self.mapped_runs(operation.wanted.ranges)
            if not self.node.satisfied(runs):
                self.step(Fault(operation.requester, runs))
                return
        self.advance(operation, None)

    def wait_for(self, operation: Operation, want: Any) -> None:
        """An operation wants something only this kind of host has."""
        raise NotImplementedError

    # Guest memory as operations see it (the marshaller's `guest`) ------------------------

    def read(self, address: int, length: int) -> bytes:
        return self.memory.read_bytes(address, length)

    def write(self, address: int, data: bytes) -> None:
        self.memory.write_bytes(address, data)
        if self.advancing is not None:
            self.advancing.wrote = True

    def check(self, address: int, length: int, access: Access) -> bool:
        """Is this mapped for the program with that right? (For EFAULT.)"""
        if length <= 0:
            return True
        right = WRITE if access is Access.WRITE else READ
        area = self.space.find(address)
        if area is not None and address + length <= area.end:
            return area.protection & right == right and area.kind is not Kind.RESERVED
        return self.space.covers(address, address + length, right)

    # The loop -----------------------------------------------------------------------

    def settle(self) -> None:
        """After each batch of events: go on with whoever can, and send what is due."""
        self._hear_the_unheard()
        self.run_ready()
        while self._late:
            self.on_stop(self._late.popleft())
            self.run_ready()
        if self._asked:
            # Only now, with those held that this very batch has granted: what it
            # recalls may be one of them.
            self._asked = False
            self._release_held()
            self.run_ready()
        self.flush_links()

    def _computing(self) -> bool:
        """Has a thread of this host the processor to use (or may, for all we know)?"""
        return any(
            not thread.stopped and thread.native is None and not thread.paging
            for thread in self.threads.values()
        )

    async def run(self) -> None:
        while not self.finished:
            try:
                self.settle()
                if self.finished:
                    break
                spin = self.may_spin and not self.native_begun and not self._computing()
                self.native_begun = False
                await self.events.wait(spin)
            except GuestDied as error:
                self.guest_died(error)
            except DsmsupError as error:
                self.fail(error)

    def guest_died(self, error: GuestDied) -> None:
        """A guest process vanished in the middle of an injection; its exit status follows."""
        raise NotImplementedError

    def fail(self, error: DsmsupError) -> None:
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """The row of this host in --stats."""
        return {
            **self.counters,
            **self.node.counters,
            "bytes_sent": sum(link.bytes_sent for link in self.links.values()),
            "bytes_received": sum(link.bytes_received for link in self.links.values()),
        }

    def warn(self, text: str) -> None:
        print(f"dsmsup: {text}", file=sys.stderr, flush=True)
