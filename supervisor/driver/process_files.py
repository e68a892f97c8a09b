# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID/status and stat of a traced and filtered process, as they were without that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from supervisor.driver.machine import Machine, as_mask, as_ranges

_OF_FILTERS: Final = ("NoNewPrivs", "Seccomp", "Seccomp_filters")
"""What a process has of its parent's, but for ours: as the supervisor's own."""


def status(
    text: str, seen: Machine, mask: int, *, blocked: int = 0, ignored: int = 0, ours: int = 0,
    use: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """Status (proc(5)), of a task that may use the virtual processors of a mask.

    `blocked` and `ignored` are signals that it only seems not to block, not to ignore;
    `ours` counts the process's threads that are not its own; `use` are fields in bytes.
    """
    more = {"SigBlk": blocked, "SigIgn": ignored}
    own = _fields(_read("/proc/self/status"))
    instead: dict[str, str] = {
        **{name: own[name] for name in _OF_FILTERS if name in own},
        "Cpus_allowed": as_mask(mask, seen.cpus),
        "Cpus_allowed_list": as_ranges(mask),
        **{name: f"{size >> 10:>8} kB" for name, size in use.items()},
    }
    lines = []
    for name, value in _fields(text).items():
        if name == "TracerPid" and value == str(os.getpid()):
            value = "0"
        elif name == "State" and value.startswith("t"):
            value = "R (running)"
        elif name == "Threads":
            value = str(int(value) - ours)
        elif name in more:
            value = f"{int(value, 16) | more[name]:016x}"
        elif name.startswith("Mems_allowed"):
            value = seen.nodes_allowed(name, value)
        lines.append(f"{name}:\t{instead.get(name, value)}\n")
    return "".join(lines)


def stat(text: str, *, ours: int = 0, mapped: int | None = None) -> str:
    """Stat, whose times stay as they are; `mapped` is what the process has mapped, in bytes."""
    before, _, after = text.rpartition(")")
    fields = after.split()
    if fields[0] == "t":
        fields[0] = "R"
    fields[17] = str(int(fields[17]) - ours)  # num_threads
    if mapped is not None:
        fields[20] = str(mapped)  # vsize
    return f"{before}) {' '.join(fields)}\n"


def of_bystander(which: str, seen: Machine, mask: int, name: str) -> bytes | None:
    """A file of a process that the program has made (`which`: below /proc).

    None where it cannot be read: the kernel then says why.
    """
    try:
        text = _read(f"/proc/{which}/{name}")
    except OSError:
        return None
    shown = {"status": lambda: status(text, seen, mask), "stat": lambda: stat(text)}[name]()
    return shown.encode("utf-8", "surrogateescape")


def _fields(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value.removeprefix("\t") for name, _, value in lines}


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return file.read()
