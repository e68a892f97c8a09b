# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends that come from outside: Ctrl-C, SIGTERM, and hosts and guests killed with -9.

Whatever ends a run, all of it ends within LOSS_LIMIT_S, with the right status, and
a lost host is named in one line.
"""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import clusters
import harness
import processes
import pytest
from harness import Finished, Place, Running
from processes import Process

ENDLESS = [str(harness.BIN / "endless"), "4", "60"]


def start_endless(place: Place, hosts: int) -> Running:
    run = place.start([*harness.dsmsup_command(), "exec", "-n", str(hosts), *ENDLESS])
    run.wait_for_output(b"ready\n")
    return run


def wait_for_end(run: Running, place: Place) -> Finished:
    """Its end and that of every process of the test, within LOSS_LIMIT_S in all."""
    until_s = time.monotonic() + harness.LOSS_LIMIT_S
    end = run.wait(harness.LOSS_LIMIT_S)
    place.check_clean(max(0.0, until_s - time.monotonic()))
    return end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_the_command(number: signal.Signals, hosts: int, place: Place) -> None:
    run = start_endless(place, hosts)
    os.kill(run.pid, number)
    end = wait_for_end(run, place)
    assert (end.status, end.stdout) == (128 + number, b"ready\n")
    assert b"Traceback" not in end.stderr


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_of_the_users_own_is_the_programs(
    number: signal.Signals, hosts: int, place: Place
) -> None:
    script = f"trap 'echo got it; exit 3' {number}; echo ready; while :; do sleep 0.01; done"
    run = place.start([*harness.dsmsup_command(), "exec", "-n", str(hosts), "bash", "-c", script])
    run.wait_for_output(b"ready\n")
    os.kill(run.pid, number)
    end = wait_for_end(run, place)
    assert (end.status, end.stdout, end.own_lines()) == (3, b"ready\ngot it\n", [])


@pytest.mark.parametrize("waits", ["0", "1"], ids=["handler", "sigwait"])
def test_a_program_may_take_its_time_to_end(waits: str, hosts: int, place: Place) -> None:
    """SIGTERM comes more than once where a service manager sends it to all processes."""
    argv = ["exec", "-n", str(hosts), str(harness.BIN / "orderly_end"), waits]
    run = place.start([*harness.dsmsup_command(), *argv])
    for line in (b"ready\n", b"ending\n"):
        run.wait_for_output(line)
        os.kill(run.pid, signal.SIGTERM)
    end = wait_for_end(run, place)
    assert (end.status, end.stdout, end.own_lines()) == (7, b"ready\nending\nended\n", [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_starting(number: signal.Signals, place: Place) -> None:
    """Before the program runs, too: the moments are spread over a start's length.

    (But for the beginning, which is Python's own.) All processes of the group get it, as a
    terminal does it.
    """
    started_s = time.monotonic()
    run = start_endless(place, 2)
    start_took_s = time.monotonic() - started_s
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    place.check_clean(harness.LOSS_LIMIT_S)
    for part in range(4, 20, 2):
        run = place.start([*harness.dsmsup_command(), "exec", "-n", "2", *ENDLESS])
        time.sleep(start_took_s * part / 20)  # the moment is what is tested
        os.killpg(run.pid, number)
        assert wait_for_end(run, place).status == 128 + number


def test_control_c(hosts: int, place: Place) -> None:
    """The terminal sends SIGINT to the whole foreground group, every host's process in it."""
    harness.need("setsid")
    controller, terminal = pty.openpty()
    try:
        run = place.start(
            ["setsid", "--ctty", *harness.dsmsup_command(), "exec", "-n", str(hosts), *ENDLESS],
            fd0=terminal, new_session=False,
        )
        run.wait_for_output(b"ready\n")
        os.write(controller, b"\x03")
        end = wait_for_end(run, place)
    finally:
        os.close(terminal)
        os.close(controller)
    assert end.status == 130
    assert end.stdout == b"ready\n"


# Roles in a run of virtual hosts. The command's own process is home's supervisor;
# guests are what supervisors trace.


def home_supervisor(run: Running, alive: list[Process]) -> Process:
    return next(process for process in alive if process.pid == run.pid)


def home_guest(run: Running, alive: list[Process]) -> Process:
    return next(process for process in alive if process.tracer == run.pid)


def remote_guest(run: Running, alive: list[Process]) -> Process:
    return next(process for process in alive if process.tracer not in (0, run.pid))


def remote_supervisor(run: Running, alive: list[Process]) -> Process:
    tracer = remote_guest(run, alive).tracer
    return next(process for process in alive if process.pid == tracer)


Role = Callable[[Running, list[Process]], Process]


@pytest.mark.parametrize(
    ("role", "names"),
    [(remote_supervisor, "host 1"), (remote_guest, "host 1"), (home_guest, "host 0")],
)
def test_part_of_a_host_killed(role: Role, names: str, place: Place) -> None:
    run = start_endless(place, 2)
    os.kill(role(run, place.ours()).pid, signal.SIGKILL)
    end = wait_for_end(run, place)
    if role is home_guest:
        # What kills the program at home kills the program, as natively.
        assert end.status in (125, 137)
    else:
        assert end.status == 125
        assert len(end.own_lines()) == 1
        assert names in end.own_lines()[0]
    assert end.stdout == b"ready\n"


def test_home_supervisor_killed(place: Place) -> None:
    run = start_endless(place, 3)
    os.kill(home_supervisor(run, place.ours()).pid, signal.SIGKILL)
    end = wait_for_end(run, place)
    assert end.status == 137


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_host_of_a_cluster_killed(victim: int, place: Place) -> None:
    runs = clusters.on_loopback(place, hosts=3).start(*ENDLESS)
    runs[0].wait_for_output(b"ready\n")
    runs[victim].popen.kill()
    until_s = time.monotonic() + harness.LOSS_LIMIT_S
    for host, run in enumerate(runs):
        end = run.wait(max(0.1, until_s - time.monotonic()))
        if host != victim:
            assert end.status == 125
            assert len(end.own_lines()) == 1, end.own_lines()
            assert f"host {victim}" in end.own_lines()[0]
    place.check_clean(max(0.1, until_s - time.monotonic()))


@pytest.mark.parametrize("victim", [1, 2])
def test_guest_of_a_cluster_killed(victim: int, place: Place) -> None:
    runs = clusters.on_loopback(place, hosts=3).start(*ENDLESS)
    runs[0].wait_for_output(b"ready\n")
    guest = next(process for process in place.ours() if process.tracer == runs[victim].pid)
    os.kill(guest.pid, signal.SIGKILL)
    until_s = time.monotonic() + harness.LOSS_LIMIT_S
    for run in runs:
        end = run.wait(max(0.1, until_s - time.monotonic()))
        assert end.status == 125
        assert len(end.own_lines()) == 1, end.own_lines()
        assert f"host {victim}" in end.own_lines()[0]
    place.check_clean(max(0.1, until_s - time.monotonic()))


@pytest.mark.parametrize("host", [0, 1])
def test_sigterm_to_one_host_of_a_cluster(host: int, place: Place) -> None:
    """A host told to go says so to the others; nothing stays."""
    runs = clusters.on_loopback(place).start(*ENDLESS)
    runs[0].wait_for_output(b"ready\n")
    os.kill(runs[host].pid, signal.SIGTERM)
    until_s = time.monotonic() + harness.LOSS_LIMIT_S
    ends = [run.wait(max(0.1, until_s - time.monotonic())) for run in runs]
    assert ends[host].status == 143
    assert ends[1 - host].status in (125, 143)
    place.check_clean(max(0.1, until_s - time.monotonic()))


def test_home_alone_gives_up_waiting_when_told(place: Place) -> None:
    """The others never come: SIGTERM ends the wait."""
    cluster = clusters.on_loopback(place)
    home = place.start(cluster.command(0, *ENDLESS))
    listening = f":{cluster.port:04X} "
    while listening not in Path("/proc/net/tcp").read_text():
        assert home.popen.poll() is None, home.stderr.read_text()
        time.sleep(processes.POLL_S)
    os.kill(home.pid, signal.SIGTERM)
    assert wait_for_end(home, place).status == 143


SLOW_TO_REWRITE: str = """
import os, signal, sys
from supervisor.driver import rewritten_files

def rewritten(*_, **__):
    os.write(1, b"rewriting\\n")
    signal.pause()

rewritten_files.rewritten = rewritten
from supervisor.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_while_the_program_is_rewritten(number: signal.Signals, place: Place) -> None:
    """It ends by it at once, as it would have natively."""
    run = place.start([sys.executable, "-c", SLOW_TO_REWRITE, "exec", "-n", "2", *ENDLESS])
    run.wait_for_output(b"rewriting\n")
    os.killpg(run.pid, number)
    assert wait_for_end(run, place).status == 128 + number


FAULTY: str = """
import sys
from supervisor.driver.{module} import {kind}

def fault(*_):
    raise KeyError("a fault of our own")

{kind}.{method} = fault
from supervisor.cli import main
main()
"""


@pytest.mark.parametrize(
    ("kind", "method", "names"),
    [("Away", "send", "dsmsup: internal error"), ("Lender", "_start_thread", "dsmsup: host ")],
)
def test_fault_of_our_own(kind: str, method: str, names: str, place: Place) -> None:
    """It ends all hosts, in one line."""
    program = FAULTY.format(module=kind.lower(), kind=kind, method=method)
    run = place.start([sys.executable, "-c", program, "exec", "-n", "3", *ENDLESS])
    end = wait_for_end(run, place)
    assert end.status == 125
    (line,) = end.own_lines()
    assert line.startswith(names)
    assert "KeyError" in line
    assert b"Traceback" not in end.stderr
