# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call's arguments point to, read and written as guest memory."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Steps
from supervisor.syscalls.call import Acquire

if TYPE_CHECKING:
    from supervisor.driver.home import Home


def read(home: Home, address: int, length: int) -> Steps:
    """Bytes of the program; None when it may not read there."""
    if not home.check(address, length, Access.READ):
        return None
    yield Acquire(((address, length, Access.READ),))
    return home.read(address, length)


def write(home: Home, address: int, data: bytes) -> Steps:
    """0, or -EFAULT when the program may not write there."""
    if not home.check(address, len(data), Access.WRITE):
        return -errno.EFAULT
    yield Acquire(((address, len(data), Access.WRITE),))
    home.write(address, data)
    return 0
