# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs of others on 1, 2 and 3 hosts, and writes docs/programs.json and docs/programs.md.

    python tests/e2e/others_table.py [--json FILE] [--page FILE] [--hosts 1,2,3] [--runs N]
                                     [--only REGEX] [--pin CORE] [--seconds S]

What the JSON file says of this version of dsmsup is not run again, what is missing there is:
a table can be made in pieces (`--seconds`: begin no run after so long), and of some rows.
Exits with 3 when there is more to run, else with 1 when a program failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import others
import others_page
import processes
from _pytest.outcomes import Failed
from harness import ROOT, Place
from others import Outcome, Row
from others_rows import ROWS

CACHE = ROOT / "build" / "programs"
"""Rewritten files: of use to the next piece of a table as well."""

MORE = 3

Report = dict[str, dict[str, Any]]
"""By a row's command: what others_page tells of it."""


def product() -> str:
    """This version of dsmsup: what its modules are."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("supervisor/**/*.py"), *ROOT.glob("rewriter/**/*.py")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """The last one that changed dsmsup itself."""
    asked = ["git", "log", "-1", "--format=%h", "--", "supervisor", "rewriter"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def version_of(row: Row) -> str:
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", row.package], capture_output=True, text=True
    )
    return asked.stdout or "?"


def attempt(row: Row, pin: int | None, hosts: int, native: Outcome | None
            ) -> tuple[Outcome | None, str, float]:
    """One run in a place of its own: what came of it, what is wrong, seconds. 0 hosts: natively."""
    scratch = CACHE / "run"
    subprocess.run(["rm", "-rf", str(scratch)], check=True)
    scratch.mkdir(parents=True)
    place = Place(scratch, CACHE, pin)
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


class Table:
    """The report as far as it has got, kept in a file after each run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.end_s = time.monotonic() + options.seconds
        self.of = product()
        self.report: Report = {}
        if options.json and options.json.exists():
            known = json.loads(options.json.read_text())
            self.report = {row.key: known[row.key] for row in ROWS if row.key in known}

    def entry(self, row: Row) -> dict[str, Any]:
        """What is known of a row; nothing, when it or dsmsup is another now."""
        what = hashlib.sha256((row.script + row.prepare).encode()).hexdigest()[:16]
        known = self.report.get(row.key, {})
        if known.get("of") != self.of or known.get("row") != what:
            known = {"of": self.of, "row": what, "package": row.package, "shown": row.shown,
                     "version": version_of(row), "threads": row.threads,
                     "refusal": row.refusal[1] if row.refusal else "", "runs": {}}
        return known | {"commit": commit()}

    def wanted(self, row: Row) -> dict[int, int]:
        """How many runs on how many hosts."""
        runs = self.options.runs
        return {hosts: runs or (row.runs if hosts == 2 else 1) for hosts in self.options.hosts}

    def fill(self, row: Row) -> bool:
        """Make the runs of a row that are missing; False when time is over before."""
        entry = self.entry(row)
        runs = entry["runs"]
        if all(len(runs.get(str(hosts), [])) >= count for hosts, count in self.wanted(row).items()):
            return True
        native: Outcome | None = None
        for hosts, count in self.wanted(row).items():
            done = runs.setdefault(str(hosts), [])
            while len(done) < count:
                if time.monotonic() > self.end_s:
                    return False
                if native is None:
                    native, fault, wall_s = attempt(row, self.options.pin, 0, None)
                    entry["native_s"] = round(wall_s, 2)
                    if native is None:
                        print(f"{row.shown}: natively: {fault}", file=sys.stderr)
                        return True
                _, fault, wall_s = attempt(row, self.options.pin, hosts, native)
                done.append({"fault": fault, "wall_s": round(wall_s, 2)})
                self.report[row.key] = entry
                self.save()
        print(others_page.line(entry, self.options.hosts), flush=True)
        return True

    def save(self) -> None:
        if self.options.json:
            self.options.json.write_text(json.dumps(self.report, indent=1, sort_keys=True) + "\n")
        if self.options.page:
            entries = [entry for entry in self.report.values() if entry["of"] == self.of]
            self.options.page.write_text(others_page.page(entries))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--hosts", default=[1, 2, 3],
                        type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--runs", type=int, help="of each row on each number of hosts")
    parser.add_argument("--only", default="")
    parser.add_argument("--pin", type=int)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    processes.become_subreaper()
    table = Table(options)
    complete = True
    for row in ROWS:
        if not re.search(options.only, f"{row.package} {row.shown}"):
            continue
        if name := others.missing(row):
            print(f"not installed: {name}", file=sys.stderr)
            continue
        complete = table.fill(row)
        if not complete:
            break
    table.save()
    failed = any(run["fault"] for entry in table.report.values() if entry["of"] == table.of
                 for runs in entry["runs"].values() for run in runs)
    return MORE if not complete else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
