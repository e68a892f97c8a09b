# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations: what a supervisor does for a stopped thread, as generators.

An operation yields what it has to wait for and is resumed with the answer:

    Acquire(ranges)      guest pages; they are there (not longer than) until the next yield
    Hold(ranges)         the same, pinned until `Unhold` or the operation's end
    Unhold()             drop what is held
    Flush()              every earlier store of this host is visible to all
    AcquireLocked(ranges) as Acquire, for what the kernel will do atomically
    Native(number, args) the thread's kernel task runs this call; answer: its result
    Proceed()            the call it stopped at runs as it is; answer: its result
    Reply()              home's answer to the thread's forwarded call; answer: Result
    Background(work)     a function, in a worker thread; answer: what it returns
    Pause()              whatever else is to be done has its turn, if it has waited for long
    Wait(key)            something that `Operations.wake(key, value)` tells

Generators cost a fraction of a microsecond where a coroutine of the event
loop's costs tens, and everything that is there already is answered at once. One that does
much without having to wait pauses in between: other hosts take a silent one for lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from supervisor.coherence.messages import (
    Access,
    BusLock,
    Cancelled,
    Fault,
    Released,
    Serialize,
)
from supervisor.driver.ranges import mapped_runs
from supervisor.syscalls.call import Acquire

if TYPE_CHECKING:
    from supervisor.driver.core import Supervisor
    from supervisor.driver.thread import Thread


class Hold(NamedTuple):
    ranges: tuple[tuple[int, int, Access], ...]


class Unhold(NamedTuple):
    pass


class Flush(NamedTuple):
    pass


class AcquireLocked(NamedTuple):
    ranges: tuple[tuple[int, int, Access], ...]


class Native(NamedTuple):
    number: int
    arguments: list[int]


class Proceed(NamedTuple):
    pass


class Reply(NamedTuple):
    pass


class Background(NamedTuple):
    work: Callable[[], Any]


class Pause(NamedTuple):
    pass


class Wait(NamedTuple):
    key: Hashable


Steps = Generator[Any, Any, Any]

TURN_S: Final = 0.02
"""How long an operation that asks whether to pause goes on without one."""


class Operation:
    """One running generator."""

    __slots__ = (
        "done", "hold_requester", "name", "requester", "steps", "thread", "wanted", "wrote",
    )  # fmt: skip

    def __init__(
        self, name: str, requester: int, thread: Any, steps: Steps, done: Callable[[Any], None]
    ) -> None:
        self.name = name
        self.requester = requester
        """In the coherence node's eyes, while it waits for an `Acquire`."""
        self.thread = thread
        self.steps = steps
        self.done = done
        self.wanted: Any = None
        self.hold_requester = 0
        """The requester that holds its pinned pages; 0 for none."""
        self.wrote = False
        """It has written guest memory, where a store may be this host's alone for a while."""


def flush_first(steps: Steps | None = None) -> Steps:
    """An operation that others can observe: stores made before it come first."""
    yield Flush()
    return None if steps is None else (yield from steps)


