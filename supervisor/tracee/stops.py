# SPDX-License-Identifier: GPL-2.0-or-later
"""What waitpid(2) said about a tracee, as one small record.

The layout of the status word under ptrace is in ptrace(2): the low byte 0x7f
marks a stop, the next its signal, and bits 16 and up an event.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from supervisor.tracee import ptrace


class StopKind(IntEnum):
    EXITED = 0
    """detail: exit status"""
    KILLED = 1
    """detail: signal"""
    SYSCALL = 2
    """entry or exit stop of PTRACE_SYSCALL"""
    SECCOMP = 3
    EVENT = 4
    """detail: PTRACE_EVENT_CLONE, _FORK, _VFORK, _EXEC"""
    GROUP_STOP = 5
    """PTRACE_EVENT_STOP: detail is the stopping signal, SIGTRAP for a new thread
    or after PTRACE_INTERRUPT"""
    SIGNAL = 6
    """signal-delivery stop; detail: signal"""


class Stop(NamedTuple):
    pid: int
    kind: StopKind
    detail: int


_SYSCALL_STOP: Final = int(signal.SIGTRAP) | 0x80
_SIGNAL: Final = StopKind.SIGNAL
_SIGILL: Final = int(signal.SIGILL)
_AT_ONCE: Final = ptrace.WALL | os.WNOHANG


def decode(pid: int, status: int) -> Stop:
    """One waitpid result."""
    if status & 0xFF == 0x7F:
        stop_signal = status >> 8 & 0xFF
        event = status >> 16
        if event == 0:
            if stop_signal == _SYSCALL_STOP:
                return Stop(pid, StopKind.SYSCALL, 0)
            return Stop(pid, _SIGNAL, stop_signal)
        if event == ptrace.PTRACE_EVENT_SECCOMP:
            return Stop(pid, StopKind.SECCOMP, 0)
        if event == ptrace.PTRACE_EVENT_STOP:
            return Stop(pid, StopKind.GROUP_STOP, stop_signal)
        return Stop(pid, StopKind.EVENT, event)
    if status & 0x7F == 0:
        return Stop(pid, StopKind.EXITED, status >> 8 & 0xFF)
    return Stop(pid, StopKind.KILLED, status & 0x7F)


def wait_for(pid: int) -> Stop:
    """Block until this tracee stops or ends (only where its next stop is certain and near)."""
    return decode(*os.waitpid(pid, ptrace.WALL))


def wait_among(pid: int, others: deque[Stop]) -> Stop:
    """As `wait_for`, where other tracees may have something to tell: it goes into `others`.

    The end of a thread group's leader is told only when those of its other
    threads have been taken: to wait for the leader alone would be to wait for ever.
    """
    while True:
        stop = decode(*os.waitpid(-1, ptrace.WALL))
        if stop.pid == pid:
            return stop
        others.append(stop)


def drain(stops: deque[Stop], passed: Callable[[int], bool]) -> None:
    """Append all that has happened to any child or tracee since; never blocks.

    A stop at SIGILL, where none waits before it, is for `passed` first: where that says so,
    the tracee has been seen to.
    """
    waitpid = os.waitpid
    while True:
        try:
            pid, status = waitpid(-1, _AT_ONCE)
        except ChildProcessError:
            return
        if pid == 0:
            return
        number = status >> 8
        if status & 0xFF == 0x7F and number < _SYSCALL_STOP:  # most often: a signal's delivery
            if number != _SIGILL or stops or not passed(pid):
                stops.append(Stop(pid, _SIGNAL, number))
        else:
            stops.append(decode(pid, status))
