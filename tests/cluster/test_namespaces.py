# SPDX-License-Identifier: GPL-2.0-or-later
"""Two machines in one: network namespaces joined by a veth pair, and a cut between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 30.0

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="ip (iproute2) is not installed"),
]

STORY = """
import select, signal, sys, time, trio
signal.alarm(60)  # Whatever becomes of the test, this process ends.
from supervisor.cluster import membership
from supervisor.cluster.launch import LaunchOptions, plan
from supervisor.cluster.transport import CONTROL, SILENCE_S_MAX
from supervisor.errors import DsmsupError, PeerLost

def tell(text):
    print(text, flush=True)

rendezvous, key_file, host_id = sys.argv[1:4]
try:
    options = LaunchOptions(
        hosts=2, rendezvous=rendezvous, key_file=key_file, host_id=host_id or None, join_timeout=15
    )
    member = trio.run(membership.assemble, plan(options, {}, (0,)))
except DsmsupError as error:
    tell(f"failed: {error}")
    sys.exit(error.exit_status)
(link,) = member.links.values()
link.send(CONTROL, b"hello")
begin = time.monotonic()
while True:
    now = time.monotonic()
    link.beat(now)
    link.flush()
    if select.select([link], [], [], 0.1)[0]:
        try:
            for frame in link.receive():
                tell(f"host {member.host_id} heard {frame.payload.decode()} from {link.name}")
        except PeerLost as error:
            tell(f"lost: {error}")
            break
    if link.silent_s(time.monotonic()) > SILENCE_S_MAX:
        tell("lost: silence")
        break
"""


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    names = (f"dsmsup-a-{os.getpid()}", f"dsmsup-b-{os.getpid()}")
    ip("netns", "add", names[0])
    try:
        ip("netns", "add", names[1])
        ip(
            "link",
            "add",
            "veth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "veth0",
            "netns",
            names[1],
        )
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"198.18.0.{number}/24", "dev", "veth0")
            ip("-n", name, "addr", "add", f"fd00:dead::{number}/64", "dev", "veth0", "nodad")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=LIMIT_S)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=LIMIT_S)


def start(name: str, rendezvous: str, key_file: Path, host_id: str = "") -> subprocess.Popen[str]:
    words = [sys.executable, "-c", STORY, rendezvous, str(key_file), host_id]
    return subprocess.Popen(
        ["ip", "netns", "exec", name, *words],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("k" * 64)
    path.chmod(0o600)
    return path


def test_the_host_that_has_the_address_is_home_and_a_cut_is_noticed(
    namespaces: tuple[str, str], key_file: Path
) -> None:
    near, far = namespaces
    where = "198.18.0.1:7007"
    with start(far, where, key_file) as other, start(near, where, key_file) as home:
        try:
            heard = line_of(home)
            assert heard.startswith("host 0 heard hello from ")
            assert heard.endswith("at 198.18.0.2")
            assert line_of(other).endswith("at 198.18.0.1")
            # That nobody is lost while only heartbeats pass takes this long to see.
            time.sleep(4.5)
            assert home.poll() is None and other.poll() is None
            ip("-n", near, "link", "set", "veth0", "down")
            cut = time.monotonic()
            for process in (home, other):
                assert line_of(process).startswith("lost: ")
            assert time.monotonic() - cut < 5
            assert home.wait(LIMIT_S) == other.wait(LIMIT_S) == 0
        finally:
            home.kill()
            other.kill()


def test_a_killed_host_is_noticed_at_once_over_ipv6(
    namespaces: tuple[str, str], key_file: Path
) -> None:
    near, far = namespaces
    where = "[fd00:dead::1]:7007"
    with start(near, where, key_file, "0") as home, start(far, where, key_file, "1") as other:
        try:
            assert line_of(home).endswith("at fd00:dead::2")
            other.kill()
            begin = time.monotonic()
            assert "lost: host 1 (" in line_of(home)
            assert time.monotonic() - begin < 2
        finally:
            home.kill()
            other.kill()
