# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting one program as the hosts of a cluster: one command a host."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import harness
from harness import Place, Running


class Cluster(NamedTuple):
    """What the commands of one cluster have in common. `prefix[i]` goes before host i's."""

    place: Place
    key: Path
    address: str
    port: int
    hosts: int = 2
    prefixes: Sequence[Sequence[str]] = ()

    def command(self, host: int, *program: str | Path, key: Path | None = None,
                options: Sequence[str] = ()) -> list[str]:
        """Host `host`'s command line; another `key` makes it an intruder's."""
        return [
            *(self.prefixes[host] if self.prefixes else ()),
            *harness.dsmsup_command(), "exec",
            "--hosts", str(self.hosts), "--host-id", str(host),
            "--rendezvous", f"{self.address}:{self.port}",
            "--key-file", str(key or self.key), *options, *map(str, program),
        ]

    def start(self, *program: str | Path, options: Sequence[str] = ()) -> list[Running]:
        """Every host's command, home's first; `options` are home's."""
        return [
            self.place.start(
                self.command(host, *program, options=options if host == 0 else ())
            )
            for host in range(self.hosts)
        ]


def free_port(address: str = "127.0.0.1") -> int:
    """A port free a moment ago; the kernel hands out others before it comes round again."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def make_key(place: Place, name: str = "key") -> Path:
    path = place.scratch / name
    run = place.run([*harness.dsmsup_command(), "keygen", str(path)])
    assert run.status == 0, run.stderr
    return path


def on_loopback(place: Place, hosts: int = 2) -> Cluster:
    return Cluster(place, make_key(place), "127.0.0.1", free_port(), hosts)
