# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may join: a shared key, and a mutual proof of holding it. No I/O but the key file's.

The joiner speaks first, everything has a fixed size, and each side sends:

    joiner -> home   HELLO   (64 bytes: magic, protocol, role, hosts, id, version, nonce)
    home -> joiner   HELLO
    joiner -> home   PROOF   (32 bytes)
    home -> joiner   VERDICT (1 byte, then home's PROOF, of zeros when it refuses)

A proof is HMAC-SHA256 under the key over the prover's role and both hellos whole. So
it is bound to both nonces (no replay), to the role (home's proof is no joiner's, so
nothing can be reflected), and to all that the hellos say (nothing can be altered on
the way). The key itself never travels. What follows on the stream is neither encrypted
nor signed: the network between the hosts is trusted not to alter it.

The size of a hello, its magic, protocol and version never move, so that two versions can
at least tell each other that they differ.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from supervisor.errors import AuthenticationFailed, DsmsupError, PeerError, UsageError
from supervisor.units import HostId

PROTOCOL: Final = 5
"""Changes with anything two hosts say to each other."""

NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
KEY_BYTES_MIN: Final = 32
_KEY_BYTES_MAX: Final = 4096
_MAGIC: Final = b"dsmsup\r\n"
_HELLO: Final = struct.Struct("<8sHBxHH16s32s")
HELLO_BYTES: Final = _HELLO.size
VERDICT_BYTES: Final = 1 + PROOF_BYTES
_ANY_ID: Final = 0xFFFF


class Role(IntEnum):
    """Which side of the handshake a host is."""

    HOME = 1
    JOINER = 2
    CALLER = 3
    """Of two hosts other than home, the one that connects."""
    CALLED = 4


class Verdict(IntEnum):
    """Home's answer to a joiner's proof."""

    WELCOME = 0
    WRONG_KEY = 1


class VersionMismatch(DsmsupError):
    """The peer is a dsmsup, but of another version."""


class Hello(NamedTuple):
    """What each side says of itself before anything is proved."""

    role: Role
    hosts: int
    wanted: HostId | None
    version: str
    nonce: bytes
    protocol: int = PROTOCOL


def new_hello(role: Role, hosts: int, wanted: HostId | None, version: str) -> Hello:
    """A hello with a nonce of its own."""
    return Hello(role, hosts, wanted, version[:16], secrets.token_bytes(NONCE_BYTES))


def pack_hello(hello: Hello) -> bytes:
    """The 64 bytes of a hello."""
    wanted = _ANY_ID if hello.wanted is None else int(hello.wanted)
    version = hello.version.encode("ascii", "replace")[:16]
    return _HELLO.pack(
        _MAGIC, hello.protocol, hello.role, hello.hosts, wanted, version, hello.nonce
    )


def parse_hello(data: bytes, expected: Role, version: str) -> Hello:
    """Read a peer's hello of HELLO_BYTES bytes.

    Raises PeerError when it is none, or comes from our own side of the handshake (a
    reflection); VersionMismatch, in words for the user, when it is another version's.
    """
    assert len(data) == HELLO_BYTES
    magic, protocol, role, hosts, wanted, their_version, nonce = _HELLO.unpack(data)
    if magic != _MAGIC:
        raise PeerError("not a dsmsup")
    theirs = _printable(their_version)
    if protocol != PROTOCOL or theirs != version[:16]:
        raise VersionMismatch(
            f"it runs dsmsup {theirs or 'unknown'} (protocol {protocol}), this host runs"
            f" {version} (protocol {PROTOCOL}): install one version everywhere"
        )
    if role != expected:
        raise PeerError("a hello of our own side, reflected")
    return Hello(
        expected, hosts, None if wanted == _ANY_ID else HostId(wanted), theirs, nonce, protocol
    )


def prove(key: bytes, prover: Role, joiner_hello: bytes, home_hello: bytes) -> bytes:
    """The proof of `prover` that it holds `key`, over both packed hellos."""
    assert len(joiner_hello) == len(home_hello) == HELLO_BYTES
    text = b"dsmsup proof\0" + bytes((prover,)) + joiner_hello + home_hello
    return hmac.new(key, text, hashlib.sha256).digest()


def holds_key(
    key: bytes, prover: Role, joiner_hello: bytes, home_hello: bytes, proof: bytes
) -> bool:
    """Whether `proof` is what a `prover` with our key would have sent."""
    return hmac.compare_digest(prove(key, prover, joiner_hello, home_hello), proof)


def check_verdict(
    verdict: bytes, key: bytes, joiner_hello: bytes, home_hello: bytes, where: str
) -> None:
    """Joiner: judge home's verdict. Raises AuthenticationFailed, in words for the user."""
    assert len(verdict) == VERDICT_BYTES
    if verdict[0] == Verdict.WRONG_KEY:
        raise AuthenticationFailed(f"wrong key for {where}: give every host the same --key-file")
    if verdict[0] != Verdict.WELCOME or not holds_key(
        key, Role.HOME, joiner_hello, home_hello, verdict[1:]
    ):
        raise AuthenticationFailed(
            f"{where} does not hold our key: is another run's home listening there?"
        )


def _printable(text: bytes) -> str:
    """A stranger's text, fit for a message: printable ASCII only."""
    cut = text.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in cut)


# Key files ----------------------------------------------------------------------


def new_key() -> bytes:
    """A one-time key."""
    return secrets.token_bytes(KEY_BYTES_MIN)


def keygen(path: str | os.PathLike[str]) -> None:
    """Write a new key (64 hexadecimal digits) to a new file of mode 0600.

    Raises UsageError when the file exists (an old key is never overwritten) or cannot
    be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{os.fspath(path)} exists already: remove it first, or name another file"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {os.fspath(path)}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES_MIN) + "\n")
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise UsageError(f"cannot write {os.fspath(path)}: {error.strerror}") from None


def read_key(path: str | os.PathLike[str]) -> bytes:
    """The key in a file, without surrounding white space.

    Raises UsageError, naming the mend, when the file is missing, not a plain file, not
    ours alone to read, too short for a key or too long for one.
    """
    name = os.fspath(path)
    mend = f"make one with `dsmsup keygen {name}` and copy it to every host"
    try:
        # Non-blocking, or a named pipe would hold us until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(f"no key file {name}: {mend}") from None
    except OSError as error:
        raise UsageError(f"cannot read the key file {name}: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UsageError(f"the key file {name} is not a plain file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_mode & 0o077:
            raise UsageError(
                f"others may read the key file {name} (mode {status.st_mode & 0o777:04o}):"
                f" chmod 600 {name}"
            )
        try:
            content = file.read(_KEY_BYTES_MAX + 1)
        except OSError as error:
            raise UsageError(f"cannot read the key file {name}: {error.strerror}") from None
    key = content.strip()
    if len(content) > _KEY_BYTES_MAX:
        raise UsageError(f"the key file {name} is too long to be a key: {mend}")
    if len(key) < KEY_BYTES_MIN:
        state = "empty" if not key else f"too short ({len(key)} bytes, {KEY_BYTES_MIN} needed)"
        raise UsageError(f"the key file {name} is {state}: {mend}")
    return key
