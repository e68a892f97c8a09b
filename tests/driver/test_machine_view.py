# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine of all hosts, as files of /proc and /sys show it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from supervisor.driver import machine
from supervisor.driver.machine import Machine, as_mask, as_ranges
from supervisor.driver.nodes import ONLY, Nodes, summed
from supervisor.driver.nodes import ROOT as NODES
from supervisor.driver.process_files import stat, status

HERE = os.sysconf("SC_NPROCESSORS_CONF")


@pytest.mark.parametrize(
    ("mask", "bits", "text"),
    [(1, 1, "1"), (0b101, 3, "5"), (1, 12, "001"), (1 << 32 | 1, 40, "01,00000001"),
     ((1 << 64) - 1, 64, "ffffffff,ffffffff")],
)  # fmt: skip
def test_masks_are_printed_as_the_kernel_prints_them(mask: int, bits: int, text: str) -> None:
    assert as_mask(mask, bits) == text


@pytest.mark.parametrize(
    ("mask", "text"),
    [(0, ""), (1, "0"), (0b110, "1-2"), (0b1011, "0-1,3"), (1 << 70 | 1 << 9, "9,70")],
)
def test_lists_are_printed_as_the_kernel_prints_them(mask: int, text: str) -> None:
    assert as_ranges(mask) == text


def test_files_show_the_sum_of_the_hosts() -> None:
    seen = Machine([HERE, 3])
    for name in ("online", "possible", "present"):
        assert seen.contents(f"{machine.ROOT}/{name}") == f"0-{HERE + 2}\n".encode()
    assert (seen.contents("/proc/cpuinfo") or b"").count(b"processor\t") == HERE + 3
    lines = (seen.contents("/proc/stat") or b"").splitlines()
    assert [line.split()[0].decode() for line in lines if line.startswith(b"cpu")] == [
        "cpu", *(f"cpu{number}" for number in range(HERE + 3))
    ]  # fmt: skip


def test_each_host_is_a_socket() -> None:
    seen = Machine([HERE, 3])
    folder = f"{machine.ROOT}/cpu{HERE + 1}/topology"
    assert seen.contents(f"{folder}/physical_package_id") == b"1\n"
    assert seen.contents(f"{folder}/core_id") == b"1\n"
    assert seen.contents(f"{folder}/thread_siblings_list") == f"{HERE + 1}\n".encode()
    assert seen.contents(f"{folder}/package_cpus_list") == f"{HERE}-{HERE + 2}\n".encode()
    mask = as_mask(7 << HERE, HERE + 3)
    assert seen.contents(f"{folder}/core_siblings") == f"{mask}\n".encode()


def test_one_host_alone_is_as_its_kernel_says() -> None:
    seen = Machine([HERE])
    assert seen.contents(f"{machine.ROOT}/cpu0/topology/core_id") is None
    assert seen.elsewhere(f"{machine.ROOT}/cpu0/topology") is None


def test_caches_of_hosts_are_others() -> None:
    """Natively an id tells which of a level's caches it is."""
    seen = Machine([HERE, 1, 1])
    for level in os.listdir(f"{machine.ROOT}/cpu0/cache"):
        if level.startswith("index"):
            files = [f"{machine.ROOT}/cpu{HERE + other}/cache/{level}/id" for other in (0, 1)]
            assert [seen.contents(file) for file in files] == [
                f"{HERE}\n".encode(), f"{HERE + 1}\n".encode()
            ]  # fmt: skip


