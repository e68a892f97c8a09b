# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's links to the others: frames in and out, and who has been silent for too long."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Final

from supervisor.cluster.transport import SILENCE_S_MAX, Frame, Link
from supervisor.coherence import wire
from supervisor.coherence.messages import Message, Received, Tick
from supervisor.driver import messages
from supervisor.driver.messages import COHERENCE, CONTROL, ControlMessage
from supervisor.driver.pulse import Pulse
from supervisor.errors import PeerLost
from supervisor.units import HostId

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor

BEAT_S: Final = 0.5
AT_ONCE_BYTES: Final = 1 << 18
"""Page data that is sent before anything else is handled: the next window is read while
this one is on its way."""


class Links:
    """What is heard goes to `Supervisor.step` and `on_control`, a loss to `peer_lost`."""

    def __init__(self, supervisor: Supervisor, by_host: dict[HostId, Link]) -> None:
        self._supervisor = supervisor
        self._events = supervisor.events
        self.by_host = by_host
        """Those that are open."""
        self.silence_s_max = SILENCE_S_MAX
        """How long a host may say nothing, seconds."""
        self.patient = False
        """Elsewhere than at home: home's supervisor may be stopped, and silent."""
        self.flush_wanted: set[HostId] = set()
        """Those to which something has been sent, or that have room again, since `flush`."""
        self.unheard: deque[tuple[HostId, Frame]] = deque()
        """Frames that were received behind one whose handling raised."""
        for peer, link in by_host.items():
            self._events.watch(link.fileno(), EPOLLIN, self._handler(peer, link))
        self._pulse: Pulse | None = None
        if by_host:
            self._beat()

    def _handler(self, peer: HostId, link: Link) -> Callable[[int], None]:
        def on_ready(interest: int) -> None:
            if interest & EPOLLOUT:
                self.flush_wanted.add(peer)
            if interest & ~EPOLLOUT:
                try:
                    frames = link.receive()
                except PeerLost as error:
                    self._supervisor.peer_lost(peer, str(error))
                    return
                self._hear(peer, frames)

        return on_ready

    def _hear(self, peer: HostId, frames: list[Frame]) -> None:
        """Handle frames; where handling one raises, `hear_rest` goes on with those behind it."""
        supervisor = self._supervisor
        rest = iter(frames)
        try:
            if frames:
                supervisor.holds.release_due()
            if supervisor.several_writers and frames:
                now_us = int(time.monotonic() * 1e6)
                if supervisor.node.tell_time(now_us):
                    supervisor.step(Tick(now_us))
            for kind, payload in rest:
                if kind == COHERENCE:
                    supervisor.step(Received(peer, wire.decode(payload)))
                elif kind == CONTROL:
                    supervisor.on_control(peer, messages.decode(payload))
        except BaseException:
            self.unheard.extend((peer, frame) for frame in rest)
            raise

    def hear_rest(self) -> None:
        """Handle frames that were received behind one whose handling raised."""
        while self.unheard:
            peer, frame = self.unheard.popleft()
            self._hear(peer, [frame])

    def hear_out(self, host: HostId) -> None:
        """Handle what a host, whose process is gone, sent before its end."""
        link = self.by_host.get(host)
        if link is None:
            return
        with contextlib.suppress(PeerLost):
            while frames := link.receive():
                self.unheard.extend((host, frame) for frame in frames)
        self.hear_rest()

    def send(self, host: HostId, message: ControlMessage) -> None:
        """To a host whose link is open; else nothing is sent."""
        link = self.by_host.get(host)
        if link is not None:
            link.send(CONTROL, messages.encode(message))
            self.flush_wanted.add(host)

    def send_coherence(self, host: HostId, message: Message) -> None:
        link = self.by_host.get(host)
        if link is not None:
            link.send(COHERENCE, wire.encode(message))
            self.flush_wanted.add(host)
            if link.bytes_queued > AT_ONCE_BYTES:
                link.flush()

    def flush(self) -> None:
        """Hand the kernel what has been sent; the rest follows when it has room."""
        wanted, self.flush_wanted = self.flush_wanted, set()
        for host in wanted:
            link = self.by_host.get(host)
            if link is None:
                continue
            try:
                drained = link.flush()
            except PeerLost as error:
                self._supervisor.peer_lost(host, str(error))
                continue
            self._events.rewatch(link.fileno(), EPOLLIN if drained else EPOLLIN | EPOLLOUT)

    def begin(self) -> None:
        """The event loop begins, and the guest process has been forked: a thread may be made."""
        if self.by_host:
            self._pulse = Pulse(self.by_host)

    def _beat(self) -> None:
        now = time.monotonic()
        if self._pulse is not None:
            self._pulse.seen(now)
        for host, link in list(self.by_host.items()):
            link.beat(now)
            self.flush_wanted.add(host)
            if link.silent_s(now) > self.silence_s_max and not self.patient:
                why = f"{link.who()} was lost: nothing heard for {self.silence_s_max:g} s"
                self._supervisor.peer_lost(host, why)
        self._events.at(now + BEAT_S, self._beat)

    def drop(self, host: HostId) -> None:
        link = self.by_host.pop(host, None)
        if link is not None:
            self._events.unwatch(link.fileno())
            link.close()
        if self._pulse is not None and not self.by_host:
            self._pulse.close()

    def counters(self) -> dict[str, int]:
        """Bytes over the links that are open."""
        return {
            "bytes_sent": sum(link.bytes_sent for link in self.by_host.values()),
            "bytes_received": sum(link.bytes_received for link in self.by_host.values()),
        }
