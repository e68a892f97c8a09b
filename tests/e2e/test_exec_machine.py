# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as tools read it from /proc and /sys: all tell of the same processors."""

from __future__ import annotations

import re

import harness
import pytest
from harness import Place, as_root

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


@pytest.mark.parametrize("shown", [["sh", "-c"], ["bash", "-c", '"$@"; true', "", "sh", "-c"]])
@pytest.mark.parametrize(
    ("mounted", "script"),
    [
        ("proc", "echo $$; cat /proc/self/stat | cut -d' ' -f1; wc -l < /proc/1/status"),
        ("tmpfs", "echo a > /proc/cpuinfo; cat /proc/*"),
        ("nothing", "cat /proc/self/stat || echo none"),
    ],
    ids=["its own", "files", "none"],
)
def test_another_proc(mounted: str, script: str, shown: list[str], place: Place) -> None:
    """Of the program and of a child: what it finds there is not what dsmsup's /proc has."""
    as_root()
    mount = {
        "proc": "mount -t proc proc /proc",
        "tmpfs": "mount -t tmpfs none /proc",
        "nothing": "mount -t tmpfs none /proc && mount -o remount,ro /proc",
    }[mounted]
    argv = ["unshare", "-mpf", *shown, f"{mount}; ({script}) 2> /dev/null"]
    native = place.run(argv)
    run = place.run([*harness.dsmsup_command(), "exec", "-n", "2", *argv])
    assert (run.status, run.stdout, run.stderr) == (native.status, native.stdout, b"")
    assert native.stdout


def test_another_proc_of_the_program(place: Place) -> None:
    as_root()
    script = "mount -t tmpfs none /proc; echo a > /proc/cpuinfo; cat /proc/*; exec cat /proc/*"
    run = place.run(
        [*harness.dsmsup_command(), "exec", "-n", "2", "unshare", "-m", "sh", "-c", script]
    )
    assert (run.status, run.stdout, run.stderr) == (0, b"a\na\n", b"")
