# SPDX-License-Identifier: GPL-2.0-or-later
"""futex(2): at home, so that queues and timeouts are the kernel's.

Private calls that queue (all but those of priority inheritance) go by a word of home's own
(driver/futex_words.py); the program's word is compared here, or by the host of the thread in
its own copy of the page. What a host has compared counts if home's directory still has that
copy when the call arrives: then every store by another is yet to come, and so is the
wake-up that follows it, for that is made here too.

Others use the real word. The kernel reads it without raising SIGSEGV: a page that is
elsewhere gives EFAULT, so it is fetched first. Home is where the protocol decides; a
store that another host makes after the kernel has compared the word is followed by that
host's wake, which comes here too: no wake-up is lost.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from supervisor.coherence import home as coherence_home
from supervisor.coherence.messages import Access
from supervisor.driver.operations import AcquireLocked, Native, Steps, Wait
from supervisor.driver.restarts import ERESTART_RESTARTBLOCK, ERESTARTSYS
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import futex_op
from supervisor.syscalls.spec import Row
from supervisor.tracee import inject
from supervisor.tracee.usage import NS_PER_S
from supervisor.units import PAGE_SHIFT, HostId

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
PRIVATE_WAITS: Final = frozenset((WAIT | PRIVATE, WAIT_BITSET | PRIVATE))
PRIVATE_WAKES: Final = frozenset((WAKE | PRIVATE, WAKE_BITSET | PRIVATE))
PRIVATE_MOVES: Final = frozenset((REQUEUE | PRIVATE, CMP_REQUEUE | PRIVATE))
PRIVATE_WAKE_OP: Final = WAKE_OP | PRIVATE
CLOCK_REALTIME: Final = 0x100
TRIES_MAX: Final = 1000
WORD_SIZE: Final = 4
PATIENCE: Final = 2
"""Times that a thread may come too late for the queue before others wait for it."""
TURN_S: Final = 300e-6
"""What it takes a thread to get into the queue, by and large."""
_turns = itertools.count()
ADDRESSES_END: Final = 1 << 47


def timeout_address(args: list[int]) -> int:
    """Where the call's struct timespec is; 0 when it has none."""
    return args[3] if args[1] & COMMAND_MASK in WITH_TIMEOUT else 0


def waits_privately(args: list[int]) -> bool:
    """Whether a call only compares a word of its own process's and waits."""
    operation = args[1] & 0xFFFF_FFFF & ~CLOCK_REALTIME
    return (
        operation in PRIVATE_WAITS
        and not args[0] & 3
        and (operation & COMMAND_MASK == WAIT or args[5] & 0xFFFF_FFFF != 0)
    )


def is_expected(word: bytes, args: list[int]) -> bool:
    """Whether a word is what the call is given to compare it with."""
    return int.from_bytes(word, "little") == args[2] & 0xFFFF_FFFF


