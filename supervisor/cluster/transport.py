# SPDX-License-Identifier: GPL-2.0-or-later
"""One authenticated, first-in first-out stream of frames to a peer.

A `Link` owns a connected, non-blocking stream socket and never waits: the
driver's event loop polls `fileno()` (level-triggered) for reading always and
for writing while `wants_write`, and calls `receive` and `flush`.

On the wire a frame is a header of two little-endian 32-bit numbers, kind and
payload length in bytes, and the payload. The handshake (`auth.py`) has read
exactly its own bytes from the socket, so the first byte a link sees is a header.

The loss of a peer is told in one place only, `receive`, after every frame that
arrived whole has been handed out: a peer's last words (its exit status, the
reason why it ends the run) usually stand in the socket before the reset that
follows them, and a failed write must not hide them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from supervisor.errors import PeerError, PeerLost
from supervisor.units import HostId

HEARTBEAT: Final = 0
COHERENCE: Final = 1
CONTROL: Final = 2
KIND_MAX: Final = 15
"""Kinds above CONTROL are the driver's to name; anything above this is garbage."""

PAYLOAD_BYTES_MAX: Final = 64 << 20
"""A longer frame is refused on both sides: it would be a bug or garbage."""

BEAT_AFTER_S: Final = 0.5
"""A heartbeat goes out when nothing else did for this long."""

SILENCE_S_MAX: Final = 4.0
"""A link silent for longer is cut: the run must end within 5 s of a host's death."""

_HEADER: Final = struct.Struct("<II")
_HEARTBEAT_FRAME: Final = _HEADER.pack(HEARTBEAT, 0)
_JOIN_BYTES_MAX: Final = 4096
"""Payloads up to this size are joined to their header: one copy of so little costs
less than two more entries in an I/O vector."""
_IOV_MAX: Final = 1024
_BUFFER_BYTES: Final = 256 << 10
_FLUSH_BYTES_MAX: Final = 4 << 20
_RECEIVE_BYTES_MAX: Final = 1 << 20
"""What one call moves at most, so that one busy link starves nothing. `receive` is the
smaller because its payloads all live until the caller is done with them: with 4 MiB the
allocator gave memory back and faulted it in again, at three times the cost a byte."""
_WAKE_BYTES: Final = 256 << 10
"""Of a large frame: each wake-up costs about as much as copying so many bytes."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_USER_TIMEOUT_MS: Final = 10_000
"""Later than SILENCE_S_MAX on purpose. TCP_USER_TIMEOUT also strikes a live peer that
leaves its window shut, which the driver judges better by the heartbeats."""

Buffer = bytes | bytearray | memoryview


class Frame(NamedTuple):
    """A whole frame as received; heartbeats are never handed out."""

    kind: int
    payload: bytes | bytearray


def tune(sock: socket.socket) -> None:
    """Set a TCP socket to send at once and to notice a cut network by itself.

    Other families (a socket pair in a test) have nothing to set. Raises nothing:
    a kernel that lacks an option still has the heartbeats.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS),
        # trio sets 16 KiB, which hands the kernel a bulk transfer in morsels.
        (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0),
    ):
        try:
            sock.setsockopt(level, option, value)
        except OSError:
            continue


