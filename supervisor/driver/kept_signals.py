# SPDX-License-Identifier: GPL-2.0-or-later
"""Forced signals that were sent while the program has them blocked (see driver/signals.py).

The kernel has them not blocked, so it delivers them, and they are kept here: until a
thread unblocks them, or waits for them (sigtimedwait(2)). One that was sent to the process
is any thread's, whichever the kernel chose. A wait that the kernel has begun ends when one
of its signals is kept: its thread is interrupted, and looks here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from supervisor.tracee import ptrace

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

Kept = tuple[int, bytes]
"""Number, siginfo."""

SI_TKILL: Final = -6


class KeptSignals:
    """Those of the program; what was sent to one thread is in `Thread.blocked_signals`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._of_process: list[Kept] = []
        self.waiting: dict[int, int] = {}
        """Tasks that wait for signals: the mask of those."""

    def keep(self, thread: Thread, number: int, info: bytes) -> None:
        """A thread has got one that it has blocked."""
        code = int.from_bytes(info[8:12], "little", signed=True)
        own = code == SI_TKILL or thread.borrowed
        if own:
            self._keep(thread.blocked_signals, [thread], number, info)
        else:
            self.keep_for_all(number, info)

    def keep_for_all(self, number: int, info: bytes) -> None:
        """The process has got one, which all its threads have blocked."""
        self._keep(self._of_process, list(self._home.by_tid.values()), number, info)

    def _keep(self, queue: list[Kept], waiters: list[Thread], number: int, info: bytes) -> None:
        if any(kept == number for kept, _ in queue):
            return  # one of each is pending at most
        queue.append((number, info))
        for waiter in waiters:
            if self.waiting.get(waiter.task, 0) >> (number - 1) & 1:
                with contextlib.suppress(ptrace.TraceeGone):
                    ptrace.interrupt(waiter.task)
                return

    def pending(self, thread: Thread) -> int:
        """The mask of those that are a thread's to take."""
        mask = 0
        for queue in self._queues(thread):
            for number, _ in queue:
                mask |= 1 << (number - 1)
        return mask

    def is_awaited(self, thread: Thread) -> bool:
        """Is one here that a thread waits for?"""
        return bool(self.waiting.get(thread.task, 0) & self.pending(thread))

    def take(self, thread: Thread, mask: int) -> Kept | None:
        """The first of a mask, as the kernel takes them: a thread's own, the lowest number."""
        for queue in self._queues(thread):
            found = min((kept for kept in queue if mask >> (kept[0] - 1) & 1), default=None)
            if found is not None:
                queue.remove(found)
                return found
        return None

    def clear(self) -> None:
        """The program has executed another."""
        self._of_process.clear()

    def _queues(self, thread: Thread) -> list[list[Kept]]:
        if thread.borrowed:
            return [thread.blocked_signals]
        return [thread.blocked_signals, self._of_process]
