# SPDX-License-Identifier: GPL-2.0-or-later
"""How a host keeps its guest from pages: two pagers behind one interface.

`SignalPager` sets protections by mprotect(2), run by the agent; a fault is a
SIGSEGV stop. It works everywhere.

`UserfaultPager` (tracee/userfault.py) sets page-table entries from the
supervisor; a fault arrives on a descriptor in the event loop, and the thread
that waits for it is not in a ptrace stop. It has no injection, no stop, no
registers to read. Areas keep the program's own protection, so what is wrong
in the program's eyes still is a SIGSEGV. Each host chooses for itself.

A page that the node allows may still be without an entry (a hole, a page of a
run behind one that could not be mapped): touching it faults here, and it is
filled without asking anybody. Where the kernel itself is to touch guest memory
(a futex's word, a signal's frame) it is `reached` first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from supervisor.areas import EXEC, READ, WRITE, AddressSpace, Area, Kind
from supervisor.coherence.messages import Access, Run
from supervisor.errors import DsmsupError
from supervisor.tracee import inject
from supervisor.tracee.inject import InjectionFailed
from supervisor.tracee.memory import data_extents, punch
from supervisor.tracee.userfault import UserFaults, unavailable
from supervisor.units import HOME, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PageNumber

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor

_ALLOWED: Final = {
    Access.NONE: 0,
    Access.READ: READ | EXEC,
    Access.WRITE: READ | WRITE | EXEC,
}

MADV_DONTNEED: Final = 4
PUNCH_PAGES_MAX: Final = 4
"""Of more pages in a row the agent drops the entries: one injection costs as much as
punching out and writing back about four."""
FILL_BYTES: Final = 1 << 17
"""How much of a hole is filled at once where it is touched: the aligned block around."""
CHUNK: Final = 2 << 20
"""Home's areas are registered by aligned pieces of this size (bytes)."""


def uses_userfaultfd(choice: str) -> bool:
    """What `--pager` comes to on this host: `auto` is userfaultfd where the kernel permits it."""
    if choice == "sigsegv":
        return False
    why = unavailable()
    if why and choice == "userfaultfd":
        raise DsmsupError(f"--pager userfaultfd: {why}; --pager sigsegv works everywhere")
    return not why


