# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processes a test has running, found through /proc.

A process is a test's own when it descends from this one, or carries the test's
tag in its environment. This process makes itself a *subreaper*
(PR_SET_CHILD_SUBREAPER): an orphan, however it was daemonised, becomes its
child instead of init's, so descent alone misses nothing; the tag names the
test. A socket lives only as long as a process that holds it, so a test that
leaves no process leaves no socket either.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
TAG_VARIABLE = "DSMSUP_TEST_TAG"
POLL_S = 0.01


class Process(NamedTuple):
    """One line of /proc: `state` is a letter of proc(5), `tracer` a pid or 0."""

    pid: int
    parent: int
    state: str
    tracer: int
    command: str

    @property
    def ended(self) -> bool:
        """A zombie has ended; only its parent has not yet asked."""
        return self.state in "ZX"


def become_subreaper() -> None:
    """Make orphaned descendants children of this process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def look_at(pid: int) -> Process | None:
    """The process, or None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    words = command.rstrip(b"\0").split(b"\0")
    return Process(
        pid,
        int(status["PPid"]),
        status["State"][0],
        int(status["TracerPid"]),
        b" ".join(words).decode(errors="replace") or f"[{status['Name']}]",
    )


def cpu_s(pid: int) -> float:
    """Processor time, user and system, that all the process's threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def has_tag(pid: int, tag: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{TAG_VARIABLE}={tag}".encode() in environment.split(b"\0")


def all_processes() -> dict[int, Process]:
    found = (look_at(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def descendants_of(root: int) -> list[Process]:
    """Every live descendant of `root`, itself not included, parents before children."""
    everyone = all_processes()
    children: dict[int, list[Process]] = {}
    for process in everyone.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue = [root]
    while queue:
        for child in children.get(queue.pop(0), []):
            found.append(child)
            queue.append(child.pid)
    return found


def reap_orphans(keep: set[int]) -> None:
    """Wait for ended children of this process that nobody else will wait for.

    `keep` holds the pids whose Popen objects still want their status.
    """
    for process in descendants_of(os.getpid()):
        if process.parent == os.getpid() and process.ended and process.pid not in keep:
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue  # taken meanwhile by its Popen object


def ours(tag: str, keep: set[int], ignore: set[int]) -> list[Process]:
    """Live processes of the test `tag`, but for `ignore` (there before it began)."""
    reap_orphans(keep)
    below = {process.pid: process for process in descendants_of(os.getpid())}
    tagged = {
        process.pid: process
        for process in all_processes().values()
        if process.pid != os.getpid() and has_tag(process.pid, tag)
    }
    return [
        process
        for process in (below | tagged).values()
        if not process.ended and process.pid not in ignore
    ]


def kill_all(processes: list[Process]) -> None:
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until_none(tag: str, keep: set[int], ignore: set[int], limit_s: float) -> list[Process]:
    """What is still there of the test after at most `limit_s` seconds: [] when all is gone."""
    end_s = time.monotonic() + limit_s
    while (left := ours(tag, keep, ignore)) and time.monotonic() < end_s:
        time.sleep(POLL_S)
    return left


def describe(processes: list[Process]) -> str:
    """One line for each process and one for each of its tasks, with where in the kernel it
    sleeps, for a failure's report."""
    lines = []
    for process in processes:
        lines.append(
            f"  pid {process.pid} parent {process.parent} tracer {process.tracer}: "
            f"{process.command[:200]}"
        )
        try:
            lines += [_describe_task(task) for task in _tasks_of(process.pid)]
        except OSError:
            lines.append("    gone")
    return "\n".join(lines)


def _tasks_of(pid: int) -> list[Path]:
    return sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))


def _describe_task(task: Path) -> str:
    """`call`: the number of the system call that it is in, and its arguments (proc(5))."""
    state = (task / "stat").read_text().rpartition(")")[2].split()[0]
    said = []
    for name in ("wchan", "syscall"):
        try:
            said.append((task / name).read_text().strip())
        except OSError:
            said.append("?")
    return f"    task {task.name} state {state} in {said[0]}, call {said[1]}"
