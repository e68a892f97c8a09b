# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever else calls, or answers, where hosts look for each other: it disturbs nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from members import check, dial, fake_server, finish, plan, play, start, start_home

from supervisor.cluster import auth, gather, hostinfo, join, rendezvous
from supervisor.cluster.auth import Role
from supervisor.cluster.plan import Rendezvous
from supervisor.errors import AuthenticationFailed
from supervisor.units import HOME, HostId


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
