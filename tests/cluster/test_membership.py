# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that find each other, refusals that name their reason, strangers that disturb nobody."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
import trio

from supervisor.cluster import auth, gather, handshake, hostinfo, join, rendezvous
from supervisor.cluster.auth import Role
from supervisor.cluster.membership import Membership, assemble
from supervisor.cluster.plan import ClusterPlan, Rendezvous
from supervisor.cluster.transport import CONTROL
from supervisor.errors import (
    AuthenticationFailed,
    DsmsupError,
    NotFound,
    PeerLost,
    UsageError,
)
from supervisor.units import HOME, HostId

KEY = bytes(range(32))
LIMIT_S = 20.0


def free_port(address: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Host:
    """One host of a test: its plan, what it told its user, how it ended."""

    plan: ClusterPlan
    warnings: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    result: Membership | None = None
    error: DsmsupError | None = None
    done: trio.Event = field(default_factory=trio.Event)
    prepare: Callable[[], None] = lambda: None
    check: Callable[[], None] = lambda: None

    async def run(self) -> None:
        try:
            self.result = await assemble(
                self.plan, self.warnings.append, self.logs.append, self.prepare, self.check
            )
        except DsmsupError as error:
            assert "\n" not in str(error)
            self.error = error
        self.done.set()

    async def heard(self, text: str, where: str = "logs") -> None:
        """Wait until a line that contains `text` was told."""
        lines: list[str] = getattr(self, where)
        while not any(text in line for line in lines):
            await trio.sleep(0.005)


def plan(
    hosts: int, host_id: int | None = None, port: int | None = None, address: str = "127.0.0.1"
) -> ClusterPlan:
    return ClusterPlan(
        hosts,
        None if host_id is None else HostId(host_id),
        Rendezvous((address,), free_port(address) if port is None else port),
        KEY,
        (0,),
        10.0,
    )


def play(script: Callable[[trio.Nursery], Awaitable[Any]]) -> None:
    """Run a test's story within a bound of time; hosts still running at its end are stopped."""

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await script(nursery)
                nursery.cancel_scope.cancel()

    trio.run(main)


def check(hosts: list[Host]) -> None:
    """All have joined one cluster, agree on it, and their links lead where they say."""
    results = []
    for host in hosts:
        assert host.error is None and host.result is not None, host
        results.append(host.result)
    assert sorted(result.host_id for result in results) == list(range(len(hosts)))
    assert len({result.infos for result in results}) == 1
    assert [info.id for info in results[0].infos] == list(range(len(hosts)))
    by_id = {result.host_id: result for result in results}
    for result in results:
        assert sorted(result.links) == sorted(set(by_id) - {result.host_id})
        lenders = by_id.keys() - {HOME}
        assert result.paths == {(a, b) for a in lenders for b in lenders if a != b}
        for other in result.links:
            result.links[other].send(CONTROL, b"%d to %d" % (result.host_id, other))
            assert result.links[other].flush()
    for result in results:
        for other, link in result.links.items():
            assert link.peer == other
            assert select.select([link], [], [], 5)[0]
            assert link.receive() == [(CONTROL, b"%d to %d" % (other, result.host_id))]
    for result in results:
        result.close()


def start(nursery: trio.Nursery, *plans: ClusterPlan) -> list[Host]:
    hosts = [Host(one) for one in plans]
    for host in hosts:
        nursery.start_soon(host.run)
    return hosts


async def start_home(nursery: trio.Nursery, *plans: ClusterPlan) -> list[Host]:
    """Start home, then, once it listens, the others (one without an id might be faster)."""
    home = start(nursery, plans[0])
    await home[0].heard("waiting for")
    return home + start(nursery, *plans[1:])


async def finish(hosts: list[Host]) -> None:
    for host in hosts:
        await host.done.wait()


# Good days --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_without_ids_one_is_home_and_all_agree(count: int) -> None:
    async def script(nursery: trio.Nursery) -> None:
        same = plan(count)
        hosts = start(nursery, *[same] * count)
        await finish(hosts)
        check(hosts)
        assert all(not host.warnings for host in hosts)

    play(script)


def test_ids_asked_for_are_honoured_and_the_rest_go_by_arrival() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(4, 0)
        home = start(nursery, base)[0]
        await home.heard("waiting")
        first = start(nursery, replace(base, host_id=None))[0]
        await first.heard("admitted")
        second = start(nursery, replace(base, host_id=None))[0]
        await second.heard("admitted")
        last = start(nursery, replace(base, host_id=HostId(1)))[0]
        hosts = [home, first, second, last]
        await finish(hosts)
        ids = [host.result.host_id for host in hosts if host.result]
        check(hosts)
        assert ids == [0, 2, 3, 1]

    play(script)


def test_home_may_start_last() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(3, 1)
        early = start(nursery, base, replace(base, host_id=HostId(2)))
        for host in early:
            await host.heard("waiting for home")
        hosts = [*start(nursery, replace(base, host_id=HOME)), *early]
        await finish(hosts)
        check(hosts)

    play(script)


@pytest.mark.parametrize("address", ["::1", "localhost"])
def test_ipv6_and_names(address: str) -> None:
    try:
        port = free_port("::1")
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")

    async def script(nursery: trio.Nursery) -> None:
        same = plan(3, None, port, address)
        hosts = start(nursery, same, same, same)
        await finish(hosts)
        check(hosts)

    play(script)


def test_own_name_that_means_loopback_listens_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        address = "127.0.1.1" if host == "node1" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def script(nursery: trio.Nursery) -> None:
        same = plan(2, None, free_port(), "node1")
        home = start(nursery, same)[0]
        await home.heard("waiting")
        # Another address of this machine than the one its name resolves to.
        there = replace(same.rendezvous, hosts=("127.0.0.1",))
        other = start(nursery, replace(same, host_id=HostId(1), rendezvous=there))[0]
        await finish([home, other])
        check([home, other])

    play(script)


def test_a_name_with_two_addresses_makes_one_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("192.0.2.77", "127.0.0.3", "127.0.0.2")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(join, "_CONNECT_S_OF_MANY", 0.2)

    async def script(nursery: trio.Nursery) -> None:
        same = plan(3, None, free_port(), "cluster.example")
        hosts = start(nursery, same, same, same)
        await finish(hosts)
        check(hosts)

    play(script)


def test_infos_tell_of_the_hosts() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0)
        hosts = await start_home(
            nursery, replace(base, cpus=(0, 1, 2)), replace(base, host_id=HostId(1))
        )
        await finish(hosts)
        result = hosts[1].result
        assert result is not None
        check(hosts)
        home, other = result.infos
        assert (home.cpus, other.cpus) == (3, 1)
        assert home.hostname == other.hostname == socket.gethostname()
        assert home.address == other.address == "127.0.0.1"
        assert home.page_size == 4096 and home.kernel and home.machine == "x86_64"
        assert "sse2" in home.processor.features and home.cpu_vendor
        assert other.name == f"{socket.gethostname()} at 127.0.0.1"

    play(script)


