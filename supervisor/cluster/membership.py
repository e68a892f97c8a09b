# SPDX-License-Identifier: GPL-2.0-or-later
"""Who the hosts are: home gathers them (`gather.py`), the others join (`join.py`).

Home has a link to each host, and the others have links with each other where their
network lets them (`mesh.py`). `assemble` does what a
`ClusterPlan` says and gives every host the same picture, its `Membership`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from supervisor.cluster import rendezvous
from supervisor.cluster.gather import gather_hosts, turn_away
from supervisor.cluster.join import excuse, join
from supervisor.cluster.plan import ClusterPlan
from supervisor.cluster.roster import Membership, Tell, hush
from supervisor.errors import DsmsupError
from supervisor.standard_streams import say
from supervisor.units import HOME

__all__ = ["Membership", "Tell", "assemble", "gather_hosts", "hush", "join"]


async def assemble(
    plan: ClusterPlan,
    warn: Tell = say,
    log: Tell = hush,
    prepare: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> Membership:
    """Be home or join, as the plan says; without an id, whoever can listen is home.

    `warn` gets lines that the user should always see, `log` those for -v. `prepare` is
    what home does before it waits for the others, `check` what every host does: where it
    fails, the others hear of it at once. Raises DsmsupError with the line that ends the run.
    """

    async def gather(listeners: list[socket.socket]) -> Membership:
        try:
            check()
            prepare()
        except DsmsupError as error:
            warn(str(error))
            error.told = True
            await turn_away(plan, listeners, error, log)
            raise
        return await gather_hosts(plan, listeners, warn, log)

    async def join_home() -> Membership:
        try:
            check()
        except DsmsupError as error:
            warn(str(error))
            error.told = True
            await excuse(plan, error, log)
            raise
        return await join(plan, warn, log)

    if plan.listener is not None or plan.hosts == 1:
        return await gather([])
    if plan.host_id == HOME:
        return await gather(await rendezvous.listen(plan.rendezvous, True))
    if plan.host_id is not None:
        return await join_home()
    try:
        listeners = await rendezvous.listen(plan.rendezvous, False)
    except (
        rendezvous.NotHere,
        rendezvous.PortInUse,
        rendezvous.UnknownHost,
        rendezvous.NameServiceSilent,
    ):
        return await join_home()
    return await gather(listeners)
