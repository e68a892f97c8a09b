# SPDX-License-Identifier: GPL-2.0-or-later
"""Home's side of the assembly: accept, admit, and welcome everyone at once.

Ids are given out when the last host has arrived, not before: those asked for by
`--host-id` first, the rest in order of arrival. So a host that leaves while others are
still awaited frees its place, and one that asks for an id never finds it given to a
host that would have taken any.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from supervisor.cluster import auth, handshake, mesh, rendezvous
from supervisor.cluster.auth import Hello
from supervisor.cluster.handshake import HANDSHAKE_S, Admitted, Refused, Welcome
from supervisor.cluster.hostinfo import HostInfo, dsmsup_version, local_info, misfit
from supervisor.cluster.plan import ClusterPlan
from supervisor.cluster.roster import Membership, Tell, hush, peer_address, plain, take_link
from supervisor.cluster.transport import tune
from supervisor.errors import AuthenticationFailed, DsmsupError, PeerError, PeerLost
from supervisor.standard_streams import say
from supervisor.units import HOME, HostId

_STRANGERS_MAX: Final = 64
_WARNINGS_MAX: Final = 16
_ACCEPT_AGAIN_S: Final = 0.05
_TURN_AWAY_S: Final = 5.0
"""How long home stays to tell the others that it cannot run."""


@dataclass(slots=True, eq=False)
class _Arrival:
    """A joiner that has proved itself and waits."""

    stream: trio.SocketStream
    info: HostInfo
    wanted: HostId | None
    admitted: bool = False
    """It has been told to wait, and hears more when there is more to say."""


@dataclass(slots=True)
class _Assembly:
    """Home's state while hosts arrive."""

    plan: ClusterPlan
    info: HostInfo
    warn: Tell
    log: Tell
    deadline: float
    scope: trio.CancelScope
    arrivals: list[_Arrival] = field(default_factory=list)
    strangers: list[trio.CancelScope] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)
    lost: str = ""
    why: DsmsupError | None = None
    """There will be no run, and whoever comes hears why."""
    told: int = 0
    """How many have heard it."""

    def complete(self) -> bool:
        return len(self.arrivals) == self.plan.hosts - 1

    def leave_if_told(self) -> None:
        if self.told >= self.plan.hosts - 1:
            self.scope.cancel()

    def over(self) -> bool:
        """There is nobody left to wait for."""
        return self.complete() or bool(self.lost) or self.why is not None

    def ids(self) -> dict[HostId, _Arrival]:
        """The id each host has, or would have if no more came."""
        taken = {a.wanted: a for a in self.arrivals if a.wanted is not None}
        free = iter([id_ for id_ in range(1, self.plan.hosts) if id_ not in taken])
        for arrival in self.arrivals:
            if arrival.wanted is None:
                taken[HostId(next(free))] = arrival
        return taken

    def objection(self, hello: Hello, info: HostInfo) -> str:
        """Why this host may not join, "" when it may. The line is for the joiner."""
        hosts = self.plan.hosts
        if hello.hosts != hosts:
            return f"this host was told --hosts {hello.hosts}, home was told {hosts}"
        if hello.wanted is not None:
            if hello.wanted >= hosts:
                return f"host id {hello.wanted} is out of range: ids are 0 to {hosts - 1}"
            if hello.wanted == HOME:
                return f"host id 0 is taken by {self.info.hostname}, which is home"
            for other in self.arrivals:
                if other.wanted == hello.wanted:
                    return f"host id {hello.wanted} is taken by {other.info.name}"
        return misfit(self.info, info)


async def gather_hosts(
    plan: ClusterPlan,
    listeners: list[socket.socket],
    warn: Tell = say,
    log: Tell = hush,
) -> Membership:
    """Home: accept until all hosts are there, then welcome them.

    Closes the listeners, and the plan's own. Raises DsmsupError naming the missing ids
    when they do not come within the plan's timeout.
    """
    if plan.listener is not None:
        listeners = [*listeners, plan.listener]
    deadline = trio.current_time() + plan.join_timeout_s
    state = _Assembly(plan, local_info(len(plan.cpus)), warn, log, deadline, trio.CancelScope())
    for listener in listeners:
        tune(listener)  # What it has set, the sockets it accepts inherit.
    try:
        if not state.complete():
            log(f"waiting for {plan.hosts - 1} more hosts at {plan.rendezvous}")
        # More than once only if a host left in the very moment when the last one came.
        while not state.over() and trio.current_time() < state.deadline:
            with trio.CancelScope(deadline=state.deadline) as state.scope:
                async with trio.open_nursery() as nursery:
                    for arrival in state.arrivals:
                        nursery.start_soon(_watch, state, arrival)
                    for host, pidfd in plan.processes:
                        nursery.start_soon(_watch_process, state, host, pidfd)
                    for listener in listeners:
                        nursery.start_soon(_accept, state, listener, nursery)
        if state.lost:
            raise PeerLost(state.lost)
        if state.why is not None:
            raise state.why
        if not state.complete():
            raise DsmsupError(await _turn_away(state))
        return await _welcome(state)
    except BaseException:
        for arrival in state.arrivals:
            arrival.stream.socket.close()
        raise
    finally:
        rendezvous.close_all(listeners)


