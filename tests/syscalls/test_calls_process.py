# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes, limits, scheduling, System V and POSIX queues, terminals, prctl."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import resource
import signal
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machine, Marshalled, Native, c_string

from supervisor.errors import UnsupportedError
from supervisor.syscalls import rows_control, rows_ioctl


def exited_child(status: int) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    return pid


def test_wait4(machine: Machine) -> None:
    status, usage = machine.room(4), machine.room(144)
    pid = exited_child(3)
    assert machine.call("wait4", pid, status, 0, usage) == pid
    assert struct.unpack("<i", machine.get(status, 4))[0] == 3 << 8
    assert machine.get(usage, 144) != b"\xa5" * 144
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    machine.set(status, b"\xa5" * 4)
    machine.set(usage, b"\xa5" * 144)
    # Nobody to wait for yet: nothing is written.
    assert machine.call("wait4", pid, status, os.WNOHANG, usage) == 0
    assert machine.get(status, 4) + machine.get(usage, 144) == b"\xa5" * 148
    os.close(writer)
    assert machine.call("wait4", pid, 0, 0, 0) == pid
    assert machine.call("wait4", pid, status, 0, 0) == -errno.ECHILD
    os.close(reader)


def test_waitid(machine: Machine) -> None:
    info = machine.room(128)
    pid = exited_child(7)
    assert machine.call("waitid", 1, pid, info, os.WEXITED, 0) == 0
    data = machine.get(info, 128)
    assert struct.unpack_from("<iii", data) == (signal.SIGCHLD, 0, os.CLD_EXITED)
    assert struct.unpack_from("<iIi", data, 16) == (pid, os.getuid(), 7)
    # The kernel writes the fields, not the whole: what it leaves alone stays.
    assert data[28:] == b"\xa5" * 100


def test_limits_agree(pair: tuple[Native, Marshalled]) -> None:
    seen = []
    for machine in pair:
        buffers = [machine.room(16) for _ in range(3)]
        assert machine.call("getrlimit", resource.RLIMIT_NOFILE, buffers[0]) == 0
        assert machine.call("prlimit64", 0, resource.RLIMIT_STACK, 0, buffers[1]) == 0
        same = machine.put(machine.get(buffers[0], 16))
        assert machine.call("prlimit64", 0, resource.RLIMIT_NOFILE, same, buffers[2]) == 0
        assert machine.call("setrlimit", resource.RLIMIT_NOFILE, same) == 0
        seen.append([machine.get(buffer, 16) for buffer in buffers])
    assert seen[0] == seen[1]


def test_the_machine_agrees(pair: tuple[Native, Marshalled]) -> None:
    seen = []
    for machine in pair:
        name, information = machine.room(390), machine.room(112)
        assert machine.call("uname", name) == 0
        assert machine.call("sysinfo", information) == 0
        ids = [machine.room(4) for _ in range(6)]
        assert machine.call("getresuid", *ids[:3]) == 0
        assert machine.call("getresgid", *ids[3:]) == 0
        count = machine.call("getgroups", 0, 0)
        groups = machine.room(4 * count + 8)
        assert machine.call("getgroups", count + 2, groups) == count
        header, data = machine.put(struct.pack("<Ii", 0x20080522, 0)), machine.room(24)
        assert machine.call("capget", header, data) == 0
        old = machine.put(struct.pack("<Ii", 0x12345, 0))
        assert machine.call("capget", old, data) == -errno.EINVAL
        attributes = machine.room(56)
        assert machine.call("sched_getattr", 0, attributes, 56, 0) == 0
        parameter, interval = machine.room(4), machine.room(16)
        assert machine.call("sched_getparam", 0, parameter) == 0
        assert machine.call("sched_rr_get_interval", 0, interval) == 0
        seen.append([
            machine.get(name, 390), machine.get(information, 112)[32:40],
            *(machine.get(each, 4) for each in ids), machine.get(groups, 4 * count + 8),
            machine.get(data, 24), machine.get(old, 8), machine.get(attributes, 56),
            machine.get(parameter, 4), machine.get(interval, 16),
        ])
    assert seen[0] == seen[1]


