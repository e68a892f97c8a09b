# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that wait for a page inside the kernel, in no stop of ours (see pager.py).

The fault says the address and whether it is a store, and the kernel says where
the thread stands; its registers nobody can read. Any stop takes it out of its
wait, and when it goes on it faults again: so whatever is forgotten here comes
back by itself.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from supervisor.areas import WRITE, Area, Kind
from supervisor.coherence.messages import Access, BusLock, Cancelled, Fault, Run
from supervisor.driver.ranges import room
from supervisor.tracee import ptrace
from supervisor.tracee.userfault import blocked_at
from supervisor.units import PAGE_MASK, PAGE_SHIFT, PageNumber

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor
    from supervisor.driver.pager import UserfaultPager
    from supervisor.driver.thread import Thread

LOST_MAX: Final = 16
"""Waits for one page in a row after which a thread's registers are looked at."""


def arrived(supervisor: Supervisor, pager: UserfaultPager) -> None:
    """Threads have begun to wait."""
    pager.woken = (0, 0)
    for address, writes, task in pager.faults.read():
        thread = supervisor.threads.get(task)
        if thread is None:
            pager.fill(address & ~PAGE_MASK)
        # Where it has stopped, or has been stopped for a standstill, it waits no more, and comes
        # again. (To see to it in a standstill would wake who else waits for the page.)
        elif not (thread.stopped or thread.still):
            _begin(supervisor, pager, thread, address, writes)


def _begin(
    supervisor: Supervisor, pager: UserfaultPager, thread: Thread, address: int, writes: bool
) -> None:
    """A thread waits in the kernel for a page.

    Only one page is asked for. A thread that comes back for the same one
    again and again may need two at once, which others take from it in turn:
    it is interrupted, and its fault is handled like a stop's. So is that of a
    bus-locked instruction while the armed byte is set.
    """
    area = supervisor.space.find(address)
    page = address >> PAGE_SHIFT
    if area is not None and area.kind is Kind.JOINT and supervisor.has_joint:
        supervisor.touches_joint(thread)
        return
    if area is None or area.kind is Kind.RESERVED:
        pager.faults.wake(page << PAGE_SHIFT)  # it faults again, for the kernel to judge
        return
    locked = False
    if not writes or supervisor.several_writers:
        writes, locked = _look_ahead(supervisor, thread, area, page, writes)
    number = PageNumber(page)
    access = supervisor.faults.wish(number, Access.WRITE if writes else Access.READ, area)
    runs = (Run(number, 1, access),)
    # What it was given (and, stepping, has the bus lock for) may have been a hole.
    if supervisor.node.satisfied(runs, locked and not thread.stepping):
        pager.fill(page << PAGE_SHIFT)
        return
    thread.lost = thread.lost + 1 if thread.fault_address >> PAGE_SHIFT == page else 0
    thread.fault_address = address
    thread.paging = True
    thread.account.asks()
    thread.locked = locked
    if thread.lost >= LOST_MAX or (locked and supervisor.node.armed):
        supervisor.holds.end(thread.requester)
        interrupt(thread)
        return
    supervisor.holds.forget(thread.requester)  # what is stepped now ends it
    if locked:
        supervisor.step(BusLock(thread.requester, runs))
    else:
        supervisor.step(Fault(thread.requester, runs, *room(supervisor.space, runs, page)))


def interrupt(thread: Thread) -> None:
    """Stop a thread in its wait: its fault is handled like a stop's then."""
    thread.lost = 0
    thread.scrutinise = True
    with contextlib.suppress(ptrace.TraceeGone):
        ptrace.interrupt(thread.task)


def _look_ahead(
    supervisor: Supervisor, thread: Thread, area: Area, page: int, writes: bool
) -> tuple[bool, bool]:
    """Does the instruction of a waiting thread write what it waits to read, and is it locked?

    Without its registers that is known only where all its operands are written.
    """
    if thread.call_file < 0:
        try:
            path = f"/proc/{thread.task}/syscall"
            thread.call_file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return writes, False
    where = blocked_at(thread.call_file)
    if where is None or where[0] >> PAGE_SHIFT == page:
        return writes, False
    thread.registers.rip = where[0]
    if not supervisor.node.allows(where[0] >> PAGE_SHIFT, 1, Access.READ):
        return writes, False
    only_writes = supervisor.decoder.only_writes(
        supervisor.faults.code_at(thread), where[0], thread.arch.bits
    )
    locked = supervisor.several_writers and supervisor.decoder.is_locked(where[0])
    return writes or (only_writes and bool(area.protection & WRITE)), locked


def left(supervisor: Supervisor, thread: Thread) -> bool:
    """A thread that waited in the kernel has stopped; it comes again if it needs to.

    True when it was interrupted for its registers.
    """
    if not thread.paging:
        return False
    thread.paging = False
    scrutinise, thread.scrutinise = thread.scrutinise, False
    supervisor.step(Cancelled(thread.requester))
    return scrutinise and not thread.leaving and not thread.ended


def scrutinise(supervisor: Supervisor, thread: Thread) -> None:
    """Handle a wait like a fault's stop: all operands, and one step with them pinned."""
    ptrace.get_registers(thread.task, thread.registers)
    thread.step_next = True
    if not supervisor.faults.arrived(thread, thread.fault_address):
        supervisor.resume(thread)
