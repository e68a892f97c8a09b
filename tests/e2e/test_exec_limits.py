# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that dsmsup was started with: the program has them; too low ones are named."""

from __future__ import annotations

from pathlib import Path

import harness
import pytest
from harness import Finished, Place, as_root, one_line


def may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE (capabilities(7))."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> 24 & 1)


def limited(place: Place, limit: str, *argv: str) -> Finished:
    """`argv` on two hosts, dsmsup started with a limit (KIND=SOFT:HARD)."""
    command = ["prlimit", f"--{limit}", *harness.dsmsup_command()]
    return place.run([*command, "exec", "-n", "2", *argv])


@pytest.mark.parametrize("limit", [12, 24])
def test_too_few_open_files(limit: int, place: Place) -> None:
    line = one_line(limited(place, f"nofile={limit}:{limit}", "true"), 125)
    assert f"only {limit} files" in line
    assert "ulimit -n" in line


def test_program_has_the_limit_of_open_files_that_was_given(place: Place) -> None:
    script = "ulimit -n; ulimit -Hn; bash -c 'ulimit -n'"
    run = limited(place, "nofile=30:1000", "bash", "-c", script)
    assert (run.status, run.stdout, run.stderr) == (0, b"30\n1000\n30\n", b"")


def test_program_has_the_nice_value_and_timer_slack_that_were_given(place: Place) -> None:
    argv = ["bash", "-c", "nice; cat /proc/$$/timerslack_ns"]
    native = place.run(["nice", "-n", "5", *argv])
    run = place.run(["nice", "-n", "5", *harness.dsmsup_command(), "exec", "-n", "2", *argv])
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")


@pytest.mark.parametrize("given", [["-b", "0"], ["-i", "0"], ["-f", "10"]], ids=" ".join)
def test_program_has_the_scheduling_policy_that_was_given(given: list[str], place: Place) -> None:
    if given[0] == "-f":
        as_root()
    harness.need("chrt")
    script = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0), os.nice(0))"
    argv = ["python3", "-c", script]
    native = place.run(["chrt", *given, *argv])
    run = place.run(["chrt", *given, *harness.dsmsup_command(), "exec", "-n", "2", *argv])
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")


REAL_TIME = """
import mmap, os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(3))
shared = mmap.mmap(-1, 4096)
begun, begins = os.pipe()
child = os.fork()
if child == 0:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    os.write(begins, b"x")
    for _ in range(100_000_000):
        if shared[0]:
            os._exit(0)
    os._exit(1)
os.read(begun, 1)
shared[0] = 1
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_real_time_process_that_spins_does_not_stop_the_supervisor(place: Place) -> None:
    as_root()
    run = place.run(
        [*harness.dsmsup_command(), "exec", "-n", "2", "python3", "-c", REAL_TIME]
    )
    assert (run.status, run.stdout, run.stderr) == (0, b"0\n", b"")


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_too_few_processes(limit: int, place: Place) -> None:
    """As a user without the right to exceed the limit, who may still read the checkout."""
    as_root()
    harness.need("setpriv")
    rights = "-all,+dac_override,+dac_read_search"
    user = ["--reuid", "54321", "--clear-groups", "--inh-caps", rights, "--ambient-caps", rights]
    run = place.run(
        ["prlimit", f"--nproc={limit}", "setpriv", *user, *harness.dsmsup_command(),
         "exec", "-n", "2", "true"]
    )  # fmt: skip
    assert "ulimit -u" in one_line(run, 125)


LIMITS = {"-v": "as=1000000000", "-d": "data=200000000", "-f": "fsize=102400"}
"""By the option of `ulimit`, whose unit is 1024 bytes."""


@pytest.mark.parametrize("option", LIMITS)
def test_program_has_the_limit_that_was_given(option: str, place: Place) -> None:
    show = f"ulimit {option}; ulimit -H {option}"
    run = limited(place, f"{LIMITS[option]}:", "bash", "-c", f"{show}; bash -c '{show}'")
    given = int(LIMITS[option].partition("=")[2]) // 1024
    assert (run.status, run.stdout, run.stderr) == (0, f"{given}\nunlimited\n".encode() * 2, b"")


def test_limit_of_mapped_memory_that_was_given_holds(place: Place) -> None:
    script = "try: bytes(1 << 30)\nexcept MemoryError: print('refused')"
    run = limited(place, "as=1000000000:", "python3", "-c", script)
    assert (run.status, run.stdout) == (0, b"refused\n")


def test_limit_of_file_sizes_that_was_given_holds(place: Place) -> None:
    script = f"trap '' XFSZ; head -c 200000 /dev/zero > {place.scratch}/file"
    run = limited(place, "fsize=102400:", "bash", "-c", script)
    assert run.status == 1
    assert (place.scratch / "file").stat().st_size == 102400


@pytest.mark.skipif(may_raise_limits(), reason="dsmsup may raise the hard limit itself")
@pytest.mark.parametrize("option", ["-v", "-f"])
def test_too_low_a_hard_limit(option: str, place: Place) -> None:
    line = one_line(limited(place, f"{LIMITS[option]}", "true"), 125)
    assert f"ulimit {option}" in line
