# SPDX-License-Identifier: GPL-2.0-or-later
"""What home remembers of a request and of a recall while they are open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from supervisor.coherence.directory import Holding, Want
from supervisor.coherence.messages import (
    Access,
    Direct,
    Run,
)
from supervisor.coherence.pages import (
    Span,
    run_of,
    without,
)
from supervisor.units import HostId

MANY: Final = (Holding.MANY_COPY, Holding.MANY)
"""Ways to stand to a multiple-writer page."""


@dataclass(eq=False, slots=True)
class Transaction:
    """One request for pages, from its arrival to its grant."""

    host: HostId
    fetch: int
    needs: tuple[Run, ...]
    ahead: tuple[Run, ...]
    streak: int
    locked: bool = False
    run: int = 0  # index of the need being locked
    page: int = 0  # next page to lock in it
    waits_for: int | None = None  # page another transaction has locked
    collecting: bool = False
    extra: list[Run] = field(default_factory=list)  # pages ahead, locked
    lower: list[Run] = field(default_factory=list)  # home's copies yet to be lowered
    pending: int = 0  # recalls and protections not yet answered
    direct: list[Direct] = field(default_factory=list)  # data that goes to it directly
    cancelled: bool = False  # its pages were discarded
    refuse: bool = False  # and its host is told when its direct data is granted


@dataclass(eq=False, slots=True)
class Recalling:
    """A recall that its owner (or a holder of multiple-writer copies) has not answered."""

    host: HostId
    transaction: Transaction
    needs: tuple[Run, ...]
    optional: tuple[Run, ...]
    direct: bool = False  # to the transaction's host, not to home
    watched: frozenset[int] = frozenset()  # pages whose changes the policy wants to be told of
    discarded: list[Span] = field(default_factory=list)


def without_direct(runs: list[Direct], first: int, count: int) -> list[Direct]:
    """The runs less the pages of [first, first + count)."""
    left: list[Direct] = []
    for run in runs:
        as_run = run_of(run.first, run.count, run.access)
        left += (
            run._replace(first=part.first, count=part.count)
            for part in without((as_run,), first, count)
        )
    return left


def wanted(transaction: Transaction, access: Access) -> Want:
    """What a bus-locked instruction only reads (its own code) is read as by any other."""
    if access == Access.READ:
        return Want.READ
    return Want.LOCK if transaction.locked else Want.WRITE
