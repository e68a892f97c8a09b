# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared memory of System V as i386 programs attach it: below 4 GiB, and by ipc(2) too."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Steps
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import mapping
from supervisor.units import round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

SYS_SHMCTL: Final = 31
IPC_STAT: Final = 2
SHMID_DS: Final = 112
SHM_SEGSZ: Final = 48
"""Bytes of struct shmid64_ds, and where the segment's size is in it."""


def shmat(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """A place that the agent's 64-bit call chose would be too high for 32-bit code."""
    identifier, address, flags = args[:3]
    if not address and thread.arch.bits == 32:
        address = _free_for(home, identifier)
    return (yield from mapping.shmat(home, thread, [identifier, address, flags], call))


def _free_for(home: Home, identifier: int) -> int:
    """A free range for a segment; 0 where there is none, or no such segment."""
    lease = home.scratch.lease()
    try:
        at = lease.allocate(SHMID_DS)
        if home.agent.run([(SYS_SHMCTL, identifier & 0xFFFF_FFFF, IPC_STAT, at)])[0] < 0:
            return 0
        (size,) = struct.unpack_from("<Q", lease.read(at, SHMID_DS), SHM_SEGSZ)
    finally:
        lease.release()
    return home.layout.free_range(round_up(size)) or 0


def ipc(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """ipc(SHMAT, identifier, flags, where the address goes, address)."""
    kind, identifier, flags, told, address, _ = args
    if kind >> 16 == 1:
        return -errno.EINVAL  # iBCS2's, from inside the kernel only
    start = yield from shmat(home, thread, [identifier, address, flags], call)
    if start < 0:
        return start
    if not home.check(told, 4, Access.WRITE):
        return -errno.EFAULT
    yield Acquire(((told, 4, Access.WRITE),))
    home.write(told, start.to_bytes(4, "little"))
    return 0


HANDLERS: Final = {"shmat": shmat, "ipc": ipc}
