# SPDX-License-Identifier: GPL-2.0-or-later
"""Links between hosts other than home, over which page data goes directly.

Made once all hosts are there, before the run begins: each host calls those with lower
ids at the address under which home knows them, both prove that they hold the key (with
roles of their own, so that no proof for home serves here), and tells home whom it
reached. Home answers with the pairs that have a link. Where a network lets two hosts
not reach each other, their data goes through home: slower, and nothing else.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from supervisor.cluster import auth, handshake, rendezvous
from supervisor.cluster.auth import Role
from supervisor.cluster.handshake import Linked, Paths
from supervisor.cluster.hostinfo import HostInfo, dsmsup_version
from supervisor.cluster.plan import ClusterPlan
from supervisor.cluster.roster import Tell, take_link
from supervisor.cluster.transport import Link, tune
from supervisor.errors import DsmsupError, PeerError, PeerLost
from supervisor.units import HOME, HostId

CALL_S: Final = 2.0
"""A host that cannot be reached within this time is not waited for."""

MESH_S: Final = 10.0
"""All of it, at home and elsewhere: longer means that somebody is lost."""

_CALLS_MAX: Final = 64
"""Connections being proved at once."""

Pairs = frozenset[tuple[HostId, HostId]]
"""Pairs of hosts with a link, each in both orders."""


def both_orders(pairs: list[tuple[int, int]]) -> Pairs:
    return frozenset((HostId(a), HostId(b)) for pair in pairs for a, b in (pair, pair[::-1]))


def listen(plan: ClusterPlan) -> socket.socket | None:
    """Where the other hosts can call this one; None where there are none, or no port is had."""
    if plan.hosts <= 2:
        return None
    try:
        # Virtual hosts are all of this machine: nobody else has to see the port.
        listener = (
            rendezvous.listen_on_loopback() if plan.home_listens else rendezvous.listen_anywhere(0)
        )
    except OSError:
        return None
    tune(listener)
    return listener


class Mesh:
    """One host's links to the hosts other than home while they are made."""

    def __init__(self, key: bytes, me: HostId, infos: tuple[HostInfo, ...], log: Tell) -> None:
        self._key, self._me, self._infos, self._log = key, me, infos, log
        self._found: dict[HostId, trio.SocketStream] = {}
        self._changed = trio.Event()
        self._proving = 0

    async def make(
        self, home: trio.SocketStream, listener: socket.socket | None
    ) -> tuple[dict[HostId, Link], Pairs]:
        """The links, and the pairs of all hosts. The caller bounds the time.

        Raises PeerLost when home goes, PeerError when it says what makes no sense.
        """
        failure: DsmsupError | None = None
        pairs: list[tuple[int, int]] = []
        wanted: set[HostId] = set()
        try:
            async with trio.open_nursery() as nursery:
                if listener is not None:
                    nursery.start_soon(self._accept, listener, nursery)
                try:
                    pairs, wanted = await self._agree(home)
                except DsmsupError as error:
                    failure = error  # to be raised as it is, not in a group
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
        except BaseException:
            for stream in self._found.values():
                stream.socket.close()
            raise
        links: dict[HostId, Link] = {}
        for id_, stream in sorted(self._found.items()):
            if id_ in wanted:
                links[id_] = take_link(stream, id_, self._infos[id_])
            else:
                stream.socket.close()
        return links, both_orders(pairs)

    async def _agree(self, home: trio.SocketStream) -> tuple[list[tuple[int, int]], set[HostId]]:
        """Call the others and hear from home; all pairs, and whom this host has a link with."""
        async with trio.open_nursery() as calls:
            for id_ in range(1, self._me):
                calls.start_soon(self._call, HostId(id_))
        called = [int(id_) for id_ in sorted(self._found) if id_ < self._me]
        await handshake.tell(home, Linked(called))
        note = await handshake.hear_note(home)
        if not isinstance(note, Paths):
            raise PeerError("home does not say which hosts have links")
        wanted = self._check(note)
        while not wanted <= self._found.keys():
            self._changed = trio.Event()
            await self._changed.wait()
        return note.pairs, wanted

    def _check(self, note: Paths) -> set[HostId]:
        hosts = len(self._infos)
        for low, high in note.pairs:
            if not HOME < low < high < hosts:
                raise PeerError(f"home names a link between hosts {low} and {high}")
        mine = {
            HostId(low + high - self._me) for low, high in note.pairs if self._me in (low, high)
        }
        called = {id_ for id_ in mine if id_ < self._me}
        if not called <= self._found.keys():
            raise PeerError("home names a link that was not made")
        return mine

    async def _call(self, peer: HostId) -> None:
        info = self._infos[peer]
        where = f"host {peer} ({info.name})"
        if not (info.address and info.port):
            self._log(f"no link to {where}, which cannot listen: pages go through home")
            return
        stream: trio.SocketStream | None = None
        try:
            with trio.fail_after(CALL_S):
                family = socket.AF_INET6 if ":" in info.address else socket.AF_INET
                address = rendezvous.Address(family, (info.address, info.port))
                stream = await rendezvous.dial(address, trio.current_time() + CALL_S)
                await self._greet(stream, Role.CALLER, peer)
        except (OSError, DsmsupError, trio.TooSlowError) as error:
            if stream is not None:
                stream.socket.close()
            reason = getattr(error, "strerror", None) or str(error) or "no answer"
            self._log(f"no link to {where} ({reason}): pages go through home")
            return
        self._found[peer] = stream

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        server = trio.socket.from_stdlib_socket(listener)
        while True:
            try:
                sock, _ = await server.accept()
            except OSError:
                await trio.sleep(0.05)
                continue
            if self._proving >= _CALLS_MAX:
                sock.close()
                continue
            nursery.start_soon(self._answer, trio.SocketStream(sock))

    async def _answer(self, stream: trio.SocketStream) -> None:
        self._proving += 1
        peer: HostId | None = None
        try:
            with trio.fail_after(CALL_S):
                peer = await self._greet(stream, Role.CALLED, None)
        except (OSError, DsmsupError, trio.TooSlowError) as error:
            self._log(f"a caller is turned away: {error or 'too slow'}")
        finally:
            self._proving -= 1
            if peer is None:
                stream.socket.close()
        if peer is not None:
            if old := self._found.pop(peer, None):
                old.socket.close()
            self._found[peer] = stream
            self._changed.set()

    async def _greet(self, stream: trio.SocketStream, role: Role, peer: HostId | None) -> HostId:
        """Prove ourselves, and hear the other's proof; whom we speak to."""
        hosts, version = len(self._infos), dsmsup_version()
        other = Role.CALLED if role is Role.CALLER else Role.CALLER
        ours = auth.pack_hello(auth.new_hello(role, hosts, self._me, version))
        if role is Role.CALLER:
            await handshake.write(stream, ours)
        theirs = await handshake.read_exactly(stream, auth.HELLO_BYTES)
        hello = auth.parse_hello(theirs, other, version)
        known = hello.wanted is not None and hello.wanted == peer
        if peer is None:  # those with higher ids call
            known = hello.wanted is not None and self._me < hello.wanted < hosts
        if not known or hello.hosts != hosts:
            raise PeerError("a host of another run")
        assert hello.wanted is not None
        first, second = (ours, theirs) if role is Role.CALLER else (theirs, ours)
        proof = auth.prove(self._key, role, first, second)
        if role is Role.CALLED:
            await handshake.write(stream, ours)
        else:
            await handshake.write(stream, proof)
        answer = await handshake.read_exactly(stream, auth.PROOF_BYTES)
        if not auth.holds_key(self._key, other, first, second, answer):
            raise PeerError("it does not hold our key")
        if role is Role.CALLED:
            await handshake.write(stream, proof)
        return hello.wanted


async def agree(streams: dict[HostId, trio.SocketStream]) -> Pairs:
    """Home: hear whom each host reached, and tell all. The caller bounds the time.

    Raises PeerLost, or PeerError on an answer that makes no sense, naming the host.
    """
    pairs: list[tuple[int, int]] = []
    for host, stream in sorted(streams.items()):
        try:
            linked = await handshake.hear(stream, Linked)
        except PeerLost:
            raise PeerLost(f"host {host} was lost while the cluster assembled") from None
        for peer in linked.peers:
            if not HOME < peer < host:
                raise PeerError(f"host {host} claims a link to host {peer}")
            pairs.append((peer, int(host)))
    for host, stream in streams.items():
        try:
            await handshake.tell(stream, Paths(pairs))
        except PeerLost:
            raise PeerLost(f"host {host} was lost while the cluster assembled") from None
    return both_orders(pairs)
