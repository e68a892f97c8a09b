# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time of a benchmark goes: what its supervisors do, and what goes between them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benches.measure import ROOT, Bench

COUNTED: Final = (
    "traps", "faults_read", "faults_write", "syscalls_forwarded", "pages_sent", "flushes",
    "diffs_sent", "bytes_sent",
)  # fmt: skip


def break_down(
    bench: Bench, argv: Sequence[str], hosts: int, options: Sequence[str], operations: int
) -> dict[str, Any]:
    """One run under sampling: shares of time by host and room, and counts an operation.

    `operations` is how many the program makes in all; 1 for a program as a whole.
    """
    folder = bench.work / "profile"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run = bench.dsmsup(
        argv, bench.on(hosts), hosts, options=options,
        wrapper=[sys.executable, str(ROOT / "benches" / "profiled.py"), str(folder)],
    )  # fmt: skip
    rows = []
    for host in range(hosts):
        seen = json.loads((folder / f"{host}.json").read_text())
        samples = sum(count for _, count in seen["rooms"]) or 1
        counted = next(row for row in run.stats["hosts"] if row["id"] == host)
        rows.append({
            "host": host,
            "samples": samples,
            "rooms": {room: count / samples for room, count in seen["rooms"]},
            "functions": {
                name: count / samples for name, count in seen["functions"] if "/" in name
            },
            "counts": {
                name: counted[name] / operations for name in COUNTED if counted.get(name)
            },
        })  # fmt: skip
    command = [*options, Path(argv[0]).name, *argv[1:]]
    return {"command": command, "stdout": run.stdout.strip(), "hosts": rows}
