# SPDX-License-Identifier: GPL-2.0-or-later
"""futex(2): at home, on the real word, so that queues and timeouts are the kernel's.

The kernel reads the word without raising SIGSEGV: a page that is elsewhere
gives EFAULT, so it is fetched first. Home is where the protocol decides; a
store that another host makes after the kernel has compared the word is
followed by that host's wake, which comes here too: no wake-up is lost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.operations import AcquireLocked, Native, Steps
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.spec import Row
from supervisor.tracee import inject

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

COMMAND_MASK: Final = 0x7F
PRIVATE: Final = 0x80

WAIT: Final = 0
WAKE: Final = 1
REQUEUE: Final = 3
CMP_REQUEUE: Final = 4
WAKE_OP: Final = 5
LOCK_PI: Final = 6
UNLOCK_PI: Final = 7
TRYLOCK_PI: Final = 8
WAIT_BITSET: Final = 9
WAKE_BITSET: Final = 10
WAIT_REQUEUE_PI: Final = 11
CMP_REQUEUE_PI: Final = 12
LOCK_PI2: Final = 13

WITH_TIMEOUT: Final = frozenset((WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2))
IMMEDIATE: Final = frozenset((WAKE, WAKE_BITSET, REQUEUE, CMP_REQUEUE, WAKE_OP))
WITH_SECOND: Final = frozenset((REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_REQUEUE_PI, CMP_REQUEUE_PI))
WRITES: Final = frozenset(
    (WAKE_OP, LOCK_PI, UNLOCK_PI, TRYLOCK_PI, WAIT_REQUEUE_PI, CMP_REQUEUE_PI, LOCK_PI2)
)
TRIES_MAX: Final = 1000


def timeout_address(args: list[int]) -> int:
    """Where the call's struct timespec is; 0 when it has none."""
    return args[3] if args[1] & COMMAND_MASK in WITH_TIMEOUT else 0


def futex(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    address, operation, _, _, second, _ = args
    command = operation & COMMAND_MASK
    if address & 3:
        return -errno.EINVAL
    access = Access.WRITE if command in WRITES else Access.READ
    ranges = [(address, 4, access)]
    if command in WITH_SECOND:
        if second & 3:
            return -errno.EINVAL
        ranges.append((second, 4, Access.WRITE))
    for start, length, wanted in ranges:
        if not home.check(start, length, wanted):
            return -errno.EFAULT
    if command in (WAKE, WAKE_BITSET) and operation & PRIVATE:
        return _now(home, args, ())  # keyed by address alone
    if command in IMMEDIATE:
        yield (AcquireLocked if command in WRITES else Acquire)(tuple(ranges))
        return _now(home, args, ranges)
    timeout = b""
    where = timeout_address(args)
    row = home.calls.row_of(thread, call)
    if where:
        size = row.timespec.size
        if call is not None:
            timeout = call.payload
        elif home.check(where, size, Access.READ):
            yield Acquire(((where, size, Access.READ),))
            timeout = home.read(where, size)
        if len(timeout) != size:
            return -errno.EFAULT
    return (yield from _wait(home, row, args, tuple(ranges), timeout))


def _now(home: Home, args: list[int], ranges: Iterable[tuple[int, int, Access]]) -> int:
    """A call that does not block: the agent makes it, while nobody can take the pages."""
    home.pager.reach(ranges)
    result = home.agent.run([(inject.SYS_FUTEX, *args)])[0]
    home.in_kernel.woken(result)
    return result


def wake_one(home: Home, address: int, private: int = 0) -> None:
    """Wake a task that waits for a word which home has just written."""
    _now(home, [address, WAKE | private, 1], ((address, 4, Access.WRITE),))


def _wait(
    home: Home,
    row: Row,
    args: list[int],
    ranges: tuple[tuple[int, int, Access], ...],
    timeout: bytes,
) -> Steps:
    address, operation, value = args[:3]
    lease = home.scratch.lease()
    try:
        final = list(args)
        if timeout:
            final[3] = lease.allocate(len(timeout))
            lease.write(final[3], timeout)
        compares = operation & COMMAND_MASK in (WAIT, WAIT_BITSET)
        result = -errno.EFAULT
        for _ in range(TRIES_MAX):
            yield (Acquire if compares else AcquireLocked)(ranges)
            if compares and int.from_bytes(home.read(address, 4), "little") != value & 0xFFFFFFFF:
                return -errno.EAGAIN
            home.pager.reach(ranges)
            result = yield Native(row.number, final)
            if result != -errno.EFAULT or not home.check(*ranges[0]):
                return result
            # The page was taken between the resume and the kernel's look at it.
        raise OSError(errno.EFAULT, f"futex at {address:#x}: {os.strerror(-result)}")
    finally:
        lease.release()


HANDLERS: Final = {"futex": futex}
