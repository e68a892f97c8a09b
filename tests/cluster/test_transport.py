# SPDX-License-Identifier: GPL-2.0-or-later
"""Links: order, framing at every cut, loss told after the last frame, heartbeats."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.cluster import transport
from supervisor.cluster.transport import COHERENCE, CONTROL, Frame, Link
from supervisor.errors import PeerError, PeerLost
from supervisor.units import HostId

ONE = HostId(1)


def tcp_pair(family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((address, 0), family=family) as server:
        near = socket.create_connection(server.getsockname()[:2])
        far, _ = server.accept()
    return near, far


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    near, far = tcp_pair()
    links = Link(near, ONE, "node1 at 127.0.0.1"), Link(far, HostId(0))
    yield links
    for link in links:
        link.close()


@pytest.fixture
def raw() -> Iterator[tuple[Link, socket.socket]]:
    """A link and the bare socket of a peer that may misbehave."""
    near, far = tcp_pair()
    link = Link(near, ONE, "node1 at 127.0.0.1")
    yield link, far
    link.close()
    far.close()


def wait_readable(link: Link) -> None:
    ready, _, _ = select.select([link], [], [], 5)
    assert ready, "nothing arrived in 5 s"


def pump(source: Link, target: Link, count: int) -> list[Frame]:
    """Flush one side and drain the other until `count` frames have come."""
    frames: list[Frame] = []
    while len(frames) < count:
        source.flush()
        wait_readable(target)
        frames += target.receive()
    assert len(frames) == count
    return frames


def test_order_and_contents_over_all_sizes(pair: tuple[Link, Link]) -> None:
    near, far = pair
    rng = random.Random(1)
    sizes = [0, 1, 100, 4095, 4096, 4097, 65536, (256 << 10) - 8, (256 << 10) - 7, 1 << 20, 9 << 20]
    sizes += [rng.randrange(300) for _ in range(3000)]
    sent = [Frame(rng.choice((COHERENCE, CONTROL)), rng.randbytes(size)) for size in sizes]
    for frame in sent:
        near.send(frame.kind, frame.payload)
    assert pump(near, far, len(sent)) == sent
    assert near.flush() and not near.wants_write and near.bytes_queued == 0
    assert near.bytes_sent == far.bytes_received == sum(sizes) + 8 * len(sizes)


def test_several_buffers_make_one_payload(pair: tuple[Link, Link]) -> None:
    near, far = pair
    page = memoryview(bytearray(range(256)) * 16)
    near.send(COHERENCE, [b"head", memoryview(b"")])
    near.send(COHERENCE, (part for part in (b"head", page, b"", bytearray(b"tail"))))
    near.send(COHERENCE, memoryview(struct.pack("<4I", 1, 2, 3, 4)).cast("I"))
    frames = pump(near, far, 3)
    assert [frame.payload for frame in frames] == [
        b"head",
        b"head" + bytes(page) + b"tail",
        struct.pack("<4I", 1, 2, 3, 4),
    ]


def test_large_payload_is_not_copied_and_a_small_one_is(pair: tuple[Link, Link]) -> None:
    near, far = pair
    small, large = bytearray(4096), bytearray(4097)
    near.send(COHERENCE, small)
    near.send(COHERENCE, large)
    small[0] = large[0] = 7
    assert [frame.payload[0] for frame in pump(near, far, 2)] == [0, 7]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 7, 8, 100, 5000, 300_000]), max_size=6))
    stream = bytearray()
    expected = []
    for index, size in enumerate(sizes):
        payload = bytes([index]) * size
        stream += struct.pack("<II", 1 + index % 2, size) + payload
        expected.append(Frame(1 + index % 2, payload))
        if index % 2:
            stream += struct.pack("<II", 0, 0)
    near, far = socket.socketpair()
    with near:
        link = Link(far, ONE)
        got: list[Frame] = []
        at = 0
        while at < len(stream):
            step = data.draw(st.sampled_from([1, 3, 8, 9, 1000, 60_000]))
            near.sendall(stream[at : at + step])
            at += step
            got += link.receive()
        assert got == expected
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerLost):
            link.receive()
        link.close()


def test_last_words_come_before_the_loss(raw: tuple[Link, socket.socket]) -> None:
    link, far = raw
    far.sendall(struct.pack("<II", CONTROL, 3) + b"bye")
    far.sendall(struct.pack("<II", CONTROL, 9) + b"cut")
    far.close()
    wait_readable(link)
    assert link.receive() == [Frame(CONTROL, b"bye")]
    with pytest.raises(PeerLost, match=r"host 1 \(node1 at 127\.0\.0\.1\) was lost: conn"):
        link.receive()


def test_failed_write_does_not_hide_last_words(raw: tuple[Link, socket.socket]) -> None:
    link, far = raw
    far.sendall(struct.pack("<II", CONTROL, 3) + b"bye")
    wait_readable(link)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()  # A reset.
    link.send(CONTROL, b"x")
    assert link.flush()
    assert not link.wants_write
    link.send(CONTROL, b"x")
    assert link.flush()
    assert link.receive() == [Frame(CONTROL, b"bye")]
    with pytest.raises(PeerLost, match="host 1"):
        link.receive()


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<II", 1, transport.PAYLOAD_BYTES_MAX + 1),
        struct.pack("<II", 0, 1),
        struct.pack("<II", 99, 0),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_is_a_peer_error_after_the_good_frames(
    raw: tuple[Link, socket.socket], header: bytes
) -> None:
    link, far = raw
    far.sendall(struct.pack("<II", 1, 2) + b"ok" + header)
    wait_readable(link)
    assert link.receive() == [Frame(1, b"ok")]
    for _ in range(2):
        with pytest.raises(PeerError, match="host 1"):
            link.receive()


def test_flush_never_waits_and_resumes(pair: tuple[Link, Link]) -> None:
    near, far = pair
    payload = os.urandom(1 << 20)
    for _ in range(30):
        near.send(COHERENCE, payload)
    while not near.flush():
        _, writable, _ = select.select([], [near], [], 0)
        if not writable:
            break
    assert near.wants_write  # 30 MiB are more than any socket takes.
    assert near.bytes_sent + near.bytes_queued == 30 * (8 + len(payload))
    frames = pump(near, far, 30)
    assert all(frame.payload == payload for frame in frames)


def test_one_receive_is_bounded() -> None:
    near, far = tcp_pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    link, peer = Link(far, ONE), Link(near, HostId(0))
    payload = bytes(1 << 20)
    for _ in range(16):
        peer.send(COHERENCE, payload)
    seen = 0
    while seen < 16:
        peer.flush()
        wait_readable(link)
        before = link.bytes_received
        seen += len(link.receive())
        assert link.bytes_received - before <= (1 << 20) + (256 << 10)
    link.close()
    peer.close()


def test_heartbeats_only_when_idle(pair: tuple[Link, Link]) -> None:
    near, far = pair
    near.beat(10.0)
    assert not near.wants_write
    near.beat(10.4)
    assert not near.wants_write
    near.beat(10.5)
    assert near.wants_write
    near.beat(12.0)  # The first is still queued: no second.
    assert near.bytes_queued == 8
    assert near.flush()
    near.send(CONTROL, b"x")
    near.flush()
    near.beat(12.6)
    assert not near.wants_write
    near.beat(13.1)
    assert near.wants_write and near.flush()
    near.send(CONTROL, b"end")
    assert [frame.payload for frame in pump(near, far, 2)] == [b"x", b"end"]


def test_silence_is_measured_and_ended_by_any_byte(pair: tuple[Link, Link]) -> None:
    near, far = pair
    assert far.silent_s(100.0) == 0.0
    assert far.silent_s(103.5) == 3.5
    near.beat(0.0)
    near.beat(0.5)
    near.flush()
    wait_readable(far)
    assert far.silent_s(104.5) == 0.0, "bytes that wait unread are no silence"
    assert far.receive() == []
    assert far.silent_s(105.0) == 0.5, "what is read was heard before"
    assert far.silent_s(106.0) == 1.5


def test_a_peer_that_falls_silent_within_a_large_frame(
    raw: tuple[Link, socket.socket]
) -> None:
    """What has come of it waits in the socket, too little to be read."""
    link, peer = raw
    peer.sendall(struct.pack("<II", COHERENCE, 4 << 20) + bytes(1 << 18))
    while link.bytes_received < 1 << 18:
        assert link.receive() == []
    peer.sendall(bytes(1000))
    assert link.silent_s(100.0) == 0.0
    assert link.silent_s(101.0) == 0.0, "the thousand bytes"
    assert link.silent_s(102.0) == 1.0
    assert link.silent_s(106.0) == 5.0


def test_closed_link_is_lost_not_a_crash(pair: tuple[Link, Link]) -> None:
    near, _ = pair
    near.close()
    near.close()
    assert near.fileno() == -1
    near.send(CONTROL, b"late")
    assert near.flush()
    with pytest.raises(PeerLost):
        near.receive()


def test_the_kernel_takes_bulk_whole_though_trio_had_limited_it() -> None:
    near, far = tcp_pair()
    with near, far:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 14)
        link = Link(near, ONE)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0
        link.close()


def test_ipv6_and_socket_options() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 in this Python")
    try:
        near, far = tcp_pair(socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with near, far:
        a, b = Link(near, ONE), Link(far, HostId(0))
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        a.send(CONTROL, b"six")
        assert pump(a, b, 1) == [Frame(CONTROL, b"six")]
