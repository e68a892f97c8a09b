# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a program under ptrace."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from supervisor.errors import EXIT_FAILURE, DsmsupError
from supervisor.tracee import ptrace, seccomp
from supervisor.tracee.spawn import spawn
from supervisor.tracee.stops import Stop, StopKind, wait_for


def test_a_signal_before_the_program_is_there_is_the_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def as_by_a_terminal(_filter: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(seccomp, "install", as_by_a_terminal)  # the last before it executes
    pid = spawn("/bin/true", [b"true"], {}, b"filter")
    assert os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "true"
    ptrace.cont(pid)
    stop = wait_for(pid)
    assert stop == Stop(pid, StopKind.SIGNAL, signal.SIGTERM)
    ptrace.cont(pid, stop.detail)
    assert wait_for(pid) == Stop(pid, StopKind.KILLED, signal.SIGTERM)


def test_what_a_container_forbids_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the program that may not be executed, nor ptrace that is forbidden."""

    def forbidden(number: int, *_: int) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(ptrace, "raw_syscall", forbidden)
    with pytest.raises(DsmsupError, match="personality: Operation not permitted") as raised:
        spawn("/bin/true", [b"true"], {}, None)
    assert raised.value.exit_status == EXIT_FAILURE
