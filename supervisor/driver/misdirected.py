# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGTRAPs that were sent to the process, and that the kernel gave to the agent.

The agent has all signals blocked but this one, by which it stops (a forced signal that is
blocked would lose its handler). Where every thread of the program stands in a stop, the
agent is the next to run, and what waits for the process is its. It is sent again, to a
thread of the program, whose siginfo then becomes what it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Final

from supervisor.driver.kept_signals import SI_TKILL
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
        self._resent: dict[int, deque[bytes]] = {}
        """Task that one was sent to again: what it was."""

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
        self._resent.setdefault(thread.task, deque()).append(info)
        with contextlib.suppress(ProcessLookupError):
            ptrace.raw_syscall(_SYS_TGKILL, home.pid, thread.tid, _SIGTRAP)
        if thread.away != HOME:
            home.send(thread.away, BringHome(thread.tid))

    def restore(self, thread: Thread, number: int) -> None:
        """A thread has stopped at a signal: where it is one sent again, it is what it was."""
        resent = self._resent.get(thread.task)
        if not resent or number != _SIGTRAP:
            return
        info = ptrace.get_siginfo_bytes(thread.task)
        code, sender = (int.from_bytes(info[at : at + 4], "little", signed=True) for at in (8, 16))
        if (code, sender) == (SI_TKILL, os.getpid()):
            ptrace.set_siginfo_bytes(thread.task, resent.popleft())
            if not resent:
                del self._resent[thread.task]

    def forget(self, thread: Thread) -> None:
        """The thread is gone."""
        self._resent.pop(thread.task, None)
