# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of an assembly, and how its parts speak to the user."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import trio

from supervisor.cluster.hostinfo import HostInfo
from supervisor.cluster.transport import Link
from supervisor.units import HostId

Tell = Callable[[str], None]
"""Takes one line for the user, without `dsmsup: ` and without an end."""


@dataclass(slots=True)
class Membership:
    """One host's view of the assembled cluster.

    Invariant: `infos[i].id == i`, and there are `hosts` of them, the same at all hosts.
    Home's `links` lead to every other host; another host's to home, and to those hosts
    with which `paths` (pairs of hosts other than home, in both orders) names it.
    """

    host_id: HostId
    hosts: int
    links: dict[HostId, Link]
    infos: tuple[HostInfo, ...]
    paths: frozenset[tuple[HostId, HostId]] = frozenset()

    def close(self) -> None:
        """Close every link."""
        for link in self.links.values():
            link.close()


def hush(_line: str) -> None:
    """Tell nobody."""


def take_link(stream: trio.SocketStream, peer: HostId, info: HostInfo) -> Link:
    """Take the socket out of trio's hands."""
    family = stream.socket.family
    return Link(
        socket.socket(family, socket.SOCK_STREAM, fileno=stream.socket.detach()), peer, info.name
    )


def peer_address(stream: trio.SocketStream) -> str:
    """The peer's address without its port."""
    try:
        return plain(stream.socket.getpeername()[0])
    except OSError:
        return "somebody who left"


def plain(address: object) -> str:
    """An address as people write it: an IPv4 one that came through an IPv6 socket too."""
    return str(address).removeprefix("::ffff:")
