# SPDX-License-Identifier: GPL-2.0-or-later
"""process_vm_readv and process_vm_writev (mm/process_vm_access.c), and vmsplice (fs/splice.c).

Most programs ask about themselves, to look at an address without a fault: guest memory to
guest memory. Of another process the kernel moves the bytes, through scratch memory. The pages
of a real vmsplice would stay in the pipe, and scratch memory is used again: it is a write, or a
read where it has the pipe's end to be read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Native, Steps
from supervisor.syscalls.handlers import arguments
from supervisor.syscalls.table import TABLES
from supervisor.units import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

UIO_MAXIOV: Final = 1024
SPLICE_ALL: Final = 0x0F
SPLICE_NONBLOCK: Final = 0x02
RWF_NOWAIT: Final = 0x08

Range = tuple[int, int]
"""Address, length in bytes."""


def process_vm_readv(
    home: Home, thread: Thread, args: list[int], _call: SpecialCall | None
) -> Steps:
    return _transfer(home, thread, args, reads=True)


def process_vm_writev(
    home: Home, thread: Thread, args: list[int], _call: SpecialCall | None
) -> Steps:
    return _transfer(home, thread, args, reads=False)


def _transfer(home: Home, thread: Thread, args: list[int], *, reads: bool) -> Steps:
    pid, local, local_count, remote, remote_count, flags = args
    if flags:
        return -errno.EINVAL
    here = yield from _ranges(home, thread, local, local_count)
    if isinstance(here, int) or not here:
        return here or 0
    there = yield from _ranges(home, thread, remote, remote_count)
    if isinstance(there, int) or not there:
        return there or 0
    pid &= 0xFFFF_FFFF
    own = pid == home.pid or pid in home.by_tid
    done = 0
    for at, other, length in _pairs(here, there):
        if own:
            source, target = (other, at) if reads else (at, other)
            failed = yield from _copy(home, source, target, length)
        else:
            failed = yield from _by_kernel(home, thread, pid, at, other, length, reads)
        if failed:
            return done or failed
        done += length
    return done


def _ranges(home: Home, thread: Thread, at: int, count: int) -> Steps:
    """An iovec array's ranges that have bytes; or a negative errno."""
    word = thread.arch.word
    if count > UIO_MAXIOV:
        return -errno.EINVAL
    data = b""
    if count:
        data = yield from arguments.read(home, at, 2 * word * count)
        if data is None:
            return -errno.EFAULT
    numbers = [
        int.from_bytes(data[place : place + word], "little") for place in range(0, len(data), word)
    ]
    ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
    if any(length >> (8 * word - 1) for _, length in ranges):
        return -errno.EINVAL
    return [each for each in ranges if each[1]]


def _pairs(here: list[Range], there: list[Range]) -> Iterator[tuple[int, int, int]]:
    """Address here, address there, length: each within a page there, by which the kernel goes."""
    places, others = iter(here), iter(there)
    at, left = next(places)
    other, other_left = next(others)
    while True:
        length = min(left, other_left, PAGE_SIZE - (other & PAGE_MASK))
        yield at, other, length
        at, left = at + length, left - length
        other, other_left = other + length, other_left - length
        if not left:
            at, left = next(places, (0, 0))
        if not other_left:
            other, other_left = next(others, (0, 0))
        if not left or not other_left:
            return


def _copy(home: Home, source: int, target: int, length: int) -> Steps:
    data = yield from arguments.read(home, source, length)
    if data is None:
        return -errno.EFAULT
    return (yield from arguments.write(home, target, data))


def _by_kernel(
    home: Home, thread: Thread, pid: int, at: int, other: int, length: int, reads: bool
) -> Steps:
    """Bytes of another process, to or from `at`; 0, or a negative errno."""
    if not home.check(at, length, Access.WRITE if reads else Access.READ):
        return -errno.EFAULT
    word = thread.arch.word
    lease = home.scratch.lease()
    try:
        buffer, vectors = lease.allocate(length), lease.allocate(4 * word)
        for place, value in enumerate((buffer, length, other, length)):
            lease.write(vectors + place * word, value.to_bytes(word, "little"))
        if not reads:
            data = yield from arguments.read(home, at, length)
            lease.write(buffer, data or bytes(length))
        name = "process_vm_readv" if reads else "process_vm_writev"
        number = thread.arch.numbers[name]
        moved = yield Native(number, [pid, vectors, 1, vectors + 2 * word, 1, 0])
        if moved < 0:
            return moved
        data = lease.read(buffer, length)[:moved]
    finally:
        lease.release()
    if reads:
        failed = yield from arguments.write(home, at, data)
        if failed:
            return failed
    return 0 if moved == length else -errno.EFAULT


def vmsplice(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    descriptor, vector, count, flags = args[0] & 0xFFFF_FFFF, args[1], args[2], args[3]
    if flags & 0xFFFF_FFFF & ~SPLICE_ALL:
        return -errno.EINVAL
    process = f"/proc/{thread.task}"
    try:
        pipe = stat.S_ISFIFO(os.stat(f"{process}/fd/{descriptor}").st_mode)
        with open(f"{process}/fdinfo/{descriptor}", encoding="ascii") as file:
            mode = int(file.readlines()[1].split()[1], 8) & os.O_ACCMODE
    except OSError:
        return -errno.EBADF
    if not pipe:
        return -errno.EBADF
    name = "preadv2" if mode == os.O_RDONLY else "pwritev2"
    row = TABLES[thread.arch].rows[thread.arch.numbers[name]]
    own = (1 << thread.arch.bits) - 1  # at the pipe's own position
    nowait = RWF_NOWAIT if flags & SPLICE_NONBLOCK else 0
    arguments = [descriptor, vector, count, own, own, nowait]
    return (yield from home.calls.run_marshalled(thread, row, arguments))


HANDLERS: Final = {
    "vmsplice": vmsplice,
    "process_vm_readv": process_vm_readv,
    "process_vm_writev": process_vm_writev,
}
