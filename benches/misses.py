# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time goes in what missed its target."""

from __future__ import annotations

from typing import Any, Final

from benches import micro, speedup
from benches.breakdown import break_down
from benches.measure import Bench
from benches.targets import judge

BATCHES: Final = 31
SECONDS: Final = 3.0
"""About how long a single operation is repeated under the profiler."""


def measure(bench: Bench, sections: dict[str, Any]) -> dict[str, Any]:
    """One sampled run for each missed figure that supervisors have a part in."""
    subjects = dict.fromkeys(
        part.subject for verdict in judge(sections) for part in verdict.parts
        if not part.met and part.subject
    )  # fmt: skip
    found: dict[str, Any] = {}
    for subject in subjects:
        with bench.noting():
            row = next((r for r in micro.ROWS if r.key == subject), None)
            found[subject] = (
                _kernel(bench, subject) if row is None else _operation(bench, row, sections)
            )
            bench.say(f"  {subject}")
            for host in found[subject]["hosts"]:
                rooms = ", ".join(f"{room} {share:.0%}" for room, share in host["rooms"].items())
                bench.say(f"    host {host['host']}: {rooms}")
    return found


def _operation(bench: Bench, row: micro.Row, sections: dict[str, Any]) -> dict[str, Any]:
    us = next(r["us"]["median"] for r in sections["micro"]["rows"] if r["key"] == row.key)
    count = row.count
    if row.operation != "stream":  # whose number of pages is part of its name
        count = max(row.count, min(1_000_000, int(SECONDS * 1e6 / us / BATCHES)))
    batches = max(2, min(BATCHES, int(SECONDS * 1e6 / us / count)))
    argv = [bench.program("micro"), row.operation, str(count), str(batches)]
    return break_down(bench, argv, row.hosts, row.options, count * batches)


def _kernel(bench: Bench, name: str) -> dict[str, Any]:
    kernel = next(k for k in speedup.KERNELS if k.name == name)
    argv = [bench.program(kernel.program), "2", *map(str, kernel.size)]
    return break_down(bench, argv, 2, (), 1)
