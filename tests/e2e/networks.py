# SPDX-License-Identifier: GPL-2.0-or-later
"""Two network namespaces joined by a veth pair, as two machines by a cable (root)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

ADDRESSES = ("10.213.77.1", "10.213.77.2")


class Cable(NamedTuple):
    """The names of the two namespaces; host i lives in `namespaces[i]`."""

    namespaces: tuple[str, str]

    def prefix(self, host: int) -> list[str]:
        """What makes a command run on that side."""
        return ["ip", "netns", "exec", self.namespaces[host]]

    def cut(self) -> None:
        """Both ends go down; nobody gets a reset or an end of file."""
        for namespace in self.namespaces:
            ip("-n", namespace, "link", "set", "veth0", "down")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)


@contextmanager
def cable() -> Iterator[Cable]:
    """Made on entry, removed on exit whatever happened. Raises CalledProcessError."""
    names = (f"dsmsup-{os.getpid()}-a", f"dsmsup-{os.getpid()}-b")
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "veth0", "type", "veth",
           "peer", "name", "veth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
        yield Cable(names)
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, timeout=20)
