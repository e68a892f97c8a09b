# SPDX-License-Identifier: GPL-2.0-or-later
"""Properties of the marshalling: any sizes, any holes, any nonsense from a peer."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from machines import FakeGuest, FakeScratch, Marshalled, c_string, drive, iovec

from supervisor.coherence.messages import Access
from supervisor.errors import PeerError
from supervisor.syscalls import build
from supervisor.syscalls.build import PIECE, groups, valid_prefix
from supervisor.syscalls.call import Acquire, BadAddress
from supervisor.syscalls.marshal import (
    Call,
    Result,
    Segment,
    collect,
    gather,
    goes_on,
    place,
    scatter,
)
from supervisor.syscalls.names import number_of
from supervisor.syscalls.spec import BUFFER_MAX
from supervisor.syscalls.table import ROWS
from supervisor.units import PAGE_SIZE

BASE = FakeGuest.BASE


@given(
    rights=st.lists(st.sampled_from(list(Access)), min_size=8, max_size=8),
    start=st.integers(0, 8 * PAGE_SIZE - 1),
    length=st.integers(1, 9 * PAGE_SIZE),
    access=st.sampled_from([Access.READ, Access.WRITE]),
)
def test_valid_prefix(rights: list[Access], start: int, length: int, access: Access) -> None:
    guest = FakeGuest(8)
    guest.rights = rights
    expected = 0
    while expected < length and guest.check(BASE + start + expected, 1, access):
        expected += min(PAGE_SIZE - (start + expected) % PAGE_SIZE, length - expected)
    assert valid_prefix(guest, BASE + start, length, access) == expected


@given(st.lists(st.tuples(st.integers(0, 1 << 47), st.integers(0, 3 * PIECE)), max_size=10))
def test_groups(parts: list[tuple[int, int]]) -> None:
    cut = list(groups(parts))
    assert all(0 < sum(length for _, length in group) <= PIECE for group in cut)
    assert all(length for group in cut for _, length in group)
    # Joined again they are the parts.
    joined: list[list[int]] = []
    for address, length in (piece for group in cut for piece in group):
        if joined and joined[-1][0] + joined[-1][1] == address:
            joined[-1][1] += length
        else:
            joined.append([address, length])
    expected: list[list[int]] = []
    for address, length in parts:
        if length and expected and sum(expected[-1]) == address:
            expected[-1][1] += length
        elif length:
            expected.append([address, length])
    assert joined == expected


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 3 * PAGE_SIZE), min_size=1, max_size=12),
    back=st.lists(st.integers(0, 3 * PAGE_SIZE), min_size=1, max_size=12),
)
def test_vectors_of_any_shape(lengths: list[int], back: list[int]) -> None:
    machine = Marshalled()
    fd = os.memfd_create("echo")
    try:
        texts = [os.urandom(length) for length in lengths]
        vector = iovec(*((machine.put(text), len(text)) for text in texts))
        total = sum(lengths)
        assert machine.call("writev", fd, machine.put(vector), len(lengths)) == total
        assert os.pread(fd, total + 1, 0) == b"".join(texts)
        rooms = [(machine.room(length), length) for length in back]
        count = min(total, sum(back))
        vector = iovec(*rooms)
        assert machine.call("preadv", fd, machine.put(vector), len(back), 0, 0) == count
        got = b"".join(machine.get(*room) for room in rooms)
        assert got == b"".join(texts)[:count] + b"\xa5" * (sum(back) - count)
    finally:
        os.close(fd)


@settings(max_examples=60, deadline=None)
@given(
    rights=st.lists(st.sampled_from([Access.NONE, Access.READ, Access.WRITE]), min_size=6,
                    max_size=6),
    pieces=st.lists(
        st.tuples(st.integers(0, 6 * PAGE_SIZE), st.integers(0, 2 * PAGE_SIZE)),
        min_size=1, max_size=6,
    ),
    out=st.booleans(),
)  # fmt: skip
def test_vectors_with_holes(
    rights: list[Access], pieces: list[tuple[int, int]], out: bool
) -> None:
    """As much is moved as lies before the first byte that may not be accessed."""
    machine = Marshalled()
    array = machine.put(iovec(*((BASE + 8 * PAGE_SIZE + at, n) for at, n in pieces)))
    first = 8
    guest = machine.guest
    guest.rights[first : first + 6] = rights
    guest.rights[first + 6] = guest.rights[first + 7] = Access.NONE
    access = Access.WRITE if out else Access.READ
    expected = 0
    for at, length in pieces:
        mapped = valid_prefix(guest, BASE + first * PAGE_SIZE + at, length, access) if length else 0
        expected += mapped
        if mapped < length:
            break
    fd = os.memfd_create("echo")
    try:
        if out:
            os.pwrite(fd, os.urandom(20 * PAGE_SIZE), 0)
        value = machine.call("readv" if out else "writev", fd, array, len(pieces))
        whole = sum(length for _, length in pieces)
        if expected or not whole:
            assert value == expected
        else:
            assert value == -errno.EFAULT
    finally:
        os.close(fd)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, 5000), offset=st.integers(0, PAGE_SIZE - 1))
def test_strings_of_any_length_anywhere(length: int, offset: int) -> None:
    machine = Marshalled()
    guest = machine.guest
    guest.rights[0:3] = [Access.READ] * 3
    guest.poke(BASE + offset, b"/" * length + b"\0")
    call = drive(guest, gather(ROWS[number_of("chdir")], [BASE + offset, *[0] * 5], guest))
    assert isinstance(call, Call)
    assert call.segments[0].data == (b"/" * length + b"\0")[:4096]
    # Page by page, and no page after the one with the NUL.
    assert sum(guest.acquired_bytes) <= 4096
    assert all(size <= PAGE_SIZE for size in guest.acquired_bytes)


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77])
def test_buffers_over_a_piece(size: int, tmp_path: Path) -> None:
    machine = Marshalled(pages=2200)
    text = os.urandom(size)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert machine.call("write", fd, machine.put(text), size) == size
    assert (tmp_path / "file").read_bytes() == text
    room = machine.room(size)
    assert machine.call("pread64", fd, room, size, 0) == size
    assert machine.get(room, size) == text
    assert max(machine.guest.acquired_bytes) <= PIECE
    os.close(fd)


@pytest.mark.parametrize("vector", [False, True])
def test_transfers_over_a_buffer_go_in_pieces(tmp_path: Path, vector: bool) -> None:
    """More than 64 MiB, in and out, at a position and at the file's own."""
    size = BUFFER_MAX + PIECE + 123
    machine = Marshalled(pages=2 * (size // PAGE_SIZE + 3) + 8)
    text = os.urandom(1 << 20) * (size // (1 << 20) + 1)
    text = text[:size]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    source = machine.put(text)
    if vector:
        array = machine.put(iovec((source, 1000), (source + 1000, size - 2000),
                                  (source + size - 1000, 1000)))
        assert machine.call("writev", fd, array, 3) == size
        assert machine.call("pwritev", fd, array, 3, 50, 0) == size
    else:
        assert machine.call("write", fd, source, size) == size
        assert machine.call("pwrite64", fd, source, size, 50) == size
    assert machine.calls == 4
    assert (tmp_path / "file").read_bytes() == text[:50] + text
    room = machine.room(size, 0)
    if vector:
        array = machine.put(iovec((room, size - 5), (room + size - 5, 5)))
        assert machine.call("preadv", fd, array, 2, 50, 0) == size
    else:
        assert machine.call("pread64", fd, room, size, 50) == size
    assert machine.get(room, size) == text
    # The file ends inside the second piece.
    assert machine.call("lseek", fd, 100, 0) == 100
    assert machine.call("read", fd, room, size) == size - 50
    os.close(fd)


def test_receiving_all_goes_in_pieces() -> None:
    """MSG_WAITALL of more than 64 MiB; without it one piece is what has come."""
    size = BUFFER_MAX + PIECE + 123
    machine = Marshalled(pages=2 * (size // PAGE_SIZE + 3) + 8)
    text = os.urandom(1 << 20) * (size // (1 << 20) + 1)
    here, there = socket.socketpair()
    writer = threading.Thread(target=there.sendall, args=(text[:size],))
    writer.start()
    room = machine.room(size, 0)
    assert machine.call("recvfrom", here.fileno(), room, size, socket.MSG_WAITALL, 0, 0) == size
    assert machine.calls == 2
    assert machine.get(room, size) == text[:size]
    writer.join()
    there.send(b"some")
    assert machine.call("recvfrom", here.fileno(), room, size, 0, 0, 0) == 4
    here.close()
    there.close()


def test_going_on() -> None:
    assert not goes_on(Call(0, []), BUFFER_MAX)
    assert goes_on(Call(0, [], left=1, piece=BUFFER_MAX), BUFFER_MAX)
    assert not goes_on(Call(0, [], left=1, piece=BUFFER_MAX), BUFFER_MAX - 1)
    assert goes_on(Call(0, [], whole=100), 99, cut_short=True)
    assert not goes_on(Call(0, [], whole=100), 99)
    assert not goes_on(Call(0, [], whole=100), 100, cut_short=True)
    assert not goes_on(Call(0, [], whole=100), 0, cut_short=True)
    assert not goes_on(Call(0, []), 99, cut_short=True)


def test_nothing_travels_for_what_the_kernel_only_writes(marshalled: Marshalled) -> None:
    fd = os.memfd_create("echo")
    os.write(fd, b"x" * 10)
    room = marshalled.room(100_000)
    marshalled.call("pread64", fd, room, 100_000, 0)
    assert marshalled.request_bytes < 60
    assert marshalled.answer_bytes < 40
    os.close(fd)


def test_what_did_not_change_is_not_written(marshalled: Marshalled) -> None:
    """A poll that times out must not take the page away from another host."""
    array = marshalled.put(struct.pack("<ihh", -1, 1, 0) * 5)
    assert marshalled.call("poll", array, 5, 0) == 0
    assert marshalled.guest.writes == []
    reader, writer = os.pipe()
    os.write(writer, b"x")
    array = marshalled.put(struct.pack("<ihh", -1, 1, 0) * 3 + struct.pack("<ihh", reader, 1, 0))
    assert marshalled.call("poll", array, 4, 0) == 1
    assert marshalled.guest.writes == [(array + 3 * 8 + 6, 1)]
    os.close(reader)
    os.close(writer)


def test_one_acquisition_for_all_plain_buffers(marshalled: Marshalled) -> None:
    sets = [marshalled.put(bytes(128)) for _ in range(3)]
    timeout = marshalled.put(bytes(16))
    marshalled.call("select", 1024, *sets, timeout)
    assert marshalled.guest.acquired_bytes == [3 * 128 + 16]


def test_memory_that_goes_away(marshalled: Marshalled) -> None:
    """The driver throws BadAddress where a range is unmapped while it is acquired."""
    row, guest = ROWS[number_of("write")], marshalled.guest
    args = [1, marshalled.put(b"x"), 1, 0, 0, 0]
    steps = gather(row, args, guest)
    assert isinstance(next(steps), Acquire)
    with pytest.raises(StopIteration) as stop:
        steps.throw(BadAddress())
    assert stop.value.value == -errno.EFAULT
    row = ROWS[number_of("read")]
    args = [0, marshalled.room(1), 1, 0, 0, 0]
    call = drive(guest, gather(row, args, guest))
    scattering = scatter(row, args, call, Result(1, [(0, 0, b"y")]), guest)
    assert isinstance(next(scattering), Acquire)
    with pytest.raises(StopIteration) as stop:
        scattering.throw(BadAddress())
    assert stop.value.value == -errno.EFAULT
    # Unmapped for good before the result came.
    guest.rights = [Access.NONE] * len(guest.rights)
    assert drive(guest, scatter(row, args, call, Result(1, [(0, 0, b"y")]), guest)) == (
        -errno.EFAULT
    )


segments = st.builds(
    Segment,
    data=st.binary(max_size=40),
    length=st.one_of(st.integers(40, 64), st.integers(-1, 64)),
    rule=st.integers(0, 4),
    unit=st.one_of(st.integers(0, 1), st.integers(-2, 4)),
    base=st.one_of(st.integers(0, 20), st.integers(-8, 80)),
    least=st.integers(-4096, 4),
    fixups=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 8), st.integers(-1, 0), st.integers(0, 8)),
            st.tuples(st.integers(-16, 80), st.integers(-2, 5), st.integers(-(1 << 63), 1 << 64)),
        ),
        max_size=2,
    ).map(tuple),
)
calls = st.builds(
    Call,
    nr=st.just(number_of("getpid")),
    args=st.lists(st.integers(0, (1 << 64) - 1), max_size=7),
    pointers=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 5), st.just(0)),
            st.tuples(st.integers(-8, 8), st.integers(-5, 5)),
        ),
        max_size=2,
    ),
    segments=st.lists(segments, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(call=calls, ret=st.integers(-4096, 100))
@example(call=Call(39, [], [], [Segment(b"", 40, rule=4, unit=1)]), ret=0)
@example(call=Call(39, [], [], [Segment(b"", 40, rule=3, unit=0, base=37)]), ret=0)
@example(call=Call(39, [], [], [Segment(b"x" * 8, 8, fixups=((1, 0, 0),))]), ret=0)
@example(call=Call(39, [], [(6, 0)], [Segment(b"", 8)]), ret=0)
def test_a_peers_nonsense_is_a_peer_error(call: Call, ret: int) -> None:
    """Whatever a peer asks for is placed within the scratch, or refused."""
    scratch = Guarded()
    try:
        registers = place(call, scratch)
        result = collect(ROWS[39], call, ret, scratch)
    except PeerError:
        event("refused")
        return
    event(f"placed, {len(result.outs)} results")
    assert len(registers) == 6
    for number, offset, data in result.outs:
        assert offset >= 0 and offset + len(data) <= call.segments[number].length


class Guarded(FakeScratch):
    """Scratch that notices a byte out of what was allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int]] = []

    def allocate(self, length: int) -> int:
        address = super().allocate(length)
        self.ranges.append((address, length))
        return address

    def write(self, address: int, data: bytes) -> None:
        assert any(a <= address and address + len(data) <= a + n for a, n in self.ranges)
        super().write(address, data)

    def read(self, address: int, length: int) -> bytes:
        assert any(a <= address and address + length <= a + n for a, n in self.ranges)
        return super().read(address, length)


@given(
    outs=st.lists(
        st.tuples(st.integers(-2, 3), st.integers(-4, 20), st.binary(max_size=40)), max_size=3
    )
)
def test_a_result_that_does_not_fit_is_a_peer_error(outs: list[tuple[int, int, bytes]]) -> None:
    machine = Marshalled(pages=8)
    row, guest = ROWS[number_of("read")], machine.guest
    args = [0, machine.room(16), 16, 0, 0, 0]
    call = drive(guest, gather(row, args, guest))
    fits = all(n == 0 and at >= 0 and at + len(data) <= 16 for n, at, data in outs)
    try:
        assert drive(guest, scatter(row, args, call, Result(5, outs), guest)) == 5
        assert fits
    except PeerError:
        assert not fits


def test_scratch_is_aligned_for_direct_io(marshalled: Marshalled) -> None:
    fd, space = os.memfd_create("x"), marshalled.room(8192)
    guest = marshalled.guest
    vector = marshalled.put(iovec((space, 4096), (space + 4096, 4096)))
    for name, args in (("read", [fd, space, 4096]), ("readv", [fd, vector, 2])):
        padded = [*args, 0, 0, 0]
        call = drive(guest, gather(ROWS[number_of(name)], padded, guest))
        place(call, FakeScratch())
        assert call.addresses[-1 if name == "read" else 0] % PAGE_SIZE == 0
    os.close(fd)


def test_limits_of_execve(marshalled: Marshalled) -> None:
    row, guest = ROWS[number_of("execve")], marshalled.guest
    path = marshalled.put(c_string("/bin/true"))
    long = marshalled.put(b"x" * 140_000 + b"\0")
    array = marshalled.put(struct.pack("<QQ", long, 0))
    assert drive(guest, gather(row, [path, array, 0, 0, 0, 0], guest)) == -errno.E2BIG
    array = marshalled.put(struct.pack("<QQ", 0x1234, 0))
    assert drive(guest, gather(row, [path, array, 0, 0, 0, 0], guest)) == -errno.EFAULT
    assert build.bad(0x1234) == build.BAD_ADDRESS