def test_no_thread_is_left_that_could_swallow_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = []
    real = socket.getaddrinfo

    def getaddrinfo(*words: Any, **more: Any) -> Any:
        masks.append((threading.get_ident(), signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        return real(*words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def script(nursery: trio.Nursery) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        before = set(os.listdir("/proc/self/task"))
        same = plan(2, None, None, "localhost")
        hosts = start(nursery, same, same)
        await finish(hosts)
        assert set(os.listdir("/proc/self/task")) <= before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        check(hosts)

    play(script)
    assert masks
    for thread, blocked in masks:
        assert thread != threading.get_ident() and signal.SIGCHLD in blocked


# Refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host_id": HostId(1)}, r"host id 1 is taken by .* at 127\.0\.0\.1"),
        ({"host_id": HostId(3)}, "host id 3 is out of range: ids are 0 to 2"),
        ({"hosts": 5}, "this host was told --hosts 5, home was told 3"),
    ],
)
def test_what_cannot_be_is_refused_by_name_at_both_ends(
    change: dict[str, Any], message: str
) -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(3, 0)
        home, one = await start_home(nursery, base, replace(base, host_id=HostId(1)))
        await one.heard("admitted")
        bad = start(nursery, replace(base, **{"host_id": None, **change}))[0]
        await bad.done.wait()
        with pytest.raises(DsmsupError, match=rf"home at 127\.0\.0\.1:\d+ says: {message}"):
            raise bad.error or AssertionError("was let in")
        with pytest.raises(DsmsupError, match=rf"refused .* at 127\.0\.0\.1: {message}"):
            raise DsmsupError(*home.warnings)
        two = start(nursery, replace(base, host_id=None))[0]
        await finish([home, one, two])
        check([home, one, two])

    play(script)


def test_a_second_home_is_told_that_the_port_is_taken() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0)
        home = start(nursery, base)[0]
        await home.heard("waiting")
        second = start(nursery, base)[0]
        await second.done.wait()
        assert "is in use already, by another home or something else: choose" in str(second.error)
        assert not home.done.is_set()

    play(script)