async def turn_away(
    plan: ClusterPlan, listeners: list[socket.socket], why: DsmsupError, log: Tell
) -> None:
    """Home cannot run: stay until the others have heard why, a few seconds at most.

    Those that come later find nobody, as if home had not been started. Closes the
    listeners, and the plan's own.
    """
    if plan.listener is not None:
        listeners = [*listeners, plan.listener]
    deadline = trio.current_time() + min(_TURN_AWAY_S, plan.join_timeout_s)
    scope = trio.CancelScope(deadline=deadline)
    state = _Assembly(plan, local_info(len(plan.cpus)), log, log, deadline, scope, why=why)
    try:
        if listeners:
            with scope:
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        nursery.start_soon(_accept, state, listener, nursery)
    finally:
        rendezvous.close_all(listeners)


async def _accept(state: _Assembly, listener: socket.socket, nursery: trio.Nursery) -> None:
    """Accept for ever; the assembly's scope ends it."""
    server = trio.socket.from_stdlib_socket(listener)
    while True:
        try:
            sock, _ = await server.accept()
        except OSError as error:
            # Out of descriptors, or a connection that was gone before we took it.
            state.log(f"a connection could not be accepted: {error.strerror}")
            await trio.sleep(_ACCEPT_AGAIN_S)
            continue
        if len(state.strangers) >= _STRANGERS_MAX:
            # An honest handshake takes milliseconds: the oldest is the least likely one.
            state.strangers.pop(0).cancel()
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_S)
        state.strangers.append(scope)
        nursery.start_soon(_receive_host, state, trio.SocketStream(sock), scope)


async def _receive_host(
    state: _Assembly, stream: trio.SocketStream, scope: trio.CancelScope
) -> None:
    """One connection, from its first byte until all are there or it goes."""
    where = peer_address(stream)
    arrival: _Arrival | None = None
    try:
        with scope:
            arrival = await _greet(state, stream, where)
        if scope.cancelled_caught:
            state.log(f"dropped {where}: it did not prove itself in time")
    finally:
        _forget(state, scope)
        if arrival is None:
            stream.socket.close()
    if arrival is not None:
        await _watch(state, arrival)


def _forget(state: _Assembly, scope: trio.CancelScope) -> None:
    if scope in state.strangers:
        state.strangers.remove(scope)


async def _greet(state: _Assembly, stream: trio.SocketStream, where: str) -> _Arrival | None:
    """Handshake and admission; None for a stranger and for one that is refused."""
    plan = state.plan
    try:
        hello, info = await handshake.greet_as_home(stream, plan.key, plan.hosts, dsmsup_version())
        info = msgspec.structs.replace(info, address=where)
        reason = state.objection(hello, info)
        if info.trouble and not reason and state.why is None:
            await _give_up(state, hello, info)
        if state.why is not None:
            await handshake.refuse(stream, str(state.why), state.why.exit_status)
            state.told += 1
            state.leave_if_told()
            return None
        if reason:
            state.warn(f"refused {info.name}: {reason}")
            await handshake.refuse(stream, reason)
            return None
        arrival = _Arrival(stream, info, hello.wanted)
        # Before the next wait, or a second host could be promised the same id.
        state.arrivals.append(arrival)
        awaited = plan.hosts - 1 - len(state.arrivals)
        state.log(f"{info.name} has arrived with {info.cpus} processors, {awaited} more awaited")
        await handshake.tell(stream, Admitted(max(0.0, state.deadline - trio.current_time())))
        arrival.admitted = True
        if state.why is not None:
            await handshake.tell(stream, Refused(str(state.why)))
    except auth.VersionMismatch as error:
        # Not proved: one line an address, and few in all.
        if where not in state.warned and len(state.warned) < _WARNINGS_MAX:
            state.warned.add(where)
            state.warn(f"refused {where}: {error}")
        return None
    except (PeerError, PeerLost, AuthenticationFailed) as error:
        state.log(f"refused {where}: {error}")
        state.arrivals[:] = [a for a in state.arrivals if a.stream is not stream]
        return None
    except OSError as error:
        state.log(f"lost {where}: {error.strerror}")
        return None
    if state.complete():
        state.scope.cancel()
    return arrival