class SignalPager:
    """mprotect(2) and SIGSEGV."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def protect(self, runs: Iterable[Run], lowered: int | None = None) -> None:
        """Put coherence access into force: intersected with what the program asked for.

        The first `lowered` runs allow less than before, the others more; None: who knows.
        """
        supervisor = self.supervisor
        calls: list[tuple[int, ...]] = []
        for first, count, access in runs:
            start = first << PAGE_SHIFT
            for area in supervisor.space.pieces(start, start + (count << PAGE_SHIFT)):
                if area.kind is not Kind.NATIVE or supervisor.host != HOME:
                    calls.append(self._protection(area, access))
        for call, result in zip(calls, supervisor.agent.run(calls) if calls else (), strict=True):
            if result == -errno.ENOMEM:
                self._coarsen(call)
            elif result < 0:
                raise InjectionFailed(call, -result)

    def _coarsen(self, call: tuple[int, ...]) -> None:
        """More mappings than the kernel allows a process (vm.max_map_count): merge some.

        The whole area is made inaccessible, which is one mapping. Its threads
        fault then on pages that the node says they have, and get them one by one.
        """
        area = self.supervisor.space.find(call[1])
        assert area is not None
        self.supervisor.agent.check([_mprotect(area, 0), call])

    def apply(self, areas: Iterable[Area]) -> None:
        """The program has given areas other protections, or they are mapped anew here."""
        node = self.supervisor.node
        for area in areas:
            self.protect(node.access_runs(area.start >> PAGE_SHIFT,
                                          (area.end - area.start) >> PAGE_SHIFT))

    def map(self, areas: list[Area]) -> None:
        """Elsewhere than at home: map areas of which nothing is here."""
        agent = self.supervisor.agent
        if areas:
            agent.check([agent.map_guest(area.start, area.end - area.start, 0) for area in areas])

    def forget(self, start: int, end: int) -> None:
        """What was mapped in a range is not any more, or is something else."""

    def reach(self, ranges: Iterable[tuple[int, int, Access]]) -> None:
        """The kernel is to touch these granted ranges."""

    def close(self) -> None:
        """The guest process is gone."""

    # Inside -----------------------------------------------------------------------

    def _allowed(self, area: Area, access: Access) -> Access:
        """What the node's access comes to in memory that other processes share.

        It is home's alone, whatever copies of multiple-writer pages are elsewhere; and home
        leaves it to the kernel as soon as it has moved it onto an object of its own.
        """
        if area.kind is not Kind.JOINT:
            return access
        if self.supervisor.host != HOME:
            return Access.NONE
        moved = self.supervisor.memory.backing_at(area.start) is not None
        return Access.WRITE if moved else access

    def _protection(self, area: Area, access: Access) -> tuple[int, ...]:
        return _mprotect(area, area.protection & _ALLOWED[self._allowed(area, access)])


class UserfaultPager(SignalPager):
    """userfaultfd(2)."""

    def __init__(self, supervisor: Supervisor, faults: UserFaults) -> None:
        super().__init__(supervisor)
        self.faults = faults
        self._memory = supervisor.memory.descriptor
        # Ranges whose faults come here; at home only where a page has once been taken.
        self._registered = AddressSpace()
        self.woken = (0, 0)
        """A range that has been made accessible since threads last began to wait, and who
        waited there has been woken."""

    def protect(self, runs: Iterable[Run], lowered: int | None = None) -> None:
        calls: list[tuple[int, ...]] = []
        for at, (first, count, access) in enumerate(runs):
            start = first << PAGE_SHIFT
            taken = None if lowered is None else at < lowered
            for area in self.supervisor.space.pieces(start, start + (count << PAGE_SHIFT)):
                if self._is_ours(area):
                    self._set(area.start, area.end, self._allowed(area, access), calls, taken)
                elif area.kind is not Kind.NATIVE:
                    calls.append(self._protection(area, access))
        if calls:
            self.supervisor.agent.check(calls)

    def apply(self, areas: Iterable[Area]) -> None:
        supervisor = self.supervisor
        areas = list(areas)
        calls = [_mprotect(area, area.protection) for area in areas if self._is_ours(area)]
        if calls:
            supervisor.agent.check(calls)
        for area in areas:
            joint = area.kind is Kind.JOINT
            if self._registered.covers(area.start, area.end) and not joint:
                continue  # its entries are as they were
            runs = supervisor.node.access_runs(
                PageNumber(area.start >> PAGE_SHIFT), (area.end - area.start) >> PAGE_SHIFT
            )
            self.protect(run for run in runs
                         if run.access is not Access.WRITE or joint or not self._is_ours(area))

    def map(self, areas: list[Area]) -> None:
        super().map(areas)
        # Only now may a thread touch them: until here they were inaccessible.
        for area in areas:
            self._register(area.start, area.end)
        if areas:
            self.supervisor.agent.check([_mprotect(area, area.protection) for area in areas])

    def forget(self, start: int, end: int) -> None:
        self._registered.remove(start, end)

    def reach(self, ranges: Iterable[tuple[int, int, Access]]) -> None:
        for start, length, _ in ranges:
            for piece in self._registered.pieces(start & ~PAGE_MASK, start + length + PAGE_MASK
                                                 & ~PAGE_MASK):
                for page in range(piece.start, piece.end, PAGE_SIZE):
                    self.fill(page, not self.supervisor.standstill.on)

    def close(self) -> None:
        self.faults.close()

    def fill(self, page: int, wake: bool = True) -> None:
        """Give the guest what the node allows of the page at this address; wake who waits."""
        faults = self.faults
        access = self.supervisor.node.access_runs(PageNumber(page >> PAGE_SHIFT), 1)[0].access
        area = self.supervisor.space.find(page)
        if area is not None:
            access = self._allowed(area, access)
        failed = errno.EEXIST
        if access is not Access.NONE and self._registered.find(page):
            writable = access is Access.WRITE
            if writable:
                faults.write_protect(page, PAGE_SIZE, False, wake)
            failed = faults.map(page, PAGE_SIZE, writable, wake)
            if failed == errno.EFAULT:
                start, end = self._hole_around(page)
                os.posix_fallocate(self._memory, start, end - start)
                failed = faults.map(start, end - start, writable, wake)
        if failed and wake:
            faults.wake(page)

    def _hole_around(self, page: int) -> tuple[int, int]:
        """What can be filled at once together with this page: upwards or downwards, it is
        likely that more of it will be touched."""
        block = page & -FILL_BYTES
        low, high = block, block + FILL_BYTES
        for within in (self._registered.find(page), self.supervisor.space.find(page)):
            if within is not None:
                low, high = max(low, within.start), min(high, within.end)
        for start, end in data_extents(self._memory, low, high):
            if start > page:
                high = start
                break
            low = end
        first = PageNumber(low >> PAGE_SHIFT)
        for run in self.supervisor.node.access_runs(first, (high - low) >> PAGE_SHIFT):
            if page >> PAGE_SHIFT < run.first + run.count:
                return run.first << PAGE_SHIFT, (run.first + run.count) << PAGE_SHIFT
        raise AssertionError("the node knows nothing of a page in the range asked about")

    # Inside -----------------------------------------------------------------------

    def _is_ours(self, area: Area) -> bool:
        """Is the area on guest memory here?"""
        return area.kind is Kind.GUEST or self.supervisor.host != HOME

    def _register(self, start: int, end: int) -> None:
        self.faults.register(start, end - start)
        self._registered.add(Area(start, end, 0))

    def _ensure_registered(self, start: int, end: int) -> None:
        if self._registered.covers(start, end):
            return
        area = self.supervisor.space.find(start)
        assert area is not None and end <= area.end
        self._register(max(area.start, start // CHUNK * CHUNK),
                       min(area.end, (end + CHUNK - 1) // CHUNK * CHUNK))

    def _has_hole(self, start: int, end: int) -> bool:
        """Is a part of more pages than one without memory yet?"""
        return end - start > PAGE_SIZE and os.lseek(self._memory, start, os.SEEK_HOLE) < end

    def _let_be(self, piece: Area) -> bool:
        """Leave to the kernel, until some of it is taken, what the guest may write."""
        if not self.faults.unregister(piece.start, piece.end - piece.start):
            return False
        self._registered.remove(piece.start, piece.end)
        return True

    def _set(
        self, start: int, end: int, access: Access, calls: list[tuple[int, ...]],
        taken: bool | None,
    ) -> None:
        """`taken`: less than before, or more; see `protect`."""
        faults = self.faults
        # While the host stands still, who waits is to wait on: filled (and woken) later.
        wake = not self.supervisor.standstill.on
        if access is Access.WRITE:
            for piece in self._registered.pieces(start, end):
                if wake and self._has_hole(piece.start, piece.end) and self._let_be(piece):
                    continue
                self._let_write(piece.start, piece.end - piece.start, wake)
            return
        self._ensure_registered(start, end)
        if access is Access.READ:
            if taken is not False:
                faults.write_protect(start, end - start, True)
            if not taken and not faults.map(start, end - start, False, wake) and wake:
                self.woken = start, end
            return
        if end - start > PUNCH_PAGES_MAX * PAGE_SIZE:
            calls.append((inject.SYS_MADVISE, start, end - start, MADV_DONTNEED))
            return
        for low, high in data_extents(self._memory, start, end):
            # No store may come between reading the page and punching it out.
            faults.write_protect(low, high - low, True)
            data = os.pread(self._memory, high - low, low)
            punch(self._memory, low, high - low)
            os.pwrite(self._memory, data, low)


    def _let_write(self, start: int, length: int, wake: bool) -> None:
        """Most often it is one page, of which there is no entry, or one that may be read."""
        faults = self.faults
        if length > PAGE_SIZE:
            faults.write_protect(start, length, False, wake)
            faults.map(start, length, True, wake)
            return
        failed = faults.map(start, length, True, wake)
        if failed:
            faults.write_protect(start, length, False, wake)
        if failed in (0, errno.EEXIST) and wake:
            self.woken = start, start + length


def _mprotect(area: Area, protection: int) -> tuple[int, ...]:
    return (inject.SYS_MPROTECT, area.start, area.end - area.start, protection)