def test_an_unlike_page_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0)
        home = start(nursery, base)[0]
        await home.heard("waiting")
        real = hostinfo.local_info
        monkeypatch.setattr(
            join,
            "local_info",
            lambda cpus, port=0: msgspec.structs.replace(real(cpus), page_size=65536),
        )
        bad = start(nursery, replace(base, host_id=None))[0]
        await bad.done.wait()
        assert "says: its page size is 65536, home's is 4096" in str(bad.error)
        assert "page size is 65536" in home.warnings[0]

    play(script)


def test_another_version_is_told_at_both_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0)
        for module in (gather, join):
            monkeypatch.setattr(module, "dsmsup_version", lambda: "1.0")
        home = start(nursery, base)[0]
        await home.heard("waiting")
        for _ in range(2):
            async with await dial(base) as stream:
                said = auth.new_hello(Role.JOINER, 2, None, "2.0")
                await stream.send_all(auth.pack_hello(said))
                answer = bytearray()
                async for piece in stream:
                    answer += piece
                with pytest.raises(auth.VersionMismatch, match=r"runs dsmsup 1\.0"):
                    auth.parse_hello(bytes(answer), Role.HOME, "2.0")
        await home.heard("it runs dsmsup 2.0", "warnings")
        assert len(home.warnings) == 1
        server = await fake_server(
            nursery, auth.pack_hello(auth.new_hello(Role.HOME, 2, HOME, "3.0"))
        )
        joiner = start(nursery, replace(base, host_id=HostId(1), rendezvous=server))[0]
        await joiner.done.wait()
        assert "it runs dsmsup 3.0" in str(joiner.error)
        assert "this host runs 1.0" in str(joiner.error)

    play(script)


# Strangers --------------------------------------------------------------------------


async def dial(one: ClusterPlan) -> trio.SocketStream:
    return await trio.open_tcp_stream(one.rendezvous.hosts[0], one.rendezvous.port)


