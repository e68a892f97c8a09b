# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs natively and under dsmsup, with hard limits, and sees what is left.

A `Place` is one test's surroundings: a folder for the program's own files
(TMPDIR), a tag, and every process started in it. Each run has a time limit
after which everything of the test is killed and the failure tells what was
running. After each run no process and no temporary file may be left.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import processes
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "testprogs" / "bin"

RUN_LIMIT_S = 60.0
LINGER_S = 2.0
"""How long after the command's end a host's last process may still be dying."""

LOSS_LIMIT_S = 5.0
"""How long a run may go on after a host has died."""

HOST_FIELDS = frozenset({
    "id", "cpus", "threads_started", "traps", "faults_read", "faults_write", "pages_fetched",
    "pages_sent", "flushes", "diffs_sent", "syscalls_forwarded", "bytes_sent", "bytes_received",
})


class Finished(NamedTuple):
    """How a run ended: `status` as a shell shows it (128 + N for a signal)."""

    status: int
    stdout: bytes
    stderr: bytes
    wall_s: float

    def own_lines(self) -> list[str]:
        """What dsmsup itself said."""
        text = self.stderr.decode(errors="replace")
        return [line for line in text.splitlines() if line.startswith("dsmsup: ")]


def need(*programs: str) -> None:
    """Skip the test when a program is missing; fail when DSMSUP_TEST_STRICT=1."""
    missing = [name for name in programs if shutil.which(name) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("DSMSUP_TEST_STRICT") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def dsmsup_command() -> list[str]:
    """The command under test: the one installed beside this Python, else this checkout's."""
    installed = Path(sys.executable).with_name("dsmsup")
    if named := os.environ.get("DSMSUP_TEST_COMMAND"):
        return named.split()
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "supervisor.cli"]


class Running:
    """A started command; its output goes to files, so nothing blocks on a full pipe."""

    def __init__(self, place: Place, argv: Sequence[str], popen: subprocess.Popen[bytes],
                 stdout: Path, stderr: Path) -> None:
        self.place = place
        self.argv = argv
        self.popen = popen
        self.started_s = time.monotonic()
        self.stdout = stdout
        self.stderr = stderr

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait(self, limit_s: float = RUN_LIMIT_S) -> Finished:
        """Its end. When it takes longer, kills all of the test's processes and fails."""
        try:
            code = self.popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.place.fail_with_report(f"still running after {limit_s} s", self)
        done = Finished(
            code if code >= 0 else 128 - code,
            self.stdout.read_bytes(),
            self.stderr.read_bytes(),
            time.monotonic() - self.started_s,
        )
        if b"Traceback (most recent call last)" in done.stderr:
            self.place.fail_with_report("a Python traceback", self)
        return done

    def wait_for_output(self, text: bytes, limit_s: float = RUN_LIMIT_S) -> None:
        """Until `text` is in its standard output; fails when it ends or takes too long."""
        end_s = time.monotonic() + limit_s
        while text not in self.stdout.read_bytes():
            if self.popen.poll() is not None:
                self.place.fail_with_report(f"ended before it printed {text!r}", self)
            if time.monotonic() > end_s:
                self.place.fail_with_report(f"did not print {text!r} in {limit_s} s", self)
            time.sleep(processes.POLL_S)


