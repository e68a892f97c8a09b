# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages as bytes, and what a peer may do to us with bytes or with messages."""

from __future__ import annotations

import random

import msgspec
import pytest

from supervisor.coherence import wire
from supervisor.coherence.invariants import check_node
from supervisor.coherence.messages import (
    Access,
    Applied,
    AskBus,
    Content,
    Delivery,
    Direct,
    Fault,
    Fetch,
    Flush,
    Flushed,
    Forget,
    Forgotten,
    Grant,
    GrantBus,
    Invalidate,
    Message,
    PageDiff,
    Part,
    Protect,
    Protected,
    Recall,
    Received,
    Refused,
    Released,
    Run,
    Update,
    Yielded,
)
from supervisor.coherence.node import Node
from supervisor.coherence.pages import run_of
from supervisor.errors import PeerError
from supervisor.units import HOME, PAGE_SIZE, PAGES_END, HostId, PageNumber
from tests.coherence.hosts import SimMemory

PAGE = b"x" * PAGE_SIZE
READ_1 = run_of(1, 1, Access.READ)


def part(first: int, count: int, content: Content, access: Access = Access.READ) -> Part:
    return Part(PageNumber(first), count, access, content)


GOOD: list[Message] = [
    Fetch(1, (READ_1, run_of(3, 2, Access.WRITE)), (run_of(5, 7, Access.WRITE),), 2),
    Grant(1, (part(1, 1, Content.DATA), part(2, 9, Content.ZERO)), PAGE, True),
    Refused(4),
    Recall(9, (run_of(1, 1, Access.NONE),), (run_of(5, 1, Access.READ),)),
    Yielded(9, (part(1, 2, Content.DATA),), PAGE * 2),
    Invalidate((run_of(1, 1, Access.NONE), run_of(7, 1, Access.NONE))),
    Forget(PageNumber(0), PAGES_END),
    Flush(1, (PageDiff(PageNumber(3), b"\0\0\x05\0", b"\x01\0\x02\0", b"abc"),), True),
    Flushed(1),
    Update((PageDiff(PageNumber(3), b"\xff\x0f", b"\x01\0", b"a"),)),
    Applied(),
    Recall(9, (run_of(1, 1, Access.NONE),), (), HostId(2), 7),
    Delivery(9, 7, (part(1, 1, Content.DATA), part(2, 1, Content.ZERO)), PAGE),
    Grant(1, (), b"", True, (), (Direct(PageNumber(1), 2, Access.READ, HostId(2), 9),)),
    Yielded(9, (part(1, 2, Content.DIRECT),), b""),
    Forgotten(),
    AskBus(),
    GrantBus(),
]


def _with_data_in_head() -> bytes:
    head = msgspec.msgpack.encode(Yielded(9, (part(1, 1, Content.DATA),), PAGE))
    return len(head).to_bytes(4, "little") + head


