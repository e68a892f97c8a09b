# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys on disk, and proofs that bind everything the two sides said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cluster import auth
from supervisor.cluster.auth import Role, VersionMismatch
from supervisor.errors import AuthenticationFailed, PeerError, UsageError
from supervisor.units import HostId

KEY = bytes(range(32))


def hello(role: Role, hosts: int = 2, wanted: HostId | None = None) -> bytes:
    return auth.pack_hello(auth.new_hello(role, hosts, wanted, "0.1.0"))


def test_keygen_writes_a_private_key_that_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        auth.keygen(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    key = auth.read_key(path)
    assert len(key) >= 32
    other = tmp_path / "other"
    auth.keygen(other)
    assert auth.read_key(other) != key


def test_keygen_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        auth.keygen(path)
    assert path.read_text() == "precious"
    with pytest.raises(UsageError, match="cannot write"):
        auth.keygen(tmp_path / "no" / "key")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"", 0o600, "is empty: make one with `dsmsup keygen"),
        (b" \n\n", 0o600, "is empty"),
        (b"x" * 31, 0o600, r"too short \(31 bytes, 32 needed\)"),
        (b"x" * 5000, 0o600, "too long"),
        (b"x" * 64, 0o640, r"mode 0640\): chmod 600 .*key"),
        (b"x" * 64, 0o604, "chmod 600"),
        (b"x" * 64, 0o620, "chmod 600"),
    ],
)
def test_a_bad_key_file_is_refused_with_its_mend(
    tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(UsageError, match=message) as caught:
        auth.read_key(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no key file .*dsmsup keygen"):
        auth.read_key(tmp_path / "none")
    with pytest.raises(UsageError, match="not a plain file"):
        auth.read_key(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UsageError, match="not a plain file"):
        auth.read_key(tmp_path / "pipe")
    with pytest.raises(UsageError, match="cannot read the key file /proc/self/mem: Input"):
        auth.read_key("/proc/self/mem")


def test_white_space_around_a_key_does_not_matter(tmp_path: Path) -> None:
    for name, content in (("a", b"k" * 40), ("b", b"k" * 40 + b"\n"), ("c", b" k" + b"k" * 39)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o400)
    assert len({auth.read_key(tmp_path / name) for name in "abc"}) == 1


@given(hosts=st.integers(1, 64), wanted=st.none() | st.integers(0, 64), role=st.sampled_from(Role))
def test_hello_survives_the_wire(hosts: int, wanted: int | None, role: Role) -> None:
    said = auth.new_hello(role, hosts, None if wanted is None else HostId(wanted), "1.2.3")
    assert auth.parse_hello(auth.pack_hello(said), role, "1.2.3") == said


@given(st.binary(min_size=auth.HELLO_BYTES, max_size=auth.HELLO_BYTES))
def test_no_bytes_make_the_parser_fail_otherwise(data: bytes) -> None:
    for text in (data, hello(Role.JOINER)[:8] + data[8:], hello(Role.JOINER)[:10] + data[10:]):
        try:
            auth.parse_hello(text, Role.JOINER, "0.1.0")
        except PeerError:
            continue
        except VersionMismatch as error:
            assert str(error).isprintable()


def test_version_mismatch_names_both() -> None:
    with pytest.raises(VersionMismatch, match=r"dsmsup 0\.1\.0 .*this host runs 0\.2\.0"):
        auth.parse_hello(hello(Role.JOINER), Role.JOINER, "0.2.0")


def test_a_reflected_hello_is_a_stranger() -> None:
    with pytest.raises(PeerError, match="reflected"):
        auth.parse_hello(hello(Role.HOME), Role.JOINER, "0.1.0")


def test_proof_binds_role_key_and_every_byte_of_both_hellos() -> None:
    joiner, home = hello(Role.JOINER), hello(Role.HOME)
    proof = auth.prove(KEY, Role.JOINER, joiner, home)
    assert auth.holds_key(KEY, Role.JOINER, joiner, home, proof)
    assert not auth.holds_key(KEY, Role.HOME, joiner, home, proof)
    assert not auth.holds_key(KEY[:-1] + b"\0", Role.JOINER, joiner, home, proof)
    assert not auth.holds_key(KEY, Role.JOINER, home, joiner, proof)
    assert not auth.holds_key(KEY, Role.JOINER, joiner, home, proof[:-1])
    for place in range(auth.HELLO_BYTES):
        changed = bytearray(joiner)
        changed[place] ^= 1
        assert not auth.holds_key(KEY, Role.JOINER, bytes(changed), home, proof)
        changed = bytearray(home)
        changed[place] ^= 0x80
        assert not auth.holds_key(KEY, Role.JOINER, joiner, bytes(changed), proof)


def test_nonces_are_fresh() -> None:
    assert len({hello(Role.JOINER) for _ in range(50)}) == 50


def test_the_joiner_believes_no_verdict_without_a_proof() -> None:
    joiner, home = hello(Role.JOINER), hello(Role.HOME)
    good = bytes((auth.Verdict.WELCOME,)) + auth.prove(KEY, Role.HOME, joiner, home)
    auth.check_verdict(good, KEY, joiner, home, "node1:7000")
    reflected = bytes((auth.Verdict.WELCOME,)) + auth.prove(KEY, Role.JOINER, joiner, home)
    for verdict in (reflected, bytes(33), bytes((7,)) + good[1:]):
        with pytest.raises(AuthenticationFailed, match="node1:7000 does not hold our key"):
            auth.check_verdict(verdict, KEY, joiner, home, "node1:7000")
    with pytest.raises(AuthenticationFailed, match="wrong key for node1:7000: give every host"):
        auth.check_verdict(b"\1" + bytes(32), KEY, joiner, home, "node1:7000")
