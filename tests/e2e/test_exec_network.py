# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster form between two network namespaces, and what a cut cable does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import clusters
import harness
import networks
import pytest
from clusters import Cluster
from harness import Place
from networks import Cable

pytestmark = pytest.mark.root

PORT = 7171
"""Any port will do: the namespaces are the test's own."""


@pytest.fixture
def cable() -> Iterator[Cable]:
    harness.need("ip")
    with networks.cable() as made:
        yield made


def cluster_over(cable: Cable, place: Place) -> Cluster:
    prefixes = [cable.prefix(host) for host in range(2)]
    return Cluster(
        place, clusters.make_key(place), networks.ADDRESSES[0], PORT, 2, prefixes
    )


@pytest.mark.parametrize("name", ["mutex", "false_sharing", "omp_loops", "stream"])
def test_program_over_a_cable(name: str, cable: Cable, place: Place) -> None:
    native = place.run([str(harness.BIN / name)])
    stats = place.scratch / "stats.json"
    home, other = cluster_over(cable, place).start(
        harness.BIN / name, options=["--stats", str(stats)]
    )
    run, end = home.wait(), other.wait()
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")
    assert (end.status, end.stdout, end.stderr) == (0, b"", b"")
    harness.read_stats(stats, hosts=2, status=0, threads=2)


def test_cut_cable_ends_both_sides(cable: Cable, place: Place) -> None:
    runs = cluster_over(cable, place).start(harness.BIN / "endless", "4", "60")
    runs[0].wait_for_output(b"ready\n")
    cut_s = time.monotonic()
    cable.cut()
    ends = [run.wait(3 * harness.LOSS_LIMIT_S) for run in runs]
    took_s = time.monotonic() - cut_s
    assert [end.status for end in ends] == [125, 125]
    assert "host 1" in "".join(ends[0].own_lines())
    assert "host 0" in "".join(ends[1].own_lines())
    assert took_s < harness.LOSS_LIMIT_S
