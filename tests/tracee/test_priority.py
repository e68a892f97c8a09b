# SPDX-License-Identifier: GPL-2.0-or-later
"""A supervisor that never sleeps does not keep the machine from everybody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUSY = """
import os, time
from supervisor.tracee.priority import bound_urgency, put_first
if put_first() != "real-time":
    raise SystemExit(77)
bound_urgency(0.2)
end = time.process_time() + 5
while os.sched_getscheduler(0) != os.SCHED_OTHER and time.process_time() < end:
    pass
print(time.process_time())
"""

CPU_LIMIT = """
import resource
from supervisor.tracee.priority import bound_urgency
bound_urgency()
resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
while True:
    pass
"""


def run(program: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)


def test_a_busy_real_time_process_becomes_an_ordinary_one() -> None:
    done = run(BUSY)
    if done.returncode == 77:
        pytest.skip("no right to real-time scheduling")
    assert done.returncode == 0, done.stderr
    assert 0.1 < float(done.stdout) < 4


def test_where_real_time_tasks_are_killed_it_is_none() -> None:
    """By a hard limit that comes before the bound."""
    done = run("""
import resource
from supervisor.tracee.priority import _RLIMIT_RTTIME, put_first
resource.setrlimit(_RLIMIT_RTTIME, (1000, 1000))
print(put_first())
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout in (b"shortest slice\n", b"as any other\n")


def test_a_limit_of_processor_time_ends_it_as_before() -> None:
    assert run(CPU_LIMIT).returncode == -24
