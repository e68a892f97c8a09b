# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster form: the same command on each host, over loopback."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Final

import clusters
import harness
import processes
import pytest
from harness import Place

DRIFTING: Final = Path(__file__).with_name("drifting.py")


@pytest.mark.parametrize("name", ["mutex", "stdio_all", "matmul", "malloc_all", "cxx_exceptions"])
def test_one_command_a_host(name: str, place: Place) -> None:
    native = place.run([str(harness.BIN / name)])
    stats = place.scratch / "stats.json"
    cluster = clusters.on_loopback(place, hosts=3)
    home, *others = cluster.start(harness.BIN / name, options=["--stats", str(stats)])
    run = home.wait()
    assert (run.status, run.stderr) == (0, b"")
    assert sorted(run.stdout.splitlines()) == sorted(native.stdout.splitlines())
    for other in others:
        end = other.wait(harness.LOSS_LIMIT_S)
        assert (end.status, end.stdout, end.stderr) == (0, b"", b"")
    place.check_clean()
    harness.read_stats(stats, hosts=3, status=0, threads=0)


def test_home_is_not_silent_while_it_maps_a_large_file(place: Place) -> None:
    """It copies what is private and writable: it must not be lost for that."""
    cluster = clusters.on_loopback(place)
    runs = cluster.start(harness.BIN / "sparse_file")
    assert [(run.wait().status, run.wait().stderr) for run in runs] == [(0, b"")] * 2


def test_status_reaches_every_host(place: Place) -> None:
    """Each command ends with the program's status, as each of `mpirun`'s does."""
    runs = clusters.on_loopback(place).start(harness.BIN / "exit_thread", "4", "9")
    assert [run.wait().status for run in runs] == [9, 9]


def test_only_home_reads_and_writes(place: Place) -> None:
    cluster = clusters.on_loopback(place)
    home = place.start(cluster.command(0, harness.BIN / "echo"), stdin=b"from home\n")
    other = place.start(cluster.command(1, harness.BIN / "echo"), stdin=b"not from here\n")
    assert home.wait().stdout == b"from home\n"
    assert other.wait().stdout == b""


def test_other_hosts_need_no_program(place: Place) -> None:
    cluster = clusters.on_loopback(place)
    home = place.start(cluster.command(0, harness.BIN / "mutex"))
    other = place.start(cluster.command(1, "/not/here/mutex"))
    assert home.wait().stdout == b"mutex: 1200\n"
    assert other.wait().status == 0


@pytest.mark.root
def test_threads_that_a_host_may_not_make_go_on_at_home(place: Place) -> None:
    """Its user may have one task of the program's there, beside three of dsmsup's own."""
    harness.need("setpriv")
    rights = "-all,+dac_override,+dac_read_search"  # to read the checkout and the key
    user = ["setpriv", "--reuid", "54321", "--clear-groups",
            "--inh-caps", rights, "--ambient-caps", rights]  # fmt: skip
    cluster = clusters.on_loopback(place)._replace(prefixes=((), ("prlimit", "--nproc=4", *user)))
    home = place.start(cluster.command(0, harness.BIN / "endless", "6", "1"))
    other = place.start(cluster.command(1, "-v", harness.BIN / "endless", "6", "1"))
    run = home.wait()
    assert (run.status, run.stderr) == (0, b"")
    assert run.stdout == b"ready\nendless: counted some\n"
    back = [line for line in other.wait().own_lines() if "a thread goes back home" in line]
    assert back
    assert all("ulimit -u" in line for line in back)


@pytest.mark.parametrize("unable", [0, 1])
def test_a_host_that_cannot_take_part_ends_every_host(unable: int, place: Place) -> None:
    """The others need not wait for it."""
    few = ("prlimit", "--nofile=24:24")
    prefixes = (few, ()) if unable == 0 else ((), few)
    runs = clusters.on_loopback(place)._replace(prefixes=prefixes).start(harness.BIN / "mutex")
    for run in runs:
        end = run.wait(harness.RUN_LIMIT_S / 2)
        assert (end.status, end.stdout) == (125, b"")
        (line,) = end.own_lines()
        assert "only 24 files" in line and "ulimit -n" in line


