# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes docs/programs.md: programs of others on 1, 2 and 3 hosts, against a native run.

    python tests/e2e/others_table.py [--hosts 1,2,3] [--repeat N] [--pin CORE] [--only REGEX]
                                     [--output FILE]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import others
import processes
from _pytest.outcomes import Failed
from harness import Place
from others import Outcome, Row
from others_rows import ROWS

HEAD = """# Programs of others

Made by `make programs`: Debian's programs, each run natively and under
`dsmsup exec -n N` on N virtual hosts of one machine, each so many times: {repeat}.
*same*: status, output, messages and files were a native run's every time.
The time is that of the median run on 2 hosts and that of the native run; one
to two seconds of the former are dsmsup's start, most of it Python's. Both hosts
share one machine's processors here: a program can be slower than natively, never
faster.

| package | program | version | {columns} | s native | s on {of} hosts |
|---|---|---|{rules}|---|---|
"""


class Cell(NamedTuple):
    """All runs of one row on one number of hosts."""

    faults: list[str]
    runs: int
    wall_s: float
    refusal: str = ""

    def __str__(self) -> str:
        if not self.faults:
            return f"refused: {self.refusal}" if self.refusal else "same"
        return f"{len(self.faults)} of {self.runs} failed: {self.faults[0]}".replace("|", "\\|")


def attempt(row: Row, cache: Path, pin: int | None, hosts: int, native: Outcome | None
            ) -> tuple[Outcome | None, str, float]:
    """One run in a place of its own; `hosts` 0 is natively."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(Path(scratch), cache, pin)
        try:
            if native is None:
                outcome, wall_s = others.run_native(row, place)
                return outcome, "", wall_s
            return None, *others.try_under_dsmsup(row, place, hosts, native)
        except (Failed, AssertionError) as error:
            lines = str(error).splitlines()
            print(str(error)[:6000], file=sys.stderr, flush=True)
            return None, lines[0].split(": ")[0][:100] if lines else "failed", others.LIMIT_S
        finally:
            place.finish()


def version_of(row: Row) -> str:
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", row.package], capture_output=True, text=True
    )
    return asked.stdout or "?"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="1,2,3")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--pin", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    counts = [int(word) for word in options.hosts.split(",")]
    timed = 2 if 2 in counts else counts[-1]
    processes.become_subreaper()
    lines = []
    failed = 0
    with tempfile.TemporaryDirectory() as cache:
        for row in ROWS:
            if not re.search(options.only, f"{row.package} {row.shown}"):
                continue
            if name := others.missing(row):
                print(f"not installed: {name}", file=sys.stderr)
                continue
            native, fault, native_s = attempt(row, Path(cache), options.pin, 0, None)
            if native is None:
                print(f"{row.shown}: natively: {fault}", file=sys.stderr)
                continue
            cells = []
            for hosts in counts:
                runs = [attempt(row, Path(cache), options.pin, hosts, native)
                        for _ in range(options.repeat)]
                cell = Cell([run[1] for run in runs if run[1]], len(runs),
                            median(run[2] for run in runs), row.refusal[1] if row.refusal else "")
                failed += bool(cell.faults)
                cells.append(cell)
            line = " | ".join([
                row.package, f"`{row.shown}`".replace("|", "\\|"), version_of(row),
                *map(str, cells), f"{native_s:.2f}", f"{cells[counts.index(timed)].wall_s:.2f}",
            ])
            lines.append(f"| {line} |\n")
            print(lines[-1], end="", flush=True)
            if options.output:
                write(options.output, counts, timed, options.repeat, lines)
    return 1 if failed else 0


def write(output: Path, counts: list[int], timed: int, repeat: int, lines: list[str]) -> None:
    """The whole table, as far as it has got."""
    columns = [f"{count} host{'s' * (count > 1)}" for count in counts]
    head = HEAD.format(repeat=repeat, columns=" | ".join(columns), of=timed,
                       rules="|".join("---" for _ in counts))
    output.write_text(head + "".join(sorted(lines)))


if __name__ == "__main__":
    sys.exit(main())
