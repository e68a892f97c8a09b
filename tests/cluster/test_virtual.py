# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual hosts: what a forked host inherits, and that none is ever left over.

Each story runs in a Python process of its own, because it forks, and so that the whole
tree of processes can be watched from outside.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from supervisor.cluster.plan import share_cpus

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 20.0

PRELUDE = """
import os, signal, sys, time, trio
from supervisor.cluster import membership, virtual
from supervisor.cluster.plan import ClusterPlan, VirtualPlan, share_cpus
from supervisor.errors import DsmsupError, PeerLost
from supervisor.units import HOME, HostId

signal.alarm(60)  # Whatever becomes of the test, this process ends.
CPUS = tuple(sorted(os.sched_getaffinity(0)))

def cluster(hosts):
    return VirtualPlan(hosts, share_cpus(CPUS, hosts))

def join(plan):
    return trio.run(membership.assemble, plan)

def wait_for_loss(member):
    import select
    link = member.links[HOME]
    while True:
        select.select([link], [], [])
        try:
            link.receive()
        except PeerLost as error:
            return str(error)

def tell(text):
    os.write(2, (text + "\\n").encode())
"""


def start(story: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", PRELUDE + textwrap.dedent(story)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **{"stdin": subprocess.DEVNULL, **options},
    )


def run(story: str) -> tuple[str, str]:
    """Run a story to its end; stdout and stderr."""
    with start(story) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out, err


