# SPDX-License-Identifier: GPL-2.0-or-later
"""Heartbeats while the event loop is at something long.

A fork copies gigabytes in one go, and meanwhile nobody would hear of this host.
A thread of its own looks how long ago the loop has seen to the links itself, and
does so in its place: for a time, because a loop that has hung must be noticed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final

from supervisor.cluster.transport import BEAT_AFTER_S, Link
from supervisor.tracee.priority import put_first
from supervisor.units import HostId

BUSY_S_MAX: Final = 120.0


class Pulse:
    """Of one host's links; `close` ends it."""

    def __init__(self, links: Mapping[HostId, Link]) -> None:
        self._links = links
        self._seen_at = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def seen(self, now: float) -> None:
        """The loop sees to the links itself (`now`: seconds, monotonic)."""
        self._seen_at = now

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        put_first(threading.get_native_id())
        while not self._closed.wait(BEAT_AFTER_S):
            if 2 * BEAT_AFTER_S < time.monotonic() - self._seen_at < BUSY_S_MAX:
                for link in list(self._links.values()):
                    link.beat_at_once()
