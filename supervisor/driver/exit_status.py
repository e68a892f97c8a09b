# SPDX-License-Identifier: GPL-2.0-or-later
"""How a process ended, as an exit status and in words."""

from __future__ import annotations

import signal

from supervisor.errors import EXIT_SIGNAL_BASE
from supervisor.tracee.stops import Stop, StopKind


def of(stop: Stop) -> int:
    """The shell's convention: the status, or 128 and the signal."""
    return stop.detail if stop.kind is StopKind.EXITED else EXIT_SIGNAL_BASE + stop.detail


def describe(stop: Stop) -> str:
    if stop.kind is StopKind.EXITED:
        return f"exited with status {stop.detail}"
    try:
        return f"was killed by {signal.Signals(stop.detail).name}"
    except ValueError:
        return f"was killed by signal {stop.detail}"
