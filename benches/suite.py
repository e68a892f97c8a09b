# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark suite: every section in turn, then the figures as JSON and as a page.

    python benches/suite.py [--only SECTION]... [--quick] [--json FILE] [--page FILE]

`make bench` runs all of it, in under 15 minutes on two quiet processors, and writes
docs/benchmarks.json and docs/benchmarks.md. Exits with 1 when a program failed; a
missed target is no failure. `--quick` measures nothing worth keeping: it shows that
all parts work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benches import micro, misses, page, paper, presence, share, speedup  # noqa: E402
from benches.measure import Bench, Load, run  # noqa: E402


def script(name: str, *options: str) -> Callable[[Bench], Any]:
    """A section that is a program of its own: its `--json`."""

    def measure(bench: Bench) -> Any:
        report = bench.work / f"{name}.json"
        report.unlink(missing_ok=True)
        with bench.noting():
            command = [sys.executable, str(ROOT / "benches" / f"{name}.py"), *options,
                       "--json", str(report)]  # fmt: skip
            # A status of 1 with a report says that a limit is exceeded.
            run(command, bench.processors, 240.0, bench.environment(), accepted=(0, 1))
            return json.loads(report.read_text())
        return None

    return measure


SECTIONS: Final[dict[str, tuple[str, Callable[[Bench], Any]]]] = {
    "paper": ("10,000 fences, as in the paper", paper.measure),
    "share": ("share of synchronization instructions", share.measure),
    "micro": ("single operations against their floors", micro.measure),
    "presence": ("cost of presence", presence.measure),
    "speedup": ("speed-up against processors", speedup.measure),
    "rewriter": ("the rewriter", script("rewriter_cost", "--rounds", "3")),
    "transport": ("links", script("transport", "--seconds", "1")),
}


def git(*arguments: str) -> str:
    """What git says; nothing where it has nothing to say, or this is no checkout."""
    told = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip()


def machine() -> dict[str, Any]:
    """What the figures are of."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = git("describe", "--always")
    if git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"):
        commit += "-dirty"  # the page that is written is no part of what is measured
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", action="append", choices=list(SECTIONS), metavar="SECTION",
                        help=f"run only this one of {', '.join(SECTIONS)}; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="write the page there, its plots into a folder beside it")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benches", metavar="FOLDER",
                        help="where programs and the rewriter's cache are kept")  # fmt: skip
    options = parser.parse_args()
    bench = Bench(options.work, options.quick)
    load = Load()
    results: dict[str, Any] = {
        "machine": machine(), "quick": options.quick, "sections": {}, "took_s": {},
    }  # fmt: skip
    for name in options.only or SECTIONS:
        title, measure = SECTIONS[name]
        bench.say(f"{name}: {title}")
        began = time.monotonic()
        section = measure(bench)
        if section is not None:
            results["sections"][name] = section
        results["took_s"][name] = round(time.monotonic() - began, 1)
    results["load"] = load.seen()
    if not options.quick:
        bench.say("misses: where their time goes")
        began = time.monotonic()
        results["breakdowns"] = misses.measure(bench, results["sections"])
        results["took_s"]["misses"] = round(time.monotonic() - began, 1)
    results["failures"] = bench.failures
    if options.json:
        options.json.write_text(json.dumps(page.rounded(results), indent=1) + "\n")
    if options.page:
        page.write(results, options.page)
    for line in page.verdict_lines(results):
        bench.say(line)
    bench.say(f"took {sum(results['took_s'].values()):.0f} s; {len(bench.failures)} failed")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
