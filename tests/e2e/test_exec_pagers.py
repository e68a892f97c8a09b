# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs under the pager that is not chosen where userfaultfd is permitted, and beside
a host with the other one. (`make test-slow` runs all of tests/e2e with it.)"""

from __future__ import annotations

import clusters
import harness
import programs
import pytest
from harness import Place
from programs import Program

from supervisor.tracee import userfault

pytestmark = pytest.mark.skipif(bool(userfault.unavailable()), reason=userfault.unavailable())

TELLING = frozenset((
    "barrier", "cancel", "changed_code", "condvar", "deep_stack", "fault_address", "file_io",
    "forced_waits", "holes",
    "main_exits", "mmap_churn", "mprotect", "mutex", "page_crossing", "robust_mutex",
    "segv_thread", "sent_traps", "signal_thread", "sparse_file", "stream",
))  # fmt: skip
"""Of every kind of thing that a pager has to do with, one program."""

TABLE = [
    pytest.param(program, policy, id=f"{program.id}-{policy}",
                 marks=() if program.name in TELLING else (pytest.mark.slow,))
    for policy, of in (
        ("single-writer", programs.ALL),
        ("adaptive", programs.SYNCHRONIZATION),
    )
    for program in of
    if policy == "single-writer" or program.name in ("page_crossing", "false_sharing")
]


@pytest.mark.parametrize(("program", "policy"), TABLE)
def test_sigsegv(program: Program, policy: str, place: Place) -> None:
    native = place.run(program.argv, stdin=program.stdin)
    run = place.dsmsup(
        "exec", "-n", "2", "--policy", policy, "--pager", "sigsegv", *program.argv,
        stdin=program.stdin,
    )  # fmt: skip
    assert run.own_lines() == []
    assert run.status == native.status, run.stderr.decode(errors="replace")[-3000:]
    assert program.output(run.stdout) == program.output(native.stdout)


def test_the_choice_is_userfaultfd_where_it_is_permitted(place: Place) -> None:
    run = place.dsmsup("exec", "-n", "2", "--pager", "auto", "-v", "true")
    assert run.status == 0
    assert run.stderr.count(b"page faults come by userfaultfd") == 2


@pytest.mark.parametrize("at_home", ["userfaultfd", "sigsegv"])
def test_each_host_chooses_for_itself(at_home: str, place: Place) -> None:
    elsewhere = {"userfaultfd": "sigsegv", "sigsegv": "userfaultfd"}[at_home]
    program = harness.BIN / "condvar"
    cluster = clusters.on_loopback(place)
    home = place.start(cluster.command(0, program, options=["--pager", at_home, "-v"]))
    other = place.start(cluster.command(1, program, options=["--pager", elsewhere, "-v"]))
    run, end = home.wait(), other.wait()
    assert (run.status, end.status) == (0, 0)
    assert run.stdout == place.run([str(program)]).stdout
    told = [b"page faults come by userfaultfd" in host.stderr for host in (run, end)]
    assert told == [at_home == "userfaultfd", elsewhere == "userfaultfd"]
