# SPDX-License-Identifier: GPL-2.0-or-later
"""Page faults: what the faulting instruction needs is asked for, then its thread goes on."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

from supervisor.areas import EXEC, WRITE, Area, Kind
from supervisor.coherence.messages import Access, BusLock, Fault, Released, Run
from supervisor.driver import waits
from supervisor.driver.migratory import Migratory
from supervisor.driver.pager import UserfaultPager
from supervisor.driver.ranges import room, runs_of
from supervisor.errors import DsmsupError
from supervisor.tracee import ptrace
from supervisor.tracee.access import INSTRUCTION_LENGTH_MAX, needs_of_fault
from supervisor.tracee.control import is_ours
from supervisor.units import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PageNumber

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor
    from supervisor.driver.thread import Thread


class Faults:
    """Of a host's threads. (Those that wait inside the kernel: see waits.py.)"""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._migratory = Migratory()

    def code_at(self, thread: Thread) -> bytes:
        """The instruction at rip, as far as it is on this host; empty if decoded already."""
        ip = thread.registers.rip
        return b"" if self._supervisor.decoder.cached(ip) else self.instruction_at(ip)

    def instruction_at(self, ip: int) -> bytes:
        """Bytes from here on, an instruction's or more, as far as they are on this host."""
        supervisor = self._supervisor
        length = INSTRUCTION_LENGTH_MAX
        if is_ours(ip):
            return supervisor.agent.code(ip, length)
        here = PAGE_SIZE - (ip & PAGE_MASK)
        if here < length and not supervisor.node.allows((ip >> PAGE_SHIFT) + 1, 1, Access.READ):
            length = here
        return supervisor.memory.read_bytes(ip, length)

    def arrived(self, thread: Thread, address: int) -> bool:
        """Ask for what the faulting instruction needs; False when the fault is the program's."""
        supervisor = self._supervisor
        node = supervisor.node
        area = supervisor.space.find(address)
        if area is None and supervisor.grow(address):
            supervisor.resume(thread)
            return True
        if area is None or not area.protection or area.kind is Kind.RESERVED:
            return False
        registers = thread.registers
        ranges = self._wanted(thread, address, area)
        if not ranges and supervisor.decoder.forget_at(registers.rip):
            # Before the program is blamed: its code may have been changed in place.
            ranges = self._wanted(thread, address, area)
        if not ranges:
            return False
        if supervisor.has_joint and any(
            supervisor.is_joint(start, length) for start, length, _ in ranges
        ):
            supervisor.touches_joint(thread)
            return True
        key = (registers.rip, address, registers.rsp, registers.rcx, registers.rax)
        supervisor.holds.end(thread.requester)
        runs = runs_of(ranges)
        locked = supervisor.several_writers and supervisor.decoder.is_locked(registers.rip)
        if node.satisfied(runs, locked):
            # Cured meanwhile by another thread's fault, or the access is more than decoded.
            thread.cured = thread.cured + 1 if key == thread.fault_key else 1
            thread.fault_key = key
            if thread.cured == 2:
                supervisor.decoder.forget_at(registers.rip)
                supervisor.pager.protect(node.access_runs(PageNumber(address >> PAGE_SHIFT), 1))
            if thread.cured < 3:
                supervisor.resume(thread)
                return True
            if not area.protection & WRITE:
                thread.cured = 0
                return False  # a store, though it was not decoded as one, to what is only read
            if thread.cured > 100:
                raise DsmsupError(
                    f"host {supervisor.host}: page fault at {address:#x} "
                    f"(rip {registers.rip:#x}) comes back although the page is there"
                )
            runs = runs_of([*ranges, (address, 1, Access.WRITE)])
        else:
            thread.cured = 0
            # Perhaps the page was taken, its hold over, before the thread got to use it.
            thread.step_next = thread.step_next or key == thread.fault_key
        thread.fault_key = key
        if len(runs) == 1 and runs[0].count == 1:
            page, _, access = runs[0]
            runs = (Run(page, 1, self.wish(page, access, area)),)
        thread.waiting = True
        thread.fault_address = address
        thread.account.asks()
        thread.locked = locked
        if locked:
            supervisor.step(BusLock(thread.requester, runs))
        else:
            hints = room(supervisor.space, runs, address >> PAGE_SHIFT)
            supervisor.step(Fault(thread.requester, runs, *hints))
        return True

    def wish(self, page: PageNumber, access: Access, area: Area) -> Access:
        """With which access to ask for a page of an area that `access` is needed of."""
        if not self._supervisor.links.by_host or not area.protection & WRITE:
            return access
        return self._migratory.asks(page, access, time.monotonic())

    def _wanted(
        self, thread: Thread, address: int, area: Area
    ) -> list[tuple[int, int, Access]]:
        """What the instruction that faulted at an address of this area wants.

        Empty where the program itself (its logical protection) is at fault.
        """
        supervisor = self._supervisor
        ip = thread.registers.rip
        fetch = [(address, 1, Access.READ)] if area.protection & EXEC else []
        if not (is_ours(ip) or supervisor.node.allows(ip >> PAGE_SHIFT, 1, Access.READ)):
            return fetch  # its bytes are not here yet: decoding them would tell lies
        if address == ip and not area.protection & EXEC:
            return []  # no code, though its bytes may look as if they were
        touched = supervisor.decoder.touches(self.code_at(thread), thread.registers)
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
            elif not supervisor.space.covers(start, start + length, right):
                continue  # this operand will fault on its own account
            ranges.append((start, length, access))
        return ranges

    def go_on(self, thread: Thread, retry: bool) -> None:
        """What a thread waited for is there, or (retry) may be: it is to fault again."""
        supervisor = self._supervisor
        if thread.paging:
            if thread.locked and supervisor.node.armed and not retry:
                waits.interrupt(thread)  # see below: its instruction is to run now
                return
            thread.paging = False
            assert isinstance(supervisor.pager, UserfaultPager)
            if not retry:
                self._granted(thread)
            low, high = supervisor.pager.woken
            if not supervisor.thrashes(thread) and not low <= thread.fault_address < high:
                fill = partial(supervisor.pager.fill, thread.fault_address & ~PAGE_MASK)
                if thread.still:
                    thread.later = fill
                else:
                    fill()
            return
        if not thread.waiting and not thread.delivering:
            supervisor.step(Released(thread.requester))  # it was interrupted, and waits no more
            return
        thread.waiting = False
        if thread.delivering:
            supervisor.deliver(thread)
            return
        if supervisor.thrashes(thread):
            return
        if not retry:
            self._granted(thread)
            # What a locked instruction needs may become multiple-writer before it runs, here
            # too: when the armed byte is set, the thread is caught at it. It is set already:
            # then it runs now.
            if thread.step_next or (thread.locked and supervisor.node.armed):
                thread.step_next = False
                self.step_pinned(thread)
                return
        supervisor.move_on(thread)

    def _granted(self, thread: Thread) -> None:
        """The pages that a thread waited for are there; it is about to go on."""
        supervisor = self._supervisor
        supervisor.holds.begin(thread.requester)
        if supervisor.links.by_host:
            self._migratory.granted(thread.fault_address >> PAGE_SHIFT, time.monotonic())

    def step_pinned(self, thread: Thread, signal_number: int = 0) -> None:
        """Run one instruction (or enter a handler) before its pages may be taken."""
        thread.stepping = True
        self._supervisor.holds.pin(thread.requester)
        with contextlib.suppress(ptrace.TraceeGone):
            thread.single_step(signal_number)
