# SPDX-License-Identifier: GPL-2.0-or-later
"""Promises of POSIX, natively and then under dsmsup: the same verdicts, line by line.

The programs are testprogs/posix; `away` has the calls made by threads of
another host. `docs/posix.md` is made from the same runs (posix_table.py).
"""

from __future__ import annotations

import harness
import posix_table
import pytest
from harness import Place

SLOW = {("memory", "too_many")}
"""Tests of many seconds, by program."""


def check(place: Place, program: str, mode: str, hosts: int, tests: list[str]) -> None:
    argv = [str(harness.BIN / f"posix_{program}"), mode, *tests]
    native = place.run(argv)
    assert native.status == 0, native.stdout.decode()
    run = place.dsmsup("exec", "-n", str(hosts), *argv, limit_s=120)
    assert run.own_lines() == []
    assert run.stdout.decode() == native.stdout.decode()
    assert (run.status, run.stderr) == (0, native.stderr)


@pytest.mark.parametrize("mode", ["home", "away"])
@pytest.mark.parametrize("program", posix_table.PROGRAMS)
def test_promises(program: str, mode: str, repetition: int, place: Place) -> None:
    tests = [name for name in posix_table.tests_of(program) if (program, name) not in SLOW]
    check(place, program, mode, 2, tests)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["home", "away"])
@pytest.mark.parametrize("program", posix_table.PROGRAMS)
def test_promises_on_other_numbers_of_hosts(
    program: str, mode: str, hosts: int, place: Place
) -> None:
    tests = posix_table.tests_of(program)
    if hosts == 2:
        tests = [name for name in tests if (program, name) in SLOW]
    if tests:
        check(place, program, mode, hosts, tests)
