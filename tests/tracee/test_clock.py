# SPDX-License-Identifier: GPL-2.0-or-later
"""The vDSO image is what its text assembles to, and what a C library can load."""

from __future__ import annotations

import ctypes
import io
import time
from collections.abc import Iterator
from typing import Any

import iced_x86
import pytest
from assembler import assembled
from elftools.elf.elffile import ELFFile

from supervisor.tracee import clock, control
from supervisor.tracee.control import ControlBlock
from supervisor.units import HostId

MAP_FIXED_NOREPLACE = 0x100000
EINVAL = 22


@pytest.mark.parametrize(
    ("source", "at", "code"),
    [
        (clock.CLOCK_GETTIME_SOURCE, clock.CLOCK_GETTIME, clock.CLOCK_GETTIME_BYTES),
        (clock.GETTIMEOFDAY_SOURCE, clock.GETTIMEOFDAY, clock.GETTIMEOFDAY_BYTES),
        (clock.TIME_SOURCE, clock.TIME, clock.TIME_BYTES),
    ],
)
def test_code_is_its_source(source: str, at: int, code: bytes) -> None:
    assert assembled(source, at) == code
    instructions = list(iced_x86.Decoder(64, code, ip=at))
    assert sum(each.len for each in instructions) == len(code)
    starts = {each.ip for each in instructions} | {clock.CLOCK_GETTIME}
    branches = [each.near_branch_target for each in instructions if each.near_branch_target]
    assert starts.issuperset(branches)


def test_the_image_names_its_functions() -> None:
    elf = ELFFile(io.BytesIO(clock.vdso_image()))
    dynamic = next(each for each in elf.iter_segments() if each["p_type"] == "PT_DYNAMIC")
    assert dynamic.num_symbols() == 4
    names = {each.name: each["st_value"] for each in dynamic.iter_symbols() if each.name}
    assert names == {
        "__vdso_clock_gettime": clock.CLOCK_GETTIME - control.VDSO,
        "__vdso_gettimeofday": clock.GETTIMEOFDAY - control.VDSO,
        "__vdso_time": clock.TIME - control.VDSO,
    }
    tags = {tag["d_tag"]: tag for tag in dynamic.iter_tags()}
    assert tags["DT_SONAME"].soname == "linux-vdso.so.1"


class Guest:
    """The block mapped into this very process, and its functions called."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]  # fmt: skip
        self.block = ControlBlock()
        self.block.set_image(clock.vdso_image())
        at = self.libc.mmap(
            control.BASE, control.SIZE, 7, 1 | MAP_FIXED_NOREPLACE, self.block.descriptor, 0
        )
        if at != control.BASE:
            pytest.skip("this Python lies where the control block would")

    def close(self) -> None:
        self.libc.munmap(ctypes.c_void_p(control.BASE), ctypes.c_size_t(control.SIZE))
        self.block.close()

    def native(self) -> int:
        """The C library's clock_gettime stands in for the kernel's vDSO."""
        address = ctypes.cast(self.libc.clock_gettime, ctypes.c_void_p).value
        assert address
        return address

    def ns(self, which: int) -> int:
        spec = (ctypes.c_int64 * 2)()
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        assert function(clock.CLOCK_GETTIME)(which, ctypes.addressof(spec)) == 0
        assert 0 <= spec[1] < 10**9
        return spec[0] * 10**9 + spec[1]


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


@pytest.mark.parametrize("native", [True, False])
def test_clocks_are_the_kernels(guest: Guest, native: bool) -> None:
    guest.block.set_clock(HostId(3), guest.native() if native else 0, 0, 0)
    for which in range(12):
        if which in (8, 9, 10):
            continue  # CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, none
        before = time.clock_gettime_ns(which)
        assert before <= guest.ns(which) <= time.clock_gettime_ns(which)


@pytest.mark.parametrize("wall_ns", [0, 1, 999_999_999, -1, 12_345_678_901, -12_345_678_901])
def test_offsets_are_added(guest: Guest, wall_ns: int) -> None:
    monotonic_ns = 3 * wall_ns // 2
    guest.block.set_clock(HostId(0), guest.native(), wall_ns, monotonic_ns)
    for which, offset in [(0, wall_ns), (11, wall_ns), (1, monotonic_ns), (7, monotonic_ns)]:
        before = time.clock_gettime_ns(which)
        assert before <= guest.ns(which) - offset <= time.clock_gettime_ns(which)


def test_other_calls(guest: Guest) -> None:
    guest.block.set_clock(HostId(0), guest.native(), 5 * 10**9, 0)
    function: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    pair, zone = (ctypes.c_int64 * 2)(), (ctypes.c_int32 * 2)(-1, -1)
    before = time.time_ns() // 1000 + 5 * 10**6
    assert function(clock.GETTIMEOFDAY)(ctypes.addressof(pair), None) == 0
    assert before <= pair[0] * 10**6 + pair[1] <= time.time_ns() // 1000 + 5 * 10**6
    assert function(clock.GETTIMEOFDAY)(None, ctypes.addressof(zone)) == 0
    assert zone[0] != -1
    seconds: Any = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(clock.TIME)
    stored = ctypes.c_int64()
    assert abs(seconds(ctypes.addressof(stored)) - time.time() - 5) < 2
    assert abs(stored.value - seconds(None)) <= 1
    invalid: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    assert invalid(clock.CLOCK_GETTIME)(1 << 20, ctypes.addressof(pair)) == -EINVAL
