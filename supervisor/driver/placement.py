# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a new thread runs: the host with the most processors free."""

from __future__ import annotations

from supervisor.units import HostId


class Placement:
    """Live threads on each host, against its processors.

    The main thread is not counted: where it works as one of N (OpenMP) the
    first of the others goes elsewhere, and where it waits for N others they
    are shared out evenly.
    """

    def __init__(self, cpus: list[int]) -> None:
        self.cpus = cpus
        self.threads = [0] * len(cpus)
        self.home_only = False

    def choose(self) -> HostId:
        """The host that would be the least loaded with one thread more.

        Among equals the one with the fewest threads, then the highest: home
        has the main thread, and serves the others' requests as well.
        """
        if self.home_only:
            return HostId(0)
        return HostId(
            min(
                range(len(self.cpus)),
                key=lambda host: (
                    (self.threads[host] + 1) / self.cpus[host],
                    self.threads[host],
                    -host,
                ),
            )
        )

    def started(self, host: HostId) -> None:
        self.threads[host] += 1

    def ended(self, host: HostId) -> None:
        self.threads[host] -= 1

    def moved(self, source: HostId, target: HostId) -> None:
        self.threads[source] -= 1
        self.threads[target] += 1
