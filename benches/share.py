# SPDX-License-Identifier: GPL-2.0-or-later
"""The paper's figure: which share of the instructions executed synchronizes, by `dsmsup count`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from benches.measure import ROOT, Bench, dsmsup_command, run

LIMIT: Final = 600_000
"""Instructions of a program that are counted; they take some seconds, one by one."""


def subjects(bench: Bench) -> dict[str, list[str]]:
    """Programs of the kinds that the paper had, by what they are."""
    folder = str(ROOT / "supervisor")
    return {
        "ls -l": ["ls", "-l", folder],
        "start of a shell": ["sh", "-c", "exit 0"],
        "files and console (find -ls)": ["find", folder, "-name", "*.py", "-ls"],
        "files and console (grep -rn)": ["grep", "-rn", "import", folder + "/coherence"],
        "2 threads, lock (k-means)": [bench.program("kmeans"), "2", "1", "2"],
        "2 threads, work list (n-queens)": [bench.program("nqueens"), "2", "7"],
        "2 threads, mutex and counter": [str(ROOT / "testprogs" / "bin" / "mutex"), "2", "2000"],
    }


def measure(bench: Bench) -> dict[str, Any]:
    """Executed instructions of each program, and of each kind of synchronization."""
    rows = []
    report = bench.work / "count.json"
    limit = bench.count(LIMIT)
    chosen = subjects(bench)
    for name in list(chosen)[:1] if bench.quick else chosen:
        with bench.noting():
            command = [*dsmsup_command(), "count", "--json", "-o", str(report),
                       "--limit", str(limit), *chosen[name]]  # fmt: skip
            run(command, bench.processors, 120.0, bench.environment())
            counted = json.loads(report.read_text())
            functions: Counter[str] = Counter()
            for site in counted["sites"]:
                functions[site["function"] or site["path"]] += site["count"]
            total, kinds = counted["instructions"], counted["kinds"]
            rows.append({
                "program": name, "instructions": total, "complete": counted["complete"],
                "kinds": kinds, "share": sum(kinds.values()) / total,
                "lock_share": kinds.get("lock", 0) / total,
                "busiest": functions.most_common(3),
            })  # fmt: skip
            bench.say(f"  {name:34} {100 * rows[-1]['share']:8.4f} % of {total:,}")
    return {"limit": limit, "rows": rows}
