# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of the program's address space: what each of its changes comes to, at home.

The list of areas itself is `Home.space`. A change has to reach the kernel here,
the pager, the node's pages, what memory is backed by, and the other hosts.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

import msgspec

from supervisor.areas import EXEC, AddressSpace, Area, Kind
from supervisor.coherence.messages import Access, Discarded
from supervisor.driver.aliases import FileMappings
from supervisor.driver.copies import Copies
from supervisor.driver.memory_limits import STACK
from supervisor.driver.messages import AreasChanged
from supervisor.driver.turns import Turns
from supervisor.tracee import control, inject
from supervisor.tracee.maps import maps_max
from supervisor.tracee.memory import FileBacking
from supervisor.units import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PageNumber

if TYPE_CHECKING:
    from supervisor.driver.home import Home

MAPS_SPARE: Final = 500
"""Mappings of a process that are kept for the supervisor: it splits areas by pages."""
STACK_GUARD_GAP: Final = 256 * PAGE_SIZE


class Layout:
    """Of the program that home runs; the handlers of mmap(2) and its kin change it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.turns = Turns(home.operations.wake)
        """Changes of the address space: one chooses a place and has it mapped before the next."""
        self.file_mappings = FileMappings()
        self.copies = Copies(home)
        self.growing = AddressSpace()
        """MAP_GROWSDOWN areas."""
        self.areas_max = maps_max() - MAPS_SPARE
        """Beyond so many areas the program is told ENOMEM."""
        self.break_start = 0
        self.break_end = 0

    # Questions --------------------------------------------------------------------

    def is_full(self) -> bool:
        """Has the program as many areas as it may have?"""
        return len(self._home.space) > self.areas_max

    def is_reserved(self, start: int, end: int) -> bool:
        """Does a range touch the supervisor's own memory in the guest?"""
        return self._reserved(start, end) is not None

    def _reserved(self, start: int, end: int) -> int | None:
        """Where what a range touches of the supervisor's own memory begins."""
        arch = self._home.scratch.arch
        for low, high in (
            (arch.scratch, arch.scratch + arch.scratch_size),
            (control.BASE, control.END),
        ):
            if start < high and low < end:
                return low
        return None

    def is_free(self, start: int, end: int) -> bool:
        """Can a mapping of the program grow into a range?"""
        space = self._home.space
        return end <= space.top and not (
            space.overlapping(start, end) or self.is_reserved(start, end)
        )

    def free_range(self, length: int, hint: int = 0, ceiling: int = 0) -> int | None:
        """An address for a new mapping of the program, clear of the supervisor's own memory.

        Not above the ceiling, if there is one.
        """
        space = self._home.space
        if ceiling and hint + length > ceiling:
            hint = 0
        found = space.free_range(length, hint, ceiling)
        if found is not None and found == hint and self.is_reserved(found, found + length):
            found = space.free_range(length, ceiling=ceiling)
        while found is not None and (low := self._reserved(found, found + length)) is not None:
            found = space.free_range(length, ceiling=low)
        return found

    def file_at(self, address: int) -> FileBacking | None:
        """The file that is mapped there, as far as it is known."""
        file = self.copies.file_at(address)
        if file is not None:
            return file
        backing = self._home.memory.backing_at(address)
        return backing if isinstance(backing, FileBacking) else None

    def is_beyond_file(self, address: int, length: int) -> bool:
        """Is a part of a range the kernel's own mapping of what a file has not?"""
        for area in self._home.space.overlapping(address, address + length):
            if area.kind is not Kind.GUEST:
                file = self.file_at(max(address, area.start))
                if file is not None and not file.reaches(min(address + length, area.end)):
                    return True
        return False

    # Changes ----------------------------------------------------------------------

    def replace(self, area: Area) -> None:
        """Put an area in place of what was there, here and elsewhere.

        One on guest memory is mapped here; the kernel has mapped the others already.
        """
        home = self._home
        replaced = home.space.add(area)
        self._forget_marks(area.start, area.end)
        home.memory.set_backing(area.start, area.end, None)
        home.pager.forget(area.start, area.end)
        if area.kind is Kind.GUEST:
            home.agent.check(
                [home.agent.map_guest(area.start, area.end - area.start, area.protection)]
            )
        # Pages fetched ahead may lie beyond the area they were asked for in: other
        # hosts can own pages of a range that was free.
        if replaced or not self._owns(area.start, area.end):
            self.discard(area.start, area.end)
        if area.kind is Kind.GUEST and area.protection & EXEC:
            home.untrapped.found("the program makes code at run time")
        home.decoder.forget()
        self.tell([(area.start, area.end)] if replaced else [], [area], [])

    def grows(self, area: Area) -> bool:
        """Is it part of one of MAP_GROWSDOWN, or of the main thread's stack?"""
        return area.name == STACK or self.growing.find(area.start) is not None

    def grow(self, address: int) -> bool:
        """An access below a MAP_GROWSDOWN area: extend it (mm/mmap.c, expand_downwards)."""
        home = self._home
        start = address & ~PAGE_MASK
        for area in list(self.growing):
            if address < area.start:
                limit, _ = resource.prlimit(home.pid, resource.RLIMIT_STACK)
                if limit != resource.RLIM_INFINITY and area.end - start > limit:
                    return False
                if home.space.overlapping(start - STACK_GUARD_GAP, area.start) \
                        or self.is_reserved(start, area.start):
                    return False
                now = home.space.find(area.start)
                if now is None or not home.limits.fits(home, area.start - start, 0):
                    return False
                self.replace(Area(start, area.start, now.protection, Kind.GUEST, now.name))
                self.growing.add(msgspec.structs.replace(area, start=start))
                return True
        return False

    def unmap(self, start: int, end: int) -> None:
        home = self._home
        pieces = home.space.remove(start, end)
        if pieces:
            # As one range, however many pieces: what lies between them is free.
            start, end = pieces[0].start, pieces[-1].end
            home.agent.check([(inject.SYS_MUNMAP, start, end - start)])
            self.forget(start, end)

    def forget(self, start: int, end: int) -> None:
        """The kernel at home has nothing in this range any more."""
        home = self._home
        home.pager.forget(start, end)
        self.discard(start, end)
        home.memory.set_backing(start, end, None)
        self._forget_marks(start, end)
        home.decoder.forget()
        self.tell([(start, end)], [], [])

    def leave_to_kernel(self, start: int, end: int) -> None:
        """The kernel's own mappings at home, of which other hosts had copies, are home's alone."""
        for piece in self._home.space.pieces(start, end):
            area = msgspec.structs.replace(piece, kind=Kind.JOINT)
            self._home.space.add(area)
            self.tell([], [], [area])
        self.discard(start, end)

    def discard(self, start: int, end: int) -> None:
        """The contents of a range are gone, everywhere."""
        home = self._home
        first = PageNumber(start >> PAGE_SHIFT)
        count = (end - start) >> PAGE_SHIFT
        home.memory.zero(first, count)
        if home.hosts > 1:
            home.step(Discarded(first, count))

    def clear(self) -> None:
        """The program's image is gone, with all its areas."""
        home = self._home
        old, home.space = list(home.space), AddressSpace()
        for area in old:
            home.memory.set_backing(area.start, area.end, None)
            self.copies.forget(area.start, area.end)
            self.discard(area.start, area.end)
        self.tell([(area.start, area.end) for area in old], [], [])

    def tell(
        self, removed: list[tuple[int, int]], mapped: list[Area], protected: list[Area]
    ) -> None:
        """Tell the hosts that have the area list."""
        self._home.away.tell(
            AreasChanged(
                removed, [area.for_others() for area in mapped],
                [area.for_others() for area in protected],
            )
        )

    # Inside -----------------------------------------------------------------------

    def _forget_marks(self, start: int, end: int) -> None:
        """What the program asked for about a range does not hold for the next mapping there."""
        self.copies.forget(start, end)
        forks = self._home.forks
        for marked in (self.growing, forks.left_out, forks.wiped):
            marked.remove(start, end)

    def _owns(self, start: int, end: int) -> bool:
        """Is every page of a range exclusive here?"""
        node = self._home.node
        return node.allows(start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT, Access.WRITE)