def keep_freed_memory() -> None:
    """Let glibc's allocator keep what page payloads free, for the next ones.

    By default it maps a block of a mebibyte afresh and unmaps it when freed, so that every
    payload faults all its pages in again: on a virtual machine that costs more than
    copying them. Call it once in a supervisor; what it starts by exec is not affected.
    Numbers and names are those of mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return  # Another C library, with an allocator of its own.
    for parameter, value in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 256 << 20)):
        mallopt(parameter, value)


class Link:
    """A stream of frames to `peer`; see the module's text.

    `name` is how messages to the user call the peer (`node2 at 10.0.0.2`), "" for
    none. The counts are bytes on the stream, headers and heartbeats included.
    """

    __slots__ = (
        "_beaten",
        "_big",
        "_big_kind",
        "_big_left",
        "_buffer",
        "_closed",
        "_end",
        "_garbage",
        "_heard",
        "_heard_at",
        "_least",
        "_lost",
        "_queue",
        "_sending",
        "_sent_at",
        "_sock",
        "_start",
        "_view",
        "bytes_queued",
        "bytes_received",
        "bytes_sent",
        "name",
        "peer",
    )

    def __init__(self, sock: socket.socket, peer: HostId, name: str = "") -> None:
        sock.setblocking(False)
        tune(sock)
        self.peer = peer
        self.name = name
        self.bytes_sent = 0
        self.bytes_received = 0
        self.bytes_queued = 0
        """Bytes waiting for `flush`; the driver may hold back bulk while it is high."""
        self._sock = sock
        self._closed = False
        self._lost = ""
        self._garbage = ""
        # Invariant: bytes_queued == total length of _queue; no empty buffer in it.
        self._queue: deque[Buffer] = deque()
        self._sending = threading.Lock()
        # Invariant: the unread bytes are _buffer[_start:_end]; after each `receive` they
        # are less than one frame.
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        # A frame larger than the buffer arrives in pieces of its own; _big_left bytes of
        # it are still to come. Invariant: _big_left > 0 only while _start == _end.
        self._big = bytearray()
        self._big_kind = 0
        self._big_left = 0
        self._least = 1
        self._beaten = 0
        self._sent_at = -1.0
        self._heard = 0
        self._heard_at = -1.0

    def __repr__(self) -> str:
        return f"<Link to {self.who()}, {self.bytes_queued} bytes queued>"

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._sock.fileno()

    # Sending ------------------------------------------------------------------

    def send(self, kind: int, payload: Buffer | Iterable[Buffer]) -> None:
        """Queue a frame; `flush` writes it.

        Several buffers make one payload. Buffers of more than 4 KiB are kept by
        reference, so they must not change until `bytes_queued` is 0 again.
        """
        assert HEARTBEAT < kind <= KIND_MAX, kind
        if isinstance(payload, (bytes, bytearray, memoryview)):
            if isinstance(payload, memoryview) and payload.nbytes != len(payload):
                payload = payload.cast("B")
            length = len(payload)
            if length <= _JOIN_BYTES_MAX:
                self._queue.append(b"".join((_HEADER.pack(kind, length), payload)))
                self.bytes_queued += _HEADER.size + length
                return
            parts: list[Buffer] = [payload]
        else:
            parts = [part.cast("B") if isinstance(part, memoryview) else part for part in payload]
            length = sum(map(len, parts))
            if length <= _JOIN_BYTES_MAX:
                self._queue.append(b"".join((_HEADER.pack(kind, length), *parts)))
                self.bytes_queued += _HEADER.size + length
                return
            parts = [part for part in parts if len(part)]
        assert length <= PAYLOAD_BYTES_MAX, f"frame of {length} bytes"
        self._queue.append(_HEADER.pack(kind, length))
        self._queue.extend(parts)
        self.bytes_queued += _HEADER.size + length

    @property
    def wants_write(self) -> bool:
        """Whether anything is queued."""
        return bool(self._queue)

    def flush(self) -> bool:
        """Write what the socket takes now; True when nothing is left queued.

        Writes at most 4 MiB a call. A peer that is gone takes everything: its loss is
        told by `receive`, which the event loop is told to call by the same event.
        """
        with self._sending:
            return self._flush()

    def _flush(self) -> bool:
        queue = self._queue
        budget = _FLUSH_BYTES_MAX
        while queue and budget > 0:
            try:
                if len(queue) == 1:
                    asked = len(queue[0])
                    written = self._sock.send(queue[0], socket.MSG_NOSIGNAL)
                else:
                    batch = list(islice(queue, _IOV_MAX))
                    asked = sum(map(len, batch))
                    written = self._sock.sendmsg(batch, (), socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._lost = self._lost or _reason(error)
                queue.clear()
                self.bytes_queued = 0
                return True
            self.bytes_sent += written
            self.bytes_queued -= written
            budget -= written
            if not self.bytes_queued:
                queue.clear()
                return True
            self._drop(written)
            if written < asked:
                return False  # The socket is full; asking again would only say so.
        return not queue

    def end_sending(self) -> None:
        """Tell the peer that no more comes, once nothing is queued; `receive` goes on."""
        with contextlib.suppress(OSError):  # it is gone: `receive` will tell
            self._sock.shutdown(socket.SHUT_WR)

    def _drop(self, written: int) -> None:
        """Take `written` bytes off the queue's front."""
        queue = self._queue
        while written:
            head = queue[0]
            if len(head) <= written:
                written -= len(head)
                queue.popleft()
            else:
                queue[0] = memoryview(head)[written:]
                return

    # Receiving ----------------------------------------------------------------

    def receive(self) -> list[Frame]:
        """Drain the socket, about 1 MiB a call, and return the frames that are complete.

        Raises PeerLost at the end of the stream, once the frames before it have been
        returned by an earlier call; PeerError on a header that no dsmsup writes, again
        after the good frames before it.
        """
        if self._garbage:
            raise PeerError(self._garbage)
        frames: list[Frame] = []
        budget = _RECEIVE_BYTES_MAX
        try:
            while budget > 0:
                if self._big_left:
                    rest = memoryview(self._big)[-self._big_left :]
                    count = self._sock.recv_into(rest, min(self._big_left, budget))
                    self._big_left -= count
                    room_left = self._big_left > 0
                    self._expect(self._big_left)
                    if not room_left:
                        frames.append(Frame(self._big_kind, self._big))
                        self._big = bytearray()
                else:
                    end = self._end
                    room = _BUFFER_BYTES - end
                    count = self._sock.recv_into(self._view[end:] if end else self._view)
                    self._end = end + count
                    room_left = count < room
                    if count:
                        self._parse(frames)
                    if self._garbage:
                        break
                if count == 0:
                    self._lost = self._lost or "connection closed"
                    break
                self.bytes_received += count
                budget -= count
                if room_left:
                    break  # A short read: the socket is empty now.
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lost = self._lost or _reason(error)
        if self._garbage and not frames:
            raise PeerError(self._garbage)
        if self._lost and not frames and not self._waiting():
            raise PeerLost(f"{self.who()} was lost: {self._lost}")
        return frames

    def _parse(self, frames: list[Frame]) -> None:
        """Move whole frames from the buffer to `frames`, and make room behind them."""
        start, end, view = self._start, self._end, self._view
        unpack = _HEADER.unpack_from
        while end - start >= 8:
            kind, length = unpack(self._buffer, start)
            if kind > KIND_MAX or length > PAYLOAD_BYTES_MAX or (length and not kind):
                self._garbage = (
                    f"{self.who()} sent a frame of kind {kind} and {length} bytes,"
                    " which no dsmsup of this version does"
                )
                break
            body = start + 8
            stop = body + length
            if stop > end:
                if length + 8 > _BUFFER_BYTES:
                    self._big = bytearray(length)
                    self._big[: end - body] = view[body:end]
                    self._big_kind = kind
                    self._big_left = stop - end
                    start = end
                break
            if kind:
                frames.append(Frame(kind, bytes(view[body:stop])))
            start = stop
        if start == end:
            start = end = 0
        elif end > _BUFFER_BYTES // 2:
            self._buffer[: end - start] = self._buffer[start:end]
            start, end = 0, end - start
        self._start, self._end = start, end

    def _expect(self, count: int) -> None:
        """Let the socket wake nobody for less than a good part of what is still to come."""
        least = max(1, min(count, _WAKE_BYTES))
        if least != self._least and self._sock.family in (socket.AF_INET, socket.AF_INET6):
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _waiting(self) -> int:
        """How many bytes wait in the socket that no `receive` has looked at."""
        if self._closed:
            return 0
        try:
            waiting = fcntl.ioctl(self._sock, termios.FIONREAD, b"\0\0\0\0")
        except OSError:
            return 0
        return int.from_bytes(waiting, "little")

    # Life ---------------------------------------------------------------------

    def beat(self, now: float) -> None:
        """Queue a heartbeat when nothing was sent for 0.5 s (`now`: seconds, monotonic).

        Call it at least twice a second. What was sent is judged by counts at these
        calls, so that sending reads no clock. While bytes are queued they do the
        heartbeat's work as soon as the peer takes them, and none is added.
        """
        total = self.bytes_sent + self.bytes_queued
        if total != self._beaten or self._sent_at < 0:
            self._beaten = total
            self._sent_at = now
        elif not self._queue and now - self._sent_at >= BEAT_AFTER_S:
            self._queue.append(_HEARTBEAT_FRAME)
            self.bytes_queued += len(_HEARTBEAT_FRAME)
            self._beaten = total + len(_HEARTBEAT_FRAME)
            self._sent_at = now

    def beat_at_once(self) -> None:
        """Write a heartbeat if nothing is queued; from any thread.

        A socket that has no room has unread bytes for the peer, which do as well.
        """
        with self._sending:
            if self._queue or self._closed:
                return
            with contextlib.suppress(OSError):  # `receive` will tell
                sent = self._sock.send(_HEARTBEAT_FRAME, socket.MSG_NOSIGNAL)
                self.bytes_sent += sent
                if sent < len(_HEARTBEAT_FRAME):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def silent_s(self, now: float) -> float:
        """Seconds since anything was heard of the peer, as seen at these calls.

        Bytes that wait unread are not the peer's silence but our own slowness (a
        supervisor stopped and continued, a machine that slept): they count as heard, but
        once. Of a large frame that stays in pieces some wait for ever, for they are too few
        to wake anybody (`_expect`).
        """
        heard = self.bytes_received
        if heard <= self._heard and now - self._heard_at > BEAT_AFTER_S:
            heard += self._waiting()
        if heard > self._heard or self._heard_at < 0:
            self._heard = heard
            self._heard_at = now
        return now - self._heard_at

    def close(self) -> None:
        """Close the socket; what is queued is dropped. Harmless when repeated."""
        self._closed = True
        self._queue.clear()
        self.bytes_queued = 0
        self._sock.close()

    def who(self) -> str:
        """How messages to the user call the peer: `host 2 (node2 at 10.0.0.2)`."""
        return f"host {self.peer} ({self.name})" if self.name else f"host {self.peer}"


_REASONS: Final = {
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection closed",
    errno.ETIMEDOUT: "no answer from its network",
    errno.EHOSTUNREACH: "no route to it any more",
    errno.ENETUNREACH: "no route to it any more",
    errno.EBADF: "its link is closed",
}


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, error.strerror or str(error))
