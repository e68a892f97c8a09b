# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that do not come, cannot be found, leave, or cannot take part."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from typing import Any

import pytest
import trio
from members import (
    KEY,
    Host,
    check,
    dial,
    finish,
    free_port,
    plan,
    play,
    start,
    start_home,
)

from supervisor.cluster import gather, handshake, hostinfo, join, rendezvous
from supervisor.errors import DsmsupError, NotFound, PeerLost, UsageError
from supervisor.units import HOME, HostId


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
