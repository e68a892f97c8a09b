# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that the command is started with ignored or blocked are the program's affair."""

from __future__ import annotations

import pytest
from harness import Place, dsmsup_command

SHOW = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]


@pytest.mark.parametrize("executed", [False, True], ids=["program", "what-it-executes"])
@pytest.mark.parametrize(
    ("ignored", "blocked"),
    [("CHLD,HUP,XCPU,USR1", "USR2,CHLD"), ("SEGV,TRAP", "BUS,ILL"), ("TSTP", "INT,TERM,XCPU")],
)
def test_given_signals(
    ignored: str, blocked: str, executed: bool, hosts: int, place: Place
) -> None:
    given = ["env", f"--ignore-signal={ignored}", f"--block-signal={blocked}"]
    program = [*(["nice"] if executed else []), *SHOW]
    native = place.run([*given, *program])
    run = place.run([*given, *dsmsup_command(), "exec", "-n", str(hosts), *program])
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")