def test_no_processor_is_outside_of_the_cpuset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hosts that share processors, and of more than home has: hwloc hides what is not in it."""
    texts = {"/sys/fs/cgroup/cpuset.cpus.effective": "4-5\n", "/sys/fs/cgroup/a/cpuset.cpus": "\n",
             "/sys/fs/cgroup/cpuset/x/cpuset.cpus": "4-5\n"}  # fmt: skip
    monkeypatch.setattr(machine, "_read", texts.__getitem__)
    monkeypatch.setattr(machine, "_has_value", lambda path: bool(texts[path].strip()))
    seen = Machine([1, 1, 1])
    assert seen.contents("/sys/fs/cgroup/cpuset.cpus.effective") == b"0-2\n"
    assert seen.contents("/sys/fs/cgroup/cpuset/x/cpuset.cpus") == b"0-2\n"
    assert seen.contents("/sys/fs/cgroup/a/cpuset.cpus") is None
    assert seen.contents("/sys/fs/cgroup/cpuset.mems") is None


def two_nodes(root: Path) -> Nodes:
    for number in (0, 1):
        folder = root / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "meminfo").write_text(
            f"Node {number} MemTotal:       {7170048 + number:>8} kB\n"
            f"Node {number} HugePages_Total:     {number}\n"
        )
        (folder / "numastat").write_text(f"numa_hit {number + 5}\n")
    (root / "online").write_text("0-1\n")
    (root / "has_cpu").write_text("0-1\n")
    (root / "has_generic_initiator").write_text("\n")
    return Nodes(str(root))


def test_all_memory_is_of_one_node(tmp_path: Path) -> None:
    seen = two_nodes(tmp_path)
    told = {
        name: seen.contents(f"{NODES}/{name}", "0-8", "1ff")
        for name in ("online", "has_cpu", "has_generic_initiator", "possible", "node0/cpulist",
                     "node0/cpumap", "node0/distance", "node0/numastat", "node0/hugepages")
    }  # fmt: skip
    assert told == {
        "online": "0", "has_cpu": "0", "has_generic_initiator": None, "possible": None,
        "node0/cpulist": "0-8", "node0/cpumap": "1ff", "node0/distance": "10",
        "node0/numastat": "numa_hit 11", "node0/hugepages": None,
    }  # fmt: skip
    assert seen.contents(f"{ONLY}/meminfo", "", "") == (
        "Node 0 MemTotal:       14340097 kB\nNode 0 HugePages_Total:     1"
    )
    assert summed(["a 9\nb  1 kB\n", "a 1\nb  1 kB\n"]) == "a 10\nb  2 kB"


def test_home_s_other_nodes_are_not_there(tmp_path: Path) -> None:
    seen = Machine([HERE, 1])
    seen.nodes = two_nodes(tmp_path)
    assert not os.path.exists(seen.elsewhere(f"{NODES}/node1/cpulist") or "/")
    assert seen.elsewhere(f"{machine.ROOT}/cpu0/node0") == f"{machine.ROOT}/cpu0/node0"
    assert seen.elsewhere(f"{machine.ROOT}/cpu{HERE}/node0") == f"{machine.ROOT}/cpu0/node0"
    assert seen.elsewhere(f"{ONLY}/cpu{HERE}") == f"{ONLY}/cpu0"
    listed = b"".join(entry(name, at) for at, name in enumerate(["node0", "node1", "online"]))
    assert names(seen.entries(NODES, listed, 4096)) == ["node0", "online"]
    assert seen.nodes_allowed("Mems_allowed", "00000000,00000003") == "00000000,00000001"
    assert seen.nodes_allowed("Mems_allowed_list", "0-1") == "0"


def test_a_task_s_status_is_that_of_one_not_traced() -> None:
    text = (
        "Name:\tx\nState:\tt (tracing stop)\n"
        f"TracerPid:\t{os.getpid()}\nThreads:\t3\nSigBlk:\t0000000000000001\nSeccomp:\t2\n"
        "Cpus_allowed:\t1\nCpus_allowed_list:\t0\n"
    )
    assert status(text, Machine([1, 2]), 0b101, blocked=2, ours=1) == (
        "Name:\tx\nState:\tR (running)\nTracerPid:\t0\nThreads:\t2\nSigBlk:\t0000000000000003\n"
        "Seccomp:\t0\nCpus_allowed:\t5\nCpus_allowed_list:\t0,2\n"
    )
    other = text.replace(str(os.getpid()), "1")
    assert "TracerPid:\t1\n" in status(other, Machine([1]), 1)
    fields = f"7 (a) b) t {' '.join(map(str, range(1, 50)))}"
    assert stat(fields, ours=1).startswith("7 (a) b) R 1 2 ")
    assert stat(fields, ours=1).split()[20] == "16"


def test_a_processor_that_home_lacks_stands_for_one_that_it_has() -> None:
    seen = Machine([HERE, 3])
    assert seen.elsewhere(f"{machine.ROOT}/cpu{HERE}/cache") == f"{machine.ROOT}/cpu0/cache"
    assert seen.elsewhere(f"{machine.ROOT}/cpu{HERE}") == f"{machine.ROOT}/cpu0"
    assert seen.elsewhere(f"{machine.ROOT}/cpu{HERE + 3}") is None
    assert seen.elsewhere(f"{machine.ROOT}/cpu{HERE - 1}/cache") is None


def entry(name: str, inode: int) -> bytes:
    length = 19 + len(name) + 1 + 7 & ~7
    return struct.pack("<QqHB", inode, 77, length, 4) + name.encode().ljust(length - 19, b"\0")


def names(listed: bytes) -> list[str]:
    found = []
    while listed:
        _, _, length, _ = struct.unpack_from("<QqHB", listed)
        found.append(listed[19:length].partition(b"\0")[0].decode())
        listed = listed[length:]
    return found


def test_the_folder_lists_each_processor_once() -> None:
    seen, size = Machine([HERE, 3]), 32768
    real = [f"cpu{number}" for number in range(HERE)]
    listed = b"".join(entry(name, at) for at, name in enumerate([".", *real, "cpufreq", "online"]))
    assert seen.room(machine.ROOT, size) < size
    shown = seen.entries(machine.ROOT, listed, size)
    assert len(shown) - len(listed) == size - seen.room(machine.ROOT, size)
    assert sorted(names(shown)) == sorted(
        [".", *(f"cpu{number}" for number in range(HERE + 3)), "cpufreq", "online"]
    )
    assert seen.room("/elsewhere", size) == size
    assert seen.entries("/elsewhere", listed, size) == listed


def test_processors_that_home_does_not_lend_are_not_listed() -> None:
    seen = Machine([1])
    listed = b"".join(entry(f"cpu{number}", number) for number in range(4))
    if HERE > 1:
        assert names(seen.entries(machine.ROOT, listed, 32768)) == ["cpu0"]


def test_paths_are_told_by_their_folder() -> None:
    folder = os.open("/sys/devices/system", os.O_RDONLY)
    try:
        path = machine.in_folder(os.getpid(), folder, b"cpu/../cpu/online")
        assert path == f"{machine.ROOT}/online"
    finally:
        os.close(folder)
    assert machine.in_folder(os.getpid(), folder, b"online") == ""
    assert machine.in_folder(os.getpid(), machine.AT_FDCWD, b"x") == f"{os.getcwd()}/x"
