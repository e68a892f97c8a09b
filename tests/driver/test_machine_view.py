# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine of all hosts, as files of /proc and /sys show it."""

from __future__ import annotations

import os
import struct

import pytest

from supervisor.driver import machine
from supervisor.driver.machine import Machine, as_mask

HERE = os.sysconf("SC_NPROCESSORS_CONF")


@pytest.mark.parametrize(
    ("mask", "bits", "text"),
    [(1, 1, "1"), (0b101, 3, "5"), (1, 12, "001"), (1 << 32 | 1, 40, "01,00000001"),
     ((1 << 64) - 1, 64, "ffffffff,ffffffff")],
)  # fmt: skip
def test_masks_are_printed_as_the_kernel_prints_them(mask: int, bits: int, text: str) -> None:
    assert as_mask(mask, bits) == text


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