def test_accounts(machine: Machine) -> None:
    usage, times = machine.room(144), machine.room(32)
    assert machine.call("getrusage", 0, usage) == 0
    assert machine.get(usage, 144)[-8:] != b"\xa5" * 8
    assert machine.call("times", times) > 0
    assert machine.call("times", 0) > 0
    user = struct.unpack("<q", machine.get(times, 8))[0]
    assert 0 <= user <= os.times().user * os.sysconf("SC_CLK_TCK") + 1
    timer, old = machine.put(struct.pack("<4q", 0, 0, 1000, 0)), machine.room(32)
    assert machine.call("setitimer", 0, timer, 0) == 0
    assert machine.call("getitimer", 0, old) == 0
    assert 0 < struct.unpack("<4q", machine.get(old, 32))[2] <= 1000
    assert machine.call("setitimer", 0, machine.put(bytes(32)), old) == 0
    assert machine.call("getitimer", 9, old) == -errno.EINVAL


def test_scheduler(machine: Machine) -> None:
    attributes = machine.put(struct.pack("<IIQiIQQQ", 48, 0, 0, os.nice(0), 0, 0, 0, 0))
    assert machine.call("sched_setattr", 0, attributes, 0) == 0
    too_large = machine.put(struct.pack("<I", 4096) + b"\xff" * 4092)
    assert machine.call("sched_setattr", 0, too_large, 0) == -errno.E2BIG
    # The kernel tells the size that it knows.
    assert 48 <= struct.unpack("<I", machine.get(too_large, 4))[0] < 200
    assert machine.get(too_large + 4, 4092) == b"\xff" * 4092
    assert machine.call("sched_setparam", 0, machine.put(bytes(4))) == 0
    assert machine.call("sched_setscheduler", 0, 0, machine.put(bytes(4))) == 0


def test_timers(machine: Machine) -> None:
    event = machine.put(struct.pack("<Qii", 0, signal.SIGUSR1, 1).ljust(64, b"\0"))  # SIGEV_NONE
    timer = machine.room(4)
    assert machine.call("timer_create", 1, event, timer) == 0
    number = struct.unpack("<i", machine.get(timer, 4))[0]
    new, old = machine.put(struct.pack("<4q", 0, 0, 500, 0)), machine.room(32)
    assert machine.call("timer_settime", number, 0, new, old) == 0
    assert machine.call("timer_gettime", number, old) == 0
    assert 490 <= struct.unpack("<4q", machine.get(old, 32))[2] <= 500
    assert machine.call("timer_getoverrun", number) == 0
    assert machine.call("timer_delete", number) == 0


def test_semaphores(machine: Machine) -> None:
    semaphores = machine.call("semget", 0, 3, 0o1600)
    assert semaphores >= 0
    try:
        values = machine.put(struct.pack("<3H", 5, 6, 7))
        assert machine.call("semctl", semaphores, 0, 17, values) == 0  # SETALL
        operations = machine.put(struct.pack("<HhhHhh", 0, -2, 0, 2, 3, 0))
        assert machine.call("semop", semaphores, operations, 2) == 0
        machine.set(values, b"\xa5" * 6)
        assert machine.call("semctl", semaphores, 0, 13, values) == 0  # GETALL
        assert machine.get(values, 6) == struct.pack("<3H", 3, 6, 10)
        assert machine.call("semctl", semaphores, 1, 12, 0) == 6  # GETVAL
        assert machine.call("semctl", semaphores, 1, 16, 9) == 0  # SETVAL
        state = machine.room(104)
        assert machine.call("semctl", semaphores, 0, 2, state) == 0  # IPC_STAT
        assert struct.unpack_from("<Q", machine.get(state, 104), 80)[0] == 3
        down = machine.put(struct.pack("<Hhh", 0, -10, 0))
        soon = machine.put(struct.pack("<qq", 0, 1000))
        assert machine.call("semtimedop", semaphores, down, 1, soon) == -errno.EAGAIN
    finally:
        assert machine.call("semctl", semaphores, 0, 0, 0) == 0


