# SPDX-License-Identifier: GPL-2.0-or-later
"""userfaultfd on a memfd: threads of this very process touch pages, the test resolves."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest

from supervisor.tracee import ptrace, userfault
from supervisor.tracee.memory import punch
from supervisor.units import PAGE_SIZE

PAGES = 64
LIMIT_S = 10.0

pytestmark = pytest.mark.skipif(bool(userfault.unavailable()), reason=userfault.unavailable())

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Memory:
    """A registered mapping of a memfd, with file offset 0 at `start`."""

    def __init__(self) -> None:
        self.memfd = os.memfd_create("test", os.MFD_CLOEXEC)
        os.ftruncate(self.memfd, PAGES * PAGE_SIZE)
        self.start = int(_libc.mmap(None, PAGES * PAGE_SIZE, 3, 1, self.memfd, 0))
        self.faults = userfault.UserFaults(
            ptrace.raw_syscall(userfault.SYS_USERFAULTFD, userfault.FLAGS)
        )
        self.faults.register(self.start, PAGES * PAGE_SIZE)

    def at(self, page: int) -> int:
        return self.start + page * PAGE_SIZE

    def fill(self, page: int, byte: bytes) -> None:
        os.pwrite(self.memfd, byte * PAGE_SIZE, page * PAGE_SIZE)

    def touch(self, page: int, store: bytes | None = None) -> Touch:
        return Touch(self, page, store)

    def close(self) -> None:
        self.faults.close()
        _libc.munmap(self.start, PAGES * PAGE_SIZE)
        os.close(self.memfd)


class Touch:
    """A load from, or a store to, byte 8 of a page, on a thread of its own."""

    def __init__(self, memory: Memory, page: int, store: bytes | None) -> None:
        self.memory = memory
        self.page = page
        self.seen = ctypes.create_string_buffer(1)
        address = memory.at(page) + 8
        self.thread = threading.Thread(
            target=lambda: ctypes.memmove(self.seen, address, 1)
            if store is None
            else ctypes.memmove(address, store, 1)
        )
        self.thread.start()

    def fault(self) -> userfault.PageFault:
        """The fault that the thread waits with."""
        assert select.select([self.memory.faults.descriptor], [], [], LIMIT_S)[0], "no fault"
        (fault,) = self.memory.faults.read()
        assert fault.address == self.memory.at(self.page) + 8
        assert fault.task == self.thread.native_id
        return fault

    def done(self) -> bytes:
        """What it has loaded, once it is through without another fault."""
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
        assert self.memory.faults.read() == []
        return self.seen.raw


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.close()


def test_a_page_that_is_there_is_mapped_for_reading_then_for_writing(memory: Memory) -> None:
    memory.fill(3, b"r")
    touch = memory.touch(3)
    assert not touch.fault().writes
    assert memory.faults.map(memory.at(3), PAGE_SIZE, writable=False) == 0
    assert touch.done() == b"r"
    touch = memory.touch(3, b"w")
    assert touch.fault().writes
    memory.faults.write_protect(memory.at(3), PAGE_SIZE, False)
    touch.done()
    assert os.pread(memory.memfd, 1, 3 * PAGE_SIZE + 8) == b"w"


def test_a_store_faults_as_one_and_is_mapped_writable_at_once(memory: Memory) -> None:
    memory.fill(5, b"x")
    touch = memory.touch(5, b"y")
    assert touch.fault().writes
    memory.faults.map(memory.at(5), PAGE_SIZE, writable=True)
    touch.done()
    memory.touch(5, b"z").done()


def test_a_hole_cannot_be_mapped_before_it_is_filled(memory: Memory) -> None:
    touch = memory.touch(7)
    touch.fault()
    assert memory.faults.map(memory.at(7), PAGE_SIZE, writable=False) == errno.EFAULT
    os.posix_fallocate(memory.memfd, 7 * PAGE_SIZE, PAGE_SIZE)
    assert memory.faults.map(memory.at(7), PAGE_SIZE, writable=False) == 0
    assert touch.done() == b"\0"


def test_what_is_punched_out_and_written_back_faults_again(memory: Memory) -> None:
    memory.fill(9, b"a")
    memory.faults.map(memory.at(9), PAGE_SIZE, writable=True)
    memory.touch(9, b"b").done()
    memory.faults.write_protect(memory.at(9), PAGE_SIZE, True)
    data = os.pread(memory.memfd, PAGE_SIZE, 9 * PAGE_SIZE)
    punch(memory.memfd, 9 * PAGE_SIZE, PAGE_SIZE)
    os.pwrite(memory.memfd, data, 9 * PAGE_SIZE)
    touch = memory.touch(9)
    touch.fault()
    memory.faults.map(memory.at(9), PAGE_SIZE, writable=False)
    assert touch.done() == b"b"


def test_a_run_is_mapped_around_what_cannot_be(memory: Memory) -> None:
    for page in (20, 21, 23, 24):
        memory.fill(page, b"q")
    memory.faults.map(memory.at(24), PAGE_SIZE, writable=False)
    assert memory.faults.map(memory.at(20), 5 * PAGE_SIZE, writable=False) == errno.EFAULT
    for page in (20, 21, 23, 24):
        assert memory.touch(page).done() == b"q"


def test_what_is_left_to_the_kernel_is_filled_by_it_and_can_be_taken_again(
    memory: Memory,
) -> None:
    memory.fill(33, b"p")
    memory.faults.map(memory.at(33), PAGE_SIZE, writable=False)
    touch = memory.touch(34, b"n")
    touch.fault()
    assert memory.faults.unregister(memory.at(32), 4 * PAGE_SIZE)
    touch.done()
    assert memory.touch(32).done() == b"\0"
    memory.touch(33, b"w").done()
    assert os.pread(memory.memfd, 1, 33 * PAGE_SIZE + 8) == b"w"
    memory.faults.register(memory.at(32), 4 * PAGE_SIZE)
    memory.touch(33, b"v").done()
    memory.faults.write_protect(memory.at(33), PAGE_SIZE, True)
    touch = memory.touch(33, b"u")
    assert touch.fault().writes
    memory.faults.write_protect(memory.at(33), PAGE_SIZE, False)
    touch.done()


def test_where_a_waiting_thread_stands(memory: Memory) -> None:
    memory.fill(30, b"s")
    touch = memory.touch(30)
    touch.fault()
    descriptor = os.open(f"/proc/self/task/{touch.thread.native_id}/syscall", os.O_RDONLY)
    try:
        where = userfault.blocked_at(descriptor)
        assert where is not None and where[0] and where[1]
        assert touch.thread.native_id and userfault.waits_for_page(touch.thread.native_id)
        memory.faults.map(memory.at(30), PAGE_SIZE, writable=False, wake=False)
        assert userfault.waits_for_page(touch.thread.native_id)
        memory.faults.wake(memory.at(30))
        touch.done()
        assert userfault.blocked_at(descriptor) is None
        assert not userfault.waits_for_page(touch.thread.native_id)
    finally:
        os.close(descriptor)


def test_a_kernel_access_fails_instead_of_waiting(memory: Memory) -> None:
    memory.fill(40, b"k")
    read_end, write_end = os.pipe()
    try:
        written = _libc.write(write_end, ctypes.c_void_p(memory.at(40)), 1)
        assert (written, ctypes.get_errno()) == (-1, errno.EFAULT)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_the_descriptor_is_fetched_from_the_process_that_made_it() -> None:
    calls: list[tuple[int, ...]] = []

    def call(number: int, *arguments: int) -> int:
        calls.append((number, *arguments))
        return ptrace.raw_syscall(number, *arguments)

    pidfd = os.pidfd_open(os.getpid())
    try:
        faults = userfault.create_in(pidfd, call)
    finally:
        os.close(pidfd)
    assert [made[0] for made in calls] == [userfault.SYS_USERFAULTFD, 3]
    assert faults.read() == []
    faults.close()


def test_a_refused_call_is_an_error() -> None:
    refuse: Callable[..., int] = lambda number, *arguments: -errno.EPERM  # noqa: E731
    with pytest.raises(PermissionError):
        userfault.create_in(-1, refuse)


def test_a_range_of_several_mappings_of_the_kernels(memory: Memory) -> None:
    """As mbind(2) leaves behind, here by another advice for some of its pages."""
    assert _libc.madvise(ctypes.c_void_p(memory.at(5)), ctypes.c_size_t(3 * PAGE_SIZE), 10) == 0
    for page in range(PAGES):
        memory.fill(page, b"m")
    assert memory.faults.map(memory.at(0), PAGES * PAGE_SIZE, writable=False) == 0
    for page in (0, 4, 5, 7, 8, PAGES - 1):
        assert memory.touch(page).done() == b"m"


def test_a_page_that_is_not_registered_is_told(memory: Memory) -> None:
    assert memory.faults.unregister(memory.at(2), PAGE_SIZE)
    for page in range(4):
        memory.fill(page, b"n")
    assert memory.faults.map(memory.at(0), 4 * PAGE_SIZE, writable=True) == errno.ENOENT
    for page in range(4):
        assert memory.touch(page).done() == b"n"
