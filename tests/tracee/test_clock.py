# SPDX-License-Identifier: GPL-2.0-or-later
"""The vDSO image is what its text assembles to, and what a C library can load."""

from __future__ import annotations

import ctypes
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import iced_x86
import pytest
from assembler import assembled
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.timeline import RATE_MAX, Line, Reading, Timeline, straight
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
    guest.block.set_clock(HostId(3), guest.native() if native else 0, {})
    for which in range(12):
        if which in (8, 9, 10):
            continue  # CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, none
        before = time.clock_gettime_ns(which)
        assert before <= guest.ns(which) <= time.clock_gettime_ns(which)


NATIVE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64))


@given(
    start_ns=st.integers(0, 10**15),
    value_ns=st.integers(10**12, 2 * 10**18),
    rates=st.tuples(*2 * [st.integers(-RATE_MAX, RATE_MAX)]),
    lasts_ns=st.integers(0, 10**12),
    reads=st.lists(st.integers(-(10**9), 10**16), min_size=1),
    which=st.sampled_from([0, 1, 4, 5, 6, 7, 11]),
    source=st.sampled_from([1, 6]),
    ahead_ns=st.integers(-(10**11), 2 * 10**18),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_timelines_are_followed_to_the_nanosecond(
    guest: Guest, start_ns: int, value_ns: int, rates: tuple[int, int], lasts_ns: int,
    reads: list[int], which: int, source: int, ahead_ns: int,
) -> None:  # fmt: skip
    """Whatever the kernel's clock says, before, in and after both lines."""
    first = Line(start_ns, value_ns, rates[0])
    end_ns = start_ns + lasts_ns
    timeline = Timeline(first, Line(end_ns, first.at(end_ns), rates[1]))
    reading = Reading(source, timeline, ahead_ns)
    asked = []

    def native(clock_id: int, spec: Any) -> int:
        asked.append(clock_id)
        spec[0], spec[1] = divmod(local_ns, 10**9)
        return 0

    callback = NATIVE(native)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address
    guest.block.set_clock(HostId(0), address, {which: reading})
    for local_ns in (max(0, start_ns + each) for each in reads):
        assert guest.ns(which) == reading.at(local_ns)
    assert asked == [source] * len(reads)


def test_readers_wait_while_the_clock_is_held(guest: Guest) -> None:
    """And see the new timeline only."""
    def still(value_ns: int) -> dict[int, Reading]:
        return {1: Reading(1, straight(Line(1 << 62, value_ns, 0)))}

    guest.block.set_clock(HostId(0), guest.native(), still(1))
    assert guest.ns(1) == 1
    guest.block.hold_clock()
    with ThreadPoolExecutor() as pool:
        read = pool.submit(guest.ns, 1)
        assert not wait([read], timeout=0.1).done
        guest.block.set_clock(HostId(0), guest.native(), still(2))
        assert read.result(timeout=10) == 2


def test_other_calls(guest: Guest) -> None:
    ahead = time.time_ns() - time.monotonic_ns() + 5 * 10**9
    wall = straight(Line(0, ahead, 0))
    guest.block.set_clock(
        HostId(0), guest.native(), {0: Reading(1, wall), 5: Reading(6, wall)}
    )
    function: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    pair, zone = (ctypes.c_int64 * 2)(), (ctypes.c_int32 * 2)(-1, -1)
    before_us = (time.monotonic_ns() + ahead) // 1000
    assert function(clock.GETTIMEOFDAY)(ctypes.addressof(pair), None) == 0
    after_us = (time.monotonic_ns() + ahead) // 1000
    assert before_us <= pair[0] * 10**6 + pair[1] <= after_us
    assert function(clock.GETTIMEOFDAY)(None, ctypes.addressof(zone)) == 0
    assert zone[0] != -1
    seconds: Any = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(clock.TIME)
    stored = ctypes.c_int64()
    assert abs(seconds(ctypes.addressof(stored)) - time.time() - 5) < 2
    assert abs(stored.value - seconds(None)) <= 1
    invalid: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    assert invalid(clock.CLOCK_GETTIME)(1 << 20, ctypes.addressof(pair)) == -EINVAL
