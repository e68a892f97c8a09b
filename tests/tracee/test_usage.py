# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time of tasks."""

from __future__ import annotations

import os
import subprocess
import time

from supervisor.driver.processor_time import ALL, named_by
from supervisor.tracee.usage import Meter, Times, used_by


def test_a_meter_follows_what_its_task_uses() -> None:
    meter = Meter()
    before, clock = meter.read(os.getpid(), os.getpid()), time.thread_time_ns()
    while time.thread_time_ns() - clock < 50_000_000:
        os.getppid()
    used = meter.read(os.getpid(), os.getpid())
    tick_ns = 10_000_000  # a running task's are of its last tick
    assert used.sum_ns - before.sum_ns >= 50_000_000 - tick_ns
    assert used.user_ns >= before.user_ns
    assert used.system_ns >= before.system_ns
    assert used.sum_ns <= time.thread_time_ns()


def test_a_meter_remembers_a_task_that_is_gone() -> None:
    child = subprocess.Popen(["sh", "-c", "read x; exit"], stdin=subprocess.PIPE)
    meter = Meter()
    try:
        while not (used := meter.read(child.pid, child.pid)).sum_ns:
            pass
    finally:
        child.communicate(b"\n")
    assert used_by(child.pid, child.pid) == 0
    assert meter.read(child.pid, child.pid).sum_ns == used.sum_ns


def test_times_are_added_part_by_part() -> None:
    assert Times(1, 20).plus(Times(300, 4000)) == (301, 4020)
    assert Times(1, 20).sum_ns == 21


def test_clock_ids() -> None:
    """As linux/posix-timers_types.h makes them: ~pid << 3, the kind, whether of a thread."""
    assert named_by(2, 77) == (ALL, 2)
    assert named_by(3, 77) == (77, 6)
    assert named_by(~1234 << 3 & 0xFFFF_FFFF | 2, 77) == (1234, 2)
    assert named_by(~1234 << 3 & 0xFFFF_FFFF | 6, 77) == (1234, 6)
    assert named_by(~0 << 3 & 0xFFFF_FFFF | 6, 77) == (77, 6)
    assert named_by(~0 << 3 & 0xFFFF_FFFF | 1, 77) == (ALL, 1)
    assert named_by(~5 << 3 & 0xFFFF_FFFF | 3, 77) == (-1, 0)  # a descriptor's
    for clock in (0, 1, 4, 7, 11, 12):
        assert named_by(clock, 77) == (-1, 0)
