# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewriting that takes long is told of, at a terminal."""

from __future__ import annotations

import os
import pty
import select

import pytest

from supervisor.driver import rewritten_files
from supervisor.driver.rewritten_files import RewrittenFiles


@pytest.mark.parametrize("long", [False, True])
def test_who_waits_is_told(long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, end = pty.openpty()
    # What takes long ends when it has been told of.
    monkeypatch.setattr(rewritten_files, "LONG_S", 0.01 if long else 60.0)
    monkeypatch.setattr(
        rewritten_files, "rewritten",
        lambda *_, **__: select.select([terminal], [], [], 30) if long else None,
    )  # fmt: skip
    kept = os.dup(2)
    files = RewrittenFiles(lambda line: None)
    try:
        os.dup2(end, 2)
        pid = files.start_to_prepare(["/bin/true"], frozenset())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    _, status = os.waitpid(pid, 0)
    assert files.prepared(pid, status)
    os.write(end, b"end")
    said = ""
    while not said.endswith("end"):
        said += os.read(terminal, 1 << 12).decode()
    os.close(terminal)
    os.close(end)
    lines = said.splitlines()
    assert lines.pop() == "end"
    assert len(lines) == long
    assert all(line.startswith("dsmsup: rewriting /bin/true (0 MiB)") for line in lines)
