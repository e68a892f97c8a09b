# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory: bytes, pages and other backings."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile

from supervisor.tracee.memory import FileBacking, GuestMemory, ProcessBacking, data_extents
from supervisor.units import PAGE_SIZE, PageNumber


def test_untouched_memory_reads_as_zero_and_takes_none() -> None:
    memory = GuestMemory()
    try:
        assert memory.read_bytes(0x7FFF_0000_0123, 10) == bytes(10)
        assert os.fstat(memory.descriptor).st_blocks == 0
    finally:
        memory.close()


def test_zeroed_pages_give_their_memory_back() -> None:
    memory = GuestMemory()
    try:
        memory.write(PageNumber(100), b"x" * (2 * PAGE_SIZE))
        memory.zero(PageNumber(100), 1)
        start = 100 * PAGE_SIZE
        assert memory.read(PageNumber(100), 2) == bytes(PAGE_SIZE) + b"x" * PAGE_SIZE
        assert data_extents(memory.descriptor, 0, 1 << 40) == [
            (start + PAGE_SIZE, start + 2 * PAGE_SIZE)
        ]
    finally:
        memory.close()


def test_holes_are_known_without_reading() -> None:
    memory = GuestMemory()
    with tempfile.TemporaryFile() as file:
        assert memory.holes(PageNumber(100), 50) == 50
        memory.write(PageNumber(120), bytes(PAGE_SIZE))
        assert memory.holes(PageNumber(100), 50) == 20
        assert memory.holes(PageNumber(120), 5) == 0
        memory.set_backing(
            110 * PAGE_SIZE, 112 * PAGE_SIZE, FileBacking(os.dup(file.fileno()), 110 * PAGE_SIZE)
        )
        assert memory.holes(PageNumber(100), 50) == 10
        assert memory.holes(PageNumber(110), 1) == 0
    memory.close()


def test_a_range_over_two_backings() -> None:
    memory = GuestMemory()
    with tempfile.TemporaryFile() as file:
        file.write(b"f" * (PAGE_SIZE + 100))
        file.flush()
        start = 0x10000
        backing = FileBacking(os.dup(file.fileno()), start)
        memory.set_backing(start, start + 2 * PAGE_SIZE, backing)
        memory.write_bytes(start - 4, b"abcdefgh")
        assert os.pread(file.fileno(), 5, 0) == b"efghf"
        assert memory.read_bytes(start - 4, 9) == b"abcdefghf"
        # Past the end of the file: zeros, and stores do not lengthen it.
        memory.write_bytes(start + PAGE_SIZE + 98, b"1234")
        assert os.fstat(file.fileno()).st_size == PAGE_SIZE + 100
        assert memory.read_bytes(start + PAGE_SIZE + 98, 4) == b"12\0\0"
        memory.set_backing(start, start + PAGE_SIZE, None)
        assert memory.read_bytes(start, 4) == bytes(4)
        assert memory.read_bytes(start + PAGE_SIZE, 1) == b"f"
    memory.close()


def test_a_copy_of_a_hole_is_a_hole() -> None:
    memory = GuestMemory()
    memory.write(PageNumber(100), b"x" * PAGE_SIZE)
    memory.copy(100 * PAGE_SIZE, 500 * PAGE_SIZE, 10 * PAGE_SIZE)
    memory.copy(300 * PAGE_SIZE, 600 * PAGE_SIZE, 10 * PAGE_SIZE)
    assert memory.read(PageNumber(500), 10) == b"x" * PAGE_SIZE + bytes(9 * PAGE_SIZE)
    assert memory.holes(PageNumber(600), 10) == 10
    memory.close()


def test_what_a_file_has_bytes_for() -> None:
    start = 0x10000
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), b"a", 2 * PAGE_SIZE)
        os.pwrite(file.fileno(), b"b", 1 << 20)
        file.seek(123)
        backing = FileBacking(os.dup(file.fileno()), start)
        last = start + (1 << 20)
        assert backing.end_within(start, 2 * last) == last + PAGE_SIZE
        assert backing.end_within(last + 2 * PAGE_SIZE, 2 * last) == last + 2 * PAGE_SIZE
        assert backing.reaches(last + PAGE_SIZE) and not backing.reaches(last + PAGE_SIZE + 1)
        found = backing.extents(start, last + 8 * PAGE_SIZE)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 123
        assert all(low % PAGE_SIZE == high % PAGE_SIZE == 0 for low, high in found)
        assert any(low <= start + 2 * PAGE_SIZE < high for low, high in found)
        assert found[-1][0] <= last and found[-1][1] == last + PAGE_SIZE
        assert backing.extents(last, last + PAGE_SIZE) == [(last, last + PAGE_SIZE)]
        assert backing.extents(last + PAGE_SIZE, last + 2 * PAGE_SIZE) == []


def test_a_process_s_memory_beyond_the_end_of_its_file() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"f" * 10)
        file.flush()
        mapping = mmap.mmap(file.fileno(), 10, mmap.MAP_PRIVATE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        os.ftruncate(file.fileno(), 0)
        memory = os.open("/proc/self/mem", os.O_RDWR)
        backing = ProcessBacking(memory)
        assert backing.read(start + 5, 2) == bytes(2)
        assert backing.read(start + 5, PAGE_SIZE - 5) == bytes(PAGE_SIZE - 5)
        backing.write(start, b"x")
        os.close(memory)