def test_message_queues(machine: Machine) -> None:
    queue = machine.call("msgget", 0, 0o1600)
    assert queue >= 0
    try:
        text = machine.put(struct.pack("<q", 17) + b"contents")
        assert machine.call("msgsnd", queue, text, 8, 0) == 0
        state = machine.room(120)
        assert machine.call("msgctl", queue, 2, state) == 0
        assert struct.unpack_from("<Q", machine.get(state, 120), 80)[0] == 1
        buffer = machine.room(40)
        assert machine.call("msgrcv", queue, buffer, 32, 0, 0) == 8
        expected = struct.pack("<q", 17) + b"contents"
        assert machine.get(buffer, 40) == expected.ljust(40, b"\xa5")
        assert machine.call("msgrcv", queue, buffer, 32, 0, 0o4000) == -errno.ENOMSG
    finally:
        assert machine.call("msgctl", queue, 0, 0) == 0


def test_posix_queues(machine: Machine) -> None:
    name = machine.put(c_string(f"dsmsup-test-{os.getpid()}"))
    attributes = machine.put(struct.pack("<4q", 0, 4, 64, 0).ljust(64, b"\0"))
    queue = machine.call("mq_open", name, os.O_RDWR | os.O_CREAT, 0o600, attributes)
    if queue == -errno.ENOSYS:
        pytest.skip("no POSIX queues in this kernel")
    assert queue >= 0
    assert machine.call("mq_unlink", name) == 0
    text = machine.put(b"urgent")
    assert machine.call("mq_timedsend", queue, text, 6, 9, 0) == 0
    buffer, priority = machine.room(64), machine.room(4)
    timeout = machine.put(struct.pack("<qq", 1, 0))
    assert machine.call("mq_timedreceive", queue, buffer, 64, priority, timeout) == 6
    assert machine.get(buffer, 64) == b"urgent".ljust(64, b"\xa5")
    assert struct.unpack("<I", machine.get(priority, 4))[0] == 9
    old = machine.room(64)
    assert machine.call("mq_getsetattr", queue, 0, old) == 0
    assert struct.unpack("<4q", machine.get(old, 32)) == (0, 4, 64, 0)
    os.close(queue)


def test_shared_memory_control(machine: Machine) -> None:
    segment = machine.call("shmget", 0, 4096, 0o1600)
    state = machine.room(112)
    assert machine.call("shmctl", segment, 2, state) == 0
    assert struct.unpack_from("<Q", machine.get(state, 112), 48)[0] == 4096
    assert machine.call("shmctl", segment, 0, 0) == 0


@pytest.fixture
def terminal() -> Iterator[int]:
    parent, child = pty.openpty()
    yield child
    os.close(parent)
    os.close(child)


def test_terminal(machine: Machine, terminal: int) -> None:
    size = machine.put(struct.pack("<4H", 24, 80, 0, 0))
    assert machine.call("ioctl", terminal, termios.TIOCSWINSZ, size) == 0
    got = machine.room(12)
    assert machine.call("ioctl", terminal, termios.TIOCGWINSZ, got) == 0
    assert machine.get(got, 12) == struct.pack("<4H", 24, 80, 0, 0) + b"\xa5" * 4
    settings = machine.room(60)
    assert machine.call("ioctl", terminal, termios.TCGETS, settings) == 0
    assert machine.get(settings, 60)[36:] == b"\xa5" * 24
    assert machine.call("ioctl", terminal, termios.TCSETSW, settings) == 0
    assert machine.call("ioctl", terminal, 0x802C542A, machine.room(44)) == 0  # TCGETS2
    assert machine.call("ioctl", terminal, termios.TCFLSH, termios.TCIOFLUSH) == 0
    number = machine.room(4)
    assert machine.call("ioctl", terminal, termios.TIOCGPGRP, number) in (0, -errno.ENOTTY)
    assert machine.call("ioctl", terminal, termios.TIOCGWINSZ, 0) == -errno.EFAULT