class Operations:
    """Those of one host. What only its kind of host has, `Supervisor.wait_for` begins."""

    def __init__(self, supervisor: Supervisor, requester_ids: Iterator[int]) -> None:
        self._supervisor = supervisor
        self._ids = requester_ids
        self._asking: dict[int, Operation] = {}
        """Those that wait for pages, or have some until their next yield: by requester."""
        self._holding: dict[int, Operation] = {}
        """By the requester that holds pages for them, or waits for them."""
        self._waiting: dict[Any, Operation] = {}
        """By the key of their `Wait`; those that pause by themselves."""
        self.advancing: Operation | None = None
        """The operation whose code runs now."""

    def begin(
        self, name: str, thread: Thread | None, steps: Steps, done: Callable[[Any], None]
    ) -> None:
        """Run steps until they have to wait; `done` gets their result, now or later."""
        operation = Operation(name, next(self._ids), thread, steps, done)
        if thread is not None:
            thread.operation = operation
        self.advance(operation, None)

    def ask_early(self, fault: Fault) -> None:
        """Have pages on their way that nobody waits for yet. (See `go_on`: let go of at once.)"""
        self._supervisor.step(fault._replace(requester=next(self._ids)))

    def abandon(self, operation: Operation) -> None:
        """The thread is gone: give up what the operation holds and waits for."""
        operation.steps.close()
        if self._asking.pop(operation.requester, None) is not None:
            self._supervisor.step(Cancelled(operation.requester))
        self._unhold(operation)
        self._waiting.pop(operation, None)
        if operation.thread is not None:
            operation.thread.operation = None

    def wake(self, key: Any, value: Any) -> bool:
        """Answer a `Wait`; False when nobody waits for the key."""
        operation = self._waiting.pop(key, None)
        if operation is None:
            return False
        self.advance(operation, value)
        return True

    def advance(self, operation: Operation, value: Any) -> None:
        """Answer an operation, and run it until it has to wait, or is done."""
        supervisor = self._supervisor
        paused_s = 0.0
        while True:
            outer, self.advancing = self.advancing, operation
            try:
                want = operation.steps.send(value)
            except StopIteration as end:
                self._settle(operation)
                self._unhold(operation)
                if operation.thread is not None and operation.thread.operation is operation:
                    operation.thread.operation = None
                operation.done(end.value)
                return
            finally:
                self.advancing = outer
            self._settle(operation)
            kind = type(want)
            if kind is Acquire or (kind is AcquireLocked and not supervisor.several_writers):
                runs = mapped_runs(supervisor.space, want.ranges)
                if supervisor.node.satisfied(runs):
                    value = None
                    continue
                operation.wanted = want
                self._asking[operation.requester] = operation
                supervisor.step(Fault(operation.requester, runs))
                return
            if kind is Flush:
                if not supervisor.node.armed:
                    value = None
                    continue
                self._asking[operation.requester] = operation
                supervisor.step(Serialize(operation.requester))
                return
            if kind is AcquireLocked:
                operation.wanted = want
                self._asking[operation.requester] = operation
                runs = mapped_runs(supervisor.space, want.ranges)
                supervisor.step(BusLock(operation.requester, runs))
                return
            if kind is Hold:
                self._unhold(operation)
                operation.hold_requester = next(self._ids)
                self._holding[operation.hold_requester] = operation
                runs = mapped_runs(supervisor.space, want.ranges)
                supervisor.step(Fault(operation.hold_requester, runs))
                return
            if kind is Unhold:
                self._unhold(operation)
                value = None
                continue
            if kind is Wait:
                self._waiting[want.key] = operation
                return
            if kind is Pause:
                now = time.monotonic()
                paused_s = paused_s or now
                if now - paused_s < TURN_S:
                    value = None
                    continue
                self._waiting[operation] = operation
                supervisor.events.at(now, partial(self.wake, operation, None))
                return
            supervisor.wait_for(operation, want)
            return

    def go_on(self, requester: int, retry: bool) -> None:
        """The pages that a requester waited for are there, or (retry) may be."""
        operation = self._asking.get(requester)
        if operation is not None:
            self._acquired(operation, retry)
            return
        holder = self._holding.get(requester)
        if holder is None:
            self._supervisor.step(Released(requester))  # given up, or asked for early
            return
        if retry:
            self._holding.pop(requester)
            holder.hold_requester = 0
        self.advance(holder, None)

    def _acquired(self, operation: Operation, retry: bool) -> None:
        if retry:
            supervisor = self._supervisor
            runs = mapped_runs(supervisor.space, operation.wanted.ranges)
            if not supervisor.node.satisfied(runs):
                supervisor.step(Fault(operation.requester, runs))
                return
        self.advance(operation, None)

    def _settle(self, operation: Operation) -> None:
        """Drop the pins of the step that has just run."""
        if self._asking.pop(operation.requester, None) is not None:
            self._supervisor.step(Released(operation.requester))

    def _unhold(self, operation: Operation) -> None:
        if operation.hold_requester:
            self._holding.pop(operation.hold_requester, None)
            self._supervisor.step(Cancelled(operation.hold_requester))
            operation.hold_requester = 0
