# SPDX-License-Identifier: GPL-2.0-or-later
"""How many files a supervisor may have open (RLIMIT_NOFILE of setrlimit(2)).

It holds some for each other host and each thread, so it takes what it may get.
The program starts with the limit that dsmsup was started with.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

from supervisor.errors import DsmsupError

WANTED_MAX: Final = 1 << 16
"""More would only make the kernel's table of them larger."""
NEEDED: Final = 36
"""Of one host that runs a small program, beside those it was started with."""
NEEDED_PER_HOST: Final = 2

_given: tuple[int, int] | None = None


def raise_limit(hosts: int) -> None:
    """Take as many as this process may have. Raises DsmsupError where a run needs more."""
    global _given
    _given = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = _given
    wanted = WANTED_MAX if hard == resource.RLIM_INFINITY else min(hard, WANTED_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    needed = NEEDED + NEEDED_PER_HOST * hosts + _open_now()
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise DsmsupError(
            f"a process may have only {soft} files open here, and {hosts} hosts need {needed}: "
            f"ulimit -n {needed}, or more"
        )


def restore_limit() -> None:
    """In a child that becomes the program: the limit as it was."""
    if _given is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _given)


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return 0