async def fake_server(nursery: trio.Nursery, answer: bytes, hold: bool = False) -> Rendezvous:
    """Something that is not dsmsup: answers every connection with the same bytes."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        if answer:
            await stream.send_all(answer)
        if hold:
            await trio.sleep_forever()
        await stream.receive_some(4096)

    nursery.start_soon(trio.serve_listeners, serve, listeners)
    return Rendezvous(("127.0.0.1",), listeners[0].socket.getsockname()[1])


def test_a_wrong_key_is_told_there_and_hushed_at_home() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0)
        home = start(nursery, base)[0]
        await home.heard("waiting")
        stranger = start(nursery, replace(base, host_id=None, key=b"?" * 32))[0]
        await stranger.done.wait()
        assert isinstance(stranger.error, AuthenticationFailed)
        assert str(stranger.error).startswith(f"wrong key for {base.rendezvous}: ")
        await home.heard("refused 127.0.0.1: wrong key")
        assert home.warnings == []
        good = start(nursery, replace(base, host_id=None))[0]
        await finish([home, good])
        check([home, good])

    play(script)


def test_strangers_of_every_kind_are_dropped_and_disturb_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gather, "HANDSHAKE_S", 0.3)
    monkeypatch.setattr(join, "HANDSHAKE_S", 0.3)

    async def script(nursery: trio.Nursery) -> None:
        base = plan(3, 0)
        home, one = await start_home(nursery, base, replace(base, host_id=None))
        await one.heard("admitted")

        async def until_dropped(data: bytes, again: bool = False) -> None:
            async with await dial(base) as stream:
                try:
                    if data:
                        await stream.send_all(data)
                    while again:
                        await stream.send_all(data)
                    while await stream.receive_some(4096):
                        pass
                except trio.BrokenResourceError:
                    pass

        said = auth.pack_hello(auth.new_hello(Role.JOINER, 3, None, hostinfo.dsmsup_version()))
        async with trio.open_nursery() as strangers:
            strangers.start_soon(until_dropped, b"")  # Says nothing.
            strangers.start_soon(until_dropped, said[:20])  # Stops in the middle.
            strangers.start_soon(until_dropped, said)  # Never proves itself.
            strangers.start_soon(until_dropped, said + bytes(32))
            strangers.start_soon(until_dropped, b"GET / HTTP/1.1\r\n\r\n" * 10)
            strangers.start_soon(until_dropped, b"\0" * 65536, True)  # Never stops.
            strangers.start_soon(until_dropped, said + b"\xff" * 65536, True)
        await home.heard("it did not prove itself in time")
        two = start(nursery, replace(base, host_id=None))[0]
        await finish([home, one, two])
        check([home, one, two])
        assert home.warnings == []

    play(script)


def test_a_crowd_of_silent_strangers_does_not_keep_hosts_out() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0)
        home = start(nursery, base)[0]
        await home.heard("waiting")
        crowd = [await dial(base) for _ in range(200)]
        with trio.fail_after(4):  # Less than a handshake may take.
            good = start(nursery, replace(base, host_id=None))[0]
            await finish([home, good])
        check([home, good])
        for stream in crowd:
            await stream.aclose()

    play(script)


def test_a_replayed_handshake_and_a_reflected_one_prove_nothing() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(3, 0)
        home = start(nursery, base)[0]
        await home.heard("waiting")
        recorded = bytearray()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def relay(client: trio.SocketStream) -> None:
            server = await dial(base)

            async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                async for piece in source:
                    if source is client:
                        recorded.extend(piece)
                    await sink.send_all(piece)

            async with trio.open_nursery() as both:
                both.start_soon(copy, client, server)
                both.start_soon(copy, server, client)

        nursery.start_soon(trio.serve_listeners, relay, listeners)
        through = Rendezvous(("127.0.0.1",), listeners[0].socket.getsockname()[1])
        one = start(nursery, replace(base, host_id=HostId(1), rendezvous=through))[0]
        await one.heard("admitted")

        async def answer_to(data: bytes) -> bytes:
            heard = bytearray()
            async with await dial(base) as stream:
                await stream.send_all(data)
                try:
                    async for piece in stream:
                        heard += piece
                except trio.BrokenResourceError:
                    pass
            return bytes(heard)

        replay = await answer_to(bytes(recorded[: auth.HELLO_BYTES + auth.PROOF_BYTES]))
        assert replay[auth.HELLO_BYTES] == auth.Verdict.WRONG_KEY
        await home.heard("wrong key")
        async with await dial(base) as mirror:
            said = auth.new_hello(Role.JOINER, 3, None, hostinfo.dsmsup_version())
            await mirror.send_all(auth.pack_hello(said))
            await mirror.send_all(await mirror.receive_some(auth.HELLO_BYTES))
            assert (await mirror.receive_some(1))[0] == auth.Verdict.WRONG_KEY
        assert not home.done.is_set() and len(home.warnings) == 0

    play(script)


@pytest.mark.parametrize(
    ("answer", "hold"),
    [(b"", True), (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n" * 8, True), (b"\0" * 64, False)],
)
def test_something_else_at_the_port_is_named(
    answer: bytes, hold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "HANDSHAKE_S", 0.3)
    monkeypatch.setattr(join, "HANDSHAKE_S", 0.3)

    async def script(nursery: trio.Nursery) -> None:
        where = await fake_server(nursery, answer, hold)
        for host_id in (None, HostId(1)):
            host = start(nursery, replace(plan(2), host_id=host_id, rendezvous=where))[0]
            await host.done.wait()
            assert f"{where} is in use by something other than dsmsup" in str(host.error)

    play(script)


def test_a_home_that_is_slow_to_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where home listened first, its port is surely its own: the machine is busy."""
    monkeypatch.setattr(join, "HANDSHAKE_S", 0.3)

    async def script(nursery: trio.Nursery) -> None:
        listener = rendezvous.listen_on_loopback()
        where = Rendezvous(("127.0.0.1",), listener.getsockname()[1])
        base = replace(plan(2), rendezvous=where, home_listens=True)
        joiner = start(nursery, replace(base, host_id=HostId(1)))[0]
        await joiner.heard("waiting for home")
        home = start(nursery, replace(base, host_id=HOME, listener=listener))[0]
        await finish([home, joiner])
        assert home.result is not None and joiner.result is not None

    play(script)


