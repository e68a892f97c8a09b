# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs see what they are there to see: each sabotaged one must fail natively.

A sabotage takes out of a program's source what keeps memory right. It is run until
it fails, so a program too tame to notice a lost update fails its test.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import harness
import pytest

TRY_S = 60.0
"""On a busy machine threads seldom run at once; then it takes a while to fail."""

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-w", "-pthread", "-fopenmp"]


class Sabotage(NamedTuple):
    """In `program`, every `present` becomes `instead`; then it is run with `args`."""

    program: str
    present: str
    instead: str
    args: tuple[str, ...]


SABOTAGES = [
    Sabotage("mutex", "pthread_mutex_lock(&lock)", "0", ("2", "20000")),
    Sabotage("rwlock", "pthread_rwlock_wrlock(&lock)", "0", ("4", "5000")),
    Sabotage("spinlock", "__atomic_exchange_n(&shared.held, 1,", "__atomic_load_n(&shared.held,",
             ("2", "5000")),
    Sabotage("dekker_mfence", "mfence", "", ("30000",)),
    Sabotage("dekker_xchg", "xchgl %0, %1", "movl %0, %1", ("30000",)),
    # Few: kernels that trap bus locks (split_lock_mitigate) take 0.3 ms for each.
    Sabotage("page_crossing", "lock add ", "add ", ("2", "1000")),
    Sabotage("atomics", "lock cmpxchg16b", "cmpxchg16b", ("2", "10000")),
    Sabotage("barrier", "pthread_barrier_wait(&barrier)", "0", ("2", "200")),
    Sabotage("semaphore", "sem_wait(&ring[mine]) == 0", "1", ("4", "200")),
    Sabotage("false_sharing", "page.counter[mine]", "page.counter[0]", ("2", "20000")),
    Sabotage("tls", "static __thread", "static", ("4", "1000")),
    Sabotage("once", "pthread_once(&controls[i], routine) == 0", "(routine(), 1)", ("4",)),
    Sabotage("brk_growth", "pthread_mutex_lock(&lock);\n\t\tunsigned", "unsigned", ("4", "50")),
    Sabotage("omp_tasks", "#pragma omp taskwait", "", ("4", "13")),
]


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.program)
def test_sabotage_is_seen(sabotage: Sabotage, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor: threads hardly ever meet")
    folder = harness.ROOT / "testprogs"
    source = (folder / f"{sabotage.program}.c").read_text()
    assert sabotage.present in source
    changed = tmp_path / f"{sabotage.program}.c"
    changed.write_text(source.replace(sabotage.present, sabotage.instead))
    program = tmp_path / sabotage.program
    subprocess.run(
        ["gcc", *FLAGS, "-I", str(folder), "-o", str(program), str(changed)],
        check=True, timeout=60,
    )
    native = subprocess.run(
        [harness.BIN / sabotage.program, *sabotage.args], capture_output=True, timeout=20
    )
    assert native.returncode == 0, native.stderr
    end_s = time.monotonic() + TRY_S
    while time.monotonic() < end_s:
        try:
            run = subprocess.run([program, *sabotage.args], capture_output=True, timeout=5)
        except subprocess.TimeoutExpired:
            return  # a broken lock may also hang
        if (run.returncode, run.stdout) != (0, native.stdout):
            return
    pytest.fail(f"the sabotaged program was right for {TRY_S} s")
