# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID/maps as records (proc(5))."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from supervisor.areas import EXEC, READ, WRITE

_NAMELESS: Final = " (deleted)"


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
    maps = f"/proc/{pid}/maps"
    # A file's name may have a carriage return in it.
    with open(maps, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
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


def openable(pid: int, path: str) -> str:
    """Where the file can be opened that a process which executes it has mapped as `path`.

    Programs may be executed by descriptor: they may have no name any more (an installation
    removed or replaced the file), or never had one (memfd_create(2)).
    """
    image = f"/proc/{pid}/exe"
    if path.endswith(_NAMELESS) and not os.path.exists(path) and os.readlink(image) == path:
        return image
    return path


def maps_max() -> int:
    """How many mappings a process may have (vm.max_map_count, proc(5))."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65530
