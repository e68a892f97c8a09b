# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends are seen whatever happens first, and what a host said before its end is heard."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import trio

from supervisor.arch import X86_64
from supervisor.cluster.transport import CONTROL, Link
from supervisor.driver import messages
from supervisor.driver.endings import is_awaited
from supervisor.driver.home import Home
from supervisor.driver.lender import Lender
from supervisor.driver.messages import Statistics, Trouble
from supervisor.driver.thread import Thread
from supervisor.errors import DsmsupError, GuestDied, PeerLost
from supervisor.tracee.stops import Stop, StopKind
from supervisor.units import HOME, HostId

LENDER = HostId(1)
PROCESS = 1 << 30
"""An id that no process has."""


@pytest.fixture(name="pair")
def home_and_its_lender() -> Iterator[tuple[Home, Link]]:
    ours, theirs = socket.socketpair()
    home = Home(2, {LENDER: Link(ours, LENDER)}, ["a", "b"], [1, 1], "adaptive", print, {})
    home.on_child_exit = lambda pid: LENDER if pid == PROCESS else None
    lender = Link(theirs, HOME)
    yield home, lender
    home.links.drop(LENDER)
    lender.close()
    home.events.close()


def say(lender: Link, *said: messages.ControlMessage) -> None:
    for message in said:
        lender.send(CONTROL, messages.encode(message))
    lender.flush()


def test_what_a_process_said_before_its_end_is_heard_first(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    home.finished = True
    say(lender, Statistics({"traps": 7}))
    lender.close()
    home.on_stop(Stop(PROCESS, StopKind.EXITED, 0))
    assert home.host_statistics == {LENDER: {"traps": 7}}
    assert not home.links.by_host


def test_what_a_process_said_of_its_trouble_is_told(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    say(lender, Trouble("its guest process was killed by SIGKILL"))
    lender.close()
    with pytest.raises(DsmsupError, match=r"host 1 \(b\): its guest process was killed by SIGKILL"):
        home.on_stop(Stop(PROCESS, StopKind.EXITED, 125))


def test_a_silent_host_is_named(
    pair: tuple[Home, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = pair
    home.links.by_host[LENDER].name = "node2 at 10.0.0.2"
    told: list[str] = []
    monkeypatch.setattr(home, "peer_lost", lambda _, why: told.append(why))
    home.links.silence_s_max = 0.01
    while not told:
        trio.run(home.events.wait)
    assert told[0] == "host 1 (node2 at 10.0.0.2) was lost: nothing heard for 0.01 s"


def test_the_end_of_a_process_that_said_nothing_is_told(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    lender.close()
    home.on_stop(Stop(PROCESS, StopKind.KILLED, 9))
    assert "its supervisor process" in str(home.trouble)
    assert not home.links.by_host
    assert home.finished


def test_a_lost_link_waits_for_the_end_of_a_process_of_our_own(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    home.child_hosts = frozenset((LENDER,))
    lender.close()
    trio.run(home.events.wait)
    assert not home.finished
    home.on_stop(Stop(PROCESS, StopKind.KILLED, 11))
    assert "was killed by SIGSEGV" in str(home.trouble)


@pytest.mark.parametrize(
    ("setting", "awaited"),
    [
        ("pass", False),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", True),
        ("signal.signal(signal.SIGTERM, print)", True),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})", True),
        ("blocked_in_one_thread()", False),
    ],
)
def test_whether_a_process_awaits_a_signal(setting: str, awaited: bool) -> None:
    script = f"""
import signal, sys, threading
def blocked_in_one_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
{setting}
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_awaited(process.pid, signal.SIGTERM) is awaited


def test_last_words_reach_a_home_that_reads_late_and_has_more_to_say() -> None:
    ours, theirs = socket.socketpair()
    link, home = Link(ours, HOME), Link(theirs, LENDER)
    lender = Lender(LENDER, 2, {HOME: link}, ["a", "b"], "adaptive", lambda line: None)
    link.send(CONTROL, bytes(8 << 20))  # more than the socket takes
    home.send(CONTROL, b"unread")
    home.flush()
    lender.fail(DsmsupError("its guest has vanished"))
    leaves = threading.Thread(target=lender.take_leave)
    leaves.start()
    heard = []
    with pytest.raises(PeerLost):
        while True:
            heard += home.receive()
    home.close()
    leaves.join(10)
    link.close()
    lender.events.close()
    assert messages.decode(heard[-1].payload) == Trouble("its guest has vanished")


def test_frames_behind_one_that_raises_are_not_lost(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    home.finished = True
    say(lender, Trouble("no memory"), Statistics({"traps": 8}))
    with pytest.raises(DsmsupError, match="no memory"):
        trio.run(home.events.wait)
    assert not home.host_statistics
    home.settle()
    assert home.host_statistics == {LENDER: {"traps": 8}}


def test_the_end_of_the_program_is_seen_where_undoing_its_wishes_fails(
    pair: tuple[Home, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread had asked for is given to others by injections into the guest that is gone."""
    home, _ = pair
    home.pid = PROCESS

    def step(event: object) -> None:
        raise GuestDied("the guest process is gone")

    monkeypatch.setattr(home, "step", step)
    thread = Thread(PROCESS, PROCESS, 1, home.actions, X86_64)
    home.threads[PROCESS] = home.by_tid[PROCESS] = thread
    home.on_stop(Stop(PROCESS, StopKind.KILLED, 15))
    assert home.endings.status == 143
    assert home.finished
