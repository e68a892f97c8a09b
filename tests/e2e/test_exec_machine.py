# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as tools read it from /proc and /sys: all tell of the same processors."""

from __future__ import annotations

import re

import harness
import pytest
from harness import Place

PROBE = """
nproc
getconf _NPROCESSORS_ONLN
grep -c ^processor /proc/cpuinfo
grep -c '^cpu[0-9]' /proc/stat
lscpu -p=cpu | grep -vc '^#'
cd /sys/devices/system/cpu && ls -d cpu[0-9]* | wc -l
awk -F- '{ print $NF + 1 }' online
ls -l /sys/devices/system/node/node0 | grep -c ' cpu[0-9]* -> '
awk -F- '{ print $NF + 1 }' /sys/devices/system/node/node0/cpulist
"""


def processors_of(place: Place, hosts: int) -> int:
    done = place.dsmsup("exec", "-n", str(hosts), "nproc")
    return int(done.stdout)


def test_all_ways_to_count_processors_agree(place: Place, hosts: int) -> None:
    harness.need("lscpu")
    done = place.dsmsup("exec", "-n", str(hosts), "sh", "-c", PROBE)
    assert (done.status, done.stderr) == (0, b"")
    assert set(done.stdout.split()) == {str(processors_of(place, hosts)).encode()}
    assert len(done.stdout.split()) == len(PROBE.splitlines()) - 1


@pytest.mark.parametrize("count", [2, 3])
def test_each_host_is_a_package(place: Place, count: int) -> None:
    """As lscpu and hwloc tell, also where hosts share this machine's processors."""
    harness.need("lscpu", "hwloc-info")
    told = place.dsmsup("exec", "-n", str(count), "lscpu").stdout.decode()
    assert re.search(rf"^Socket\(s\): +{count}$", told, re.MULTILINE), told
    found = place.dsmsup("exec", "-n", str(count), "hwloc-info", "--no-io").stdout.decode()
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+) \(type", found)}
    assert counts["Package"] == count, found
    assert counts["PU"] == processors_of(place, count), found
    assert counts["NUMANode"] == 1
    assert "Group0" not in counts
