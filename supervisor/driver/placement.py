# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a new thread runs: the host with the most processors free."""

from __future__ import annotations

from supervisor.units import HOME, HostId


class Placement:
    """Live threads on each host, against its processors.

    The main thread is not counted at home: where it works as one of N (OpenMP) the
    first of the others goes elsewhere, and where it waits for N others they
    are shared out evenly.
    """

    def __init__(self, cpus: list[int]) -> None:
        self.cpus = cpus
        self.threads = [0] * len(cpus)
        self.home_only = False

    def choose(self, affinity: int | None = None) -> HostId:
        """The host that an affinity mask allows and one more thread would load least.

        Among equals the one with the fewest threads, then the highest: home
        has the main thread, and serves the others' requests as well.
        """
        if self.home_only:
            return HostId(0)
        return HostId(
            min(
                self.hosts_of(affinity),
                key=lambda host: (
                    (self.threads[host] + 1) / self.cpus[host],
                    self.threads[host],
                    -host,
                ),
            )
        )

    def hosts_of(self, affinity: int | None) -> list[HostId]:
        """Hosts with a processor in a mask of virtual processors; None allows all."""
        found = []
        first = 0
        for host, count in enumerate(self.cpus):
            if affinity is None or affinity >> first & (1 << count) - 1:
                found.append(HostId(host))
            first += count
        return found

    def processor_of(self, host: HostId, affinity: int | None, tid: int) -> int:
        """The virtual processor that a thread on a host is told it runs on."""
        first = sum(self.cpus[:host])
        here = range(first, first + self.cpus[host])
        if affinity is None:
            return here[tid % len(here)]
        allowed = [cpu for cpu in here if affinity >> cpu & 1]
        # Where it is only for a while (a signal, memory that home alone has), it is
        # told of one of those that it asked for.
        return allowed[tid % len(allowed)] if allowed else (affinity & -affinity).bit_length() - 1

    def started(self, host: HostId) -> None:
        self.threads[host] += 1

    def ended(self, host: HostId) -> None:
        self.threads[host] -= 1

    def moved(self, source: HostId, target: HostId, main: bool = False) -> None:
        """A thread, the main one or another, goes on at another host."""
        if not (main and source == HOME):
            self.threads[source] -= 1
        if not (main and target == HOME):
            self.threads[target] += 1
