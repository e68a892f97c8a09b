# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time of a task (proc(5)).

The kernel tells another process's clocks only for processes as a whole, so a
task's are read from its files: the sum from `schedstat`, in nanoseconds, and how
it divides into user and system time from `stat`, in ticks.
"""

from __future__ import annotations

import os
from typing import Annotated, Final, NamedTuple

import msgspec

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
NS_PER_S: Final = 1_000_000_000

_Time = Annotated[int, msgspec.Meta(ge=0)]


class Times(NamedTuple):
    """Processor time in user mode and in the kernel."""

    user_ns: _Time = 0
    system_ns: _Time = 0

    @property
    def sum_ns(self) -> int:
        return self.user_ns + self.system_ns

    def plus(self, other: Times) -> Times:
        return Times(self.user_ns + other.user_ns, self.system_ns + other.system_ns)


class Meter:
    """What one task has used: never less than was read before, also when it is gone."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self._read = Times()

    def read(self, process: int, task: int) -> Times:
        used_ns = max(used_by(process, task), self._read.sum_ns)
        user, system = _ticks(process, task)
        user_ns = used_ns * user // (user + system) if user + system else used_ns
        # Neither may go back while its share of the sum wavers (kernel/sched/cputime.c).
        user_ns = min(max(user_ns, self._read.user_ns), used_ns - self._read.system_ns)
        self._read = Times(user_ns, used_ns - user_ns)
        return self._read


def used_by(process: int, task: int) -> int:
    """Nanoseconds of processor time that a task has used; 0 when it is gone.

    Of a task that has the processor, up to the last tick.
    """
    return _used_and_waited(process, task)[0]


def wanted_by(process: int, task: int) -> int:
    """Nanoseconds that a task has had a processor or waited for one; 0 when it is gone."""
    return sum(_used_and_waited(process, task))


def _used_and_waited(process: int, task: int) -> tuple[int, int]:
    """Nanoseconds with a processor and, where the kernel tells, waiting for one."""
    try:
        with open(f"/proc/{process}/task/{task}/schedstat", encoding="ascii") as file:
            used, waited = file.read().split()[:2]
        return int(used), int(waited)
    except (OSError, ValueError):
        user, system = _ticks(process, task)  # a kernel without CONFIG_SCHED_INFO
        return (user + system) * NS_PER_S // TICKS_PER_S, 0


def _ticks(process: int, task: int) -> tuple[int, int]:
    """utime and stime of /proc/PID/task/TID/stat."""
    try:
        with open(f"/proc/{process}/task/{task}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[11]), int(fields[12])
    except (OSError, ValueError, IndexError):
        return 0, 0
