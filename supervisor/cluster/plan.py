# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run's hosts are: the result of reading options and environment.

`launch.plan` makes one of the two plans; `virtual.spawn` turns a `VirtualPlan` into
one `ClusterPlan` a process; `membership.assemble` carries a `ClusterPlan` out.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from supervisor.units import HostId

HOSTS_MAX: Final = 64
JOIN_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where home listens: names or addresses of one and the same host, and its port."""

    hosts: tuple[str, ...]
    port: int

    def __str__(self) -> str:
        return ", ".join(endpoint(host, self.port) for host in self.hosts)


@dataclass(frozen=True, slots=True)
class VirtualPlan:
    """`hosts` virtual hosts on this machine; host i may use the processors cpu_sets[i]."""

    hosts: int
    cpu_sets: tuple[tuple[int, ...], ...]
    join_timeout_s: float = JOIN_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """One host's part in a cluster.

    `host_id` is None when neither the user nor a launcher named one: then whoever can
    listen at the rendezvous is home, and the others are numbered as they arrive.
    `home_listens`: home listened already when this plan was made, so a connection refused
    means that it has ended, not that it is still to start.
    `listener` is home's socket when it listens already; `gather_hosts` closes it.
    `processes` are virtual hosts: id and process descriptor of each that home forked.
    """

    hosts: int
    host_id: HostId | None
    rendezvous: Rendezvous
    key: bytes = field(repr=False)
    cpus: tuple[int, ...]
    join_timeout_s: float = JOIN_TIMEOUT_S
    home_listens: bool = False
    listener: socket.socket | None = field(default=None, compare=False, repr=False)
    processes: tuple[tuple[HostId, int], ...] = field(default=(), compare=False, repr=False)


def endpoint(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def share_cpus(cpus: tuple[int, ...], hosts: int) -> tuple[tuple[int, ...], ...]:
    """Share processors out evenly, in runs of neighbours (which share caches).

    With fewer processors than hosts each host gets one, round robin.
    """
    assert cpus and hosts > 0
    if len(cpus) < hosts:
        return tuple((cpus[host % len(cpus)],) for host in range(hosts))
    bounds = [host * len(cpus) // hosts for host in range(hosts + 1)]
    return tuple(cpus[low:high] for low, high in pairwise(bounds))