@pytest.mark.parametrize("message", GOOD, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    assert wire.decode(b"".join(wire.encode(message))) == message


def test_much_page_data_is_copied_neither_way() -> None:
    data = PAGE * 64
    head, sent = wire.encode(Yielded(9, (part(1, 64, Content.DATA),), data))
    assert sent is data
    received = wire.decode(bytearray(head + sent))
    assert isinstance(received, Yielded)
    assert isinstance(received.data, memoryview) and received.data == data


@pytest.mark.parametrize(
    "payload",
    [
        wire.encode(Applied())[0] + b"x",
        wire.encode(Applied())[0][:3],
        (100).to_bytes(4, "little") + wire.encode(Applied())[0][4:] + b"x",
        _with_data_in_head(),
    ],
    ids=["more behind it", "no length", "a wrong length", "data in the head"],
)
def test_wrong_frames_are_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        wire.decode(payload)


LIES: list[Message] = [
    Delivery(9, 7, (part(1, 1, Content.HELD),), b""),
    Delivery(9, 7, (part(1, 1, Content.DIRECT),), b""),
    Delivery(9, -7, (part(1, 1, Content.ZERO),), b""),
    Grant(1, (part(1, 1, Content.DIRECT),), b"", True),
    Grant(1, (), b"", True, (), (Direct(PageNumber(1), 2, Access.READ, HostId(-2), 9),)),
    Recall(9, (run_of(1, 1, Access.NONE),), (), HostId(-2), 7),
    Fetch(1, (), (), 0),
    Fetch(-1, (READ_1,), (), 0),
    Fetch(1, (run_of(3, 2, Access.READ), READ_1), (), 0),
    Fetch(1, (run_of(1, 0, Access.READ),), (), 0),
    Fetch(1, (run_of(1, 1 << 40, Access.READ),), (), 0),
    Fetch(1, (run_of(-5, 1, Access.READ),), (), 0),
    Fetch(1, (run_of(PAGES_END - 1, 2, Access.READ),), (), 0),
    Fetch(1, (run_of(1, 1, Access.NONE),), (), 0),
    Fetch(1, (READ_1,), (run_of(1, 2, Access.READ),), 0),
    Fetch(1, (READ_1,), (run_of(2, 1, Access.NONE),), 0),
    Fetch(1, (READ_1,), (run_of(4, 1, Access.READ), run_of(3, 1, Access.READ)), 0),
    Fetch(1, (READ_1,), (run_of(-1, 2, Access.READ),), 0),
    Grant(1, (part(1, 2, Content.DATA),), PAGE, True),
    Grant(1, (part(1, 1, Content.ZERO),), PAGE, True),
    Grant(1, (part(1, 1, Content.DATA),), PAGE[:-1], True),
    Grant(1, (part(1, 2, Content.ZERO), part(2, 1, Content.ZERO)), b"", True),
    Yielded(1, (part(PAGES_END, 1, Content.ZERO),), b""),
    Invalidate((run_of(7, 1, Access.NONE), run_of(1, 1, Access.NONE))),
    Recall(1, (run_of(1, -1, Access.NONE),), ()),
    Forget(PageNumber(1), 0),
    Flush(-1, ()),
    Update((PageDiff(PageNumber(3), b"\xff\x0f", b"\x02\0", b"ab"),)),
    Update((PageDiff(PageNumber(3), b"\0\0", b"\x01\0", b"ab"),)),
    Update((PageDiff(PageNumber(3), b"", b"", b""),)),
    Update((PageDiff(PageNumber(3), b"\0\0\0\0", b"\x01\0\x01\0", b"ab"),)),
    Update((PageDiff(PageNumber(-3), b"\0\0", b"\x01\0", b"a"),)),
]


@pytest.mark.parametrize("message", LIES, ids=repr)
def test_lies_are_refused(message: Message) -> None:
    with pytest.raises(PeerError):
        wire.decode(b"".join(wire.encode(message)))


def test_malformed_bytes_are_refused() -> None:
    rng = random.Random(1)
    survivors = 0
    for _ in range(4000):
        data = bytearray(b"".join(wire.encode(rng.choice(GOOD))))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(min(len(data), 40))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            wire.decode(bytes(data))
            survivors += 1
        except PeerError:
            pass
    assert survivors < 3000  # a changed number may be as good as the old one


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93" * 5000, msgspec.msgpack.encode(["no", 1])])
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(PeerError):
        wire.decode(data)


def _random_runs(rng: random.Random, accesses: tuple[Access, ...]) -> tuple[Run, ...]:
    runs, page = [], 0
    for _ in range(rng.randint(1, 3)):
        page += rng.randint(0, 2)
        count = rng.randint(1, 2)
        runs.append(run_of(page, count, rng.choice(accesses)))
        page += count
    return tuple(runs)


def _random_message(rng: random.Random, kinds: tuple[type[Message], ...]) -> Message:
    kind, number = rng.choice(kinds), rng.randint(1, 3)
    if kind is Fetch:
        needs = _random_runs(rng, (Access.READ, Access.WRITE))
        count, last = rng.randint(0, 300), needs[-1]
        ahead = (run_of(last.first + last.count, count, last.access),) if count else ()
        return Fetch(rng.randint(1, 9), needs, ahead, rng.randint(0, 3))
    if kind in (Grant, Yielded):
        parts = tuple(
            Part(*run, rng.choice(tuple(Content))) for run in _random_runs(rng, tuple(Access))
        )
        data = PAGE * sum(each.count for each in parts if each.content == Content.DATA)
        if kind is Yielded:
            return Yielded(number, parts, data)
        return Grant(number, parts, data, rng.random() < 0.5)
    if kind is Recall:
        optional = () if rng.random() < 0.7 else _random_runs(rng, tuple(Access))
        return Recall(number, _random_runs(rng, tuple(Access)), optional)
    if kind is Invalidate:
        return Invalidate(_random_runs(rng, (Access.NONE,)))
    return Refused(number) if kind is Refused else Forget(PageNumber(rng.randint(0, 4)), 2)


@pytest.mark.parametrize("host", [0, 1])
def test_a_node_survives_nonsense_or_says_peer_error(host: int) -> None:
    """Well-formed messages at random: PeerError, or a state that still holds together."""
    to_home = (Fetch, Yielded)
    to_others = (Grant, Refused, Recall, Invalidate, Forget)
    accepted = refused = 0
    for seed in range(1500):
        rng = random.Random(seed)
        node = Node(HostId(host), 3, SimMemory())
        try:
            for requester in range(12):
                if rng.random() < 0.4:
                    needs = _random_runs(rng, (Access.READ, Access.WRITE))
                    effects = node.step(Fault(requester, needs, 4))
                    if rng.random() < 0.5:
                        effects += node.step(Released(requester))
                else:
                    wrong = rng.random() < 0.02
                    message = _random_message(
                        rng, to_home if (host == HOME) != wrong else to_others
                    )
                    message = wire.decode(b"".join(wire.encode(message)))
                    sender = HostId(rng.choice((1, 2)) if host == HOME else HOME)
                    effects = node.step(Received(sender, message))
                    accepted += 1
                while effects:
                    effect = effects.pop(0)
                    if isinstance(effect, Protect):
                        effects += node.step(Protected(effect.token))
                check_node(node)
        except PeerError:
            refused += 1
    assert accepted > 300 and refused > 500


@pytest.mark.parametrize("sender", [-1, 0, 3])
def test_messages_from_nowhere(sender: int) -> None:
    node = Node(HOME, 3, SimMemory())
    with pytest.raises(PeerError):
        node.step(Received(HostId(sender), Refused(1)))


def _asking(paths: bool = True) -> Node:
    """Host 1, which has asked for pages 5 and 6."""
    both = (HostId(1), HostId(2))
    known = frozenset((both, both[::-1])) if paths else frozenset()
    node = Node(HostId(1), 3, SimMemory(), paths=known)
    node.step(Fault(1, (run_of(5, 2, Access.READ),)))
    return node


ZEROS = (part(5, 2, Content.ZERO),)


def test_a_delivery_is_used_only_when_granted() -> None:
    node = _asking()
    node.step(Received(HostId(2), Delivery(3, 1, (part(5, 2, Content.DATA),), PAGE * 2)))
    assert not node.allows(5, 2, Access.READ)
    direct = (Direct(PageNumber(5), 2, Access.READ, HostId(2), 3),)
    node.step(Received(HOME, Grant(1, (), b"", True, (), direct)))
    assert node.allows(5, 2, Access.READ) and node.memory.read(PageNumber(6), 1) == PAGE


@pytest.mark.parametrize(
    ("paths", "delivery"),
    [
        (False, Delivery(3, 1, ZEROS, b"")),  # over a link that home knows nothing of
        (True, Delivery(3, 2, ZEROS, b"")),  # a request that was never made
        (True, Delivery(3, 1, (part(5, 3, Content.ZERO),), b"")),  # more than was asked for
    ],
)
def test_deliveries_that_nobody_waits_for(paths: bool, delivery: Delivery) -> None:
    with pytest.raises(PeerError):
        _asking(paths).step(Received(HostId(2), delivery))


def test_pages_are_delivered_once() -> None:
    node = _asking()
    node.step(Received(HostId(2), Delivery(3, 1, ZEROS, b"")))
    with pytest.raises(PeerError):
        node.step(Received(HostId(2), Delivery(4, 1, ZEROS, b"")))


def test_a_grant_of_less_than_was_delivered() -> None:
    node = _asking()
    node.step(Received(HostId(2), Delivery(3, 1, (part(5, 1, Content.ZERO),), b"")))
    direct = (Direct(PageNumber(5), 2, Access.READ, HostId(2), 3),)
    with pytest.raises(PeerError):
        node.step(Received(HOME, Grant(1, (), b"", True, (), direct)))


@pytest.mark.parametrize("message", [Recall(1, (READ_1,), (), HostId(2), 1), GrantBus()])
def test_home_asks_for_what_cannot_be(message: Message) -> None:
    with pytest.raises(PeerError):
        _asking(paths=False).step(Received(HOME, message))