async def _give_up(state: _Assembly, hello: Hello, info: HostInfo) -> None:
    """A host has come to say that it cannot take part: all hear that, and home ends."""
    which = "a host" if hello.wanted is None else f"host {hello.wanted}"
    state.why = DsmsupError(f"{which} ({info.name}) cannot take part: {info.trouble}")
    state.scope.deadline = trio.current_time() + min(_TURN_AWAY_S, state.plan.join_timeout_s)
    for arrival in state.arrivals:
        if arrival.admitted:
            with contextlib.suppress(PeerLost):  # who watches it will tell
                await handshake.tell(arrival.stream, Refused(str(state.why)))


async def _watch(state: _Assembly, arrival: _Arrival) -> None:
    """Notice a host that leaves, or speaks out of turn, before all are there."""
    try:
        data = await arrival.stream.receive_some(1)
    except trio.BrokenResourceError:
        data = b""
    state.arrivals.remove(arrival)
    arrival.stream.socket.close()
    if state.why is not None:  # which it has heard
        state.told += 1
        state.leave_if_told()
        return
    what = "spoke out of turn" if data else "left"
    state.warn(f"{arrival.info.name} {what} before all hosts had arrived")


async def _watch_process(state: _Assembly, host: HostId, pidfd: int) -> None:
    """Notice at once a virtual host that dies before it has joined."""
    await trio.lowlevel.wait_readable(pidfd)
    state.lost = f"host {host} (a process of this machine) died while the cluster assembled"
    state.scope.cancel()


async def _turn_away(state: _Assembly) -> str:
    """Tell those who waited in vain; returns the line that ends the run."""
    present = state.ids()
    missing = [str(id_) for id_ in range(1, state.plan.hosts) if id_ not in present]
    ids = f"host id{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    line = (
        f"{len(missing)} of {state.plan.hosts} hosts did not join at {state.plan.rendezvous}"
        f" within {state.plan.join_timeout_s:g} s: {ids} missing (--join-timeout sets the wait)"
    )
    async with trio.open_nursery() as nursery:
        for arrival in state.arrivals:
            nursery.start_soon(handshake.refuse, arrival.stream, line)
    return line


async def _welcome(state: _Assembly) -> Membership:
    """Give out the ids, tell everyone, and make the links."""
    present = state.ids()
    infos = [msgspec.structs.replace(state.info, id=int(HOME), address=_home_address(state))]
    for id_ in range(1, state.plan.hosts):
        infos.append(msgspec.structs.replace(present[HostId(id_)].info, id=id_))
    for id_, arrival in sorted(present.items()):
        try:
            with trio.fail_after(HANDSHAKE_S):
                await handshake.tell(arrival.stream, Welcome(id_, tuple(infos)))
        except (PeerLost, trio.TooSlowError):
            raise PeerLost(
                f"host {id_} ({arrival.info.name}) was lost while the cluster assembled"
            ) from None
    paths: mesh.Pairs = frozenset()
    if state.plan.hosts > 2:
        try:
            with trio.fail_after(mesh.MESH_S):
                paths = await mesh.agree({id_: one.stream for id_, one in present.items()})
        except trio.TooSlowError:
            raise PeerLost(
                f"a host was lost while the cluster assembled: no word in {mesh.MESH_S:g} s"
            ) from None
        state.log(f"{len(paths) // 2} pairs of hosts exchange pages directly")
    links = {id_: take_link(present[id_].stream, id_, present[id_].info) for id_ in sorted(present)}
    return Membership(HOME, state.plan.hosts, links, tuple(infos), paths)


def _home_address(state: _Assembly) -> str:
    """Home's address as its first guest reached it, "" without guests."""
    for arrival in state.arrivals:
        return plain(arrival.stream.socket.getsockname()[0])
    return ""