def test_a_home_that_cannot_prove_itself_is_not_believed() -> None:
    async def script(nursery: trio.Nursery) -> None:
        said = auth.new_hello(Role.HOME, 2, HOME, hostinfo.dsmsup_version())
        where = await fake_server(nursery, auth.pack_hello(said) + bytes(auth.VERDICT_BYTES))
        host = start(nursery, replace(plan(2, 1), rendezvous=where))[0]
        await host.done.wait()
        assert f"{where} does not hold our key" in str(host.error)

    play(script)


# Bad days ---------------------------------------------------------------------------


def test_the_missing_are_named_everywhere_when_time_is_up() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = replace(plan(4, 0), join_timeout_s=0.5)
        hosts = await start_home(nursery, base, replace(base, host_id=HostId(2)))
        await finish(hosts)
        for host in hosts:
            assert "2 of 4 hosts did not join" in str(host.error)
            assert "within 0.5 s: host ids 1, 3 missing (--join-timeout" in str(host.error)

    play(script)


def test_a_home_that_listened_and_is_gone_is_not_waited_for() -> None:
    async def script(nursery: trio.Nursery) -> None:
        one = replace(plan(2, 1), join_timeout_s=1000.0, home_listens=True)
        host = start(nursery, one)[0]
        await host.done.wait()
        assert isinstance(host.error, PeerLost)
        assert "ended before all hosts had joined" in str(host.error)

    play(script)


def test_nobody_home_names_the_address() -> None:
    async def script(nursery: trio.Nursery) -> None:
        one = replace(plan(2, 1), join_timeout_s=0.3)
        host = start(nursery, one)[0]
        await host.done.wait()
        text = str(host.error)
        assert f"cannot reach home at {one.rendezvous}" in text and "connection refused" in text
        assert "is dsmsup running there" in text

    play(script)


def test_an_address_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_CONNECT_S", 0.1)

    async def no_answer(*_: Any) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket.SocketType, "connect", no_answer, raising=False)
    monkeypatch.setattr("trio._socket._SocketType.connect", no_answer)

    async def script(nursery: trio.Nursery) -> None:
        host = start(nursery, replace(plan(2, 1), join_timeout_s=0.3))[0]
        await host.done.wait()
        assert "no answer" in str(host.error)

    play(script)


def test_a_name_may_appear_late_and_a_wrong_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    answers = [socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_NONAME]

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host == "nodee1":
            raise socket.gaierror(socket.EAI_NONAME, "as told")
        if answers:
            raise socket.gaierror(answers.pop(0), "as told")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 1, port, "pod-0.svc")
        late = start(nursery, base)[0]
        await late.heard("unknown host pod-0.svc in --rendezvous pod-0.svc", "warnings")
        home = start(nursery, replace(base, host_id=HOME))[0]
        await finish([late, home])
        assert len(late.warnings) == 1 and not answers
        check([home, late])
        wrong = replace(plan(2, None, 7000, "nodee1"), join_timeout_s=0.2)
        host = start(nursery, wrong)[0]
        await host.done.wait()
        assert isinstance(host.error, UsageError)
        assert str(host.error) == "unknown host nodee1 in --rendezvous nodee1:7000"

    play(script)


def test_told_to_be_home_under_a_name_that_is_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        address = "192.0.2.77" if host == "service" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def script(nursery: trio.Nursery) -> None:
        base = plan(2, 0, free_port(), "service")
        home = start(nursery, base)[0]
        await home.heard("waiting")
        forwarded = replace(base.rendezvous, hosts=("127.0.0.1",))
        other = start(nursery, replace(base, host_id=None, rendezvous=forwarded))[0]
        await finish([home, other])
        check([home, other])

    play(script)


def test_home_elsewhere_than_the_rendezvous_is_told() -> None:
    async def script(nursery: trio.Nursery) -> None:
        host = start(nursery, plan(2, 0, 7000, "192.0.2.77"))[0]
        await host.done.wait()
        assert "no address of this host: host 0 must run where" in str(host.error)

    play(script)


def test_a_privileged_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> socket.socket:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(rendezvous, "_bound", refused)

    async def script(nursery: trio.Nursery) -> None:
        host = start(nursery, plan(2, 0, 99))[0]
        await host.done.wait()
        assert "choose a port above 1023" in str(host.error)

    play(script)