@pytest.mark.parametrize("name", [b"./not_here", b"./not_here_\xff"])
def test_a_program_that_is_not_there_ends_every_host(name: bytes, place: Place) -> None:
    """The others need not wait for a home that has ended."""
    home, other = clusters.on_loopback(place).start(os.fsdecode(name))
    ends = [home.wait(harness.LOSS_LIMIT_S), other.wait(harness.LOSS_LIMIT_S)]
    assert [end.status for end in ends] == [127, 127]
    assert [len(end.own_lines()) for end in ends] == [1, 1]
    assert all("./not_here" in end.own_lines()[0] for end in ends)


def test_order_of_arrival_gives_the_ids(place: Place) -> None:
    """Without --host-id whoever comes first is home; the program runs once."""
    cluster = clusters.on_loopback(place)
    argv = cluster.command(0, harness.BIN / "mutex")
    at = argv.index("--host-id")
    del argv[at : at + 2]
    runs = [place.start(argv) for _ in range(2)]
    ends = [run.wait() for run in runs]
    assert [end.status for end in ends] == [0, 0]
    assert sorted(end.stdout for end in ends) == [b"", b"mutex: 1200\n"]


def test_named_by_environment_only(place: Place) -> None:
    cluster = clusters.on_loopback(place)
    env = {
        "DSMSUP_HOSTS": "2",
        "DSMSUP_RENDEZVOUS": f"127.0.0.1:{cluster.port}",
        "DSMSUP_KEY_FILE": str(cluster.key),
    }
    argv = [*harness.dsmsup_command(), "exec", "./mutex"]
    home = place.start(argv, env=env | {"DSMSUP_HOST_ID": "0"}, cwd=harness.BIN)
    other = place.start(argv, env=env | {"DSMSUP_HOST_ID": "1"}, cwd=harness.BIN)
    assert (home.wait().status, other.wait().status) == (0, 0)
    assert home.wait().stdout == b"mutex: 1200\n"


def test_wrong_key_is_refused_and_disturbs_nobody(place: Place) -> None:
    cluster = clusters.on_loopback(place)
    wrong = clusters.make_key(place, "wrong")
    home = place.start(cluster.command(0, harness.BIN / "mutex"))
    intruder = place.start(cluster.command(1, harness.BIN / "mutex", key=wrong)).wait()
    assert (intruder.status, intruder.stdout) == (125, b"")
    assert len(intruder.stderr.splitlines()) == len(intruder.own_lines()) == 1
    assert "key" in intruder.own_lines()[0]
    right = place.start(cluster.command(1, harness.BIN / "mutex"))
    run = home.wait()
    assert (run.status, run.stdout) == (0, b"mutex: 1200\n")
    assert right.wait().status == 0


def test_strangers_at_the_door_disturb_nobody(place: Place) -> None:
    """Connections that say nothing, nonsense, or go away while home waits and runs."""
    cluster = clusters.on_loopback(place)
    home = place.start(cluster.command(0, harness.BIN / "endless", "4", "1"))
    address = ("127.0.0.1", cluster.port)
    silent = connect_when_open(address, home)
    with silent, socket.create_connection(address) as rude:
        rude.sendall(os.urandom(10000))
        socket.create_connection(address).close()
        other = place.start(cluster.command(1, harness.BIN / "endless", "4", "1"))
        run = home.wait()
    assert (run.status, run.stdout) == (0, b"ready\nendless: counted some\n")
    assert other.wait().status == 0


def connect_when_open(address: tuple[str, int], home: harness.Running) -> socket.socket:
    """A connection to home as soon as it listens, which it does before its limit of a run."""
    while home.popen.poll() is None:
        try:
            return socket.create_connection(address, timeout=1)
        except ConnectionRefusedError:
            continue
    raise AssertionError(home.stderr.read_text())


