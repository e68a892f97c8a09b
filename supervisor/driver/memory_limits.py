# SPDX-License-Identifier: GPL-2.0-or-later
"""RLIMIT_AS and RLIMIT_DATA of the program.

The kernel would count dsmsup's own mappings in the program's process, and guest memory,
which is shared, not as data. So it has no such limits for that process: they are kept
here, and held against the list of areas. Of the stack only what has been touched counts,
for there it all is from the start. Of a child process, whose memory is its own, they are
the kernel's again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor import limits
from supervisor.areas import WRITE, Area, Kind
from supervisor.driver.joint import ANONYMOUS
from supervisor.limits import MEMORY, Limit
from supervisor.tracee import control
from supervisor.tracee.memory import data_extents
from supervisor.units import PAGE_MASK, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home

CAP_SYS_RESOURCE: Final = 24
INFINITE: Final = (1 << 64) - 1
"""RLIM_INFINITY as the kernel has it."""
STACK: Final = "[stack]"
OWN_MAX: Final = 1 << 20
"""Of dsmsup's mappings in the program's process all but the control block and scratch memory:
the kernel's vDSO, gaps of a page that protections make."""
_NAMES: Final = {
    resource.RLIMIT_AS: "Max address space",
    resource.RLIMIT_DATA: "Max data size",
}
"""In /proc/PID/limits."""


class MemoryLimits:
    """Those of one process, in bytes."""

    def __init__(self) -> None:
        self._limits: dict[int, Limit] = {}
        for which in MEMORY:
            soft, hard = limits.given(which)
            self._limits[which] = (_unsigned(soft), _unsigned(hard))
        self._kernels = _unsigned(resource.getrlimit(resource.RLIMIT_AS)[0])
        """Of mapped memory, where dsmsup might not raise it."""

    def copy(self) -> MemoryLimits:
        """For a process that starts with these."""
        other = MemoryLimits.__new__(MemoryLimits)
        other._kernels = self._kernels
        other._limits = dict(self._limits)
        return other

    def get(self, which: int) -> Limit | None:
        """None of a limit that the kernel keeps."""
        return self._limits.get(which)

    def set(self, which: int, limit: Limit, task: int) -> int:
        """0, or a negative errno (do_prlimit of kernel/sys.c) for a task that asks for it."""
        soft, hard = limit
        if soft > hard:
            return -errno.EINVAL
        if hard > self._limits[which][1] and not _may_raise(task):
            return -errno.EPERM
        self._limits[which] = limit
        return 0

    def fits(
        self, home: Home, length: int, data: int, replaced: tuple[int, int] = (0, 0)
    ) -> bool:
        """May the program have so many bytes more mapped, and so many of them data?

        Areas of a range are to make room. (may_expand_vm of mm/mmap.c)
        """
        mapped_max, data_max = (self._limits[which][0] for which in MEMORY)
        if mapped_max == data_max == self._kernels == INFINITE:
            return True
        now = use_of(home)
        gone = sum(piece.end - piece.start for piece in home.space.pieces(*replaced))
        if self._kernels != INFINITE:
            own = control.SIZE + home.scratch.arch.scratch_size + OWN_MAX
            mapped_max = min(mapped_max, self._kernels - own - now.hidden)
        return now.mapped + length - gone <= mapped_max & ~PAGE_MASK and (
            not data or now.data + data - gone <= data_max & ~PAGE_MASK
        )

    def allows_break(self, home: Home, end: int) -> bool:
        """May the program's data end there? (check_data_rlimit of include/linux/mm.h)"""
        limit = self._limits[resource.RLIMIT_DATA][0]
        if limit == INFINITE:
            return True
        with open(
            f"/proc/{home.agent.tid}/stat", encoding="utf-8", errors="replace"
        ) as file:
            fields = file.read().rpartition(")")[2].split()
        start_data, end_data = int(fields[42]), int(fields[43])
        return end - home.layout.break_start + end_data - start_data <= limit

    def hand_over(self, pid: int) -> None:
        """Have the kernel keep them from now on, for a process that has them."""
        for which, limit in self._limits.items():
            with contextlib.suppress(OSError, ValueError):  # it is gone, or another user's
                resource.prlimit(pid, which, (_signed(limit[0]), _signed(limit[1])))

    def shown(self, text: str) -> str:
        """/proc/PID/limits of the program from what the kernel shows."""
        lines = []
        for line in text.splitlines():
            for which, name in _NAMES.items():
                if line.startswith(name):
                    soft, hard = (
                        "unlimited" if each == INFINITE else each
                        for each in self._limits[which]
                    )
                    line = f"{name:<25} {soft:<20} {hard:<20} {'bytes':<10}"
            lines.append(f"{line}\n")
        return "".join(lines)


class Use(NamedTuple):
    """What the program has mapped, in bytes; `hidden` it has not, in its own eyes."""

    mapped: int
    data: int
    stack: int
    hidden: int


def use_of(home: Home) -> Use:
    """Of its stack what has been touched; of rewritten files what their originals have."""
    mapped = data = stack = hidden = 0
    for area in home.space:
        size = area.end - area.start
        if area.kind is Kind.RESERVED:
            continue
        if area.name == STACK:
            untouched = _untouched(home, area)
            stack = size - untouched
            hidden += untouched
            size = stack
        elif not area.protection and area.name in home.code.sources:
            hidden += size  # between a file's own segments and those added to it
            continue
        elif is_data(home, area):
            data += size
        mapped += size
    return Use(mapped, data, stack, hidden)


def length_of_original(home: Home, path: str, length: int) -> int:
    """How much of a new mapping of this file counts: of a rewritten one what the original has."""
    original = home.code.sources.get(path)
    if original is not None:
        with contextlib.suppress(OSError):
            return min(length, round_up(os.stat(original).st_size))
    return length


def is_private(home: Home, area: Area) -> bool:
    """Is it memory of the program alone, and no stack's?"""
    if area.kind not in (Kind.GUEST, Kind.NATIVE) or area.name in (ANONYMOUS, STACK):
        return False
    return not home.layout.growing.overlapping(area.start, area.end)


def is_data(home: Home, area: Area) -> bool:
    """Does it count as data? (is_data_mapping of mm/vma.h)"""
    return bool(area.protection & WRITE) and is_private(home, area)


def _untouched(home: Home, stack: Area) -> int:
    """How much of the program's stack is below all that has been used of it."""
    extents = data_extents(home.memory.descriptor, stack.start, stack.end)
    return (extents[0][0] if extents else stack.end) - stack.start


def _signed(value: int) -> int:
    """As Python has it: -1 for what is without a limit."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _unsigned(value: int) -> int:
    return value & INFINITE


def _may_raise(task: int) -> bool:
    with open(f"/proc/{task}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False
