# SPDX-License-Identifier: GPL-2.0-or-later
"""Null and bad pointers, lengths that lie: what the kernel makes of them, exactly."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import AT_FDCWD, Machine, Marshalled, iovec

from supervisor.units import PAGE_SIZE

NOWHERE = 0x6123_4567_8000
KERNEL = 0xFFFF_8880_0000_1000
UNCANONICAL = 0x8000_0000_0000
BAD = [pytest.param(0, id="null"), pytest.param(NOWHERE, id="unmapped"),
       pytest.param(KERNEL, id="kernel"), pytest.param(UNCANONICAL, id="uncanonical")]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(b"0123456789")
    opened = os.open(tmp_path / "file", os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("bad", BAD)
def test_bad_pointers(machine: Machine, fd: int, bad: int) -> None:
    assert machine.call("read", fd, bad, 4) == -errno.EFAULT
    assert machine.call("read", fd, bad, 0) == (0 if bad < 1 << 47 else -errno.EFAULT)
    assert machine.call("write", fd, bad, 4) == -errno.EFAULT
    assert machine.call("fstat", fd, bad) == -errno.EFAULT
    assert machine.call("stat", bad, machine.room(144)) == -errno.EFAULT
    assert machine.call("openat", AT_FDCWD, bad, 0, 0) == -errno.EFAULT
    assert machine.call("readv", fd, bad, 2) == -errno.EFAULT
    assert machine.call("uname", bad) == -errno.EFAULT
    assert machine.call("pipe2", bad, 0) == -errno.EFAULT
    assert machine.call("poll", bad, 1, 0) == -errno.EFAULT
    assert machine.call("getcwd", bad, 100) == -errno.EFAULT
    assert machine.call("getgroups", 65536, bad) == -errno.EFAULT or os.getgroups() == []
    vector = machine.put(iovec((bad, 4)))
    assert machine.call("readv", fd, vector, 1) == -errno.EFAULT
    assert machine.call("writev", fd, vector, 1) == -errno.EFAULT


@pytest.mark.parametrize("bad", BAD)
def test_other_errors_come_first(machine: Machine, fd: int, bad: int) -> None:
    assert machine.call("read", 9999, bad, 4) == -errno.EBADF
    assert machine.call("fstat", 9999, bad) == -errno.EBADF
    assert machine.call("connect", fd, bad, 16) in (-errno.ENOTSOCK, -errno.EFAULT)
    assert machine.call("bind", fd, bad, -1) in (-errno.ENOTSOCK, -errno.EINVAL)
    assert machine.call("readlink", machine.put(b"/proc/self/exe\0"), bad, 0) == -errno.EINVAL
    assert machine.call("getitimer", 55, bad) == -errno.EINVAL
    assert machine.call("poll", bad, 1 << 31, 0) == -errno.EINVAL


@pytest.mark.parametrize("bad", BAD)
def test_sockets(machine: Machine, bad: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        fd = here.fileno()
        assert machine.call("bind", fd, bad, 16) == -errno.EFAULT
        assert machine.call("sendmsg", fd, bad, 0) == -errno.EFAULT
        assert machine.call("recvmsg", fd, bad, 0x40) == -errno.EFAULT
        assert machine.call("getsockname", fd, machine.room(16), bad) == -errno.EFAULT
        length = machine.put(struct.pack("<i", 16))
        assert machine.call("getsockname", fd, bad, length) == -errno.EFAULT
        assert machine.call("setsockopt", fd, 1, 9, bad, 4) == -errno.EFAULT
        assert machine.call("getsockopt", fd, 1, 9, bad, length) == -errno.EFAULT
        if bad:
            assert machine.call("sendto", fd, bad, 4, 0, 0, 0) in (
                -errno.EFAULT, -errno.ENOTCONN,
            )


def test_end_of_file_before_bad_pointer(machine: Machine, fd: int) -> None:
    os.lseek(fd, 0, os.SEEK_END)
    assert machine.call("read", fd, NOWHERE, 4) == 0
    assert machine.call("read", fd, KERNEL, 4) == -errno.EFAULT


def test_counts_that_are_no_counts(machine: Machine, fd: int) -> None:
    buffer = machine.room(16)
    assert machine.call("read", fd, buffer, -1) in (-errno.EFAULT, -errno.EINVAL)
    assert machine.call("write", fd, buffer, 1 << 63) in (-errno.EFAULT, -errno.EINVAL)
    assert machine.call("pread64", fd, buffer, 16, -1) == -errno.EINVAL


def test_transfers_end_where_memory_ends(
    machine: Machine, fd: int, pipe: tuple[int, int]
) -> None:
    """A count larger than what is mapped: the kernel moves what it can."""
    page = machine.hole()
    near_end = page + PAGE_SIZE - 4
    assert machine.call("read", fd, near_end, 100) == 4
    assert machine.get(near_end, 4) == b"0123"
    machine.set(near_end, b"WXYZ")
    reader, writer = pipe
    assert machine.call("write", fd, near_end, 100) == 4
    assert os.pread(fd, 100, 0) == b"0123WXYZ89"
    os.write(writer, b"12")
    assert machine.call("read", reader, near_end, 1 << 20) == 2
    room = machine.room(3)
    both = machine.put(iovec((room, 3), (near_end, 100), (room, 3)))
    assert machine.call("preadv", fd, both, 3, 0, 0) == 7
    assert machine.get(room, 3) + machine.get(near_end, 4) == b"0123WXY"
    assert machine.call("pwritev", fd, both, 3, 0, 0) == 7


def test_lying_lengths_of_what_is_written_in_part(machine: Machine, tmp_path: Path) -> None:
    """A buffer smaller than its length does no harm while the result fits."""
    page = machine.hole()
    cwd = os.fsencode(os.getcwd()) + b"\0"
    at = page + PAGE_SIZE - len(cwd)
    assert machine.call("getcwd", at, 4096) == len(cwd)
    assert machine.get(at, len(cwd)) == cwd
    assert machine.call("getcwd", at + 1, 4096) == -errno.EFAULT
    (tmp_path / "l").symlink_to("somewhere")
    link = machine.put(os.fsencode(str(tmp_path / "l")) + b"\0")
    assert machine.call("readlink", link, page + PAGE_SIZE - 9, 4096) == 9
    assert machine.call("readlink", link, page + PAGE_SIZE - 8, 4096) == -errno.EFAULT


def test_datagrams_are_whole_or_not_at_all(machine: Machine) -> None:
    here, there = socket.socketpair(type=socket.SOCK_DGRAM)
    page = machine.hole()
    assert machine.call("sendto", here.fileno(), page + PAGE_SIZE - 4, 100, 0, 0, 0) == (
        -errno.EFAULT
    )
    header = struct.pack(
        "<QiiQQQQii", 0, 0, 0, machine.put(iovec((page + PAGE_SIZE - 4, 100))), 1, 0, 0, 0, 0
    )
    assert machine.call("sendmsg", here.fileno(), machine.put(header), 0) == -errno.EFAULT
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        there.recv(10)
    here.close()
    there.close()


def test_read_only_memory(machine: Machine, fd: int) -> None:
    constant = machine.read_only(b"constant")
    assert machine.call("read", fd, constant, 8) == -errno.EFAULT
    assert machine.call("pwrite64", fd, constant, 8, 0) == 8
    assert machine.get(constant, 8) == b"constant"
    timeout = machine.read_only(struct.pack("<qq", 0, 1))
    assert machine.call("rt_sigtimedwait", machine.put(bytes(8)), 0, timeout, 8) == -errno.EAGAIN


def test_string_array_without_end(marshalled: Marshalled) -> None:
    """execve's argv running into unmapped memory."""
    from machines import drive

    from supervisor.syscalls.marshal import Call, gather
    from supervisor.syscalls.names import number_of
    from supervisor.syscalls.table import ROWS

    row, guest = ROWS[number_of("execve")], marshalled.guest
    path = marshalled.put(b"/bin/true\0")
    page = marshalled.hole()
    text = marshalled.put(b"argument\0")
    marshalled.set(page, struct.pack("<Q", text) * 512)
    assert drive(guest, gather(row, [path, page, 0, 0, 0, 0], guest)) == -errno.EFAULT
    marshalled.set(page + PAGE_SIZE - 8, bytes(8))
    call = drive(guest, gather(row, [path, page, 0, 0, 0, 0], guest))
    assert isinstance(call, Call)
    assert call.segments[1].data == b"argument\0" * 511
    unaligned = marshalled.put(struct.pack("<QQ", text, 0) + b"xyz")
    call = drive(guest, gather(row, [path, unaligned, unaligned, 0, 0, 0], guest))
    assert isinstance(call, Call)
    assert [segment.length for segment in call.segments] == [10, 9, 16, 9, 16]
