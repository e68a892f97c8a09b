# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Link costs over the bare Python socket under it, both measured in one run.

Two processes over loopback TCP with TCP_NODELAY. The far process answers every request
with a payload of the asked size; the near one waits in `select.poll` for each answer, as
a driver does. Bare sockets send the same bytes without framing, in the tightest loop
Python can write. `--pin` binds both processes to one processor, which takes the waking of
an idle core (the larger part of a round trip on virtual machines) out of the figure.

    python benches/transport.py [--pin] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from supervisor.cluster.transport import COHERENCE, Link, keep_freed_memory
from supervisor.units import HostId

REQUEST_BYTES = 64
SIZES = (64, 4096, 1 << 20)
STREAM_BYTES = 64 << 20
BURST = 64
ROUNDS = 5


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def beside(serve: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    """Fork a process that serves the other end; our end and its id."""
    near, far = connected()
    pid = os.fork()
    if pid == 0:
        signal.alarm(300)
        try:
            near.close()
            serve(far)
        finally:
            os._exit(0)
    far.close()
    return near, pid


def timed(step: Callable[[], int], seconds: float) -> float:
    """Microseconds for each of the operations that `step` says it did."""
    step()
    done = 0
    begin = time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        done += step()
    return spent / done * 1e6


def poller(fd: int) -> Callable[[], object]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll


# Bare sockets -------------------------------------------------------------------------


def bare_echo(sock: socket.socket) -> None:
    """Answer each 64-byte request, whose first 4 bytes are a size, with so many bytes."""
    answers = {size: bytes(size) for size in SIZES}
    wait = poller(sock.fileno())
    while True:
        wait()
        request = sock.recv(REQUEST_BYTES)
        if not request:
            return
        sock.sendall(answers[int.from_bytes(request[:4], "little")])


def bare_round_trip(size: int, seconds: float) -> float:
    sock, pid = beside(bare_echo)
    request = size.to_bytes(4, "little") + bytes(REQUEST_BYTES - 4)
    wait = poller(sock.fileno())

    def step() -> int:
        for _ in range(10):
            sock.sendall(request)
            left = size
            while left:
                wait()
                left -= len(sock.recv(left))
        return 10

    return ended(sock, pid, timed(step, seconds))


def bare_stream(_: float) -> float:
    """MB/s of 1 MiB writes into a reader that throws them away."""

    def drain(sock: socket.socket) -> None:
        buffer = bytearray(1 << 20)
        left = STREAM_BYTES
        while left:
            left -= sock.recv_into(buffer)
        sock.sendall(b"!")
        sock.recv(1)

    sock, pid = beside(drain)
    chunk = bytes(1 << 20)
    begin = time.perf_counter()
    for _ in range(STREAM_BYTES >> 20):
        sock.sendall(chunk)
    sock.recv(1)
    return ended(sock, pid, STREAM_BYTES / (time.perf_counter() - begin) / 1e6)


# Links --------------------------------------------------------------------------------


def link_echo(sock: socket.socket) -> None:
    link = Link(sock, HostId(0))
    answers = {size: bytes(size) for size in SIZES}
    wait = poller(link.fileno())
    both = select.poll()
    both.register(link.fileno(), select.POLLOUT)
    while True:
        wait()
        for frame in link.receive():
            link.send(COHERENCE, answers[int.from_bytes(frame.payload[:4], "little")])
        while not link.flush():
            both.poll()


def link_round_trip(size: int, seconds: float, burst: int = 1) -> float:
    """Microseconds a round trip; with `burst`, that many requests go out together."""
    sock, pid = beside(link_echo)
    link = Link(sock, HostId(1))
    request = size.to_bytes(4, "little") + bytes(REQUEST_BYTES - 4)
    wait = poller(link.fileno())

    def step() -> int:
        for _ in range(10):
            for _ in range(burst):
                link.send(COHERENCE, request)
            link.flush()
            got = 0
            while got < burst:
                wait()
                got += len(link.receive())
        return 10 * burst

    return ended(sock, pid, timed(step, seconds))


def link_stream(_: float) -> float:
    """MB/s of 1 MiB frames."""

    def drain(sock: socket.socket) -> None:
        link = Link(sock, HostId(0))
        wait = poller(link.fileno())
        left = STREAM_BYTES
        while left:
            wait()
            left -= sum(len(frame.payload) for frame in link.receive())
        link.send(COHERENCE, b"!")
        link.flush()
        wait()

    sock, pid = beside(drain)
    link = Link(sock, HostId(1))
    chunk = bytes(1 << 20)
    writable = select.poll()
    writable.register(link.fileno(), select.POLLOUT)
    begin = time.perf_counter()
    for _ in range(STREAM_BYTES >> 20):
        link.send(COHERENCE, chunk)
    while not link.flush():
        writable.poll()
    poller(link.fileno())()
    assert link.receive()[0].payload == b"!"
    return ended(sock, pid, STREAM_BYTES / (time.perf_counter() - begin) / 1e6)


def ended(sock: socket.socket, pid: int, figure: float) -> float:
    sock.close()
    os.waitpid(pid, 0)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pin", action="store_true", help="both processes on one processor")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if options.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_freed_memory()
    seconds = options.seconds / ROUNDS
    pairs: list[tuple[str, Callable[[], float], Callable[[], float], str]] = [
        (
            f"round trip, answer of {size} bytes",
            lambda size=size: bare_round_trip(size, seconds),  # type: ignore[misc]
            lambda size=size: link_round_trip(size, seconds),  # type: ignore[misc]
            "us",
        )
        for size in SIZES
    ]
    pairs.append(
        (
            f"64 bytes, {BURST} requests together, each",
            lambda: bare_round_trip(64, seconds),
            lambda: link_round_trip(64, seconds, BURST),
            "us",
        )
    )
    pairs.append(
        ("stream of 1 MiB", lambda: bare_stream(seconds), lambda: link_stream(seconds), "MB/s")
    )
    rows = []
    print(f"{'':42}{'bare':>10}{'link':>10}{'ratio':>8}")
    for name, bare, link, unit in pairs:
        # Alternately, so that a change of the machine's mood meets both.
        figures = [(bare(), link()) for _ in range(ROUNDS)]
        low, high = (statistics.median(column) for column in zip(*figures, strict=True))
        rows.append({"name": name, "unit": unit, "bare": low, "link": high})
        print(f"{name:42}{low:>10.1f}{high:>10.1f}{high / low:>8.2f}  {unit}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
