# SPDX-License-Identifier: GPL-2.0-or-later
"""How many decisions a second home makes, and so how many hosts it can serve.

Home's node and those of the other hosts run in one process and exchange encoded
messages; only the time that home spends is counted: decoding, stepping, encoding, and
the protections' bookkeeping, without system calls. `unit` is what home's part of a bare
message pair over a loopback socket costs in the same run, so that runs on different
machines, or on a busy one, compare by their ratios. A decision of a real run costs one
unit a message beside what is shown.

    python benches/decisions.py [SECONDS]
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from supervisor.coherence import wire
from supervisor.coherence.messages import (
    WORD_SIZE,
    Access,
    Event,
    Fault,
    Message,
    Protect,
    Protected,
    Received,
    Released,
    Send,
    Serialize,
)
from supervisor.coherence.node import Node
from supervisor.coherence.pages import run_of
from supervisor.coherence.policy import SingleWriter
from supervisor.units import HOME, PAGE_SIZE, HostId, PageNumber

LATENCY_US: Final = 250
"""A request's round trip between two supervisors on idle machines, in round figures."""

FLUSHES_PER_S: Final = 100
"""What a host that writes a falsely shared page all the time makes: one each 10 ms."""


class Memory:
    """Pages in a dictionary, one byte of which the benchmark changes."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def read(self, first: PageNumber, count: int) -> bytes:
        zero = bytes(PAGE_SIZE)
        return b"".join(self.pages.get(page, zero) for page in range(first, first + count))

    def read_word(self, page: PageNumber, offset: int) -> bytes:
        return self.read(page, 1)[offset : offset + WORD_SIZE]

    def replace_word(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool:
        data = self.read(page, 1)
        if data[offset : offset + WORD_SIZE] != old:
            return False
        self.pages[page] = data[:offset] + new + data[offset + WORD_SIZE :]
        return True

    def holes(self, first: PageNumber, count: int) -> int:
        return 0

    def write(self, first: PageNumber, data: bytes) -> None:
        for at in range(len(data) // PAGE_SIZE):
            self.pages[first + at] = data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]

    def zero(self, first: PageNumber, count: int) -> None:
        for page in range(first, first + count):
            self.pages.pop(page, None)


class AlwaysMultiple(SingleWriter):
    watches = True

    def make_multiple(self, page: int) -> bool:
        return True


class Bench:
    """Hosts in one process, and the time home spends."""

    def __init__(self, hosts: int, *, direct: bool = False, multiple: bool = False) -> None:
        ids = [HostId(host) for host in range(hosts)]
        paths = frozenset((a, b) for a in ids for b in ids if direct and a and b and a != b)
        self.memories = [Memory() for _ in ids]
        self.nodes = [Node(host, hosts, self.memories[host], paths=paths) for host in ids]
        if multiple:
            self.nodes[HOME].policy = AlwaysMultiple()
        self.home_ns = 0
        self.messages = 0

    def play(self, host: int, event: Event) -> None:
        queue: deque[tuple[int, Event | tuple[HostId, bytes]]] = deque([(host, event)])
        while queue:
            at, what = queue.popleft()
            start = time.thread_time_ns()
            if isinstance(what, tuple) and len(what) == 2 and isinstance(what[1], bytes):
                what = Received(what[0], wire.decode(what[1]))
            pending: list[Event] = [what]  # type: ignore[list-item]
            sent: list[tuple[int, tuple[HostId, bytes]]] = []
            while pending:
                for effect in self.nodes[at].step(pending.pop()):
                    if isinstance(effect, Protect):
                        pending.append(Protected(effect.token))
                    elif isinstance(effect, Send):
                        sent.append((effect.host, (HostId(at), _encoded(effect.message))))
            if at == HOME:
                self.home_ns += time.thread_time_ns() - start
                self.messages += len(sent) + 1
            queue += sent

    def fault(self, host: int, page: int, access: Access) -> None:
        self.play(host, Fault(host + 1, (run_of(page, 1, access),)))
        self.play(host, Released(host + 1))


def _encoded(message: Message) -> bytes:
    return b"".join(wire.encode(message))


def unit_us(seconds: float) -> float:
    """Receiving a small message and sending one, over loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    count, spent = 0, 0
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        one.send(b"x" * 64)
        start = time.thread_time_ns()
        other.recv(4096)
        other.send(b"x" * 64)
        spent += time.thread_time_ns() - start
        one.recv(4096)
        count += 1
    for sock in (one, other, listener):
        sock.close()
    return spent / count / 1000


def measure(bench: Bench, act: Callable[[int], None], seconds: float) -> tuple[float, float]:
    """(microseconds of home, messages of home) for one decision."""
    for at in range(50):
        act(at)
    bench.home_ns = bench.messages = count = 0
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        act(50 + count)
        count += 1
    return bench.home_ns / count / 1000, bench.messages / count


def bounce(bench: Bench, hosts: list[int]) -> Callable[[int], None]:
    """A page that each host in turn writes."""

    def act(at: int) -> None:
        host = hosts[at % len(hosts)]
        bench.fault(host, 7, Access.WRITE)
        bench.memories[host].pages[7] = bytes([1 + at % 200]) * PAGE_SIZE

    return act


def flush(bench: Bench, hosts: int) -> Callable[[int], None]:
    """A host's stores into a page of which all hosts have copies."""
    for host in range(1, hosts):
        bench.fault(host, 7, Access.WRITE)
        bench.play(host, Serialize(host + 1))

    def act(at: int) -> None:
        host = 1 + at % (hosts - 1)
        bench.fault(host, 7, Access.WRITE)
        page = bytearray(bench.memories[host].read(PageNumber(7), 1))
        page[8 * host] = at % 251
        bench.memories[host].pages[7] = bytes(page)
        bench.play(host, Serialize(host + 1))

    return act


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
    unit = unit_us(seconds)
    print(f"unit: {unit:.1f} us of home for a bare message received and one sent\n")
    fresh, through, direct = Bench(2), Bench(3), Bench(3, direct=True)
    cases: list[tuple[str, Bench, Callable[[int], None], float]] = [
        ("a fresh page", fresh, lambda at: fresh.fault(1, 1000 + at, Access.WRITE), 0),
        ("a page passed on through home", through, bounce(through, [1, 2]), 0),
        ("a page passed on directly", direct, bounce(direct, [1, 2]), 0),
    ]
    for hosts in (3, 5, 9):
        many = Bench(hosts, multiple=True)
        cases.append((f"a flush, {hosts} hosts", many, flush(many, hosts), FLUSHES_PER_S))
    print("| decision | us of home | units | messages | decisions/s | hosts at the limit |")
    print("|---|---|---|---|---|---|")
    for name, bench, act, per_host in cases:
        us, messages = measure(bench, act, seconds)
        whole = us + unit * messages / 2  # and the bare cost of its messages
        # A host that does nothing but wait for pages asks once a round trip.
        asks = per_host or 1e6 / (2 * LATENCY_US)
        print(
            f"| {name} | {us:.0f} | {us / unit:.1f} | {messages:.1f} "
            f"| {1e6 / whole:.0f} | {1e6 / whole / asks:.0f} |"
        )


if __name__ == "__main__":
    main()
