# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that other processes share with the program.

What another process maps too, coherence does not protect: the other's stores
raise no fault here. Such areas (`Kind.JOINT`) stay at home, on the kernel's own
shared mapping of the object, and a thread elsewhere that touches one goes home.

A writable shared mapping of a file, of a POSIX or of a System V object is joint
from the start. Shared anonymous memory is guest memory like any other, until a
fork gives it to another process: then it moves onto an object of its own. A
request of another host may be on its way at that moment, so each host is told,
and has answered, before home takes the pages for good.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from supervisor.areas import WRITE, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver.operations import Steps
from supervisor.syscalls.call import Acquire
from supervisor.tracee import inject
from supervisor.tracee.memory import FileBacking, data_extents
from supervisor.units import PAGE_SHIFT, PageNumber

if TYPE_CHECKING:
    from supervisor.driver.home import Home

ANONYMOUS: Final = "/dev/zero (deleted)"
"""What /proc/PID/maps calls shared anonymous memory, here the mark of it."""
COPY_PIECE: Final = 1 << 20


class Joint:
    """Home's part: which areas other processes share, and how they come to."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.attached: dict[int, int] = {}
        """System V segments: first address -> size in bytes."""

    def before_fork(self) -> Steps:
        """All shared memory is going to be another process's too."""
        yield from self.share(
            [
                area
                for area in self.home.space
                if area.kind is Kind.FILE or (area.kind is Kind.GUEST and area.name == ANONYMOUS)
            ]
        )

    def share(self, areas: list[Area]) -> Steps:
        """Make areas of shared memory joint."""
        if not areas:
            return
        home = self.home
        joint = [msgspec.structs.replace(area, kind=Kind.JOINT) for area in areas]
        for area in joint:
            home.space.add(area)
        home.layout.tell([], [], joint)
        yield from home.fences.passed()
        for area in areas:
            yield from self._fetch(area)
        # From here on without a pause: no thread may store in between.
        for area in areas:
            if area.kind is Kind.GUEST:
                self._move(area)
        home.pager.apply(joint)

    def _fetch(self, area: Area) -> Steps:
        """Until home alone has every page of an area."""
        home = self.home
        first, count = area.start >> PAGE_SHIFT, (area.end - area.start) >> PAGE_SHIFT
        step = COPY_PIECE >> PAGE_SHIFT
        for run in home.node.access_runs(first, count):
            if run.access is Access.WRITE:
                continue
            for at in range(run.first, run.first + run.count, step):
                size = min(step, run.first + run.count - at)
                yield Acquire(((at << PAGE_SHIFT, size << PAGE_SHIFT, Access.WRITE),))

    def _move(self, area: Area) -> None:
        """From guest memory onto an object of its own."""
        home = self.home
        size = area.end - area.start
        memory = os.memfd_create("dsmsup-shared", os.MFD_CLOEXEC)
        os.ftruncate(memory, size)
        # What threads here store from now on, they fault for, and repeat.
        home.agent.check(
            [(inject.SYS_MPROTECT, area.start, size, area.protection & ~WRITE)]
        )
        for start, end in data_extents(home.memory.descriptor, area.start, area.end):
            for at in range(start, end, COPY_PIECE):
                data = home.memory.read_bytes(at, min(COPY_PIECE, end - at))
                os.pwrite(memory, data, at - area.start)
        opened = home.agent.open(memory)
        home.agent.check(
            [
                (
                    inject.SYS_MMAP, area.start, size, area.protection,
                    inject.MAP_SHARED | inject.MAP_FIXED, opened, 0,
                ),
                (inject.SYS_CLOSE, opened),
            ]
        )  # fmt: skip
        home.pager.forget(area.start, area.end)
        home.memory.zero(PageNumber(area.start >> PAGE_SHIFT), size >> PAGE_SHIFT)
        home.memory.set_backing(area.start, area.end, FileBacking(memory, area.start))
