# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host said before its end is heard, in whatever order its end is noticed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from supervisor.cluster.transport import CONTROL, Link
from supervisor.driver import messages
from supervisor.driver.home import Home
from supervisor.driver.messages import Statistics, Trouble
from supervisor.errors import DsmsupError
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
    home.drop_link(LENDER)
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
    assert not home.links


def test_what_a_process_said_of_its_trouble_is_told(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    say(lender, Trouble("its guest process was killed by SIGKILL"))
    lender.close()
    with pytest.raises(DsmsupError, match=r"host 1 \(b\): its guest process was killed by SIGKILL"):
        home.on_stop(Stop(PROCESS, StopKind.EXITED, 125))


def test_the_end_of_a_process_that_said_nothing_is_told(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    lender.close()
    home.on_stop(Stop(PROCESS, StopKind.KILLED, 9))
    assert "its supervisor process" in str(home.trouble)
    assert not home.links
    assert home.finished


def test_frames_behind_one_that_raises_are_not_lost(pair: tuple[Home, Link]) -> None:
    home, lender = pair
    home.finished = True
    say(lender, Trouble("no memory"), Statistics({"traps": 8}))
    with pytest.raises(DsmsupError, match="no memory"):
        trio.run(home.events.wait, False)
    assert not home.host_statistics
    home.settle()
    assert home.host_statistics == {LENDER: {"traps": 8}}
