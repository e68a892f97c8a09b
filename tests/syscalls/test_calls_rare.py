# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that few programs make: each natively, then marshalled.

What this kernel is too old for, or does not permit, is skipped by its errno; it is
the same errno both ways or the test fails natively.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from machines import AT_FDCWD, Machine, Marshalled, Native, c_string

UNAVAILABLE = (-errno.ENOSYS, -errno.EOPNOTSUPP, -errno.EPERM, -errno.ENOTTY)


def available(answer: int) -> int:
    if answer in UNAVAILABLE:
        pytest.skip(f"this kernel answers {errno.errorcode[-answer]}")
    return answer


def test_older_and_newer_forms_of_names(machine: Machine, tmp_path: Path) -> None:
    def put(name: str) -> int:
        return machine.put(c_string(str(tmp_path / name)))

    assert machine.call("mknod", put("a"), 0o100600, 0) == 0
    assert machine.call("linkat", AT_FDCWD, put("a"), AT_FDCWD, put("b"), 0) == 0
    assert machine.call("renameat", AT_FDCWD, put("b"), AT_FDCWD, put("c")) == 0
    assert machine.call("symlinkat", machine.put(c_string("a")), AT_FDCWD, put("s")) == 0
    assert machine.call("faccessat2", AT_FDCWD, put("s"), os.R_OK, 0x100) == 0
    assert machine.call("fchmodat", AT_FDCWD, put("a"), 0o640) == 0
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o640
    assert machine.call("fchmodat2", AT_FDCWD, put("a"), 0o600, 0) in (0, -errno.ENOSYS)
    ids = os.getuid(), os.getgid()
    assert machine.call("chown", put("a"), *ids) == 0
    assert machine.call("lchown", put("s"), *ids) == 0
    assert machine.call("fchownat", AT_FDCWD, put("s"), *ids, 0x100) == 0
    assert machine.call("utime", put("a"), machine.put(struct.pack("<qq", 5, 6))) == 0
    assert os.stat(tmp_path / "a").st_mtime == 6
    times = machine.put(struct.pack("<4q", 1, 0, 7, 500_000))
    assert machine.call("utimes", put("a"), times) == 0
    assert os.stat(tmp_path / "a").st_mtime == 7.5
    assert machine.call("futimesat", AT_FDCWD, put("c"), 0) == 0
    assert os.stat(tmp_path / "c").st_mtime > 1000
    assert machine.call("unlinkat", AT_FDCWD, put("c"), 0) == 0
    directory = os.open(tmp_path, os.O_RDONLY)
    entries = machine.room(512)
    n = machine.call("getdents", directory, entries, 512)
    assert n > 0
    assert b"a\0" in machine.get(entries, n)
    assert machine.get(entries, 512)[n:] == b"\xa5" * (512 - n)
    os.close(directory)
    ends = machine.room(8)
    assert machine.call("pipe", ends) == 0
    for fd in struct.unpack("<ii", machine.get(ends, 8)):
        os.close(fd)
    stat = machine.room(32)
    assert machine.call("ustat", 0xFFFFFFFF, stat) in (-errno.EINVAL, -errno.ENOSYS)


def test_refusals_of_the_kernel_agree(pair: tuple[Native, Marshalled], tmp_path: Path) -> None:
    """Calls that would change the machine, made so that they fail."""
    answers = []
    for machine in pair:
        gone = machine.put(c_string(str(tmp_path / "gone")))
        none = machine.put(b"\0")
        read_only = machine.put(struct.pack("<4Q", 1, 0, 0, 0))
        answers.append([
            machine.call("chroot", gone),
            machine.call("pivot_root", gone, gone),
            machine.call("mount", none, gone, machine.put(c_string("tmpfs")), 0, 0),
            machine.call("umount2", gone, 0),
            machine.call("swapon", gone, 0),
            machine.call("swapoff", gone),
            machine.call("acct", gone),
            machine.call("quotactl", 0x80000700, gone, 0, machine.room(72)),
            machine.call("quotactl_fd", -1, 0x80000700, 0, machine.room(72)),
            machine.call("sethostname", machine.put(b"x" * 100), 100),
            machine.call("setdomainname", machine.put(b"x" * 100), 100),
            machine.call("clock_settime", 1, machine.put(bytes(16))),
            machine.call("settimeofday", machine.put(struct.pack("<qq", 0, -1)), 0),
            machine.call("setgroups", 1 << 20, 0),
            machine.call("mq_notify", -1, 0),
            machine.call("fanotify_mark", -1, 1, 1, AT_FDCWD, gone),
            machine.call("open_tree", AT_FDCWD, gone, 0),
            machine.call("move_mount", AT_FDCWD, gone, AT_FDCWD, gone, 0),
            machine.call("fspick", AT_FDCWD, gone, 0),
            machine.call("mount_setattr", AT_FDCWD, gone, 0, read_only, 32),
        ])
    assert answers[0] == answers[1]
    assert [answer for answer in answers[0] if answer >= 0] == [], answers[0]


