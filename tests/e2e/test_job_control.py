# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-Z in a shell with job control stops the threads of all hosts; fg goes on."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import time
from pathlib import Path

import harness
from harness import Place

STOPPED_S = 5.0
"""Longer than hosts bear each other's silence."""
IDLE_TICKS_MAX = 50
"""What supervisors may use of the processor meanwhile, in hundredths of a second."""


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.output = b""

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def wait_for(self, text: bytes, limit_s: float = 30.0) -> None:
        end_s = time.monotonic() + limit_s
        while text not in self.output:
            assert time.monotonic() < end_s, f"no {text!r} in {self.output!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.output += os.read(self.terminal, 65536)
        self.output = self.output.partition(text)[2]

    def close(self) -> None:
        os.close(self.terminal)
        os.kill(self.pid, signal.SIGHUP)
        os.waitpid(self.pid, 0)


def ticks_of(place: Place) -> int:
    """Processor time of all of the test's processes, in clock ticks."""
    total = 0
    for process in place.ours():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def test_stopped_and_continued(place: Place) -> None:
    shell = Shell(place.environment())
    try:
        program = [str(harness.BIN / "endless"), "4", "3"]
        argv = [*harness.dsmsup_command(), "exec", "-n", "2", *program]
        shell.type(shlex.join(argv).encode() + b"\n")
        shell.wait_for(b"ready")
        shell.type(b"\x1a")
        shell.wait_for(b"Stopped")
        before = ticks_of(place)
        time.sleep(STOPPED_S)
        assert ticks_of(place) - before < IDLE_TICKS_MAX
        shell.type(b"fg; echo status $?\n")
        shell.wait_for(b"counted some")
        shell.wait_for(b"status 0")
        shell.type(b"exit\n")
    finally:
        shell.close()
