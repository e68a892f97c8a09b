# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that find each other, and refusals that name their reason."""

from __future__ import annotations

import os
import signal
import socket
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from members import (
    check,
    dial,
    fake_server,
    finish,
    free_port,
    plan,
    play,
    start,
    start_home,
)

from supervisor.cluster import auth, gather, hostinfo, join
from supervisor.cluster.auth import Role
from supervisor.errors import DsmsupError
from supervisor.units import HOME, HostId

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


def test_hosts_compare_the_version_that_is_installed() -> None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert hostinfo.dsmsup_version() == tomllib.loads(project.read_text())["project"]["version"]
