# SPDX-License-Identifier: GPL-2.0-or-later
"""Handlers of the system calls that are more than marshalling.

A handler is a generator of steps (driver/operations.py): it is called with
home's supervisor, the thread (whose task here may be a shadow), the six
arguments, and the `SpecialCall` if the thread runs on another host. It returns
the call's value or negative errno; None when it has seen to the thread itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from supervisor.arch import Arch
from supervisor.errors import UnsupportedError
from supervisor.syscalls.handlers import (
    clocks,
    files,
    futex,
    ipc,
    limits,
    machine,
    memory,
    signals,
    threads,
    timers,
    transfers,
)
from supervisor.syscalls.spec import Row

Handler = Callable[..., Any]

HOME_HANDLERS: Final[dict[str, Handler]] = {
    **memory.HANDLERS,
    **ipc.HANDLERS,
    **threads.HANDLERS,
    **futex.HANDLERS,
    **signals.HANDLERS,
    **files.HANDLERS,
    **machine.HANDLERS,
    **clocks.HANDLERS,
    **timers.OVERRIDDEN,
    **limits.OVERRIDDEN,
    **transfers.HANDLERS,
}
"""By the name of the call, or of another that does the same (Row.handler)."""

OVERRIDES: Final = frozenset(
    ("tkill", "tgkill", "rt_tgsigqueueinfo", "kill", "rt_sigqueueinfo", "rt_sigpending",
     "rt_sigtimedwait", "rt_sigtimedwait_time64",
     "getdents64", *timers.OVERRIDDEN, *limits.OVERRIDDEN)
)
"""Calls that only need marshalling, but something more after it at home."""

MARSHALLED: Final = frozenset(
    ("open", "readlink", "nanosleep", "clock_nanosleep", "clock_gettime")
)
"""Handlers (Row.handler) that, for a thread elsewhere, are plain marshalling (where its own
host does not know the answer)."""


def find(row: Row) -> Handler | None:
    return HOME_HANDLERS.get(row.handler) or HOME_HANDLERS.get(row.name)


def unknown_call(arch: Arch, number: int) -> UnsupportedError:
    name = arch.names.get(number, f"syscall_{number}")
    return UnsupportedError(
        f"the program made system call {name} ({number}), which dsmsup does not know"
    )


def unsupported_call(row: Row) -> UnsupportedError:
    why = f": {row.why}" if row.why else ""
    return UnsupportedError(f"the program made system call {row.name}, which is not supported{why}")


def refusal(row: Row) -> int:
    """What the program is told where a call is not run; raises where it cannot go on."""
    if row.answer is None:
        raise unsupported_call(row)
    return row.answer


def is_linker(path: str) -> bool:
    """Is this file a dynamic linker (ld-linux-x86-64.so.2, ld-musl-x86_64.so.1, ld-2.31.so)?"""
    name = os.path.basename(path)
    return name.startswith("ld-") and ".so" in name