class Place:
    """One test's surroundings. `finish` must be called at its end (the fixture does)."""

    def __init__(
        self, scratch: Path, cache: Path, pin: int | None, pager: str | None = None
    ) -> None:
        self.scratch = scratch
        self.temporary = scratch / "tmp"
        self.temporary.mkdir()
        self.cache = cache
        self.pin = pin
        self.pager = pager
        self.tag = uuid.uuid4().hex
        self.running: list[Running] = []
        self.there_before = {process.pid for process in processes.descendants_of(os.getpid())}

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The tests' own, less what would steer dsmsup, plus tag, TMPDIR and cache."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DSMSUP_", "OMPI_", "PMI", "SLURM_", "JOB_COMPLETION"))
        }
        kept |= {
            processes.TAG_VARIABLE: self.tag,
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(self.cache),
        }
        if dsmsup_command()[-2:] == ["-m", "supervisor.cli"]:
            kept["PYTHONPATH"] = str(ROOT)
        if self.pager is not None:
            kept["DSMSUP_PAGER"] = self.pager
        return kept | dict(extra or {})

    def start(self, argv: Sequence[str], *, stdin: bytes | None = None, fd0: int | None = None,
              env: Mapping[str, str] | None = None, cwd: Path | None = None,
              new_session: bool = True) -> Running:
        """Start a command. Standard input is `stdin`'s bytes, or `fd0`, or empty."""
        number = len(self.running)
        names = [self.scratch / f"{number}.{stream}" for stream in ("in", "out", "err")]
        names[0].write_bytes(stdin or b"")
        full = [*(["taskset", "-c", str(self.pin)] if self.pin is not None else []), *argv]
        with names[0].open("rb") as fin, names[1].open("wb") as out, names[2].open("wb") as err:
            popen = subprocess.Popen(
                full,
                stdin=fin if fd0 is None else fd0,
                stdout=out,
                stderr=err,
                env=self.environment(env),
                cwd=cwd or self.scratch,
                start_new_session=new_session,
            )
        running = Running(self, full, popen, names[1], names[2])
        self.running.append(running)
        return running

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None,
            env: Mapping[str, str] | None = None, cwd: Path | None = None,
            limit_s: float = RUN_LIMIT_S) -> Finished:
        """Run a command to its end; nothing of it may be left."""
        done = self.start(argv, stdin=stdin, env=env, cwd=cwd).wait(limit_s)
        self.check_clean()
        return done

    def dsmsup(self, *arguments: str | Path, stdin: bytes | None = None,
               env: Mapping[str, str] | None = None, cwd: Path | None = None,
               limit_s: float = RUN_LIMIT_S) -> Finished:
        """Run `dsmsup ARGUMENTS...` to its end."""
        argv = [*dsmsup_command(), *map(str, arguments)]
        return self.run(argv, stdin=stdin, env=env, cwd=cwd, limit_s=limit_s)

    def ours(self) -> list[processes.Process]:
        """Live processes of this test."""
        return processes.ours(self.tag, self._waited_for(), self.there_before)

    def _waited_for(self) -> set[int]:
        return {run.pid for run in self.running if run.popen.returncode is None}

    def check_clean(self, limit_s: float = LINGER_S) -> None:
        """Fail when a process or a temporary file of this test is still there."""
        left = processes.wait_until_none(
            self.tag, self._waited_for(), self.there_before, limit_s
        )
        if left:
            report = processes.describe(left)
            processes.kill_all(left)
            pytest.fail(f"processes left {limit_s} s after the run:\n{report}")
        files = sorted(path.name for path in self.temporary.rglob("*"))
        assert files == [], "temporary files left"
        shared = [path.name for path in Path("/dev/shm").glob("*dsmsup*")]
        assert shared == [], "shared memory files left"

    def fail_with_report(self, what: str, run: Running) -> None:
        """Kill everything of this test, then fail, telling what was running and said."""
        alive = self.ours()
        report = processes.describe(alive)
        processes.kill_all(alive)
        run.popen.wait()
        pytest.fail(
            f"{what}: {' '.join(run.argv)}\nprocesses:\n{report}\n"
            f"stdout: {run.stdout.read_bytes()[-1000:]!r}\n"
            f"stderr:\n{run.stderr.read_text(errors='replace')[-3000:]}"
        )

    def finish(self) -> None:
        """Kill what a failed test left, and wait for it."""
        processes.kill_all(self.ours())
        for run in self.running:
            run.popen.wait()
        processes.reap_orphans(set())


def host_of_processor(stats: dict[str, Any]) -> list[int]:
    """The host that each virtual processor of a run belongs to, as getcpu numbers them."""
    return [host["id"] for host in stats["hosts"] for _ in range(host["cpus"])]


def read_stats(path: Path, *, hosts: int, status: int, threads: int) -> dict[str, Any]:
    """The statistics of a run, checked against what is known about it.

    `threads` is how many threads besides main were alive at once: when there are
    as many as hosts, every host must have started one.
    """
    stats: dict[str, Any] = json.loads(path.read_text())
    missing = {"program", "exit_status", "wall_s", "policy", "hosts"} - stats.keys()
    assert not missing, f"statistics lack {missing}"
    assert stats["exit_status"] == status
    assert stats["wall_s"] > 0
    assert [host["id"] for host in stats["hosts"]] == list(range(hosts))
    for host in stats["hosts"]:
        assert not HOST_FIELDS - host.keys(), f"host {host['id']} lacks fields"
    if threads >= hosts:
        started = [host["threads_started"] for host in stats["hosts"]]
        assert min(started) >= 1, f"threads started on each host: {started}"
        assert sum(started) >= threads, f"threads started on each host: {started}"
    return stats


def one_line(run: Finished, status: int) -> str:
    """A refusal: nothing on standard output, one line of dsmsup's on standard error."""
    assert run.status == status, run.stderr
    assert run.stdout == b""
    lines = run.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("dsmsup: ")
    return lines[0]


def as_root() -> None:
    """Namespaces of mounts and networks are root's to make."""
    if os.geteuid():
        pytest.skip("needs root")
    need("unshare")
