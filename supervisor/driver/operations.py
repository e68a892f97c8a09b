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
    Wait(key)            something that `Operations.wake(key, value)` tells

Generators cost a fraction of a microsecond where a coroutine of the event
loop's costs tens, and everything that is there already is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from typing import Any, NamedTuple

from supervisor.coherence.messages import Access


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


class Wait(NamedTuple):
    key: Hashable


Steps = Generator[Any, Any, Any]


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
