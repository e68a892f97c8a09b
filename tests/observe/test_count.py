# SPDX-License-Identifier: GPL-2.0-or-later
"""`dsmsup count` on programs whose every instruction is known, or has a known place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXACT = """
.globl _start
_start: mov $1000, %ebx
1:      lock incl counter(%rip)
        xchg %eax, counter(%rip)
        dec %ebx
        jnz 1b
        mfence
        lea buffer(%rip), %rdi
        mov $64, %ecx
        rep stosb
        mov $60, %eax
        mov $5, %edi
        syscall
.bss
counter: .skip 4
buffer: .skip 64
"""
EXACT_TOTAL = 1 + 4 * 1000 + 7

COMMON = """
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static int counter;
static volatile sig_atomic_t signals;
void *here(void *times) {
    for (long i = (long)times; i > 0; i--) __asm__ volatile("lock incl %0" : "+m"(counter));
    return 0;
}
static void on_signal(int number) { signals++; here((void *)2); }
"""

THREADS = """
int main(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, here, (void *)100);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
    printf("%d\\n", counter);
    return 0;
}
"""

PROCESSES = """
int main(int count, char **arguments) {
    if (count > 1) { here((void *)7); return 3; }
    pid_t child = fork();
    if (child == 0) { here((void *)50); execl(arguments[0], arguments[0], "again", NULL); }
    int status;
    waitpid(child, &status, 0);
    here((void *)20);
    printf("%d\\n", WEXITSTATUS(status));
    return 0;
}
"""

SIGNALS = """
int main(void) {
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < 5; i++) raise(SIGUSR1);
    here((void *)30);
    printf("%d\\n", signals);
    fflush(stdout);
    __asm__ volatile("int3");
    return 0;
}
"""

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def build(name: str, source: str, *options: str) -> Path:
        path, program = tmp_path / name, tmp_path / Path(name).stem
        path.write_text(source)
        subprocess.run(
            ["gcc", "-O1", "-g", *options, "-o", program, path], check=True, timeout=60
        )
        return program

    return build


def run_count(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("dsmsup")
    return subprocess.run(
        [command, "count", *arguments], capture_output=True, text=True, timeout=120
    )


def report_of(tmp_path: Path, *arguments: str | Path) -> tuple[Any, str]:
    """The JSON report of a run, and what the program printed."""
    file = tmp_path / "report.json"
    done = run_count("--json", "-o", file, *arguments)
    assert done.stderr == ""
    report = json.loads(file.read_text())
    assert report["exit_status"] == (done.returncode if done.returncode >= 0 else 128)
    return report, done.stdout


def of_function(report: Any, name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for site in report["sites"]:
        if site["function"] == name:
            found[site["kind"]] = found.get(site["kind"], 0) + site["count"]
    return found


def test_every_instruction_counts_once(build: Build, tmp_path: Path) -> None:
    program = build("exact.s", EXACT, "-nostdlib", "-static", "-no-pie")
    report, _ = report_of(tmp_path, program)
    assert report["exit_status"] == 5
    assert report["instructions"] == EXACT_TOTAL
    assert report["kinds"] == {"lock": 1000, "xchg": 1000, "mfence": 1}


def test_threads(build: Build, tmp_path: Path) -> None:
    report, out = report_of(tmp_path, build("threads.c", COMMON + THREADS, "-pthread", "-static"))
    assert out == "300\n"
    assert of_function(report, "here") == {"lock": 300}
    line = next(site["line"] for site in report["sites"] if site["function"] == "here")
    assert line == "threads.c:10"


def test_child_processes_and_what_they_execute(build: Build, tmp_path: Path) -> None:
    report, out = report_of(tmp_path, build("processes.c", COMMON + PROCESSES, "-static"))
    assert out == "3\n"
    assert of_function(report, "here") == {"lock": 77}


def test_signals_and_the_programs_own_trap(build: Build, tmp_path: Path) -> None:
    report, out = report_of(tmp_path, build("signals.c", COMMON + SIGNALS, "-static"))
    assert out == "5\n"
    assert report["exit_status"] == 128 + signal.SIGTRAP
    assert of_function(report, "here") == {"lock": 40}


def test_limit_and_table(build: Build) -> None:
    program = build("exact.s", EXACT, "-nostdlib", "-static", "-no-pie")
    done = run_count("--limit", "401", program)
    assert done.returncode == 5
    first, *_ = done.stderr.splitlines()
    assert first.endswith(
        "401 instructions executed, one by one; the rest of the run is not counted"
    )
    assert "100  24.9377 %  xchg" in done.stderr


def test_errors_are_one_line(tmp_path: Path) -> None:
    for arguments, status in [
        (("/nonexistent",), 127),
        ((str(tmp_path),), 126),
        (("-o", "/nonexistent/report", "true"), 125),
        (("--limit", "0", "true"), 125),
    ]:
        done = run_count(*arguments)
        assert done.returncode == status
        assert done.stderr.startswith("dsmsup: ") and done.stderr.count("\n") == 1
