# SPDX-License-Identifier: GPL-2.0-or-later
"""How a job's processes share a text: PMI-1 and abstract sockets here, real launchers below."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.cluster import exchange
from supervisor.errors import DsmsupError

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0


def local(rank: int, size: int, text: str = "-", wait_s: float = 10.0, job: str = "") -> str:
    name = job or f"test {os.getpid()}"
    return exchange.share("local", name, rank, size, text, {}, wait_s)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_local_processes_share_whoever_comes_first(size: int) -> None:
    with ThreadPoolExecutor(size) as pool:
        others = [pool.submit(local, rank, size) for rank in range(1, size)]
        assert local(0, size, "the-text") == "the-text"
        assert all(other.result(LIMIT_S) == "the-text" for other in others)


def test_local_strangers_do_not_count_and_cannot_hang_it() -> None:
    job = f"strangers {os.getpid()}"
    address = exchange._address_of(job)
    with ThreadPoolExecutor(1) as pool:
        home = pool.submit(local, 0, 2, "the-text", 10.0, job)
        silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while silent.connect_ex(address):
            assert not home.done()
        hasty = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        hasty.connect(address)
        hasty.close()
        assert local(1, 2, job=job) == "the-text"
        assert home.result(LIMIT_S) == "the-text"
        silent.close()


def test_local_another_user_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    job = f"other user {os.getpid()}"
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        assert exchange._same_user(near)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert not exchange._same_user(near)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind(exchange._address_of(job))
        squatter.listen()
        with pytest.raises(DsmsupError, match="another user pretends"):
            local(1, 2, wait_s=2, job=job)
        with pytest.raises(DsmsupError, match="cannot meet this job's other processes"):
            local(0, 2, wait_s=2, job=job)


def test_local_missing_processes_are_named() -> None:
    with pytest.raises(DsmsupError, match=r"processes 1, 2 of 3 did not come within 0\.2 s"):
        local(0, 3, "x", 0.2)
    with pytest.raises(DsmsupError, match=r"first process did not show itself within 0\.2 s"):
        local(1, 3, "x", 0.2)


class Proxy(threading.Thread):
    """A launcher's end of PMI-1 for one process of a job of one."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.far, self.near = socket.socketpair()
        self.answers = answers
        self.asked: list[str] = []
        self.start()

    def run(self) -> None:
        with self.near, self.near.makefile("rw") as lines:
            for line in lines:
                self.asked.append(line.strip())
                name = line.split()[0].partition("=")[2]
                if name not in self.answers:
                    return
                lines.write(self.answers[name] + "\n")
                lines.flush()


ANSWERS = {
    "init": "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0",
    "get_my_kvsname": "cmd=my_kvsname kvsname=kvs_7_0",
    "put": "cmd=put_result rc=0 msg=success",
    "barrier_in": "cmd=barrier_out",
    "get": "cmd=get_result rc=0 msg=success value=ab@7@a,b=c",
    "finalize": "cmd=finalize_ack",
}


def pmi1(answers: dict[str, str], rank: int, wait_s: float = 10.0) -> tuple[str, list[str]]:
    proxy = Proxy(answers)
    try:
        environ = {"PMI_FD": str(proxy.far.detach())}
        return exchange.share("pmi1", "", rank, 2, "my-text", environ, wait_s), proxy.asked
    finally:
        proxy.join(LIMIT_S)


def test_pmi1_puts_and_gets() -> None:
    text, asked = pmi1(ANSWERS, 0)
    assert text == "ab@7@a,b=c"
    assert asked == [
        "cmd=init pmi_version=1 pmi_subversion=1",
        "cmd=get_my_kvsname",
        "cmd=put kvsname=kvs_7_0 key=dsmsup-rendezvous value=my-text",
        "cmd=barrier_in",
        "cmd=get kvsname=kvs_7_0 key=dsmsup-rendezvous",
        "cmd=finalize",
    ]
    _, asked = pmi1(ANSWERS, 1)
    assert not any("cmd=put" in line for line in asked)


@pytest.mark.parametrize(
    "change",
    [
        {"init": "cmd=response_to_init rc=-1"},
        {"get": "cmd=get_result rc=-1 msg=key_not_found"},
        {"get": "cmd=get_result rc=0"},
        {"put": "x" * 5000},
        {"barrier_in": "garbage \udcff".encode("utf-8", "replace").decode()},
    ],
)
def test_pmi1_trouble_is_one_line(change: dict[str, str]) -> None:
    with pytest.raises(DsmsupError, match=r"PMI connection does not work .*--hosts") as caught:
        pmi1(ANSWERS | change, 0)
    assert "\n" not in str(caught.value)


def test_pmi1_that_ends_or_never_answers_or_was_never_open() -> None:
    with pytest.raises(DsmsupError, match="no answer to cmd=barrier_in"):
        pmi1({name: ANSWERS[name] for name in ("init", "get_my_kvsname", "put")}, 0)
    near, far = socket.socketpair()
    with near, pytest.raises(DsmsupError, match="no answer to cmd=init"):
        exchange.share("pmi1", "", 0, 2, "x", {"PMI_FD": str(far.detach())}, 0.1)
    with pytest.raises(DsmsupError, match="PMI connection"):
        exchange.share("pmi1", "", 0, 2, "x", {"PMI_FD": "987"}, 1)


# The launchers themselves -----------------------------------------------------------------

STORY = """
import os, signal, sys, trio
signal.alarm(60)  # Whatever becomes of the test, this process ends.
from supervisor import standard_streams
from supervisor.cluster import launch, membership
from supervisor.errors import DsmsupError
try:
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    plan = launch.plan(launch.LaunchOptions(), os.environ, cpus)
    member = trio.run(membership.assemble, plan)
except DsmsupError as error:
    standard_streams.say(str(error))
    sys.exit(error.exit_status)
os.write(1, f"host {member.host_id} of {member.hosts}, {len(member.links)} links\\n".encode())
"""

OPEN_MPI = ("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe")
HYDRA = ("mpiexec.hydra",)


def launched(command: tuple[str, ...], *options: str, story: str = STORY) -> str:
    if shutil.which(command[0]) is None:
        if os.environ.get("DSMSUP_TEST_STRICT") == "1":
            pytest.fail(f"{command[0]} is missing")
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [*command, *options, sys.executable, "-c", story],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [OPEN_MPI, HYDRA])
@pytest.mark.parametrize("count", [2, 3])
def test_under_a_launcher_as_it_is(command: tuple[str, ...], count: int) -> None:
    lines = launched(command, "-n", str(count)).splitlines()
    assert sorted(lines) == [f"host {id_} of {count}, {count - 1} links" for id_ in range(count)]


def test_open_mpi_without_its_library(tmp_path: Path) -> None:
    """A library that cannot be loaded leaves the socket of one node."""
    broken = tmp_path / "libpmix.so.2"
    broken.write_bytes(b"not a library")
    shutil.copy(broken, tmp_path / "libpmix.so")
    # Only the processes see it: mpirun itself needs the real one.
    path = f"LD_LIBRARY_PATH={tmp_path}"
    check = "import os\nfrom supervisor.cluster import pmix\nassert not pmix.available(os.environ)"
    lines = launched(OPEN_MPI, "-n", "2", "env", path, story=check + STORY).splitlines()
    assert sorted(lines) == [
        "host 0 of 2, 1 links",
        "host 1 of 2, 1 links",
    ]


def test_credentials_have_the_kernels_shape() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        raw = near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("3i", raw) == (os.getpid(), os.getuid(), os.getgid())
