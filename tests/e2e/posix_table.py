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
PROGRAMS = ("sync", "threads", "signals", "timers", "memory", "processes", "machine")
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


def _verdict(native: list[str], status: int | None, lines: list[str]) -> str:
    if lines == native and status == 0:
        return f"{len(native)} of {len(native)}"
    good = sum(line in lines for line in native)
    how = "hangs" if status is None else f"status {status}"
    first = next((line for line in native if line not in lines), "")
    return f"**{good} of {len(native)}** ({how}; {first.partition(': ')[2]})"


def main() -> None:
    command = str(Path(sys.executable).with_name("dsmsup"))
    print("# Promises of POSIX\n")
    print("Made by `.venv/bin/python tests/e2e/posix_table.py > docs/posix.md` (after")
    print("`make build`). A cell tells how many of a test's promises hold, of those that hold")
    print("natively, with the calls made by home's main thread and by a thread elsewhere (on")
    print("one host: by another thread).\n")
    modes = [(hosts, mode) for hosts in HOSTS for mode in ("home", "away")]
    for program in PROGRAMS:
        summary = re.search(r"^/\* (.+?)\.? \*/$", (SOURCES / f"{program}.c").read_text(), re.M)
        print(f"## {summary.group(1) if summary else program}\n")
        heads = [f"{hosts} host{'s' * (hosts > 1)}, {mode}" for hosts, mode in modes]
        print(f"| test | {' | '.join(heads)} |")
        print("|---" * (len(heads) + 1) + "|")
        for test in tests_of(program):
            cells = []
            for hosts, mode in modes:
                argv = [str(ROOT / "testprogs" / "bin" / f"posix_{program}"), mode, test]
                _, native = _run(argv)
                run = _run([command, "exec", "-n", str(hosts), *argv])
                cells.append(_verdict(native, *run))
            print(f"| {test} | {' | '.join(cells)} |", flush=True)
        print()


if __name__ == "__main__":
    main()