@pytest.mark.parametrize("last_words", [b"", b"out of turn"])
def test_a_host_that_leaves_frees_its_place(last_words: bytes) -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(4, 0)
        home, one = await start_home(nursery, base, replace(base, host_id=None))
        await one.heard("admitted")
        stream = await dial(base)
        version, info = hostinfo.dsmsup_version(), hostinfo.local_info(1)
        await handshake.greet_as_joiner(stream, KEY, 4, HostId(2), version, info, "there")
        assert isinstance(await handshake.hear_note(stream), handshake.Admitted)
        if last_words:
            await stream.send_all(last_words)
        else:
            await stream.aclose()
        told = "spoke out of turn" if last_words else "left"
        await home.heard(f"{told} before all hosts had arrived", "warnings")
        others = start(nursery, replace(base, host_id=HostId(2)), replace(base, host_id=HostId(1)))
        hosts = [home, one, *others]
        await finish(hosts)
        assert one.result is not None and one.result.host_id == 3
        check(hosts)

    play(script)


def test_home_lost_while_others_wait_is_told() -> None:
    async def script(nursery: trio.Nursery) -> None:
        base = plan(3, 0)
        home = Host(base)
        with trio.CancelScope() as life:
            async with trio.open_nursery() as inner:
                inner.start_soon(home.run)
                await home.heard("waiting for")
                one = start(nursery, replace(base, host_id=None))[0]
                await one.heard("admitted")
                life.cancel()
        await one.done.wait()
        assert isinstance(one.error, PeerLost)
        assert str(one.error).startswith("host 0 (home at 127.0.0.1")

    play(script)


def test_home_hung_while_others_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_GRACE_S", 0.1)

    async def script(nursery: trio.Nursery) -> None:
        base = replace(plan(3, 0), join_timeout_s=0.2)
        monkeypatch.setattr(gather, "_turn_away", hang)
        _, one = await start_home(nursery, base, replace(base, host_id=None))
        await one.done.wait()
        assert isinstance(one.error, PeerLost)

    async def hang(_: object) -> str:
        await trio.sleep_forever()
        raise AssertionError

    play(script)


def test_home_that_cannot_run_tells_those_who_wait() -> None:
    """And those who come within a few seconds; it need not wait until all are there to know."""

    def missing() -> None:
        raise NotFound("cannot find './a.out'")

    async def script(nursery: trio.Nursery) -> None:
        port = free_port()
        early, home, late = (Host(plan(3, id_, port)) for id_ in (1, 0, 2))
        home.prepare = missing
        nursery.start_soon(early.run)
        await early.heard("waiting for home")
        nursery.start_soon(home.run)
        await early.done.wait()
        assert not home.done.is_set()
        nursery.start_soon(late.run)
        await late.done.wait()
        await home.done.wait()
        assert isinstance(home.error, NotFound) and home.error.told
        assert home.warnings == ["cannot find './a.out'"]
        for other in (early, late):
            line = f"home at 127.0.0.1:{port} says: cannot find './a.out'"
            assert (str(other.error), other.error and other.error.exit_status) == (line, 127)

    play(script)


@pytest.mark.parametrize("unable_id", [None, 2])
def test_a_host_that_cannot_take_part_is_not_waited_for(unable_id: int | None) -> None:
    """Home, and all that have come, hear why, whether home is there before it or not."""

    def too_few() -> None:
        raise DsmsupError("a process may have only 12 files open here")

    async def script(nursery: trio.Nursery) -> None:
        port = free_port()
        early, unable, home = (Host(plan(3, id_, port)) for id_ in (1, unable_id, 0))
        if unable_id is None:
            home, unable = unable, home
            home.plan, unable.plan = plan(3, 0, port), plan(3, None, port)
        unable.check = too_few
        hosts = [early, unable, home] if unable_id else [early, home, unable]
        for host in hosts[:2]:
            nursery.start_soon(host.run)
        await early.heard("waiting for home" if unable_id else "admitted")
        nursery.start_soon(hosts[2].run)
        for host in hosts:
            await host.done.wait()
        assert str(unable.error) == "a process may have only 12 files open here"
        assert unable.warnings == [str(unable.error)] and unable.error and unable.error.told
        name = "host 2" if unable_id else "a host"
        line = str(home.error)
        assert line.startswith(f"{name} (")
        assert line.endswith(" cannot take part: a process may have only 12 files open here")
        assert str(early.error) == f"home at 127.0.0.1:{port} says: {line}"

    play(script)
