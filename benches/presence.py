# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of presence: programs on one host, start-up, the memory of a supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from benches.measure import Bench, RunFailed, alternate, dsmsup_command, figure, over

COMPUTING: Final = {
    "pi": ("400",),
    "nqueens": ("15",),
    "mandelbrot": ("1024", "1000"),
    "matmul": ("1280",),
}
"""Half a second to one each, so that a machine which is slower for seconds is so for both that are
compared."""
COMPUTING_ROUNDS: Final = 9
STARTED: Final = {"hello": ["echo", "hello"], "python3": ["python3", "-c", "pass"]}
ROW_LIMIT_S: Final = 14.0
READY_LIMIT_S: Final = 30.0


def measure(bench: Bench) -> dict[str, Any]:
    """All three; what fails is left out."""
    result: dict[str, Any] = {"computing": [], "start": [], "memory": []}
    for name, size in list(COMPUTING.items())[: 1 if bench.quick else None]:
        for threads in range(1, min(2, len(bench.processors)) + 1):
            with bench.noting():
                result["computing"].append(_computing(bench, name, size, threads))
                row = result["computing"][-1]
                bench.say(f"  {name:12} {threads} threads, -n 1: "
                          f"{row['over_native']['median']:.3f} times native")
    for name, argv in list(STARTED.items())[: 1 if bench.quick else None]:
        with bench.noting():
            result["start"].append(_start(bench, name, argv))
            row = result["start"][-1]
            bench.say(f"  start of {name}: " + ", ".join(
                f"-n {n} {row[f'added_s_{n}']['median']:.3f} s over native" for n in (1, 2)))
    with bench.noting():
        result["memory"] = _memory(bench)
        for row in result["memory"]:
            bench.say(f"  {row['host']:12} {row['pss_mib']:.1f} MiB")
    return result


def _computing(bench: Bench, name: str, size: tuple[str, ...], threads: int) -> dict[str, Any]:
    """The parallel part of a program on one host of as many processors as threads."""
    program, cpus = bench.program(name), bench.on(threads)
    argv = [program, str(threads), *(("1",) if bench.quick else size)]
    taken_s = alternate(
        {
            "native": lambda: float(bench.native(argv, cpus).stdout.split()[0]),
            "dsmsup": lambda: float(bench.dsmsup(argv, cpus, 1).stdout.split()[0]),
        },
        bench.rounds(COMPUTING_ROUNDS),
        ROW_LIMIT_S,
    )
    return {
        "program": name,
        "threads": threads,
        "native_s": figure(taken_s["native"]),
        "over_native": over(taken_s["dsmsup"], taken_s["native"]),
        "least_over_native": min(taken_s["dsmsup"]) / min(taken_s["native"]),
    }


def _start(bench: Bench, name: str, argv: list[str]) -> dict[str, Any]:
    """The whole run of a program that does nothing; its files are in the cache."""
    cpus = bench.on(2)
    bench.dsmsup(argv, cpus, 2)
    taken_s = alternate(
        {
            "native": lambda: bench.native(argv, cpus).wall_s,
            "1": lambda: bench.dsmsup(argv, cpus, 1).wall_s,
            "2": lambda: bench.dsmsup(argv, cpus, 2).wall_s,
        },
        bench.rounds(7),
        ROW_LIMIT_S,
    )
    return {
        "program": name,
        "native_s": figure(taken_s["native"]),
        **{
            f"added_s_{hosts}": figure(
                [a - b for a, b in zip(taken_s[hosts], taken_s["native"], strict=True)]
            )
            for hosts in ("1", "2")
        },
    }


def _memory(bench: Bench) -> list[dict[str, Any]]:
    """The proportional set size of home's and a lender's supervisor once 64 MiB have moved."""
    pages, batches = ("64", "3") if bench.quick else ("16384", "2")
    argv = [*dsmsup_command(), "exec", "-n", "2", "--no-migrate", bench.program("micro"), "stream",
            pages, batches, "linger"]  # fmt: skip
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=bench.environment(), start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        os.set_blocking(process.stdout.fileno(), False)
        deadline = time.monotonic() + READY_LIMIT_S
        while not process.stdout.read():  # it lingers after it has printed its figures
            if time.monotonic() > deadline or process.poll() is not None:
                raise RunFailed(f"{' '.join(argv)}: no figures in {READY_LIMIT_S:.0f} s")
            time.sleep(0.05)
        hosts = [("home", process.pid)]
        hosts += [("lender", pid) for pid in _children(process.pid) if _is_python(pid)]
        return [{"host": host, **_resident(pid)} for host, pid in hosts]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _is_python(pid: int) -> bool:
    return "python" in os.path.basename(os.readlink(f"/proc/{pid}/exe"))


def _resident(pid: int) -> dict[str, float]:
    """MiB of a process, pages shared with others divided among them (proc(5))."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {row.split()[0]: int(row.split()[1]) for row in rows}
    return {"pss_mib": kib["Pss:"] / 1024, "rss_mib": kib["Rss:"] / 1024}
