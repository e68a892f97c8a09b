# SPDX-License-Identifier: GPL-2.0-or-later
"""The global bus lock of the published algorithm.

A bus-locked instruction asks home for the bus. Home lets every other host stand
still: its guest threads stop, its store buffer is flushed, and it answers when
that is acknowledged. Then the asker runs its instruction, on a multiple-writer
page too, for nobody else stores anything meanwhile: what it reads is the newest,
and nothing comes between its read and its write. Its stores are flushed, with
acknowledgements, before the bus is free again.

A host that is to stand still first lets its pins end, for a pinned page is one
that a thread is about to use, and grants no new ones.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import (
    AskBus,
    BusFreed,
    FreeBus,
    GoOn,
    GrantBus,
    Halt,
    Halted,
    Message,
    Resume,
    StandStill,
    WakeAt,
)
from supervisor.errors import PeerError
from supervisor.units import HOME, HostId

if TYPE_CHECKING:
    from supervisor.coherence.demand import Demand
    from supervisor.coherence.home import Home
    from supervisor.coherence.node import Node

BREATH_US: Final = 300
"""How long hosts that stood still may run before the bus is taken again: with none
they would stand still for as long as others compete for it."""


class Bus:
    """One host's side: who of it asked for the bus, and whether it stands still for another.

    Invariant: while the host stands still it has no pins and no dirty pages.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.holder: int | None = None
        """The requester whose instruction has the bus."""
        self.halting = False
        """Another host has, or is about to get, the bus: no requester goes on here."""
        self._told = False  # the driver was told to stand still
        self._asked: deque[tuple[int, Demand] | None] = deque()  # None: gone meanwhile
        self._freeing = False  # the holder's stores are on their way
        self._resumes: list[int] = []  # fences that were done meanwhile
        self.waiting: dict[int, Demand] = {}
        """Requesters whose pages are there, kept until the bus is free."""

    # For an instruction of this host's ---------------------------------------------

    def ask(self, requester: int, demand: Demand) -> None:
        self._asked.append((requester, demand))
        self._to_home(AskBus())

    @property
    def held_up(self) -> bool:
        """Others wait for a requester here: to free the bus, or to let this host stand still."""
        return self.holder is not None or (self.halting and not self._told)

    def granted(self) -> None:
        """The others stand still."""
        if self.holder is not None or self._freeing or not self._asked:
            raise PeerError("home grants the bus to a host that does not wait for it")
        first = self._asked.popleft()
        if first is None:
            self._to_home(FreeBus())
            return
        self.holder, demand = first
        self.node.requests.serve(self.holder, demand)

    def forget(self, requester: int) -> None:
        """The requester is done with its instruction, or gone, or begins anew."""
        self.waiting.pop(requester, None)
        if requester in self._resumes:
            self._resumes.remove(requester)
        for at, asked in enumerate(self._asked):
            if asked is not None and asked[0] == requester:
                self._asked[at] = None
        if requester == self.holder:
            self.holder, self._freeing = None, True
            self.node.buffer.flush(self._free)

    def _free(self) -> None:
        self._freeing = False
        self._to_home(FreeBus())

    # For another host's --------------------------------------------------------------

    def halt(self) -> None:
        if self.halting:
            raise PeerError("home halts a host that stands still")
        self.halting = True
        self.run()

    def run(self) -> None:
        """Stand still as soon as no thread is about to use a page."""
        if self.halting and not self._told and not self.node.pages.pins:
            self._told = True
            self.node.emit(StandStill())

    def stood_still(self) -> None:
        assert self._told
        self.node.buffer.flush(self._halted)

    def _halted(self) -> None:
        self._to_home(Halted())

    def hold_back(self, requester: int, demand: Demand | None) -> bool:
        """Keep a requester that could go on until the bus is free; False if it may go on."""
        if not self.halting:
            return False
        if demand is None:
            self._resumes.append(requester)
        else:
            self.waiting[requester] = demand
        return True

    def freed(self) -> None:
        if not self._told:
            raise PeerError("home lets a host go on that does not stand still")
        self.halting = self._told = False
        node = self.node
        node.emit(GoOn())
        resumes, self._resumes = self._resumes, []
        for requester in resumes:
            node.emit(Resume(requester))
        waiting, self.waiting = self.waiting, {}
        for requester, demand in waiting.items():
            node.requests.serve(requester, demand)

    def _to_home(self, message: Message) -> None:
        side = self.node.side
        if self.node.host == HOME:
            side.on_bus(HOME, message)  # type: ignore[union-attr]
        else:
            self.node.send(HOME, message)


class BusOrder:
    """Home's side: the hosts that wait for the bus, and the one that has it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._queue: deque[HostId] = deque()
        self._awaited: set[HostId] = set()  # hosts that do not stand still yet
        self._holder: HostId | None = None
        self._granted = False
        self._free_since_us: int | None = None

    def received(self, host: HostId, message: Message) -> None:
        if type(message) is AskBus:
            self._queue.append(host)
        elif type(message) is Halted:
            if host not in self._awaited:
                raise PeerError(f"host {host} stands still, which nobody asked for")
            self._awaited.remove(host)
        else:
            if host != self._holder or not self._granted:
                raise PeerError(f"host {host} frees the bus, which it does not have")
            self._free()
        self.run()

    def _free(self) -> None:
        node = self._home.node
        for host in self._others():
            if host == HOME:
                node.bus.freed()
            else:
                node.send(host, BusFreed())
        self._holder, self._granted = None, False
        self._free_since_us = node.now_us

    def _others(self) -> list[HostId]:
        return [HostId(host) for host in range(self._home.node.hosts) if host != self._holder]

    def run(self) -> None:
        """Let the others stand still for the next, or grant once they do."""
        node = self._home.node
        if self._holder is None:
            if not self._queue:
                return
            if self._free_since_us is not None:
                due = self._free_since_us + BREATH_US
                if node.now_us < due:
                    node.emit(WakeAt(due))
                    return
            self._holder = self._queue.popleft()
            self._awaited = set(self._others())
            for host in self._others():
                if host == HOME:
                    node.bus.halt()
                else:
                    node.send(host, Halt())
        if self._awaited or self._granted:
            return
        self._granted = True
        if self._holder == HOME:
            node.bus.granted()
        else:
            node.send(self._holder, GrantBus())
