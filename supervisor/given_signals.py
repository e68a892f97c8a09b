# SPDX-License-Identifier: GPL-2.0-or-later
"""The signals that dsmsup was started with ignored or blocked: so the program starts too.

A supervisor itself needs some of them: of ignored children there is nothing to wait for.
What Python ignores by itself cannot be told from what was ignored before: of SIGPIPE and
SIGXFSZ the program has the default.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Final

_PYTHONS: Final = frozenset((signal.SIGPIPE, signal.SIGXFSZ))
_NEEDED: Final = frozenset((signal.SIGCHLD, signal.SIGXCPU))

_ignored: frozenset[int] = frozenset()
_blocked: frozenset[int] = frozenset()


def take_over() -> None:
    """Note how this process was started, and have what a supervisor needs; once, at first."""
    global _ignored, _blocked
    numbers = signal.valid_signals() - _PYTHONS
    _ignored = frozenset(
        number for number in numbers if signal.getsignal(number) is signal.SIG_IGN
    )
    _blocked = frozenset(signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEEDED))
    for number in _ignored & _NEEDED:
        signal.signal(number, signal.SIG_DFL)


def ignored() -> frozenset[int]:
    """What the program starts with ignored."""
    return _ignored


def blocked() -> frozenset[int]:
    """What its first thread starts with blocked."""
    return _blocked


def restore(but: Iterable[int]) -> None:
    """In a child that becomes the program: as they were, `but` some, which it has by default
    and not blocked."""
    kept = frozenset(but)
    for number in _ignored - kept:
        signal.signal(number, signal.SIG_IGN)
    for number in _PYTHONS | _ignored & kept:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked - kept)
