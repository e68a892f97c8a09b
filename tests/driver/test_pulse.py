# SPDX-License-Identifier: GPL-2.0-or-later
"""Heartbeats while the event loop is busy."""

from __future__ import annotations

import socket
import time

from supervisor.cluster.transport import BEAT_AFTER_S, CONTROL, Link
from supervisor.driver import pulse
from supervisor.driver.pulse import Pulse
from supervisor.units import HostId


def linked() -> tuple[Link, Link]:
    near, far = socket.socketpair()
    return Link(near, HostId(1)), Link(far, HostId(0))


def heard(link: Link, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        assert link.receive() == []
        if link.bytes_received:
            return True
        time.sleep(0.01)
    return False


def test_a_busy_host_is_heard_of() -> None:
    near, far = linked()
    beats = Pulse({HostId(1): near})
    try:
        assert heard(far, 8 * BEAT_AFTER_S)
        assert near.bytes_sent == far.bytes_received
    finally:
        beats.close()


def test_no_beat_comes_between_the_parts_of_a_frame() -> None:
    near, far = linked()
    near.send(CONTROL, b"waits")
    near.beat_at_once()
    assert not heard(far, 0.05)
    near.flush()
    assert [frame.payload for frame in far.receive()] == [b"waits"]


def test_a_loop_that_has_hung_is_not_heard_of() -> None:
    near, far = linked()
    beats = Pulse({HostId(1): near})
    try:
        beats.seen(time.monotonic() - pulse.BUSY_S_MAX)
        assert not heard(far, 3 * BEAT_AFTER_S)
    finally:
        beats.close()
