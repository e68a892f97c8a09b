# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes docs/posix.md: groups of calls with their verdicts on 1, 2 and 3 hosts.

    make build && .venv/bin/python tests/e2e/posix_table.py > docs/posix.md

Each test of testprogs/posix is run natively, then on each number of hosts, its
calls made by home's main thread and by a thread of another host.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "testprogs" / "posix"
PROGRAMS = ("sync", "threads", "signals", "timers", "processor", "memory", "processes", "machine")
HOSTS = (1, 2, 3)
LIMIT_S = 120


def tests_of(program: str) -> list[str]:
    """The tests of a program, in its own order."""
    text = (SOURCES / f"{program}.c").read_text()
    return re.findall(r'^\t\t\{"(\w+)", \w+\},$', text, re.MULTILINE)


def _run(argv: list[str]) -> tuple[int | None, list[str]]:
    """Exit status (None: it took too long) and lines."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return None, []
    return done.returncode, done.stdout.splitlines()


def _of_test(lines: list[str], test: str) -> list[str]:
    return [line for line in lines if line.split()[1:2] == [f"{test}:"]]


def _verdict(native: list[str], status: int | None, lines: list[str]) -> str:
    if lines == native:
        return f"{len(native)} of {len(native)}"
    good = sum(line in lines for line in native)
    how = {None: "hangs; ", 0: "", 1: ""}.get(status, f"status {status}; ")
    first = next((line for line in native if line not in lines), "")
    return f"**{good} of {len(native)}** ({how}{first.partition(': ')[2]})"


def _cells(program: str, mode: str, prefix: list[str]) -> dict[str, str]:
    """The verdict of each test of a program."""
    binary = str(ROOT / "testprogs" / "bin" / f"posix_{program}")
    _, native = _run([binary, mode])
    status, lines = _run([*prefix, binary, mode])
    cells = {}
    for test in tests_of(program):
        wanted, seen, ended = _of_test(native, test), _of_test(lines, test), status
        if status not in (0, 1) and seen != wanted:  # it ended too soon: each by itself
            ended, seen = _run([*prefix, binary, mode, test])
        cells[test] = _verdict(wanted, ended, seen)
    return cells


def main() -> None:
    command = str(Path(sys.executable).with_name("dsmsup"))
    modes = [(hosts, mode) for hosts in HOSTS for mode in ("home", "away")]
    if len(sys.argv) == 1:
        _introduce()
    for program in sys.argv[1:] or PROGRAMS:
        summary = re.search(r"^/\* (.+?)\.? \*/$", (SOURCES / f"{program}.c").read_text(), re.M)
        print(f"## {summary.group(1) if summary else program}\n")
        heads = [f"{hosts} host{'s' * (hosts > 1)}, {mode}" for hosts, mode in modes]
        print(f"| test | {' | '.join(heads)} |")
        print("|---" * (len(heads) + 1) + "|")
        columns = [
            _cells(program, mode, [command, "exec", "-n", str(hosts)]) for hosts, mode in modes
        ]
        for test in tests_of(program):
            print(f"| {test} | {' | '.join(column[test] for column in columns)} |")
        print(flush=True)


def _introduce() -> None:
    print("# Promises of POSIX\n")
    print("Made by `.venv/bin/python tests/e2e/posix_table.py > docs/posix.md` (after")
    print("`make build`). A cell tells how many of a test's promises hold, of those that hold")
    print("natively, with the calls made by home's main thread and by a thread elsewhere (on")
    print("one host: by another thread).\n")


if __name__ == "__main__":
    main()
