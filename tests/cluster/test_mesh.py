# SPDX-License-Identifier: GPL-2.0-or-later
"""Links between hosts other than home: made where they can be, missed by nobody else."""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio
from members import KEY, Host, free_port, plan, play

from supervisor.cluster import auth, mesh
from supervisor.cluster.auth import Role
from supervisor.cluster.handshake import Paths
from supervisor.cluster.hostinfo import dsmsup_version, local_info
from supervisor.errors import DsmsupError, PeerError
from supervisor.units import HOME, HostId

THREE = 3


def run_cluster(hosts: int) -> list[Host]:
    port = free_port()
    found = [Host(plan(hosts, id_, port)) for id_ in range(hosts)]

    async def script(nursery: trio.Nursery) -> None:
        for host in found:
            nursery.start_soon(host.run)
        for host in found:
            await host.done.wait()

    play(script)
    return found


def test_hosts_that_cannot_listen_send_through_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "listen", lambda plan: None)
    hosts = run_cluster(THREE)
    for host in hosts:
        assert host.result is not None and host.result.paths == frozenset()
        assert host.plan.host_id == HOME or list(host.result.links) == [HOME]
    assert any("pages go through home" in line for line in hosts[2].logs)
    for host in hosts:
        host.result.close()


def test_one_that_nobody_reaches_costs_only_its_own_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port is filtered or wrong: the others have theirs all the same."""
    honest = mesh.Mesh._call

    async def call(self: mesh.Mesh, peer: HostId) -> None:
        if peer == 2:
            infos = list(self._infos)
            infos[2] = msgspec.structs.replace(infos[2], port=free_port())
            self._infos = tuple(infos)
        await honest(self, peer)

    monkeypatch.setattr(mesh.Mesh, "_call", call)
    hosts = run_cluster(4)
    expected = {(1, 2), (2, 1), (1, 3), (3, 1)}
    for host in hosts:
        assert host.result is not None and host.result.paths == expected
        host.result.close()


class Pair:
    """The two ends of a greeting, each with its own key."""

    def __init__(self, key: bytes, their_key: bytes, me: int = 1, peer: int = 2) -> None:
        infos = tuple(local_info(1) for _ in range(THREE))
        self.called = mesh.Mesh(key, HostId(me), infos, lambda line: None)
        self.caller = mesh.Mesh(their_key, HostId(peer), infos, lambda line: None)

    def greet(self) -> list[HostId | Exception]:
        found: list[HostId | Exception] = []

        async def side(who: mesh.Mesh, sock: socket.socket, role: Role, peer: int | None) -> None:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            try:
                found.append(await who._greet(stream, role, peer))  # type: ignore[arg-type]
            except DsmsupError as error:
                found.append(error)
                await stream.aclose()

        async def script(nursery: trio.Nursery) -> None:
            ends = socket.socketpair()
            for end in ends:
                end.setblocking(False)
            async with trio.open_nursery() as both:
                both.start_soon(side, self.called, ends[0], Role.CALLED, None)
                both.start_soon(side, self.caller, ends[1], Role.CALLER, 1)

        play(script)
        return found


def test_both_prove_the_key() -> None:
    assert sorted(Pair(KEY, KEY).greet()) == [1, 2]


def test_a_wrong_key_is_turned_away() -> None:
    assert all(isinstance(end, DsmsupError) for end in Pair(KEY, bytes(32)).greet())


def test_only_higher_ids_call() -> None:
    assert any(isinstance(end, PeerError) for end in Pair(KEY, KEY, me=1, peer=1).greet())


def test_a_proof_for_home_is_none_here() -> None:
    """The roles are part of what is proved, so nothing can be relayed to another handshake."""
    hellos = [
        auth.pack_hello(auth.new_hello(role, THREE, HostId(1), dsmsup_version()))
        for role in (Role.CALLER, Role.CALLED)
    ]
    proof = auth.prove(KEY, Role.JOINER, *hellos)
    assert not auth.holds_key(KEY, Role.CALLER, *hellos, proof)


@pytest.mark.parametrize("pairs", [[(0, 1)], [(2, 1)], [(1, 3)], [(1, 2)]])
def test_home_cannot_name_links_that_are_not_there(pairs: list[tuple[int, int]]) -> None:
    one = mesh.Mesh(KEY, HostId(2), tuple(local_info(1) for _ in range(THREE)), lambda line: None)
    with pytest.raises(PeerError):
        one._check(Paths(pairs))
