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
import struct

from supervisor.tracee import ptrace

_SYS_SCHED_SETATTR = 314
_SCHED_FLAG_RESET_ON_FORK = 0x01
_SHORTEST_SLICE_NS = 100_000


def put_first(task: int = 0) -> str:
    """Raise a task's urgency (0: this process's), not its children's; says how.

    For the supervisor, and for the agents that run its system calls while it waits.
    """
    try:
        os.sched_setscheduler(task, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        return "real-time"
    except OSError:
        pass
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack(
        "<IIQiIQQQ", 48, os.SCHED_OTHER, _SCHED_FLAG_RESET_ON_FORK, 0, 0, _SHORTEST_SLICE_NS, 0, 0
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    with contextlib.suppress(OSError):
        ptrace.raw_syscall(_SYS_SCHED_SETATTR, task, ctypes.addressof(buffer), 0)
        return "shortest slice"
    return "as any other"