def gone(pid: int) -> bool:
    """Whether a process has ended within the limit, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], LIMIT_S)[0])
    finally:
        os.close(descriptor)


def test_children_join_exit_and_leave_nothing() -> None:
    out, err = run("""
        def main(plan):
            member = join(plan)
            tell(f"host {member.host_id} of {member.hosts} on {plan.cpus}")
            wait_for_loss(member)
            return 40 + member.host_id

        hosts = virtual.spawn(cluster(3), main)
        member = join(hosts.plan)
        assert sorted(member.links) == [1, 2] and member.host_id == 0
        for child in hosts.children:
            assert hosts.host_of(child.pid) == child.host
        assert hosts.host_of(1) is None
        before = sorted(os.listdir("/proc/self/fd"))
        first = hosts.children[0]
        member.links[first.host].close()
        pid, status = os.waitpid(first.pid, 0)  # As a driver's loop would.
        assert os.waitstatus_to_exitcode(status) == 41
        member.close()
        hosts.reap()
        try:
            os.waitpid(-1, 0)
            print("a child is left")
        except ChildProcessError:
            print("none left")
        assert len(os.listdir("/proc/self/fd")) == len(before) - 4
    """)
    assert out == "none left\n"
    assert sorted(line.split(" on")[0] for line in err.splitlines()) == [
        "host 1 of 3",
        "host 2 of 3",
    ]


def test_one_host_needs_no_child_and_no_socket() -> None:
    out, _ = run("""
        before = os.listdir("/proc/self/fd")
        hosts = virtual.spawn(cluster(1), None)
        member = join(hosts.plan)
        print(member.host_id, member.hosts, member.links, len(member.infos), hosts.children)
        assert os.listdir("/proc/self/fd") == before
    """)
    assert out == "0 1 {} 1 []\n"


def test_how_long_to_wait_is_told_to_all() -> None:
    _, err = run("""
        from dataclasses import replace
        hosts = virtual.spawn(
            replace(cluster(2), join_timeout_s=7.5), lambda plan: int(plan.join_timeout_s * 2)
        )
        _, status = os.waitpid(hosts.children[0].pid, 0)
        tell(f"{hosts.plan.join_timeout_s} {os.waitstatus_to_exitcode(status)}")
        hosts.reap()
    """)
    assert err == "7.5 15\n"


def test_what_a_child_inherits() -> None:
    out, err = run("""
        unwanted, wanted = os.pipe()
        os.set_inheritable(unwanted, True)
        print("printed once")

        def is_open(descriptor):
            try:
                os.fstat(descriptor)
                return True
            except OSError:
                return False

        def main(plan):
            assert os.getsid(0) == os.getpid() != os.getsid(front)
            assert os.read(0, 1) == b""
            print("no word of ours may reach the program's output")
            sys.stdout.flush()
            assert os.sched_getaffinity(0) == set(plan.cpus)
            os.write(wanted, b"kept")
            try:
                os.read(unwanted, 1)
                return 1
            except OSError:
                pass
            assert {fd for fd in range(64) if is_open(fd)} == {0, 1, 2, wanted}
            wait_for_loss(join(plan))
            return 0

        front = os.getpid()
        hosts = virtual.spawn(cluster(2), main, keep=[wanted])
        assert os.sched_getaffinity(0) == set(hosts.plan.cpus)
        join(hosts.plan).close()
        _, status = os.waitpid(hosts.children[0].pid, 0)
        assert status == 0, status
        assert os.read(unwanted, 9) == b"kept"
        hosts.reap()
    """)
    assert out == "printed once\n"
    assert "no word of ours" in err


def test_the_end_of_home_is_the_end_of_all_even_by_kill() -> None:
    story = """
        def main(plan):
            member = join(plan)
            tell(str(os.getpid()))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            time.sleep(60)
            return 0

        hosts = virtual.spawn(cluster(3), main)
        member = join(hosts.plan)
        time.sleep(60)
    """
    with start(story) as process:
        assert process.stderr is not None
        pids = [int(process.stderr.readline()) for _ in range(2)]
        assert all(os.getsid(pid) == pid for pid in pids)
        process.kill()
        for pid in pids:
            assert gone(pid)


def test_a_host_that_hangs_is_killed_when_home_ends() -> None:
    out, _ = run("""
        def main(plan):
            join(plan)
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            time.sleep(60)
            return 0

        hosts = virtual.spawn(cluster(3), main)
        member = join(hosts.plan)
        member.close()
        begin = time.monotonic()
        hosts.reap(0.3)
        assert 0.3 <= time.monotonic() - begin < 3, "the grace is for all together"
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            print("none left")
    """)
    assert out == "none left\n"


def test_a_host_that_dies_before_it_joins_ends_the_assembly_at_once() -> None:
    _, err = run("""
        def main(plan):
            if plan.host_id == 2:
                raise DsmsupError("cannot start here")
            try:
                join(plan)
            except PeerLost as error:
                tell(str(error))
                return 3
            return 0

        hosts = virtual.spawn(cluster(3), main)
        begin = time.monotonic()
        try:
            join(hosts.plan)
        except PeerLost as error:
            tell(str(error))
        assert time.monotonic() - begin < 5
        hosts.reap(0.2)
    """)
    assert "dsmsup: cannot start here\n" in err
    assert "host 2 (a process of this machine) died while the cluster assembled\n" in err


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("return 7", 7),
        ("sys.exit(9)", 9),
        ("raise DsmsupError('a line')", 125),
        ("raise KeyError('a bug')", 125),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    ],
)
def test_a_child_never_returns_into_the_code_of_its_parent(end: str, status: int) -> None:
    out, err = run(f"""
        def main(plan):
            {end}

        hosts = virtual.spawn(cluster(2), main)
        print("home only")
        _, status = os.waitpid(hosts.children[0].pid, 0)
        print(os.waitstatus_to_exitcode(status))
        hosts.reap()
    """)
    assert out == f"home only\n{status}\n"
    assert ("a line" in end) == (err == "dsmsup: a line\n")
    assert ("a bug" in end) == ("KeyError" in err)


def test_without_standard_descriptors() -> None:
    story = """
        os.closerange(0, 2)
        def main(plan):
            wait_for_loss(join(plan))
            return 0

        hosts = virtual.spawn(cluster(2), main)
        join(hosts.plan).close()
        _, status = os.waitpid(hosts.children[0].pid, 0)
        tell(f"status {status}")
        hosts.reap()
    """
    with start(story) as process:
        try:
            _, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert err == "status 0\n"


def test_many_hosts_start_quickly() -> None:
    begin = time.monotonic()
    out, _ = run("""
        def main(plan):
            wait_for_loss(join(plan))
            return 0

        hosts = virtual.spawn(cluster(16), main)
        member = join(hosts.plan)
        print(len(member.links))
        member.close()
        hosts.reap(10)
    """)
    assert out == "15\n"
    assert time.monotonic() - begin < LIMIT_S


def test_processors_are_shared_out_evenly() -> None:
    assert share_cpus((0, 1, 2, 3), 2) == ((0, 1), (2, 3))
    assert share_cpus((0, 1, 2, 3, 4), 2) == ((0, 1), (2, 3, 4))
    assert share_cpus((3, 5), 3) == ((3,), (5,), (3,))
    assert share_cpus((7,), 1) == ((7,),)
    for cpus in range(1, 20):
        for hosts in range(1, 20):
            shares = share_cpus(tuple(range(cpus)), hosts)
            assert len(shares) == hosts and all(shares)
            assert {cpu for share in shares for cpu in share} == set(range(min(cpus, hosts))) | (
                set(range(cpus)) if cpus >= hosts else set()
            )
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1


def test_signals_reach_home_alone() -> None:
    story = """
        def main(plan):
            signal.signal(signal.SIGINT, lambda *_: tell("child saw it"))
            wait_for_loss(join(plan))
            return 0

        hosts = virtual.spawn(cluster(2), main)
        member = join(hosts.plan)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        tell("ready")
        signal.sigwait({signal.SIGINT})
        member.close()
        hosts.reap()
        tell("done")
    """
    with start(story, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)  # What a terminal does on Ctrl-C.
            _, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert err == "done\n"
