# SPDX-License-Identifier: GPL-2.0-or-later
"""Every test program, natively and then on 1, 2 and 3 hosts: same output, same status."""

from __future__ import annotations

import re

import harness
import programs
import pytest
from harness import Place
from programs import Program


@pytest.mark.parametrize("program", programs.ALL, ids=lambda program: program.id)
def test_program(program: Program, hosts: int, repetition: int, place: Place) -> None:
    native = place.run(program.argv, stdin=program.stdin)
    assert native.status == program.status

    stats = place.scratch / "stats.json"
    run = place.dsmsup(
        "exec", "-n", str(hosts), "--stats", stats, *program.argv, stdin=program.stdin
    )
    assert run.own_lines() == []
    assert run.status == native.status, run.stderr.decode(errors="replace")[-3000:]
    assert program.output(run.stdout) == program.output(native.stdout)
    if program.compare_stderr:
        assert run.stderr == native.stderr
    counted = harness.read_stats(
        stats, hosts=hosts, status=program.status, threads=program.threads
    )
    fetched = sum(host["pages_fetched"] for host in counted["hosts"][1:])
    assert hosts == 1 or fetched >= program.fetches, "the threads did not run apart"


@pytest.mark.slow
@pytest.mark.parametrize("program", programs.ALL, ids=lambda program: program.id)
def test_program_under_the_published_policy(program: Program, hosts: int, place: Place) -> None:
    """However slow it is: a bus lock stops every other host, and all the same it ends."""
    run = place.dsmsup(
        "exec", "-n", str(hosts), "--policy", "paper", *program.argv, stdin=program.stdin,
        limit_s=200,
    )  # fmt: skip
    assert run.own_lines() == []
    assert run.status == program.status, run.stderr.decode(errors="replace")[-3000:]
    native = place.run(program.argv, stdin=program.stdin)
    assert program.output(run.stdout) == program.output(native.stdout)


def test_a_team_is_spread_after_threads_that_were_too_short(place: Place) -> None:
    """They begin at home by then, and those go elsewhere that compute."""
    stats = place.scratch / "stats.json"
    run = place.dsmsup(
        "exec", "-v", "-n", "2", "--stats", stats, harness.BIN / "short_threads", "2", "500"
    )
    said = run.stderr.decode()
    assert run.status == 0, said
    assert "threads begin at home" in said
    counted = harness.read_stats(stats, hosts=2, status=0, threads=2)
    assert counted["hosts"][0]["threads_started"] > counted["hosts"][1]["threads_started"]
    host_of = harness.host_of_processor(counted)
    ran_on = [host_of[int(at)] for at in re.findall(r"team on (\d+)", said)]
    assert sorted(ran_on) == [0, 1], said


def test_every_source_is_in_the_table() -> None:
    sources = {path.stem for path in (harness.ROOT / "testprogs").glob("*.c*")}
    tested_elsewhere = {
        "contend", "endless", "processor", "surroundings", "unknown_syscall", "visible",
        "made_cpuid", "orderly_end",
    }  # fmt: skip
    assert sources - tested_elsewhere == {
        program.name for program in programs.ALL if program not in programs.VARIANTS
    }
