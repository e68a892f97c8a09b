# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets: each behaviour natively, then marshalled."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from machines import Machine, iovec

ANY = struct.pack("<H", socket.AF_INET) + bytes(2) + socket.inet_aton("127.0.0.1") + bytes(8)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def datagrams() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair(type=socket.SOCK_DGRAM)
    yield pair
    for end in pair:
        end.close()


def test_connection(machine: Machine) -> None:
    listener = machine.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
    assert machine.call("bind", listener, machine.put(ANY), 16) == 0
    assert machine.call("listen", listener, 5) == 0
    address, length = machine.room(32), machine.put(struct.pack("<i", 32))
    assert machine.call("getsockname", listener, address, length) == 0
    assert struct.unpack("<i", machine.get(length, 4))[0] == 16
    name = machine.get(address, 32)
    assert name[16:] == b"\xa5" * 16
    client = machine.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
    assert machine.call("connect", client, machine.put(name[:16]), 16) == 0
    # Too short an address is cut, and its true length told.
    machine.set(length, struct.pack("<i", 6))
    machine.set(address, b"\xa5" * 32)
    server = machine.call("accept4", listener, address, length, socket.SOCK_CLOEXEC)
    assert server >= 0
    assert struct.unpack("<i", machine.get(length, 4))[0] == 16
    assert machine.get(address, 32) == machine.get(address, 6) + b"\xa5" * 26
    machine.set(length, struct.pack("<i", 1000))
    assert machine.call("getpeername", server, address, length) == 0
    assert struct.unpack("<i", machine.get(length, 4))[0] == 16
    machine.set(length, struct.pack("<i", -1))
    assert machine.call("getpeername", server, address, length) == -errno.EINVAL
    assert machine.call("sendto", client, machine.put(b"hello"), 5, 0, 0, 0) == 5
    buffer = machine.room(10)
    assert machine.call("recvfrom", server, buffer, 10, 0, 0, 0) == 5
    assert machine.get(buffer, 10) == b"hello" + b"\xa5" * 5
    assert machine.call("shutdown", client, 1) == 0
    assert machine.call("recvfrom", server, buffer, 10, 0, 0, 0) == 0
    assert machine.call("accept", client, 0, 0) == -errno.EINVAL
    for fd in (listener, client, server):
        os.close(fd)


def test_datagrams_with_addresses(machine: Machine) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind(("127.0.0.1", 0))
        here.bind(("127.0.0.1", 0))
        port = there.getsockname()[1]
        target = struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + ANY[4:]
        data = machine.put(b"datagram")
        assert machine.call("sendto", here.fileno(), data, 8, 0, machine.put(target), 16) == 8
        address, length = machine.room(128), machine.put(struct.pack("<i", 128))
        buffer = machine.room(4)
        flags = socket.MSG_TRUNC
        assert machine.call(
            "recvfrom", there.fileno(), buffer, 4, flags, address, length
        ) == 8
        assert machine.get(buffer, 4) == b"data"
        assert struct.unpack("<i", machine.get(length, 4))[0] == 16
        assert struct.unpack_from(">H", machine.get(address, 16), 2)[0] == here.getsockname()[1]
        assert machine.call("sendto", here.fileno(), data, 0, 0, machine.put(target), 16) == 0
        assert machine.call("recvfrom", there.fileno(), buffer, 4, 0, 0, 0) == 0


def message(
    machine: Machine, name: tuple[int, int], vector: bytes, control: tuple[int, int]
) -> bytes:
    return struct.pack(
        "<QiiQQQQii", *name, -1, machine.put(vector), len(vector) // 16, *control, 0, -1
    )


def test_messages_carry_descriptors(
    machine: Machine, ends: tuple[socket.socket, socket.socket]
) -> None:
    here, there = ends
    reader, writer = os.pipe()
    control = struct.pack("<QiiI", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, writer) + bytes(4)
    vector = iovec((machine.put(b"take "), 5), (machine.put(b"this"), 4))
    sent = machine.put(message(machine, (0, 0), vector, (machine.put(control), 24)))
    assert machine.call("sendmsg", here.fileno(), sent, 0) == 9
    first, second, space = machine.room(3), machine.room(50), machine.room(64)
    header = message(machine, (0, 0), iovec((first, 3), (second, 50)), (space, 64))
    received = machine.put(header)
    assert machine.call("recvmsg", there.fileno(), received, socket.MSG_CMSG_CLOEXEC) == 9
    assert machine.get(first, 3) + machine.get(second, 50) == b"take this".ljust(53, b"\xa5")
    after = machine.get(received, 56)
    # Pointers and the padding are the program's own; length and flags are new.
    assert after[:40] == header[:40] and after[52:] == header[52:]
    assert struct.unpack_from("<Qi", after, 40) == (24, socket.MSG_CMSG_CLOEXEC)
    length, level, kind, fd = struct.unpack("<QiiI", machine.get(space, 20))
    assert (length, level, kind) == (20, socket.SOL_SOCKET, socket.SCM_RIGHTS)
    assert os.readlink(f"/proc/self/fd/{fd}") == os.readlink(f"/proc/self/fd/{writer}")
    assert machine.get(space, 64)[24:] == b"\xa5" * 40
    for each in (reader, writer, fd):
        os.close(each)


