# SPDX-License-Identifier: GPL-2.0-or-later
"""Handshake and assembly messages over a trio stream.

Every read asks for exactly the bytes of one message and no more: the byte after the
last one belongs to the `Link` that takes the socket over.
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar

import msgspec
import trio

from supervisor.cluster import auth
from supervisor.cluster.auth import Hello, Role, Verdict
from supervisor.cluster.hostinfo import HostInfo
from supervisor.errors import EXIT_FAILURE, AuthenticationFailed, PeerError, PeerLost
from supervisor.units import HostId

HANDSHAKE_S: Final = 5.0
"""From the connection to the joiner's HostInfo; a slower peer is dropped."""

_LENGTH: Final = struct.Struct("<I")
_MESSAGE_BYTES_MAX: Final = 1 << 20


class Note(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """Base of what home tells an authenticated joiner."""


class Admitted(Note, frozen=True):
    """Wait: the others have `patience_s` left to arrive."""

    patience_s: float


class Refused(Note, frozen=True):
    """The end, with the line that the user sees and the status of the command."""

    reason: str
    status: int = EXIT_FAILURE


class Welcome(Note, frozen=True):
    """All are there: the id given, and every host in order of id."""

    host_id: int
    infos: tuple[HostInfo, ...]


class Paths(Note, frozen=True):
    """The pairs of hosts other than home that have a link, the lower id first."""

    pairs: list[tuple[int, int]]


class Linked(msgspec.Struct, frozen=True, array_like=True):
    """What a host tells home: the hosts of lower ids, home aside, that it has a link to."""

    peers: list[int]


HomeNote = Admitted | Refused | Welcome | Paths
_T = TypeVar("_T")


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    """The next `count` bytes. Raises PeerLost when the stream ends before."""
    parts = bytearray()
    while len(parts) < count:
        try:
            piece = await stream.receive_some(count - len(parts))
        except trio.BrokenResourceError:
            piece = b""
        if not piece:
            raise PeerLost("connection closed")
        parts += piece
    return bytes(parts)


async def write(stream: trio.SocketStream, data: bytes) -> None:
    """Write all. Raises PeerLost when the peer is gone."""
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        raise PeerLost("connection closed") from None


async def tell(stream: trio.SocketStream, message: msgspec.Struct) -> None:
    """Send one message of the assembly."""
    body = msgspec.msgpack.encode(message)
    assert len(body) <= _MESSAGE_BYTES_MAX
    await write(stream, _LENGTH.pack(len(body)) + body)


async def hear(stream: trio.SocketStream, kind: type[_T]) -> _T:
    """Receive one message of the assembly. Raises PeerError on anything else."""
    (length,) = _LENGTH.unpack(await read_exactly(stream, _LENGTH.size))
    if length > _MESSAGE_BYTES_MAX:
        raise PeerError(f"a message of {length} bytes")
    body = await read_exactly(stream, length)
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise PeerError(f"a message that is none: {error}") from None


async def hear_note(stream: trio.SocketStream) -> HomeNote:
    """Receive what home tells a joiner."""
    note: HomeNote = await hear(stream, HomeNote)  # type: ignore[arg-type]
    return note


async def greet_as_home(
    stream: trio.SocketStream, key: bytes, hosts: int, version: str
) -> tuple[Hello, HostInfo]:
    """Home's side: who joins, proved. The caller bounds the time.

    Raises PeerError (a stranger), AuthenticationFailed (wrong key), VersionMismatch
    and PeerLost; each has been told to the joiner as far as it can hear it.
    """
    joiner_hello = await read_exactly(stream, auth.HELLO_BYTES)
    home_hello = auth.pack_hello(auth.new_hello(Role.HOME, hosts, HostId(0), version))
    try:
        hello = auth.parse_hello(joiner_hello, Role.JOINER, version)
    except auth.VersionMismatch:
        await write(stream, home_hello)
        await _linger(stream)
        raise
    await write(stream, home_hello)
    proof = await read_exactly(stream, auth.PROOF_BYTES)
    if not auth.holds_key(key, Role.JOINER, joiner_hello, home_hello, proof):
        await write(stream, bytes((Verdict.WRONG_KEY,)) + bytes(auth.PROOF_BYTES))
        await _linger(stream)
        raise AuthenticationFailed("wrong key")
    answer = auth.prove(key, Role.HOME, joiner_hello, home_hello)
    await write(stream, bytes((Verdict.WELCOME,)) + answer)
    return hello, await hear(stream, HostInfo)


async def greet_as_joiner(
    stream: trio.SocketStream,
    key: bytes,
    hosts: int,
    wanted: HostId | None,
    version: str,
    info: HostInfo,
    where: str,
) -> None:
    """The joiner's side, up to its HostInfo. The caller bounds the time.

    Raises AuthenticationFailed and VersionMismatch in words for the user, PeerError
    when no home of ours is there, PeerLost when it hangs up.
    """
    joiner_hello = auth.pack_hello(auth.new_hello(Role.JOINER, hosts, wanted, version))
    await write(stream, joiner_hello)
    home_hello = await read_exactly(stream, auth.HELLO_BYTES)
    try:
        auth.parse_hello(home_hello, Role.HOME, version)
    except auth.VersionMismatch as error:
        raise auth.VersionMismatch(f"cannot join {where}: {error}") from None
    await write(stream, auth.prove(key, Role.JOINER, joiner_hello, home_hello))
    verdict = await read_exactly(stream, auth.VERDICT_BYTES)
    auth.check_verdict(verdict, key, joiner_hello, home_hello, where)
    await tell(stream, info)


async def refuse(
    stream: trio.SocketStream, reason: str, status: int = EXIT_FAILURE
) -> None:
    """Tell an authenticated joiner why it may not join, and give it time to read it."""
    try:
        await tell(stream, Refused(reason, status))
        await _linger(stream)
    except PeerLost:
        pass


async def _linger(stream: trio.SocketStream) -> None:
    """Let the peer read our last words: closing on unread bytes would reset them away."""
    with trio.move_on_after(1):
        try:
            await stream.send_eof()
            for _ in range(16):
                if not await stream.receive_some(4096):
                    return
        except trio.BrokenResourceError:
            return