def test_clock_adjustment_is_read(machine: Machine) -> None:
    for name, leading in (("adjtimex", ()), ("clock_adjtime", (0,))):
        state = machine.put(bytes(208))
        assert available(machine.call(name, *leading, state)) >= 0
        assert struct.unpack_from("<q", machine.get(state, 208), 88)[0] > 0  # tick


def test_capabilities_set_to_what_they_are(machine: Machine) -> None:
    header, data = machine.put(struct.pack("<Ii", 0x20080522, 0)), machine.room(24)
    assert machine.call("capget", header, data) == 0
    assert machine.call("capset", header, data) == 0


def test_attributes_of_links_and_relative_ones(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    name, attribute = machine.put(c_string(str(path))), machine.put(c_string("user.x"))
    available(machine.call("lsetxattr", name, attribute, machine.put(b"v"), 1, 0))
    buffer = machine.room(16)
    assert machine.call("llistxattr", name, buffer, 16) == 7
    assert machine.call("lremovexattr", name, attribute) == 0
    assert machine.call("removexattr", name, attribute) == -errno.ENODATA
    value = machine.put(b"colour")
    args = machine.put(struct.pack("<QII", value, 6, 0))
    available(machine.call("setxattrat", AT_FDCWD, name, 0, attribute, args, 16))
    room = machine.room(10)
    args = machine.put(struct.pack("<QII", room, 10, 0))
    assert machine.call("getxattrat", AT_FDCWD, name, 0, attribute, args, 16) == 6
    assert machine.get(room, 10) == b"colour" + b"\xa5" * 4
    assert machine.call("listxattrat", AT_FDCWD, name, 0, buffer, 16) == 7
    assert machine.call("removexattrat", AT_FDCWD, name, 0, attribute) == 0


def test_handle_reopened(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"reopened")
    handle, mount = machine.put(struct.pack("<Ii", 128, 0) + bytes(128)), machine.room(4)
    name = machine.put(c_string(str(path)))
    available(machine.call("name_to_handle_at", AT_FDCWD, name, handle, mount, 0))
    directory = os.open(tmp_path, os.O_RDONLY)
    fd = available(machine.call("open_by_handle_at", directory, handle, os.O_RDONLY))
    assert os.read(fd, 100) == b"reopened"
    os.close(fd)
    os.close(directory)


def test_file_attributes_and_page_cache(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDONLY)
    span, counts = machine.put(struct.pack("<QQ", 0, 0)), machine.room(40)
    available(machine.call("cachestat", fd, span, counts, 0))
    # Five counts of 8 bytes.
    assert b"\xa5" not in machine.get(counts, 40)
    os.close(fd)
    attributes = machine.room(24)
    name = machine.put(c_string(str(path)))
    available(machine.call("file_getattr", AT_FDCWD, name, attributes, 24, 0))
    assert machine.get(attributes, 24) != b"\xa5" * 24
    available(machine.call("file_setattr", AT_FDCWD, name, attributes, 24, 0))


def test_mounts_listed(machine: Machine) -> None:
    # struct mnt_id_req: size, spare, mnt_id, param; LSMT_ROOT is all ones.
    request = machine.put(struct.pack("<IIQQ", 24, 0, (1 << 64) - 1, 0))
    ids = machine.room(8 * 64)
    n = available(machine.call("listmount", request, ids, 64, 0))
    assert 0 < n <= 64
    found = struct.unpack(f"<{n}Q", machine.get(ids, 8 * n))
    assert machine.get(ids, 512)[8 * n :] == b"\xa5" * (512 - 8 * n)
    assert len(set(found)) == n
    request = machine.put(struct.pack("<IIQQ", 24, 0, found[0], 0x2))  # STATMOUNT_MNT_BASIC
    state = machine.room(1024)
    available(machine.call("statmount", request, state, 1024, 0))
    size, _, mask = struct.unpack_from("<IIQ", machine.get(state, 16))
    assert 16 <= size <= 1024
    assert mask & 2


def test_file_system_made(machine: Machine) -> None:
    fd = available(machine.call("fsopen", machine.put(c_string("tmpfs")), 1))
    key, value = machine.put(c_string("size")), machine.put(c_string("1m"))
    assert machine.call("fsconfig", fd, 1, key, value, 0) == 0
    assert machine.call("fsconfig", fd, 1, machine.put(c_string("bogus")), value, 0) == (
        -errno.EINVAL
    )
    log = machine.room(200)
    assert machine.call("read", fd, log, 200) > 0
    assert b"bogus" in machine.get(log, 200)
    assert machine.call("fsconfig", fd, 6, 0, 0, 0) == 0
    mount = machine.call("fsmount", fd, 1, 0)
    assert mount >= 0
    os.close(mount)
    os.close(fd)


def test_signals_to_descriptors_and_threads(machine: Machine) -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    try:
        pid = os.getpid()
        info = machine.put(
            struct.pack("<iiixxxxiiQ", signal.SIGRTMIN, 0, -1, pid, 0, 77).ljust(128, b"\0")
        )
        thread = machine.call("gettid")
        assert machine.call("rt_tgsigqueueinfo", pid, thread, signal.SIGRTMIN, info) == 0
        caught = signal.sigtimedwait({signal.SIGRTMIN}, 5)
        assert caught is not None
        assert (caught.si_signo, caught.si_pid) == (signal.SIGRTMIN, pid)
        # To another process: of this one, a thread that has not blocked it may be there to get it.
        with subprocess.Popen(["sleep", "60"]) as other:
            fd = available(machine.call("pidfd_open", other.pid, 0))
            assert machine.call("pidfd_send_signal", fd, signal.SIGTERM, 0, 0) == 0
            os.close(fd)
            assert other.wait(5) == -signal.SIGTERM
        mask = machine.put(struct.pack("<Q", 1 << (signal.SIGRTMIN - 1)))
        fd = machine.call("signalfd", -1, mask, 8)
        assert fd >= 0
        assert machine.call("signalfd", -1, mask, 4) == -errno.EINVAL
        os.close(fd)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_kernel_log_size(machine: Machine) -> None:
    assert available(machine.call("syslog", 10, 0, 0)) > 0  # SYSLOG_ACTION_SIZE_BUFFER
    buffer = machine.room(64)
    assert 0 <= available(machine.call("syslog", 3, buffer, 64)) <= 64


def test_receive_with_a_deadline(machine: Machine) -> None:
    """recvmmsg's time left is told only if something came."""
    here, there = socket.socketpair(type=socket.SOCK_DGRAM)
    room = machine.room(8)
    header = struct.pack(
        "<QiiQQQQii", 0, 0, 0, machine.put(struct.pack("<QQ", room, 8)), 1, 0, 0, 0, 0
    ) + bytes(8)
    received = machine.put(header)
    timeout = machine.put(struct.pack("<qq", 7, 0))
    flags = socket.MSG_DONTWAIT
    assert machine.call("recvmmsg", there.fileno(), received, 1, flags, timeout) == -errno.EAGAIN
    assert machine.get(timeout, 16) == struct.pack("<qq", 7, 0)
    here.send(b"now")
    assert machine.call("recvmmsg", there.fileno(), received, 1, flags, timeout) == 1
    assert machine.get(timeout, 16) != struct.pack("<qq", 7, 0)
    assert machine.get(room, 8) == b"now" + b"\xa5" * 5
    here.close()
    there.close()
