# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID/maps as records (proc(5))."""

from __future__ import annotations

from typing import NamedTuple

from supervisor.areas import EXEC, READ, WRITE


class Mapping(NamedTuple):
    start: int
    end: int
    protection: int
    shared: bool
    offset: int
    path: str


def read_maps(pid: int) -> list[Mapping]:
    """Every mapping of a process, in order of address."""
    mappings = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(bound, 16) for bound in fields[0].split("-"))
            rights = fields[1]
            protection = (
                READ * (rights[0] == "r") | WRITE * (rights[1] == "w") | EXEC * (rights[2] == "x")
            )
            path = fields[5].replace("\\012", "\n") if len(fields) > 5 else ""
            mappings.append(
                Mapping(start, end, protection, rights[3] == "s", int(fields[2], 16), path)
            )
    return mappings


def maps_max() -> int:
    """How many mappings a process may have (vm.max_map_count, proc(5))."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65530
