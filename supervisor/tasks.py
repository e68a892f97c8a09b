# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes and threads of our own, of which the kernel may permit no more."""

from __future__ import annotations

import os
from typing import Final

from supervisor.errors import DsmsupError

NO_MORE: Final = (
    "no more processes or threads may be made here: raise the limit (ulimit -u, or the container's)"
)


def fork() -> int:
    """As fork(2); DsmsupError where there may be no more."""
    try:
        return os.fork()
    except BlockingIOError:
        raise DsmsupError(NO_MORE) from None


def is_no_thread(error: BaseException) -> bool:
    """Whether Python could not start a thread; it tells no errno."""
    return isinstance(error, RuntimeError) and "start new thread" in str(error)
