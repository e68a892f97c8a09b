# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts of a cluster that find each other, as tasks of one process."""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from supervisor.cluster.membership import Membership, assemble
from supervisor.cluster.plan import ClusterPlan, Rendezvous
from supervisor.cluster.transport import CONTROL
from supervisor.errors import DsmsupError
from supervisor.units import HOME, HostId

KEY = bytes(range(32))
LIMIT_S = 20.0


def free_port(address: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Host:
    """One host of a test: its plan, what it told its user, how it ended."""

    plan: ClusterPlan
    warnings: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    result: Membership | None = None
    error: DsmsupError | None = None
    done: trio.Event = field(default_factory=trio.Event)
    prepare: Callable[[], None] = lambda: None
    check: Callable[[], None] = lambda: None

    async def run(self) -> None:
        try:
            self.result = await assemble(
                self.plan, self.warnings.append, self.logs.append, self.prepare, self.check
            )
        except DsmsupError as error:
            assert "\n" not in str(error)
            self.error = error
        self.done.set()

    async def heard(self, text: str, where: str = "logs") -> None:
        """Wait until a line that contains `text` was told."""
        lines: list[str] = getattr(self, where)
        while not any(text in line for line in lines):
            await trio.sleep(0.005)


def plan(
    hosts: int, host_id: int | None = None, port: int | None = None, address: str = "127.0.0.1"
) -> ClusterPlan:
    return ClusterPlan(
        hosts,
        None if host_id is None else HostId(host_id),
        Rendezvous((address,), free_port(address) if port is None else port),
        KEY,
        (0,),
        10.0,
    )


def play(script: Callable[[trio.Nursery], Awaitable[Any]]) -> None:
    """Run a test's story within a bound of time; hosts still running at its end are stopped."""

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await script(nursery)
                nursery.cancel_scope.cancel()

    trio.run(main)


def check(hosts: list[Host]) -> None:
    """All have joined one cluster, agree on it, and their links lead where they say."""
    results = []
    for host in hosts:
        assert host.error is None and host.result is not None, host
        results.append(host.result)
    assert sorted(result.host_id for result in results) == list(range(len(hosts)))
    assert len({result.infos for result in results}) == 1
    assert [info.id for info in results[0].infos] == list(range(len(hosts)))
    by_id = {result.host_id: result for result in results}
    for result in results:
        assert sorted(result.links) == sorted(set(by_id) - {result.host_id})
        lenders = by_id.keys() - {HOME}
        assert result.paths == {(a, b) for a in lenders for b in lenders if a != b}
        for other in result.links:
            result.links[other].send(CONTROL, b"%d to %d" % (result.host_id, other))
            assert result.links[other].flush()
    for result in results:
        for other, link in result.links.items():
            assert link.peer == other
            assert select.select([link], [], [], 5)[0]
            assert link.receive() == [(CONTROL, b"%d to %d" % (other, result.host_id))]
    for result in results:
        result.close()


def start(nursery: trio.Nursery, *plans: ClusterPlan) -> list[Host]:
    hosts = [Host(one) for one in plans]
    for host in hosts:
        nursery.start_soon(host.run)
    return hosts


async def start_home(nursery: trio.Nursery, *plans: ClusterPlan) -> list[Host]:
    """Start home, then, once it listens, the others (one without an id might be faster)."""
    home = start(nursery, plans[0])
    await home[0].heard("waiting for")
    return home + start(nursery, *plans[1:])


async def finish(hosts: list[Host]) -> None:
    for host in hosts:
        await host.done.wait()


async def dial(one: ClusterPlan) -> trio.SocketStream:
    return await trio.open_tcp_stream(one.rendezvous.hosts[0], one.rendezvous.port)


async def fake_server(nursery: trio.Nursery, answer: bytes, hold: bool = False) -> Rendezvous:
    """Something that is not dsmsup: answers every connection with the same bytes."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        if answer:
            await stream.send_all(answer)
        if hold:
            await trio.sleep_forever()
        await stream.receive_some(4096)

    nursery.start_soon(trio.serve_listeners, serve, listeners)
    return Rendezvous(("127.0.0.1",), listeners[0].socket.getsockname()[1])
