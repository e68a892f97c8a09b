# SPDX-License-Identifier: GPL-2.0-or-later
"""Forced signals that come to a thread once more, by a signal of ours in the place of them.

Those that were kept while they were blocked, and SIGTRAPs that were sent to the process, and
that the kernel gave to the agent.

The agent has all signals blocked but this one, by which it stops (a forced signal that is
blocked would lose its handler). Where every thread of the program stands in a stop, the
agent is the next to run, and what waits for the process is its. It is sent again, to a
thread of the program, whose siginfo then becomes what it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

from supervisor.driver.kept_signals import SI_TKILL, Kept
from supervisor.driver.messages import BringHome
from supervisor.tracee import ptrace
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

_SIGTRAP: Final = int(signal.SIGTRAP)
_SYS_TGKILL: Final = 234


class Misdirected:
    """At home: a vessel gets no signals of the program's."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._resent: dict[int, list[Kept]] = {}
        """Task that some were sent to again: what they were."""

    def arrived(self, info: bytes) -> None:
        """The agent has got one."""
        home = self._home
        able = [
            thread for thread in home.by_tid.values()
            if not (thread.borrowed or thread.virtual_mask >> (_SIGTRAP - 1) & 1)
        ]  # fmt: skip
        if not able:
            home.kept_signals.keep_for_all(_SIGTRAP, info)
            return
        thread = next((thread for thread in able if thread.away == HOME), able[0])
        self.send(thread, _SIGTRAP, info)
        if thread.away != HOME:
            home.send(thread.away, BringHome(thread.tid))

    def send(self, thread: Thread, number: int, info: bytes) -> None:
        """Send one to a thread, to which it will be what it was."""
        self._resent.setdefault(thread.task, []).append((number, info))
        process = thread.tid if thread.borrowed else self._home.pid
        with contextlib.suppress(ProcessLookupError):
            ptrace.raw_syscall(_SYS_TGKILL, process, thread.tid, number)

    def restore(self, thread: Thread, number: int) -> None:
        """A thread has stopped at a signal: where it is one sent again, it is what it was."""
        resent = self._resent.get(thread.task)
        found = next((kept for kept in resent or () if kept[0] == number), None)
        if resent is None or found is None:
            return
        info = ptrace.get_siginfo_bytes(thread.task)
        code, sender = (int.from_bytes(info[at : at + 4], "little", signed=True) for at in (8, 16))
        if (code, sender) == (SI_TKILL, os.getpid()):
            resent.remove(found)
            ptrace.set_siginfo_bytes(thread.task, found[1])
            if not resent:
                del self._resent[thread.task]

    def forget(self, thread: Thread) -> None:
        """The thread is gone."""
        self._resent.pop(thread.task, None)
