# SPDX-License-Identifier: GPL-2.0-or-later
"""What the sections of the benchmark suite share: programs, runs, medians.

Things that are compared run alternately (`alternate`), so that a change of the
machine's mood meets all of them. Every run has a time limit; one that fails or
takes too long is noted and the suite goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ROOT / "benches" / "programs"
COMPILE: Final = ("gcc", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-O2", "-pthread")
RUN_LIMIT_S: Final = 60.0

Figure = dict[str, float]
"""`median`, `low` and `high` of the `runs` made."""


class RunFailed(Exception):
    """A program did not end well: the command, and what was seen."""


class Finished(NamedTuple):
    """One run that ended with status 0."""

    stdout: str
    wall_s: float
    stats: dict[str, Any]
    """`--stats` of a run under dsmsup; empty for a native one."""


def figure(values: Sequence[float]) -> Figure:
    """The median of some measurements, and their spread."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": len(values),
    }


def over(above: Sequence[float], below: Sequence[float]) -> Figure:
    """The ratio of two things measured in turn: of each round its own, then the median."""
    return figure([a / b for a, b in zip(above, below, strict=True)])


@dataclass
class Bench:
    """Where the suite works, how long it may measure, and what went wrong."""

    work: Path
    quick: bool = False
    failures: list[str] = field(default_factory=list)
    processors: tuple[int, ...] = field(
        default_factory=lambda: tuple(sorted(os.sched_getaffinity(0)))
    )

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)

    def rounds(self, count: int) -> int:
        """How many times to measure: once is enough to see that it runs."""
        return 1 if self.quick else count

    def count(self, times: int) -> int:
        """How many operations to time: a hundredth is enough to see that it runs."""
        return max(2, times // 100) if self.quick else times

    def say(self, line: str) -> None:
        print(line, flush=True)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """A run that fails here costs its own figures only."""
        try:
            yield
        except RunFailed as error:
            self.failures.append(str(error))
            self.say(f"  FAILED: {error}")

    def program(self, name: str) -> str:
        """The path of a benchmark program, compiled when its sources are newer."""
        source, target = SOURCES / f"{name}.c", self.work / name
        needed = [source, SOURCES / "bench.h", ROOT / "testprogs" / "common.h"]
        if not target.exists() or target.stat().st_mtime < max(s.stat().st_mtime for s in needed):
            subprocess.run([*COMPILE, "-o", str(target), str(source), "-lm"], check=True)
        return str(target)

    def on(self, count: int) -> tuple[int, ...]:
        """`count` processors: those of `count` hosts of one processor each.

        One alone is the last, since devices tend to interrupt the first.
        """
        return self.processors[-1:] if count == 1 else self.processors[:count]

    def native(
        self, argv: Sequence[str], cpus: Sequence[int], limit_s: float = RUN_LIMIT_S
    ) -> Finished:
        """Run a program as it is on some processors."""
        stdout, wall_s = run(argv, cpus, limit_s, os.environ)
        return Finished(stdout, wall_s, {})

    def dsmsup(
        self,
        argv: Sequence[str],
        cpus: Sequence[int],
        hosts: int,
        *,
        options: Sequence[str] = (),
        limit_s: float = RUN_LIMIT_S,
        wrapper: Sequence[str] = (),
    ) -> Finished:
        """Run a program under dsmsup, its hosts sharing out some processors."""
        report = self.work / "stats.json"
        report.unlink(missing_ok=True)
        command = [*(wrapper or dsmsup_command()), "exec", "-n", str(hosts), "--stats",
                   str(report), *options, *argv]  # fmt: skip
        stdout, wall_s = run(command, cpus, limit_s, self.environment())
        return Finished(stdout, wall_s, json.loads(report.read_text()))

    def environment(self) -> dict[str, str]:
        """The user's, less what would steer dsmsup; rewritten files are kept with the work."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DSMSUP_")}
        kept["DSMSUP_CACHE_DIR"] = str(self.work / "cache")
        kept["PYTHONPATH"] = str(ROOT)
        return kept


def dsmsup_command() -> list[str]:
    """The command installed beside this Python, else this checkout's."""
    installed = Path(sys.executable).with_name("dsmsup")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "supervisor.cli"]


def run(
    argv: Sequence[str],
    cpus: Sequence[int],
    limit_s: float,
    environment: Mapping[str, str],
    accepted: Sequence[int] = (0,),
) -> tuple[str, float]:
    """Run a command to its end: its output and how long it took, in seconds."""
    shown = f"taskset -c {','.join(map(str, cpus))} {shlex.join(argv)}"

    def settle() -> None:
        os.sched_setaffinity(0, cpus)

    began = time.perf_counter()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment, preexec_fn=settle, start_new_session=True,
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{shown}: still running after {limit_s:.0f} s") from None
    finally:
        # What it left behind as well: its other hosts die with the first.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wall_s = time.perf_counter() - began
    if process.returncode not in accepted:
        last = stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise RunFailed(f"{shown}: status {process.returncode}: {last[0]}")
    return stdout, wall_s


def alternate(
    things: Mapping[str, Callable[[], float]], rounds: int, limit_s: float
) -> dict[str, list[float]]:
    """Measure each thing `rounds` times, in turn, every other round in reverse order.

    Fewer times, but once, where another round would take longer than `limit_s` in all:
    a machine that is slow or loaded shall not make the suite endless.
    """
    values: dict[str, list[float]] = {name: [] for name in things}
    began = time.monotonic()
    for number in range(rounds):
        for name in list(things) if number % 2 == 0 else list(reversed(things)):
            values[name].append(things[name]())
        if (time.monotonic() - began) * (number + 2) / (number + 1) > limit_s:
            break
    return values


class Load:
    """What else the machine did while the suite measured."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s, self._stolen_s = _machine_times()
        self._own_s = _own_time()
        self.average_before = os.getloadavg()[0]

    def seen(self) -> dict[str, float]:
        """Shares of the machine's processors over the time since the beginning."""
        busy_s, stolen_s = _machine_times()
        capacity_s = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others_s = busy_s - self._busy_s - (_own_time() - self._own_s)
        return {
            "load_average_before": self.average_before,
            "others_share": max(0.0, others_s) / capacity_s,
            "stolen_share": (stolen_s - self._stolen_s) / capacity_s,
        }


def _machine_times() -> tuple[float, float]:
    """Seconds that all processors worked, and that the hypervisor took (proc(5))."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _own_time() -> float:
    """Processor seconds of this process and of the descendants that have ended."""
    both = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
