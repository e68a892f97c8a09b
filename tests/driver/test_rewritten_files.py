# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewriting that takes long is told of, at a terminal."""

from __future__ import annotations

import os
import pty
import time

import pytest

from supervisor.driver import rewritten_files
from supervisor.driver.rewritten_files import RewrittenFiles


@pytest.mark.parametrize("takes_s", [0.0, 0.5])
def test_who_waits_is_told(takes_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewritten_files, "LONG_S", 0.1)
    monkeypatch.setattr(
        rewritten_files, "rewritten", lambda *_, **__: time.sleep(takes_s)
    )
    terminal, end = pty.openpty()
    kept = os.dup(2)
    files = RewrittenFiles(lambda line: None)
    try:
        os.dup2(end, 2)
        pid = files.start_to_prepare(["/bin/true", "/bin/false"], frozenset())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    _, status = os.waitpid(pid, 0)
    assert files.prepared(pid, status)
    os.write(end, b"end")
    said = os.read(terminal, 1 << 12).decode()
    os.close(terminal)
    os.close(end)
    lines = said.splitlines()
    assert lines.pop() == "end"
    assert len(lines) == (2 if takes_s else 0)
    assert all(line.startswith("dsmsup: rewriting /bin/") and "MiB" in line for line in lines)
