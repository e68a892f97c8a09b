# SPDX-License-Identifier: GPL-2.0-or-later
"""The other hosts' side of the assembly: find home, prove ourselves, wait for the rest."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import Final

import msgspec
import trio

from supervisor.cluster import handshake, mesh, rendezvous
from supervisor.cluster.handshake import HANDSHAKE_S, Admitted, Refused, Welcome
from supervisor.cluster.hostinfo import HostInfo, dsmsup_version, local_info
from supervisor.cluster.plan import ClusterPlan
from supervisor.cluster.roster import Membership, Tell, hush, take_link
from supervisor.cluster.transport import Link
from supervisor.errors import DsmsupError, PeerError, PeerLost
from supervisor.standard_streams import say
from supervisor.units import HOME, HostId

_RETRY_S: Final = (0.05, 0.5)
_REFUSALS_MAX: Final = 3
_GRACE_S: Final = 5.0
_EXCUSE_S: Final = 5.0
"""How long a host that cannot take part looks for a home to tell."""
_CONNECT_S: Final = 5.0
_CONNECT_S_OF_MANY: Final = 1.5
"""Where a launcher tells every address that home has, some may lead nowhere from here."""


async def join(plan: ClusterPlan, warn: Tell = say, log: Tell = hush) -> Membership:
    """Connect to home, which may start later than we, and wait until all are there.

    Raises DsmsupError in one line: unreachable, refused (by home's own words), wrong
    key, another version, or home lost meanwhile.
    """
    listener = mesh.listen(plan)
    info = local_info(len(plan.cpus), 0 if listener is None else listener.getsockname()[1])
    try:
        return await _join(plan, listener, info, warn, log)
    finally:
        if listener is not None:
            listener.close()


async def excuse(plan: ClusterPlan, why: DsmsupError, log: Tell) -> None:
    """This host cannot take part: tell home, if it can be reached within a few seconds."""
    info = msgspec.structs.replace(local_info(len(plan.cpus)), trouble=str(why))
    plan = replace(plan, join_timeout_s=min(_EXCUSE_S, plan.join_timeout_s))
    with trio.move_on_after(plan.join_timeout_s), contextlib.suppress(DsmsupError):
        await _join(plan, None, info, log, log)


async def _join(
    plan: ClusterPlan, listener: socket.socket | None, info: HostInfo, warn: Tell, log: Tell
) -> Membership:
    deadline = trio.current_time() + plan.join_timeout_s
    pause_s, pause_s_max = _RETRY_S
    trouble = ""
    refusals = 0
    unknown: rendezvous.UnknownHost | None = None
    while True:
        refused = False
        found: list[rendezvous.Address] = []
        try:
            found = await rendezvous.resolve(plan.rendezvous)
            unknown = None
        except rendezvous.NameServiceSilent as error:
            trouble = str(error)
        except rendezvous.UnknownHost as error:
            if unknown is None:
                warn(f"{error}: trying again for {plan.join_timeout_s:g} s")
            unknown = error
        patience_s = _CONNECT_S if len(found) == 1 else _CONNECT_S_OF_MANY
        failure: DsmsupError | None = None
        for address in found:
            try:
                stream = await rendezvous.dial(
                    address, min(deadline, trio.current_time() + patience_s)
                )
            except OSError as error:
                trouble = f"{address}: {(error.strerror or str(error)).lower()}"
                refused = refused or isinstance(error, ConnectionRefusedError)
                continue
            try:
                return await _enter(plan, stream, str(address), info, listener, log)
            except _HungUp:
                trouble = f"{address} hangs up before it has proved to be home"
            except DsmsupError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        refusals += refused
        if plan.home_listens and refusals >= _REFUSALS_MAX:
            raise PeerLost(f"host 0 (home at {plan.rendezvous}) ended before all hosts had joined")
        if trio.current_time() + pause_s >= deadline:
            if unknown is not None:
                raise unknown
            raise DsmsupError(
                f"cannot reach home at {plan.rendezvous} ({trouble or 'no answer'}) within"
                f" {plan.join_timeout_s:g} s: is dsmsup running there, and the port open?"
            )
        if pause_s == _RETRY_S[0] and unknown is None:
            log(f"waiting for home at {plan.rendezvous} ({trouble})")
        await trio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, pause_s_max)


class _HungUp(DsmsupError):
    """The connection ended during the handshake, or home did not come to it: worth another try."""


async def _enter(
    plan: ClusterPlan,
    stream: trio.SocketStream,
    where: str,
    info: HostInfo,
    listener: socket.socket | None,
    log: Tell,
) -> Membership:
    """Handshake, admission, and the wait for the others. Closes the stream on failure."""
    try:
        try:
            with trio.fail_after(HANDSHAKE_S):
                await handshake.greet_as_joiner(
                    stream, plan.key, plan.hosts, plan.host_id, dsmsup_version(), info, where
                )
                note = await handshake.hear_note(stream)
        except PeerLost:
            raise _HungUp from None
        except (PeerError, trio.TooSlowError) as error:
            if plan.home_listens and isinstance(error, trio.TooSlowError):
                raise _HungUp from None  # it is home's port, and home is busy
            raise DsmsupError(
                f"{where} is in use by something other than dsmsup:"
                " choose another port for --rendezvous"
            ) from None
        if isinstance(note, Admitted):
            log(f"admitted by home at {where}, waiting for the other hosts")
            try:
                with trio.fail_after(note.patience_s + _GRACE_S):
                    note = await handshake.hear_note(stream)
            except (PeerLost, trio.TooSlowError):
                raise PeerLost(
                    f"host 0 (home at {where}) was lost while the cluster assembled"
                ) from None
        if isinstance(note, Refused):
            refusal = DsmsupError(f"home at {where} says: {note.reason}")
            refusal.exit_status = note.status
            raise refusal
        if not isinstance(note, Welcome) or not _sound(note, plan.hosts):
            raise PeerError(f"host 0 (home at {where}) sent a welcome that makes no sense")
        me, infos = HostId(note.host_id), note.infos
        others: dict[HostId, Link] = {}
        paths: mesh.Pairs = frozenset()
        if plan.hosts > 2:
            try:
                with trio.fail_after(mesh.MESH_S):
                    others, paths = await mesh.Mesh(plan.key, me, infos, log).make(
                        stream, listener
                    )
            except (PeerLost, trio.TooSlowError):
                raise PeerLost(
                    f"host 0 (home at {where}) was lost while the cluster assembled"
                ) from None
        links = {HOME: take_link(stream, HOME, infos[HOME]), **others}
        return Membership(me, plan.hosts, links, infos, paths)
    except BaseException:
        stream.socket.close()
        raise


def _sound(note: Welcome, hosts: int) -> bool:
    return 0 < note.host_id < hosts and [info.id for info in note.infos] == list(range(hosts))
