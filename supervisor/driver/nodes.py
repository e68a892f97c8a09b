# SPDX-License-Identifier: GPL-2.0-or-later
"""/sys/devices/system/node: one NUMA node, with the processors of all hosts.

Where a page is changes all the time, so no host's memory is nearer for good, and calls
about nodes (mbind(2) and the like) reach home's kernel only. Home's own nodes would split
its processors, leave the others' in none, and so contradict that each host is a socket.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from typing import Final

ROOT: Final = "/sys/devices/system/node"
ONLY: Final = f"{ROOT}/node0"
_LISTS: Final = re.compile(r"online|possible|has_\w+")
_SUMMED: Final = frozenset(("meminfo", "numastat", "vmstat"))
_OTHER: Final = re.compile(rf"{ROOT}/node[1-9]\d*(?:/.*)?")
_OTHER_NAME: Final = re.compile(rb"node[1-9]\d*")
_LINE: Final = re.compile(r"(?P<name>(?:Node \d+ )?\S+)(?P<space>\s+)(?P<value>\d+)(?P<unit>.*)")


class Nodes:
    """Home's nodes as the one that the program sees. `root` is where they are read."""

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = os.listdir(root)
        self.numbers = sorted(int(name[4:]) for name in names if re.fullmatch(r"node\d+", name))
        """Those that home's kernel has."""

    def contents(self, path: str, as_list: str, as_mask: str) -> str | None:
        """What a file shows; None where it is as the kernel's. `as_...` are all processors."""
        if not self.numbers or not path.startswith(f"{ROOT}/"):
            return None
        name = path[len(ROOT) + 1 :]
        if _LISTS.fullmatch(name):
            return "0" if os.path.exists(f"{self._root}/{name}") and self._value(name) else None
        folder, _, file = name.partition("/")
        if folder != "node0":
            return None
        if file in ("cpulist", "cpumap"):
            return {"cpulist": as_list, "cpumap": as_mask}[file]
        if len(self.numbers) == 1:
            return None
        if file == "distance":
            return "10"
        if file in _SUMMED:
            return summed([_read(f"{self._root}/node{number}/{file}") for number in self.numbers])
        return None

    def _value(self, name: str) -> str:
        """A list that is empty (nodes that have generic initiators, say) stays so."""
        return _read(f"{self._root}/{name}").strip()

    @staticmethod
    def elsewhere(path: str) -> str | None:
        """Where a path of another node leads: nowhere."""
        return f"{ROOT}/none" if _OTHER.fullmatch(path) else None

    @staticmethod
    def is_hidden(name: bytes) -> bool:
        """Is this the folder of a node, or a link to it, that is not shown?"""
        return _OTHER_NAME.fullmatch(name) is not None


def summed(texts: Sequence[str]) -> str:
    """Lines of a name and a number, of several nodes, as those of the first with the sums."""
    sums: dict[str, int] = {}
    for text in texts:
        for line in text.splitlines():
            found = _LINE.fullmatch(line)
            if found is not None:
                name = re.sub(r"^Node \d+ ", "", found["name"])
                sums[name] = sums.get(name, 0) + int(found["value"])

    def with_sum(found: re.Match[str]) -> str:
        width = len(found["space"]) + len(found["value"]) - 1
        value = sums[re.sub(r"^Node \d+ ", "", found["name"])]
        return f"{found['name']} {value:>{width}}{found['unit']}"

    return "\n".join(_LINE.sub(with_sum, line) for line in texts[0].splitlines())


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
