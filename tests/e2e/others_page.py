# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/programs.md, from what others_table.py keeps of each row."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

HOSTS = (1, 2, 3)

HEAD = """# Programs of others

Made by `make programs`: Debian's programs, each run natively and under
`dsmsup exec -n N` on N virtual hosts of one machine (what it was made of stands in
`programs.json`). `10 same`: in ten runs, one after another, status, output, messages
and files were a native run's, and with as many threads (column *threads*: those that it
has at once besides main) as hosts each host ran one. No run is repeated because it failed;
what was wrong with the first failed one is told. *Refused*: the program needs what
dsmsup does not do, and dsmsup says so.
The time is that of the median run on 2 hosts and that of the native run; half a second
of the former is dsmsup's start, and rewriting its files adds seconds to a large program's
first. All hosts share one machine's two processors here, which a native run has for
itself: a program can be slower than natively, never faster.

{programs} programs and call groups, {runs} runs, {failed} of them failed; dsmsup of commit
{commits}.

| package | program | version | threads | 1 host | 2 hosts | 3 hosts | s native | s on 2 hosts |
|---|---|---|---|---|---|---|---|---|
"""


def verdict(entry: dict[str, Any], hosts: int) -> str:
    """What came of all runs on so many hosts."""
    runs = entry["runs"].get(str(hosts), [])
    faults = [run["fault"] for run in runs if run["fault"]]
    if not runs:
        return "-"
    if faults:
        return f"**{len(faults)} of {len(runs)} failed**: {faults[0]}"
    if entry["refusal"]:
        return f"{len(runs)} refused: {entry['refusal']}"
    return f"{len(runs)} same"


def line(entry: dict[str, Any], hosts: Iterable[int] = HOSTS) -> str:
    """One row of the table."""
    timed = entry["runs"].get("2", [])
    cells = [
        entry["package"], f"`{entry['shown']}`", entry["version"], str(entry["threads"] or ""),
        *(verdict(entry, count) for count in hosts), f"{entry['native_s']:.2f}",
        f"{median(run['wall_s'] for run in timed):.2f}" if timed else "-",
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def page(entries: list[dict[str, Any]]) -> str:
    """The whole of it, the rows in order of package and command."""
    runs = [run for entry in entries for made in entry["runs"].values() for run in made]
    head = HEAD.format(
        programs=len(entries), runs=len(runs), failed=sum(bool(run["fault"]) for run in runs),
        commits=", ".join(sorted({entry["commit"] for entry in entries})) or "none",
    )
    return head + "".join(sorted(f"{line(entry)}\n" for entry in entries))