def test_file_ioctls(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    assert machine.call("ioctl", fd, termios.FIOCLEX, 0) == 0
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    size = machine.room(4)
    assert machine.call("ioctl", fd, 2, size) == 0  # FIGETBSZ
    assert struct.unpack("<i", machine.get(size, 4))[0] >= 512
    flags = machine.room(8)
    answer = machine.call("ioctl", fd, 0x80086601, flags)  # FS_IOC_GETFLAGS
    if answer == 0:
        # Its number says 8 bytes; it writes an int.
        assert machine.get(flags, 8)[4:] == b"\xa5" * 4
    extents = machine.put(struct.pack("<QQIIII", 0, 8192, 1, 0, 2, 0) + b"\xa5" * 112)
    answer = machine.call("ioctl", fd, 0xC020660B, extents)  # FS_IOC_FIEMAP
    if answer == 0:
        assert struct.unpack_from("<I", machine.get(extents, 32), 20)[0] >= 1
    assert machine.call("ioctl", fd, 0x40049409, 9999) in (
        -errno.EBADF, -errno.EOPNOTSUPP, -errno.ENOTTY,
    )  # FICLONE of a descriptor that is not
    os.close(fd)


def test_unknown_requests(machine: Machine, terminal: int) -> None:
    """What a descriptor does not have fails as the kernel has it fail."""
    pointer = machine.room(64)
    for request in (0xC0286405, 0x4B99, 0x2285):
        assert machine.call("ioctl", terminal, request, pointer) == -errno.ENOTTY
    assert machine.call("ioctl", 9999, 0xC0286405, pointer) == -errno.EBADF
    assert machine.call("fcntl", terminal, 9999, pointer) == -errno.EINVAL


def test_requests_in_no_table_are_refused_by_name(
    marshalled: Marshalled, terminal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointer = marshalled.room(64)
    monkeypatch.delitem(rows_ioctl.TABLE, termios.TIOCGWINSZ)
    with pytest.raises(UnsupportedError, match="ioctl: request 0x5413 is in no table"):
        marshalled.call("ioctl", terminal, termios.TIOCGWINSZ, pointer)
    monkeypatch.delitem(rows_control.FCNTL, 5)
    with pytest.raises(UnsupportedError, match="fcntl: command 5 is in no table"):
        marshalled.call("fcntl", terminal, 5, pointer)
    # Taken for a pointer, though it is none: the terminal is exclusive now, nothing worse.
    monkeypatch.delitem(rows_ioctl.TABLE, termios.TIOCEXCL)
    with pytest.raises(UnsupportedError, match="ioctl: request 0x540c is in no table"):
        marshalled.call("ioctl", terminal, termios.TIOCEXCL, pointer)


def test_prctl(machine: Machine) -> None:
    old = machine.room(16)
    assert machine.call("prctl", 16, old, 0, 0, 0) == 0
    assert machine.call("prctl", 15, machine.put(c_string("renamed-for-a-test")), 0, 0, 0) == 0
    name = machine.room(20)
    assert machine.call("prctl", 16, name, 0, 0, 0) == 0
    assert machine.get(name, 20) == b"renamed-for-a-t\0" + b"\xa5" * 4
    assert machine.call("prctl", 15, machine.put(machine.get(old, 16)), 0, 0, 0) == 0
    assert machine.call("prctl", 3, 0, 0, 0, 0) == 1
    assert machine.call("prctl", 36, 0, 0, 0, 0) == 0  # whoever ran before may be a subreaper
    value = machine.room(4)
    assert machine.call("prctl", 37, value, 0, 0, 0) == 0
    assert machine.get(value, 4) == bytes(4)
    assert machine.call("prctl", 123456, 0, 0, 0, 0) == -errno.EINVAL


def test_answers_without_the_kernel(marshalled: Marshalled) -> None:
    assert marshalled.call("rseq", 0x1000, 32, 0, 0) == -errno.ENOSYS
    assert marshalled.call("io_uring_setup", 1, 0) == -errno.ENOSYS
    assert marshalled.call("ptrace", 0, 0, 0, 0) == -errno.EPERM
    assert marshalled.call("prctl", 21, 0, 0, 0, 0) == 0  # PR_GET_SECCOMP
    assert marshalled.call("prctl", 22, 1, 0, 0, 0) == -errno.EINVAL
    assert marshalled.calls == 0
