# SPDX-License-Identifier: GPL-2.0-or-later
"""Files, directories, attributes: each behaviour natively, then marshalled."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from machines import AT_FDCWD, Machine, Marshalled, Native, c_string, iovec

FIRST, SECOND = b"the first part, ", b"and the second"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def opened(machine: Machine, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    fd = machine.call("openat", AT_FDCWD, machine.put(c_string(str(path))), flags, 0o644)
    assert fd >= 0
    return fd


def test_write_read_seek(machine: Machine, path: Path) -> None:
    fd = opened(machine, path)
    assert machine.call("write", fd, machine.put(FIRST), len(FIRST)) == len(FIRST)
    assert machine.call("pwrite64", fd, machine.put(SECOND), len(SECOND), len(FIRST)) == len(SECOND)
    assert path.read_bytes() == FIRST + SECOND
    assert machine.call("lseek", fd, 4, os.SEEK_SET) == 4
    buffer = machine.room(64)
    assert machine.call("read", fd, buffer, 64) == len(FIRST + SECOND) - 4
    # Nothing beyond what was read changes.
    assert machine.get(buffer, 64) == (FIRST + SECOND)[4:].ljust(64, b"\xa5")
    assert machine.call("read", fd, buffer, 64) == 0
    assert machine.call("pread64", fd, buffer, 9, 4) == 9
    assert machine.get(buffer, 9) == b"first par"
    assert machine.call("close", fd) == 0
    assert machine.call("read", fd, buffer, 64) == -errno.EBADF


def test_vectors(machine: Machine, path: Path) -> None:
    fd = opened(machine, path)
    out = iovec((machine.put(FIRST), len(FIRST)), (0, 0), (machine.put(SECOND), len(SECOND)))
    total = len(FIRST + SECOND)
    assert machine.call("writev", fd, machine.put(out), 3) == total
    assert machine.call("pwritev", fd, machine.put(out), 3, 100, 0) == total
    assert machine.call("pwritev2", fd, machine.put(out), 3, 200, 0, 0) == total
    assert path.read_bytes()[200:] == FIRST + SECOND
    a, b, c = machine.room(5), machine.room(7), machine.room(100)
    vector = machine.put(iovec((a, 5), (b, 7), (c, 100)))
    for name, args in (("preadv", (0, 0)), ("preadv2", (0, 0, 0))):
        assert machine.call(name, fd, vector, 2, *args) == 12
    assert machine.get(a, 5) + machine.get(b, 7) == (FIRST + SECOND)[:12]
    assert machine.call("lseek", fd, 200, 0) == 200
    assert machine.call("readv", fd, vector, 3) == total
    assert machine.get(c, 100) == (FIRST + SECOND)[12:].ljust(100, b"\xa5")
    assert machine.call("readv", fd, vector, 0) == 0
    assert machine.call("readv", fd, vector, 1025) == -errno.EINVAL
    assert machine.call("readv", fd, machine.put(iovec((a, 1 << 63))), 1) == -errno.EINVAL
    assert machine.call("writev", fd, machine.put(iovec((a, 5), (1 << 62, 5))), 2) == -errno.EFAULT
    os.close(fd)


def test_stat_family_agrees(pair: tuple[Native, Marshalled], path: Path) -> None:
    path.write_bytes(b"x" * 1234)
    fd = os.open(path, os.O_RDONLY)
    name = c_string(str(path))
    seen = []
    for machine in pair:
        buffers = [machine.room(144) for _ in range(4)]
        statx, statfs, fstatfs = machine.room(256), machine.room(120), machine.room(120)
        assert machine.call("fstat", fd, buffers[0]) == 0
        assert machine.call("stat", machine.put(name), buffers[1]) == 0
        assert machine.call("lstat", machine.put(name), buffers[2]) == 0
        assert machine.call("newfstatat", AT_FDCWD, machine.put(name), buffers[3], 0) == 0
        assert machine.call("statx", AT_FDCWD, machine.put(name), 0, 0xFFF, statx) == 0
        assert machine.call("statfs", machine.put(name), statfs) == 0
        assert machine.call("fstatfs", fd, fstatfs) == 0
        seen.append([machine.get(buffer, 144) for buffer in buffers]
                    + [machine.get(statx, 256), machine.get(statfs, 120)[:8]])
    assert seen[0] == seen[1]
    assert struct.unpack_from("<Q", seen[0][0], 48)[0] == 1234
    os.close(fd)


def test_directories(machine: Machine, tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"entry-{i}").touch()
    fd = opened(machine, tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    names: set[str] = set()
    buffer = machine.room(2000)
    while (n := machine.call("getdents64", fd, buffer, 2000)) > 0:
        data, at = machine.get(buffer, 2000), 0
        while at < n:
            length = struct.unpack_from("<H", data, at + 16)[0]
            names.add(os.fsdecode(data[at + 19 : at + length].split(b"\0")[0]))
            at += length
    assert n == 0
    assert names == {".", "..", *(f"entry-{i}" for i in range(300))}
    assert machine.call("getdents64", fd, buffer, 4) in (-errno.EINVAL, 0)
    os.close(fd)


def test_names(machine: Machine, tmp_path: Path) -> None:
    def put(name: str) -> int:
        return machine.put(c_string(str(tmp_path / name)))

    assert machine.call("mkdir", put("d"), 0o755) == 0
    assert machine.call("mkdirat", AT_FDCWD, put("d"), 0o755) == -errno.EEXIST
    assert machine.call("symlink", machine.put(c_string("target")), put("link")) == 0
    buffer = machine.room(32)
    assert machine.call("readlink", put("link"), buffer, 32) == 6
    assert machine.get(buffer, 32) == b"target".ljust(32, b"\xa5")
    assert machine.call("readlink", put("link"), buffer, 3) == 3
    assert machine.call("readlink", put("link"), buffer, -1) == -errno.EINVAL
    assert machine.call("readlinkat", AT_FDCWD, put("link"), buffer, 1 << 30) == 6
    assert machine.call("mknodat", AT_FDCWD, put("a"), 0o100644, 0) == 0
    assert machine.call("link", put("a"), put("b")) == 0
    assert machine.call("rename", put("b"), put("c")) == 0
    assert machine.call("renameat2", AT_FDCWD, put("c"), AT_FDCWD, put("b"), 1) == 0
    assert machine.call("access", put("b"), os.R_OK) == 0
    assert machine.call("faccessat", AT_FDCWD, put("gone"), os.R_OK) == -errno.ENOENT
    assert machine.call("chmod", put("b"), 0o600) == 0
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert machine.call("truncate", put("b"), 77) == 0
    assert (tmp_path / "a").stat().st_size == 77
    times = machine.put(struct.pack("<4q", 1, 0, 2, 500))
    assert machine.call("utimensat", AT_FDCWD, put("b"), times, 0) == 0
    assert (tmp_path / "b").stat().st_mtime_ns == 2_000_000_500
    assert machine.call("utimensat", AT_FDCWD, put("b"), 0, 0) == 0
    assert (tmp_path / "b").stat().st_mtime > 1000
    assert machine.call("unlink", put("b")) == 0
    assert machine.call("rmdir", put("d")) == 0
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]
    long = machine.put(b"x" * 5000 + b"\0")
    assert machine.call("access", long, 0) == -errno.ENAMETOOLONG
    assert machine.call("access", machine.put(b"\0"), 0) == -errno.ENOENT


def test_string_across_pages(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    name = c_string(str(tmp_path / "file"))
    page = machine.hole()
    machine.set(page + 4096 - len(name), name)
    assert machine.call("access", page + 4096 - len(name), 0) == 0
    machine.set(page + 4096 - len(name), name.replace(b"\0", b"x"))
    assert machine.call("access", page + 4096 - len(name), 0) == -errno.EFAULT


def test_getcwd(machine: Machine) -> None:
    cwd = c_string(os.getcwd())
    buffer = machine.room(4096)
    for size in (4096, 1 << 40):
        assert machine.call("getcwd", buffer, size) == len(cwd)
        assert machine.get(buffer, len(cwd) + 1) == cwd + b"\xa5"
    assert machine.call("getcwd", buffer, 1) == -errno.ERANGE


def test_extended_attributes(machine: Machine, path: Path) -> None:
    path.touch()
    name, attribute = machine.put(c_string(str(path))), machine.put(c_string("user.colour"))
    fd = os.open(path, os.O_RDWR)
    value = machine.put(b"green")
    if machine.call("setxattr", name, attribute, value, 5, 0) == -errno.EOPNOTSUPP:
        pytest.skip("no user attributes on this file system")
    assert machine.call("getxattr", name, attribute, 0, 0) == 5
    buffer = machine.room(16)
    assert machine.call("getxattr", name, attribute, buffer, 16) == 5
    assert machine.get(buffer, 16) == b"green".ljust(16, b"\xa5")
    assert machine.call("fgetxattr", fd, attribute, buffer, 1 << 40) == 5
    assert machine.call("lgetxattr", name, attribute, buffer, 2) == -errno.ERANGE
    assert machine.call("listxattr", name, buffer, 16) == 12
    assert machine.get(buffer, 12) == b"user.colour\0"
    assert machine.call("fsetxattr", fd, attribute, value, 70000, 0) == -errno.E2BIG
    assert machine.call("fremovexattr", fd, attribute) == 0
    assert machine.call("flistxattr", fd, buffer, 16) == 0
    os.close(fd)


def test_copies_between_descriptors(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(range(256)) * 64)
    source = opened(machine, tmp_path / "in", os.O_RDONLY)
    target = opened(machine, tmp_path / "out")
    offset = machine.put(struct.pack("<q", 100))
    assert machine.call("sendfile", target, source, offset, 1000) == 1000
    assert struct.unpack("<q", machine.get(offset, 8))[0] == 1100
    assert machine.call("copy_file_range", source, offset, target, 0, 500, 0) == 500
    assert struct.unpack("<q", machine.get(offset, 8))[0] == 1600
    out = (tmp_path / "out").read_bytes()
    assert out == (bytes(range(256)) * 64)[100:1600]
    reader, writer = os.pipe()
    assert machine.call("splice", source, offset, writer, 0, 300, 0) == 300
    assert os.read(reader, 1000) == (bytes(range(256)) * 64)[1600:1900]
    pieces = iovec((machine.put(FIRST), len(FIRST)), (machine.put(SECOND), len(SECOND)))
    assert machine.call("vmsplice", writer, machine.put(pieces), 2, 0) == len(FIRST + SECOND)
    assert os.read(reader, 1000) == FIRST + SECOND
    for fd in (source, target, reader, writer):
        os.close(fd)


def test_handles(machine: Machine, path: Path) -> None:
    path.touch()
    name = machine.put(c_string(str(path)))
    handle, mount = machine.put(struct.pack("<Ii", 0, 0) + bytes(128)), machine.room(4)
    answer = machine.call("name_to_handle_at", AT_FDCWD, name, handle, mount, 0)
    if answer == -errno.EOPNOTSUPP:
        pytest.skip("no handles on this file system")
    assert answer == -errno.EOVERFLOW
    size = struct.unpack("<I", machine.get(handle, 4))[0]
    assert 0 < size <= 128
    assert machine.call("name_to_handle_at", AT_FDCWD, name, handle, mount, 0) == 0
    assert machine.get(mount, 4) != b"\xa5" * 4


def test_memfd_pipe_random(machine: Machine) -> None:
    fd = machine.call("memfd_create", machine.put(c_string("some-name")), 0)
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:some-name")
    os.close(fd)
    ends = machine.room(8)
    assert machine.call("pipe2", ends, os.O_CLOEXEC) == 0
    reader, writer = struct.unpack("<ii", machine.get(ends, 8))
    os.write(writer, b"through")
    buffer = machine.room(7)
    assert machine.call("read", reader, buffer, 7) == 7
    assert machine.get(buffer, 7) == b"through"
    os.close(reader)
    os.close(writer)
    buffer = machine.room(4096, fill=0)
    assert machine.call("getrandom", buffer, 4096, 0) == 4096
    assert machine.get(buffer, 4096).count(0) < 100