def test_key_that_others_may_read_is_refused(place: Place) -> None:
    cluster = clusters.on_loopback(place)
    cluster.key.chmod(0o644)
    run = place.start(cluster.command(0, harness.BIN / "mutex")).wait()
    assert run.status == 125
    assert len(run.own_lines()) == 1


def test_threads_compute_on_every_host(place: Place) -> None:
    """Not only started there: each host's guest uses its processor."""
    run = place.start([*harness.dsmsup_command(), "exec", "--no-migrate", "-n", "3",
                       str(harness.BIN / "endless"), "6", "60"])
    run.wait_for_output(b"ready\n")
    guests = [process.pid for process in place.ours() if process.tracer]
    assert len(guests) == 3
    before_s = {pid: processes.cpu_s(pid) for pid in guests}
    end_s = time.monotonic() + harness.RUN_LIMIT_S / 2
    while min(processes.cpu_s(pid) - before_s[pid] for pid in guests) < 0.3:
        assert time.monotonic() < end_s, {
            pid: processes.cpu_s(pid) - before_s[pid] for pid in guests
        }
        time.sleep(processes.POLL_S)
    run.popen.terminate()
    assert run.wait(harness.LOSS_LIMIT_S).status == 143
    place.check_clean()


@pytest.mark.parametrize("name", ["mutex", "omp_loops"])
def test_under_mpirun(name: str, place: Place) -> None:
    """Count, id and meeting place come from Open MPI's environment."""
    harness.need("mpirun")
    native = place.run([str(harness.BIN / name)])
    launch = ["mpirun", "-n", "2", "--oversubscribe"]
    if os.geteuid() == 0:
        launch.append("--allow-run-as-root")
    run = place.run([*launch, *harness.dsmsup_command(), "exec", str(harness.BIN / name)])
    assert (run.status, run.stdout) == (0, native.stdout), run.stderr.decode(errors="replace")


def test_status_under_mpirun(place: Place) -> None:
    harness.need("mpirun")
    launch = ["mpirun", "-n", "2", "--oversubscribe"]
    if os.geteuid() == 0:
        launch.append("--allow-run-as-root")
    argv = [*harness.dsmsup_command(), "exec", str(harness.BIN / "exit_thread"), "4", "9"]
    assert place.run([*launch, *argv]).status == 9


@pytest.mark.root
def test_hosts_whose_clocks_differ_agree_on_the_time(place: Place) -> None:
    """The second host in a time namespace a day ahead: its threads read home's clock."""
    harness.need("unshare")
    ahead = ["unshare", "--time", "--monotonic", "86400", "--boottime", "86400"]
    cluster = clusters.on_loopback(place)._replace(prefixes=((), ahead))
    home, lender = cluster.start(harness.BIN / "clock_order")
    done = home.wait()
    assert (done.status, done.own_lines()) == (0, [])
    assert done.stdout == b"clock_order: 240 readings\n"
    assert lender.wait().status == 0


@pytest.mark.parametrize("drift_ppm", [120, -120])
def test_hosts_whose_clocks_drift_agree_on_the_time(drift_ppm: int, place: Place) -> None:
    """Home's clocks at another rate than the machine's, for some seconds.

    What a message takes is 0.2 ms or so; the clocks drift by three times that.
    """
    cluster = clusters.on_loopback(place)
    program = (harness.BIN / "clock_messages", "6000")
    home = place.start(
        [sys.executable, str(DRIFTING), str(drift_ppm), *cluster.command(0, *program)]
    )
    lender = place.start(cluster.command(1, *program))
    done = home.wait()
    assert done.status == 0, done.stderr.decode(errors="replace")
    assert done.own_lines() == []
    assert done.stdout == b"clock_messages: 6000 ms\n"
    assert lender.wait().status == 0