def test_message_names_and_truncation(machine: Machine) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind(("127.0.0.1", 0))
        target = b"\x02\0" + struct.pack(">H", there.getsockname()[1]) + ANY[4:]
        vector = iovec((machine.put(b"0123456789"), 10))
        sent = machine.put(message(machine, (machine.put(target), 16), vector, (0, 0)))
        assert machine.call("sendmsg", here.fileno(), sent, 0) == 10
        name, buffer = machine.room(64), machine.room(4)
        header = message(machine, (name, 64), iovec((buffer, 4)), (0, 0))
        received = machine.put(header)
        assert machine.call("recvmsg", there.fileno(), received, 0) == 4
        assert machine.get(buffer, 4) == b"0123"
        after = machine.get(received, 56)
        assert struct.unpack_from("<i", after, 8)[0] == 16
        assert struct.unpack_from("<i", after, 48)[0] == socket.MSG_TRUNC
        assert struct.unpack_from(">H", machine.get(name, 16), 2)[0] == here.getsockname()[1]
        assert machine.get(name, 64)[16:] == b"\xa5" * 48


def test_many_messages(machine: Machine, datagrams: tuple[socket.socket, socket.socket]) -> None:
    here, there = datagrams
    texts = [b"one", b"", b"three", b"four!"]
    sent = machine.put(b"".join(
        message(machine, (0, 0), iovec((machine.put(text + b"."), len(text))), (0, 0))
        + struct.pack("<II", 77, 0)
        for text in texts
    ))
    assert machine.call("sendmmsg", here.fileno(), sent, 4, 0) == 4
    lengths = [struct.unpack_from("<I", machine.get(sent, 256), 64 * i + 56)[0] for i in range(4)]
    assert lengths == [3, 0, 5, 5]
    buffers = [machine.room(8) for _ in range(6)]
    raw = b"".join(
        message(machine, (0, 0), iovec((buffer, 8)), (0, 0)) + struct.pack("<II", 77, 0)
        for buffer in buffers
    )
    received = machine.put(raw)
    timeout = machine.put(struct.pack("<qq", 1, 0))
    flags = socket.MSG_DONTWAIT
    assert machine.call("recvmmsg", there.fileno(), received, 6, flags, timeout) == 4
    after = machine.get(received, 6 * 64)
    counts = [struct.unpack_from("<I", after, 64 * i + 56)[0] for i in range(6)]
    assert counts == [3, 0, 5, 5, 77, 77]
    for text, buffer in zip([*texts, b"", b""], buffers, strict=True):
        assert machine.get(buffer, 8) == text.ljust(8, b"\xa5")
    assert after[4 * 64 :] == raw[4 * 64 :]
    assert machine.call("recvmmsg", there.fileno(), received, 6, flags, 0) == -errno.EAGAIN


def test_options(machine: Machine, ends: tuple[socket.socket, socket.socket]) -> None:
    here, _ = ends
    fd = here.fileno()
    value, length = machine.put(struct.pack("<i", 1)), machine.put(struct.pack("<i", 4))
    assert machine.call("setsockopt", fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE, value, 4) == 0
    machine.set(value, bytes(4))
    assert machine.call(
        "getsockopt", fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE, value, length
    ) == 0
    assert struct.unpack("<i", machine.get(value, 4))[0] == 1
    credentials = machine.room(20)
    machine.set(length, struct.pack("<i", 20))
    assert machine.call(
        "getsockopt", fd, socket.SOL_SOCKET, socket.SO_PEERCRED, credentials, length
    ) == 0
    assert struct.unpack("<i", machine.get(length, 4))[0] == 12
    assert machine.get(credentials, 20)[12:] == b"\xa5" * 8
    assert struct.unpack("<iii", machine.get(credentials, 12))[0] == os.getpid()
    machine.set(length, struct.pack("<i", -5))
    assert machine.call(
        "getsockopt", fd, socket.SOL_SOCKET, socket.SO_PEERCRED, credentials, length
    ) == -errno.EINVAL
    assert machine.call(
        "setsockopt", fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE, value, 2
    ) == -errno.EINVAL


def test_socket_filter_is_followed(
    machine: Machine, datagrams: tuple[socket.socket, socket.socket]
) -> None:
    here, there = datagrams
    take_four = struct.pack("<HBBI", 6, 0, 0, 4)  # BPF_RET | BPF_K, 4 bytes.
    program = machine.put(struct.pack("<HHIQ", 1, 0, 0, machine.put(take_four)))
    assert machine.call(
        "setsockopt", there.fileno(), socket.SOL_SOCKET, 26, program, 16
    ) == 0
    here.send(b"0123456789")
    assert there.recv(100) == b"0123"


def test_interfaces(machine: Machine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        space = machine.room(400)
        request = machine.put(struct.pack("<iiQ", 400, -1, space))
        assert machine.call("ioctl", here.fileno(), 0x8912, request) == 0
        length, padding, pointer = struct.unpack("<iiQ", machine.get(request, 16))
        assert (padding, pointer) == (-1, space)
        names = {machine.get(space + at, 16).split(b"\0")[0] for at in range(0, length, 40)}
        assert b"lo" in names or not names
        request = machine.put(b"lo".ljust(16, b"\0") + b"\xa5" * 24)
        assert machine.call("ioctl", here.fileno(), 0x8933, request) == 0
        assert struct.unpack("<i", machine.get(request + 16, 4))[0] == socket.if_nametoindex("lo")


def test_pair_and_queue_length(machine: Machine) -> None:
    ends = machine.room(8)
    assert machine.call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, ends) == 0
    a, b = array.array("i", machine.get(ends, 8))
    os.write(a, b"12345")
    count = machine.room(4)
    assert machine.call("ioctl", b, 0x541B, count) == 0
    assert struct.unpack("<i", machine.get(count, 4))[0] == 5
    on = machine.put(struct.pack("<i", 1))
    assert machine.call("ioctl", b, 0x5421, on) == 0
    assert not os.get_blocking(b)
    os.close(a)
    os.close(b)
