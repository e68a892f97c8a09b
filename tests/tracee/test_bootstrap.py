# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that are run in a process while it is being set up leave its signals to it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from supervisor.tracee import ptrace, spawn
from supervisor.tracee.bootstrap import Fresh
from supervisor.tracee.stops import StopKind, wait_for

SYS_GETPID = 39


@pytest.fixture(name="pid")
def process_at_its_beginning() -> Iterator[int]:
    pid = spawn.spawn("/bin/sleep", [b"sleep", b"10"], {}, None)
    yield pid
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        while wait_for(pid).kind not in (StopKind.EXITED, StopKind.KILLED):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP])
def test_a_signal_comes_after_the_calls(pid: int, number: signal.Signals) -> None:
    mask = ptrace.get_signal_mask(pid)
    os.kill(pid, number)
    fresh = Fresh(pid)
    assert fresh.caller.call(SYS_GETPID) == pid
    assert fresh.caller.call(SYS_GETPID) == pid
    fresh.restore()
    assert ptrace.get_signal_mask(pid) == mask
    ptrace.cont(pid)
    stop = wait_for(pid)
    assert (stop.kind, stop.detail) == (StopKind.SIGNAL, number)
