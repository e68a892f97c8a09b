# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor before the guest on a shared processor.

A supervisor sleeps until a stop or a packet arrives, works for some tens of
microseconds and sleeps again; the guest's threads compute on the same
processor. Under the fair scheduler a waking task may wait for the running
one's slice, milliseconds, and so may every host that waits for a page. With
the right to do so (root, RLIMIT_RTPRIO) the supervisor becomes a real-time
task, which the kernel still keeps below 95 % of the processor
(sched_rt_runtime_us); without it, it asks for the shortest slice, which since
Linux 6.12 any task may (sched(7), sched_setattr(2)), and which makes its
deadline the earliest.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from typing import NamedTuple

from supervisor.tracee import ptrace

_libc = ctypes.CDLL(None)

_SYS_SCHED_SETATTR = 314
_SCHED_FLAG_RESET_ON_FORK = 0x01
_SHORTEST_SLICE_NS = 100_000
_RLIMIT_RTTIME = 15
_PR_SET_TIMERSLACK = 29
_PR_GET_TIMERSLACK = 30
URGENT_S_MAX = 5.0
"""How long a supervisor computes without a sleep before it counts as any other process."""


def bound_urgency(limit_s: float = URGENT_S_MAX) -> None:
    """Lower this process to an ordinary one when it has not slept for a time.

    Some fault keeps it busy, and must not keep the machine from everybody else
    (RLIMIT_RTTIME of setrlimit(2)). Children inherit the bound: set it when those
    that must not have it are made.
    """
    _, hard = resource.getrlimit(_RLIMIT_RTTIME)
    soft = int(limit_s * 1e6)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    signal.signal(signal.SIGXCPU, _lower)
    resource.setrlimit(_RLIMIT_RTTIME, (soft, hard))


def _lower(_number: int, _frame: object) -> None:
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER:
        # Another bound, of processor time (RLIMIT_CPU): as without this handler.
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGXCPU)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class _Given(NamedTuple):
    nice: int
    timer_slack_ns: int
    policy: int
    real_time_priority: int


_given: _Given | None = None


def restore() -> None:
    """In a child that becomes the program: policy, nice value, timer slack as dsmsup had them.

    The kernel gives the child of a real-time task others (sched(7), PR_SET_TIMERSLACK(2const)).
    """
    if _given is None:
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _given.nice)
    _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_given.timer_slack_ns), 0, 0, 0)
    if _given.policy != os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, _given.policy, os.sched_param(_given.real_time_priority))


def _look() -> _Given:
    """What this process has been given."""
    return _Given(
        os.getpriority(os.PRIO_PROCESS, 0), _libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0),
        os.sched_getscheduler(0), os.sched_getparam(0).sched_priority,
    )  # fmt: skip


def _real_time_priorities() -> list[int]:
    """What to try: above all that the program may have, or it could keep the supervisor waiting.

    A thread of its own that has real-time priority and spins until another goes on.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    highest = os.sched_get_priority_max(os.SCHED_RR)
    return [highest] if not 0 < allowed < highest else [highest, allowed]


def _may_be_urgent() -> bool:
    """A real-time task that reaches a hard RLIMIT_RTTIME is killed: no bound below would help."""
    _, hard = resource.getrlimit(_RLIMIT_RTTIME)
    return hard == resource.RLIM_INFINITY or hard > URGENT_S_MAX * 1e6


def put_first(task: int = 0) -> str:
    """Raise a task's urgency (0: this process's), not its children's; says how.

    For the supervisor, and for the agents that run its system calls while it waits.
    """
    global _given
    if _given is None:
        _given = _look()
    if _may_be_urgent():
        for urgency in _real_time_priorities():
            with contextlib.suppress(OSError):
                os.sched_setscheduler(
                    task, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(urgency)
                )
                return "real-time"
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack(
        "<IIQiIQQQ", 48, os.SCHED_OTHER, _SCHED_FLAG_RESET_ON_FORK, 0, 0, _SHORTEST_SLICE_NS, 0, 0
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    with contextlib.suppress(OSError):
        ptrace.raw_syscall(_SYS_SCHED_SETATTR, task, ctypes.addressof(buffer), 0)
        return "shortest slice"
    return "as any other"
