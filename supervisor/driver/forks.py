# SPDX-License-Identifier: GPL-2.0-or-later
"""New processes: fork, vfork and execve.

A forked child gets a copy of the whole memory and runs at home beside the
supervisor (bystanders.py). Its mappings would be the parent's guest memory
itself, which is MAP_SHARED: before it runs its first instruction they are
replaced by anonymous ones, and filled.

A vfork child (posix_spawn) borrows its parent's memory until it executes or
exits: it is one more task of home's guest process, with page faults and
marshalled calls like any thread's.

An execve of the program itself ends all its threads on all hosts; the new
image is taken over as the first one was.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
from typing import TYPE_CHECKING, Final

from supervisor.arch import Arch
from supervisor.arch.base import NO_CALL
from supervisor.areas import READ, WRITE, AddressSpace, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver import signals
from supervisor.driver.operations import Hold, Native, Steps, Unhold, Wait
from supervisor.errors import GuestDied
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import threads
from supervisor.syscalls.handlers.new_tasks import (
    CLONE_CHILD_SETTID,
    CLONE_CLEAR_SIGHAND,
    CLONE_PARENT_SETTID,
    CLONE_SETTLS,
    CLONE_VM,
    Request,
)
from supervisor.tracee import control, inject, ptrace
from supervisor.tracee.bootstrap import Caller
from supervisor.tracee.memory import data_extents
from supervisor.tracee.xstate import restore_xstate
from supervisor.units import PAGE_SHIFT, PageNumber, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.scratch import Lease
    from supervisor.driver.thread import Thread

MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_WIPEONFORK: Final = 18
COPY_PIECE: Final = 1 << 20
_FILLED: Final = READ | WRITE
"""What areas are to allow while they are filled."""
FETCHES: Final = 2
"""How often home asks for all that it lacks before it keeps what it gets."""
HELD_MAX: Final = 32
"""Pieces that are kept at most; a request is for no more than 64 MiB."""


class Forks:
    """The beginnings of the program's child processes."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.left_out = AddressSpace()
        """What madvise(2) keeps from children."""
        self.wiped = AddressSpace()
        """What they get as zeros."""
        self._contexts: dict[int, tuple[bytes, bytes, list[bytes], signals.Actions]] = {}
        """Registers, XSAVE state, descriptors of TLS and signals' actions that a vfork child
        begins with, by its parent's task."""

    def advise(self, pieces: list[Area], advice: int) -> None:
        """madvise(2) about what a forked child gets of a range."""
        for piece in pieces:
            if advice in (MADV_DONTFORK, MADV_WIPEONFORK):
                chosen = self.left_out if advice == MADV_DONTFORK else self.wiped
                chosen.add(piece)
            else:
                chosen = self.left_out if advice == MADV_DOFORK else self.wiped
                chosen.remove(piece.start, piece.end)

    def fork(self, thread: Thread, request: Request, call: SpecialCall | None) -> Steps:
        """clone(2) and clone3(2) without CLONE_THREAD."""
        flags, stack, parent_tid, child_tid, tls = request[:5]
        home, arch = self.home, thread.arch
        record = yield from threads.tls_record(home, arch, flags, tls)
        if record is None:
            return -errno.EFAULT
        context = ptrace.Registers.from_buffer_copy(home.calls.context_of(thread, call))
        context.rax = 0
        context.orig_rax = NO_CALL
        if stack:
            context.rsp = stack
        areas = [record] if record else []
        if flags & CLONE_SETTLS:
            arch.set_tls(context, tls, record)
        xstate = call.xstate if call is not None else b""
        ours = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_SETTLS
        actions = thread.actions.copy()
        if flags & CLONE_CLEAR_SIGHAND:
            actions.executed()
        lease = home.scratch.lease()
        try:
            native = request.native(arch, lease, flags & ~ours, child_tid, 0)
            if flags & CLONE_VM:
                self._contexts[thread.task] = (bytes(context), xstate, areas, actions)
                child = yield native  # `born` tells of the child, long before this returns
                self._contexts.pop(thread.task, None)
            else:
                told_at = child_tid if flags & CLONE_CHILD_SETTID else 0
                steps = self._fork_with_copy(
                    thread, native, told_at, context, xstate, areas, actions
                )
                child = yield from home.layout.turns.in_turn(steps)
            if child > 0:
                yield from request.told(home, lease, native)
        finally:
            lease.release()
        if child > 0 and flags & CLONE_PARENT_SETTID and home.check(parent_tid, 4, Access.WRITE):
            yield Acquire(((parent_tid, 4, Access.WRITE),))
            home.write(parent_tid, child.to_bytes(4, "little"))
        return child

    def _fork_with_copy(
        self, thread: Thread, native: Native, told_at: int, context: ptrace.Registers,
        xstate: bytes, areas: list[bytes], actions: signals.Actions,
    ) -> Steps:  # fmt: skip
        """A child with memory of its own. No other fork and no change of the layout may come
        between: what is copied and shared must still be what the child begins with."""
        home = self.home
        yield from home.joint.before_fork()
        child = yield native
        if child <= 0:
            return child
        try:
            if child not in home.newborn:
                yield Wait(("born", child))
            home.newborn.discard(child)
            yield from self._fetch()
        except GeneratorExit:  # the parent is killed, and has not got as far as to have a child
            home.bystanders.add(child, thread.affinity)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            raise
        self._begin(thread, child, told_at, context, xstate, areas, actions)
        yield Unhold()
        return child

    def _fetch(self) -> Steps:
        """Until home can read all of guest memory, at this moment.

        Threads go on meanwhile, and a copy of pages of different moments would
        be one that the program never had: a list half changed, say. So home
        first gets every page, and then, with its own threads standing still and
        no message handled, copies them.
        """
        held: list[tuple[int, int, Access]] = []
        for attempt in itertools.count():
            missing = self._missing()
            if not missing:
                return
            if attempt < FETCHES:
                for each in missing:
                    yield Acquire((each,))
            else:  # others want them as well: what is got is kept
                held = [*held, *missing][-HELD_MAX:]
                yield Hold(tuple(held))

    def _missing(self) -> list[tuple[int, int, Access]]:
        """What home cannot read of guest memory, in pieces to ask for."""
        home = self.home
        step = COPY_PIECE >> PAGE_SHIFT
        return [
            (at << PAGE_SHIFT, min(step, run.first + run.count - at) << PAGE_SHIFT, Access.READ)
            for area in home.space
            if area.kind is Kind.GUEST
            for run in home.node.access_runs(
                PageNumber(area.start >> PAGE_SHIFT), (area.end - area.start) >> PAGE_SHIFT
            )
            if run.access is Access.NONE
            for at in range(run.first, run.first + run.count, step)
        ]

    def _begin(
        self, parent: Thread, child: int, told_at: int, context: ptrace.Registers,
        xstate: bytes, areas: list[bytes], actions: signals.Actions,
    ) -> None:  # fmt: skip
        """Give a forked child its own memory and let it run."""
        home = self.home
        lease = home.scratch.lease()
        try:
            caller = Caller(child, control.GADGET)
            fixed = inject.MAP_PRIVATE | inject.MAP_FIXED | inject.MAP_NORESERVE
            own = [area for area in home.space if area.kind is Kind.GUEST]
            heap_start, heap_end = self._make_heap(caller)
            for area in own:
                if heap_start <= area.start and area.end <= heap_end:
                    continue
                caller.must(
                    inject.SYS_MMAP, area.start, area.end - area.start, area.protection | _FILLED,
                    fixed | inject.MAP_ANONYMOUS, NO_CALL, 0,
                )  # fmt: skip
            self._copy_to(child, own, told_at)
            for area in own:
                if area.protection & _FILLED != _FILLED:
                    caller.must(
                        inject.SYS_MPROTECT, area.start, area.end - area.start, area.protection
                    )
            for area in self.wiped:
                caller.must(
                    inject.SYS_MMAP, area.start, area.end - area.start, area.protection,
                    fixed | inject.MAP_ANONYMOUS, NO_CALL, 0,
                )  # fmt: skip
            for area in self.left_out:
                caller.must(inject.SYS_MUNMAP, area.start, area.end - area.start)
            caller.must(  # its own armed byte: 0 for good
                inject.SYS_MMAP, control.ARMED, 0x1000, inject.PROT_READ,
                inject.MAP_PRIVATE | inject.MAP_FIXED | inject.MAP_ANONYMOUS, NO_CALL, 0,
            )  # fmt: skip
            ptrace.set_thread_areas(child, areas)
            self._restore_signals(parent.arch, actions, caller, lease)
            scratch = home.scratch.arch
            caller.must(inject.SYS_MUNMAP, scratch.scratch, scratch.scratch_size)
            home.limits_of(parent).hand_over(child)
            ptrace.set_signal_mask(child, ptrace.get_signal_mask(child) | parent.virtual_mask)
            ptrace.set_registers(child, context)
            if xstate:
                restore_xstate(child, xstate, home.shown.states)
            home.bystanders.add(child, parent.affinity, home.code.traps.copy())
            ptrace.cont(child)
        except (ptrace.TraceeGone, GuestDied):  # somebody has killed it
            home.bystanders.add(child, parent.affinity)
        finally:
            lease.release()

    def _make_heap(self, caller: Caller) -> tuple[int, int]:
        """Have the kernel, which has seen no brk(2) of the program's, make a child's heap, and
        know where it ends; what of it there is."""
        layout = self.home.layout
        start, end = round_up(layout.break_start), round_up(layout.break_end)
        if start >= end:
            return start, start
        caller.must(inject.SYS_MUNMAP, start, end - start)
        made = caller.call(inject.SYS_BRK, layout.break_end) == layout.break_end
        return start, end if made else start

    def _copy_to(self, child: int, areas: list[Area], told_at: int) -> None:
        """Fill a child's memory with what is in these areas now; where asked, its id with it."""
        home = self.home
        still = home.standstill.on
        if not still:
            home.standstill.begin()
        try:
            with open(f"/proc/{child}/mem", "wb", buffering=0) as memory:
                for area in areas:
                    extents = data_extents(home.memory.descriptor, area.start, area.end)
                    for at, size in ((at, min(COPY_PIECE, end - at))
                                     for start, end in extents
                                     for at in range(start, end, COPY_PIECE)):  # fmt: skip
                        _write(memory.fileno(), at, home.memory.read_bytes(at, size))
                if told_at and home.check(told_at, 4, Access.WRITE):
                    _write(memory.fileno(), told_at, child.to_bytes(4, "little"))
        except OSError:
            ptrace.get_registers(child)  # raises TraceeGone where it has been killed
            raise
        finally:
            if not still:
                home.standstill.end()

    @staticmethod
    def _restore_signals(
        arch: Arch, actions: signals.Actions, caller: Caller, lease: Lease
    ) -> None:
        """The kernel alone serves the child: it gets the program's wishes about forced signals."""
        at = lease.allocate(signals.ACTION.size)
        for number, action in actions.about_forced():
            lease.write(at, signals.with_restorer(action, arch))
            caller.call_as(arch, "rt_sigaction", number, at, 0, signals.SIGSET_SIZE)

    def born(self, parent: Thread, child: int) -> None:
        """A task has been made; see to it here if it shares memory but is no thread."""
        if parent.task in self._contexts:
            steps = self._begin_vforked(parent, child)
            self.home.operations.begin("vfork", None, steps, lambda _: None)

    def _begin_vforked(self, parent: Thread, child: int) -> Steps:
        home = self.home
        registers, xstate, areas, thread_actions = self._contexts[parent.task]
        if child not in home.newborn:
            yield Wait(("born", child))
        home.newborn.discard(child)
        thread = home.add_thread(child, child, parent.arch)
        thread.borrowed = True
        thread.affinity = parent.affinity
        thread.actions = thread_actions
        thread.limits = home.limits_of(parent).copy()
        home.set_context(thread, registers)
        try:
            ptrace.set_thread_areas(child, areas)
            ptrace.set_registers(child, thread.registers)
            if xstate:
                restore_xstate(child, xstate, home.shown.states)
            thread.cont()
        except ptrace.TraceeGone:
            pass

    def executed(self, thread: Thread) -> None:
        """PTRACE_EVENT_EXEC of a task that is a thread here."""
        home = self.home
        if thread.borrowed:
            home.remove_thread(thread)
            home.limits_of(thread).hand_over(thread.task)
            home.bystanders.add(thread.task, thread.affinity)
            home.bystanders.executed(thread.task)
            thread.cont()
            return
        home.restart(thread)


def _write(memory: int, address: int, data: bytes) -> None:
    """To a process's memory, all of it; OSError where there is none, or no more."""
    at = 0
    while at < len(data):
        at += os.pwrite(memory, data[at:] if at else data, address + at)