def futex(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    address, second = args[0], args[4]
    operation = args[1] & 0xFFFF_FFFF
    command = operation & COMMAND_MASK
    if address & 3:
        return -errno.EINVAL
    if operation in PRIVATE_WAKES:  # by address alone: there need be nothing
        if address >= ADDRESSES_END:
            return -errno.EFAULT
        return (yield from _wake_in_turn(home, args))
    access = Access.WRITE if command in WRITES else Access.READ
    ranges = [(address, WORD_SIZE, access)]
    if command in WITH_SECOND:
        if second & 3:
            return -errno.EINVAL
        ranges.append((second, WORD_SIZE, Access.WRITE))
    for start, length, wanted in ranges:
        if not home.check(start, length, wanted):
            return -errno.EFAULT
    if operation in PRIVATE_MOVES:
        return (yield from _requeue(home, args, ranges[0]))
    if operation == PRIVATE_WAKE_OP:
        yield AcquireLocked(tuple(ranges))
        return _wake_op(home, args)
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
        seconds, nanoseconds = row.timespec.unpack(timeout)
        if seconds < 0 or not 0 <= nanoseconds < NS_PER_S:
            return -errno.EINVAL
    if command == WAIT_BITSET and not args[5] & 0xFFFF_FFFF:
        return -errno.EINVAL
    until_ns = 0
    if timeout and command == WAIT:  # of the others it is the time of the end
        until_ns, timeout = _resumed(thread, row, timeout)
    result = yield from _begin_wait(home, thread, row, args, tuple(ranges), timeout, call)
    if until_ns and result == ERESTART_RESTARTBLOCK and not thread.at_gadget:
        thread.resumes = (thread.registers.rip, until_ns)
    return result


def _resumed(thread: Thread, row: Row, timeout: bytes) -> tuple[int, bytes]:
    """Until when a call waits, by the monotonic clock, and for how long: for what is left where
    a signal that nobody handles has interrupted it (see driver/interrupted.py)."""
    now_ns = time.monotonic_ns()
    seconds, rest = row.timespec.unpack(timeout)
    until_ns: int = now_ns + seconds * NS_PER_S + rest
    resumed, thread.resumes = thread.resumes, None
    if resumed is None or resumed[0] != thread.registers.rip:
        return until_ns, timeout
    until_ns = min(until_ns, resumed[1])
    return until_ns, row.timespec.pack(*divmod(max(until_ns - now_ns, 0), NS_PER_S))


def _begin_wait(
    home: Home, thread: Thread, row: Row, args: list[int],
    ranges: tuple[tuple[int, int, Access], ...], timeout: bytes, call: SpecialCall | None,
) -> Steps:  # fmt: skip
    address = args[0]
    if waits_privately(args):
        compared = call is not None and call.compared and _has_latest(home, thread.away, address)
        return (yield from _wait_privately(home, thread, row, args, timeout, compared))
    return (yield from _wait(home, row, args, ranges, timeout))


@contextlib.contextmanager
def _placed(home: Home, args: list[int], timeout: bytes) -> Iterator[list[int]]:
    """A waiting call's arguments, its timeout where the kernel finds it."""
    final = list(args)
    if not timeout:
        yield final
        return
    lease = home.scratch.lease()
    try:
        final[3] = lease.allocate(len(timeout))
        lease.write(final[3], timeout)
        yield final
    finally:
        lease.release()


# Private calls: by a word of home's own -------------------------------------------------


def _has_latest(home: Home, host: HostId, address: int) -> bool:
    side = home.node.side
    assert isinstance(side, coherence_home.Home)
    return side.has_latest(host, address >> PAGE_SHIFT)


def _wait_privately(
    home: Home, thread: Thread, row: Row, args: list[int], timeout: bytes, compared: bool
) -> Steps:
    """`compared`: the word was as expected, and nobody can have been woken since."""
    address, words = args[0], home.futex_words
    with _placed(home, args, timeout) as final:
        for attempt in range(TRIES_MAX):
            if attempt and thread.pending_signals:
                return ERESTART_RESTARTBLOCK if timeout else ERESTARTSYS
            if not compared:
                yield Acquire(((address, WORD_SIZE, Access.READ),))
                if not is_expected(home.read(address, WORD_SIZE), args):
                    return -errno.EAGAIN
            compared = False
            word = words.enter(home.scratch, address)
            final[0], final[2] = word.at, word.value
            starves = attempt >= PATIENCE
            word.starving += starves
            try:
                result = yield Native(row.number, final)
            finally:
                word.starving -= starves
                words.leave(word)
            if result != -errno.EAGAIN:
                return result
            # A wake-up has come before it was in the queue.
        return 0  # it has been woken often enough


def _wake_in_turn(home: Home, args: list[int]) -> Steps:
    """Who wakes again and again leaves the time to wait to whoever comes too late each time."""
    word = home.futex_words.find(args[0])
    if word is not None and word.starving:
        key = ("futex", next(_turns))
        home.events.at(time.monotonic() + TURN_S, lambda: home.operations.wake(key, None))
        yield Wait(key)
    return _wake(home, args)


def _wake(home: Home, args: list[int]) -> int:
    """FUTEX_WAKE and FUTEX_WAKE_BITSET."""
    address, operation, *rest = args
    operation &= 0xFFFF_FFFF
    if operation == WAKE_BITSET | PRIVATE and not args[5] & 0xFFFF_FFFF:
        return -errno.EINVAL
    word = home.futex_words.find(address)
    if word is None:
        return 0
    home.futex_words.change(word)
    return _now(home, [word.at, operation, *rest], ())


def _requeue(home: Home, args: list[int], where: tuple[int, int, Access]) -> Steps:
    """FUTEX_REQUEUE and FUTEX_CMP_REQUEUE, of the word that is there."""
    address, operation, count, moved, second, expected = args
    operation &= 0xFFFF_FFFF
    yield Acquire((where,))
    if not (0 <= count & 0xFFFF_FFFF < 1 << 31 and 0 <= moved & 0xFFFF_FFFF < 1 << 31):
        return -errno.EINVAL
    if operation == CMP_REQUEUE | PRIVATE and int.from_bytes(
        home.read(address, WORD_SIZE), "little"
    ) != expected & 0xFFFF_FFFF:
        return -errno.EAGAIN
    words = home.futex_words
    word = words.find(address)
    if word is None:
        return 0
    target = words.of(home.scratch, second)
    word.linked = target.linked = True
    words.change(word)
    # What CMP_REQUEUE compares is home's own word, just written.
    return _now(home, [word.at, CMP_REQUEUE | PRIVATE, count, moved, target.at, word.value], ())


def _wake_op(home: Home, args: list[int]) -> int:
    """FUTEX_WAKE_OP; the second word is home's now."""
    address, _, count, second_count, second, encoded = args
    try:
        operate, compare = futex_op.decoded(encoded)
    except ValueError:
        return -errno.ENOSYS
    old = futex_op.carry_out(home.memory, second, operate)
    if old is None:  # the kernel can, but does not tell what was there: wake too many
        result = _now(home, [second, PRIVATE_WAKE_OP, 0, 0, second, encoded],
                      ((second, WORD_SIZE, Access.WRITE),))
        if result < 0:
            return result
    woken = _wake(home, [address, WAKE | PRIVATE, count])
    if woken >= 0 and (old is None or compare(old)):
        also = _wake(home, [second, WAKE | PRIVATE, second_count])
        woken = woken + also if also >= 0 else also
    return woken


# On the real word -------------------------------------------------------------------------


def _now(home: Home, args: list[int], ranges: Iterable[tuple[int, int, Access]]) -> int:
    """A call that does not block: the agent makes it, while nobody can take the pages."""
    home.pager.reach(ranges)
    result = home.agent.run([(inject.SYS_FUTEX, *args)])[0]
    home.in_kernel.woken(result)
    return result


def wake_one(home: Home, address: int) -> None:
    """Wake a task that waits for a word which home has just written, privately or not."""
    ranges = ((address, WORD_SIZE, Access.WRITE),)
    if home.hosts == 1:  # the program's own calls are the kernel's (driver/calls.py)
        _now(home, [address, WAKE | PRIVATE, 1], ranges)
    else:
        _wake(home, [address, WAKE | PRIVATE, 1])
    _now(home, [address, WAKE, 1], ranges)


def _wait(
    home: Home,
    row: Row,
    args: list[int],
    ranges: tuple[tuple[int, int, Access], ...],
    timeout: bytes,
) -> Steps:
    address = args[0]
    with _placed(home, args, timeout) as final:
        compares = args[1] & COMMAND_MASK in (WAIT, WAIT_BITSET)
        result = -errno.EFAULT
        for _ in range(TRIES_MAX):
            yield (Acquire if compares else AcquireLocked)(ranges)
            if compares and not is_expected(home.read(address, WORD_SIZE), args):
                return -errno.EAGAIN
            home.pager.reach(ranges)
            result = yield Native(row.number, final)
            if result != -errno.EFAULT or not home.check(*ranges[0]):
                return result
            # The page was taken between the resume and the kernel's look at it.
        raise OSError(errno.EFAULT, f"futex at {address:#x}: {os.strerror(-result)}")


HANDLERS: Final = {"futex": futex}
