# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for descriptors, timers, signals and locks: natively, then marshalled."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machine, Marshalled, c_string


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def pollfds(*fds: int) -> bytes:
    return b"".join(struct.pack("<ihH", fd, select.POLLIN, 0xFFFF) for fd in fds)


def test_poll(machine: Machine, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    array = machine.put(pollfds(reader, -1))
    assert machine.call("poll", array, 2, 0) == 0
    assert machine.get(array, 16) == struct.pack("<ihhihh", reader, 1, 0, -1, 1, 0)
    os.write(writer, b"x")
    assert machine.call("poll", array, 2, -1) == 1
    assert machine.get(array, 8) == struct.pack("<ihh", reader, 1, 1)
    assert machine.call("poll", 0, 0, 1) == 0
    assert machine.call("poll", array, 1 << 31, 0) == -errno.EINVAL


def test_ppoll_tells_the_time_left(machine: Machine, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    array = machine.put(pollfds(reader))
    timeout = machine.put(struct.pack("<qq", 0, 2_000_000))
    mask = machine.put(struct.pack("<Q", 1 << 11))
    assert machine.call("ppoll", array, 1, timeout, mask, 8) == 0
    assert machine.get(timeout, 16) == bytes(16)
    os.write(writer, b"x")
    # A constant time-out: the kernel does not mind that it cannot write the rest.
    constant = machine.read_only(struct.pack("<qq", 5, 0))
    assert machine.call("ppoll", array, 1, constant, 0, 0) == 1
    assert machine.get(constant, 16) == struct.pack("<qq", 5, 0)


def test_select(machine: Machine, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    readable = machine.put((1 << reader | 1 << writer).to_bytes(128, "little"))
    writable = machine.put((1 << writer).to_bytes(128, "little"))
    timeout = machine.put(struct.pack("<qq", 10, 0))
    assert machine.call("select", 1024, readable, writable, 0, timeout) == 1
    assert machine.get(readable, 128) == bytes(128)
    assert machine.get(writable, 128) == (1 << writer).to_bytes(128, "little")
    assert machine.get(timeout, 8) != struct.pack("<q", 10)
    os.write(writer, b"x")
    readable = machine.put((1 << reader).to_bytes(128, "little"))
    mask = machine.put(struct.pack("<Q", 1 << 11))
    both = machine.put(struct.pack("<QQ", mask, 8))
    short = machine.put(struct.pack("<qq", 0, 1))
    assert machine.call("pselect6", 1024, readable, 0, 0, short, both) == 1
    assert machine.get(readable, 128) == (1 << reader).to_bytes(128, "little")
    assert machine.call("pselect6", 0, 0, 0, 0, short, machine.put(bytes(16))) == 0
    assert machine.call("select", -1, readable, 0, 0, short) == -errno.EINVAL


def test_select_asking_for_more_than_its_sets(machine: Machine, pipe: tuple[int, int]) -> None:
    """select(getdtablesize(), ...) looks only as far as there are descriptors."""
    reader, writer = pipe
    os.write(writer, b"x")
    bits = (1 << reader).to_bytes(128, "little")
    page = machine.hole()
    readable = page + 4096 - 512  # Room for 4096 descriptors, less than is asked for.
    machine.set(readable, bits + bytes(384))
    timeout = machine.put(bytes(16))
    assert machine.call("select", 1 << 20, readable, 0, 0, timeout) == 1
    assert machine.get(readable, 128) == bits


def test_epoll(machine: Machine, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fd = machine.call("epoll_create1", 0)
    event = machine.put(struct.pack("<IQ", select.EPOLLIN, 0x1122334455667788))
    assert machine.call("epoll_ctl", fd, 1, reader, event) == 0
    assert machine.call("epoll_ctl", fd, 1, reader, event) == -errno.EEXIST
    assert machine.call("epoll_ctl", fd, 1, writer, 0) == -errno.EFAULT
    events = machine.room(12 * 4)
    assert machine.call("epoll_wait", fd, events, 4, 0) == 0
    assert machine.get(events, 48) == b"\xa5" * 48
    os.write(writer, b"x")
    mask = machine.put(struct.pack("<Q", 1 << 11))
    timeout = machine.put(struct.pack("<qq", 1, 0))
    for name, args in (
        ("epoll_wait", (-1,)),
        ("epoll_pwait", (-1, mask, 8)),
        ("epoll_pwait", (-1, 0, 0)),
        ("epoll_pwait2", (timeout, mask, 8)),
    ):
        machine.set(events, b"\xa5" * 48)
        assert machine.call(name, fd, events, 4, *args) == 1
        expected = struct.pack("<IQ", select.EPOLLIN, 0x1122334455667788)
        assert machine.get(events, 48) == expected + b"\xa5" * 36
    assert machine.call("epoll_wait", fd, events, 0, 0) == -errno.EINVAL
    assert machine.call("epoll_ctl", fd, 2, reader, 0) == 0
    os.close(fd)


def test_timerfd_eventfd(machine: Machine) -> None:
    fd = machine.call("timerfd_create", 1, 0)
    new, old = machine.put(struct.pack("<4q", 0, 0, 0, 1000)), machine.room(32)
    assert machine.call("timerfd_settime", fd, 0, new, old) == 0
    assert machine.get(old, 32) == bytes(32)
    count = machine.room(8)
    assert machine.call("read", fd, count, 8) == 8
    assert struct.unpack("<Q", machine.get(count, 8))[0] == 1
    assert machine.call("timerfd_gettime", fd, old) == 0
    assert machine.get(old, 32) == bytes(32)
    os.close(fd)
    fd = machine.call("eventfd2", 3, 0)
    twice = machine.put(struct.pack("<Q", 4))
    assert machine.call("write", fd, twice, 8) == 8
    assert machine.call("read", fd, count, 8) == 8
    assert struct.unpack("<Q", machine.get(count, 8))[0] == 7
    os.close(fd)


@pytest.fixture
def blocked() -> Iterator[None]:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, old)


@pytest.mark.usefixtures("blocked")
def test_signals_waited_for(machine: Machine) -> None:
    mask = machine.put(struct.pack("<Q", 1 << (signal.SIGUSR1 - 1)))
    fd = machine.call("signalfd4", -1, mask, 8, os.O_NONBLOCK)
    pid, tid = os.getpid(), os.gettid() if hasattr(os, "gettid") else os.getpid()
    assert machine.call("tgkill", pid, tid, signal.SIGUSR1) == 0
    pending = machine.room(8)
    assert machine.call("rt_sigpending", pending, 8) == 0
    assert struct.unpack("<Q", machine.get(pending, 8))[0] & 1 << (signal.SIGUSR1 - 1)
    info = machine.room(128)
    assert machine.call("read", fd, info, 128) == 128
    assert struct.unpack("<I", machine.get(info, 4))[0] == signal.SIGUSR1
    os.close(fd)
    queued = machine.put(
        struct.pack("<iiixxxxiiQ", signal.SIGRTMIN, 0, -1, pid, 0, 4242).ljust(128, b"\0")
    )
    child = os.fork()  # (a process of one thread: others of this one may not block the signal)
    if child == 0:
        heard = signal.sigtimedwait({signal.SIGRTMIN}, 20)
        os._exit(7 if heard is not None and heard.si_code == -1 else 1)
    assert machine.call("rt_sigqueueinfo", child, signal.SIGRTMIN, queued) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert machine.call("rt_tgsigqueueinfo", pid, tid, signal.SIGRTMIN, queued) == 0
    mask = machine.put(struct.pack("<Q", 1 << (signal.SIGRTMIN - 1)))
    timeout = machine.put(struct.pack("<qq", 1, 0))
    assert machine.call("rt_sigtimedwait", mask, info, timeout, 8) == signal.SIGRTMIN
    assert struct.unpack_from("<Q", machine.get(info, 128), 24)[0] == 4242
    machine.set(info, b"\xa5" * 128)
    machine.set(timeout, bytes(16))
    assert machine.call("rt_sigtimedwait", mask, info, timeout, 8) == -errno.EAGAIN
    assert machine.get(info, 128) == b"\xa5" * 128


def test_masks_never_block_the_supervisors_signals(marshalled: Marshalled) -> None:
    """Forced signals stay deliverable whatever mask a waiting call brings: it is kept beside."""
    from types import SimpleNamespace

    from machines import drive

    from supervisor.driver import temporary_masks
    from supervisor.driver.signals import FORCED_MASK
    from supervisor.syscalls.marshal import Call, gather
    from supervisor.syscalls.names import number_of
    from supervisor.syscalls.table import ROWS

    everything = marshalled.put(b"\xff" * 8)
    pair = marshalled.put(struct.pack("<QQ", everything, 8))
    kept = (~FORCED_MASK & (1 << 64) - 1).to_bytes(8, "little")
    home = SimpleNamespace(kept_signals=SimpleNamespace(take=lambda thread, mask: None))
    for name, args in (
        ("rt_sigsuspend", [everything, 8]),
        ("ppoll", [0, 0, 0, everything, 8]),
        ("epoll_pwait", [0, 0, 1, 0, everything, 8]),
        ("epoll_pwait2", [0, 0, 1, 0, everything, 8]),
        ("pselect6", [0, 0, 0, 0, 0, pair]),
    ):
        padded = args + [0] * (6 - len(args))
        row = ROWS[number_of(name)]
        call = drive(marshalled.guest, gather(row, padded, marshalled.guest))
        assert isinstance(call, Call)
        thread = SimpleNamespace(away=0, virtual_mask=0, mask_before=None)
        assert temporary_masks.takes_one(row, padded)
        assert temporary_masks.swap(home, thread, row, call) is None  # type: ignore[arg-type]
        assert call.segments[-1].data == kept, name
        assert (thread.virtual_mask, thread.mask_before) == (FORCED_MASK, 0)


def test_locks(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "locked"
    path.write_bytes(bytes(100))
    fd, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    # struct flock: type, whence, start, length, pid
    lock = machine.put(struct.pack("<hhxxxxqqixxxx", 1, 0, 10, 20, 0))
    assert machine.call("fcntl", fd, 37, lock) == 0  # F_OFD_SETLK
    probe = machine.put(struct.pack("<hhxxxxqqixxxx", 1, 0, 0, 0, 0))
    assert machine.call("fcntl", other, 36, probe) == 0  # F_OFD_GETLK
    assert struct.unpack("<hhxxxxqqixxxx", machine.get(probe, 32)) == (1, 0, 10, 20, -1)
    assert machine.call("fcntl", other, 37, lock) == -errno.EAGAIN
    assert machine.call("flock", fd, 2) == 0
    assert machine.call("flock", other, 2 | 4) == -errno.EWOULDBLOCK
    duplicate = machine.call("fcntl", fd, 0, 100)
    assert duplicate >= 100
    owner = machine.put(struct.pack("<ii", 1, os.getpid()))
    assert machine.call("fcntl", fd, 15, owner) == 0  # F_SETOWN_EX
    got = machine.room(8)
    assert machine.call("fcntl", fd, 16, got) == 0  # F_GETOWN_EX
    assert machine.get(got, 8) == struct.pack("<ii", 1, os.getpid())
    assert machine.call("fcntl", fd, 9999, 0) == -errno.EINVAL
    for each in (fd, other, duplicate):
        os.close(each)


def test_inotify(machine: Machine, tmp_path: Path) -> None:
    fd = machine.call("inotify_init1", os.O_NONBLOCK)
    watch = machine.call("inotify_add_watch", fd, machine.put(c_string(str(tmp_path))), 0x100)
    assert watch > 0
    (tmp_path / "born").touch()
    buffer = machine.room(256)
    n = machine.call("read", fd, buffer, 256)
    assert n == 32
    assert machine.get(buffer + 16, 16) == b"born".ljust(16, b"\0")
    assert machine.call("inotify_rm_watch", fd, watch) == 0
    os.close(fd)
