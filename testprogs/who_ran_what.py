# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints, from the JSON of `dsmsup exec --stats FILE`, what each host did: a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = {
    "host": "id",
    "cpus": "cpus",
    "threads": "threads_started",
    "read faults": "faults_read",
    "write faults": "faults_write",
    "pages fetched": "pages_fetched",
    "pages sent": "pages_sent",
    "calls home": "syscalls_forwarded",
    "bytes sent": "bytes_sent",
}


def table_of(stats: dict[str, Any]) -> Table:
    """One row a host."""
    table = Table(
        title=f"{Path(stats['program']).name}: {stats['wall_s']:.2f} s, "
        f"status {stats['exit_status']}, policy {stats['policy']}"
    )
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for host in stats["hosts"]:
        table.add_row(*(f"{host[field]:,}" for field in COLUMNS.values()))
    return table


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: who_ran_what.py STATS.json")
    Console(width=110).print(table_of(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
