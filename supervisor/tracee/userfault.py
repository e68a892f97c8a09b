# SPDX-License-Identifier: GPL-2.0-or-later
"""userfaultfd(2) as the supervisor uses it: faults of a guest process by descriptor.

A descriptor is bound to the memory of the process that makes it, so the call
is run in the guest, and the supervisor borrows the result. From then on every
request works from here, on the guest's page tables, without a stop:

    no page-table entry             the page may not be touched: a fault here
    write-protected entry           it may be read: a store faults here
    plain entry                     it may be written

What is mapped is guest memory's memfd (memory.py). A page of it is taken away
by punching it out and writing it back, after which the entry is gone in every
process and the bytes are there. An entry is put in by UFFDIO_CONTINUE, which
maps what the memfd holds; a hole must be filled first.

Only faults from user mode come here (UFFD_USER_MODE_ONLY, which needs no
privilege): the kernel's own accesses fail with EFAULT, as they do on pages
that mprotect(2) forbids.

Sources: userfaultfd(2), ioctl_userfaultfd(2), linux/userfaultfd.h, mm/userfaultfd.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

from supervisor.errors import GuestDied
from supervisor.tracee import ptrace
from supervisor.units import PAGE_SIZE

SYS_USERFAULTFD: Final = 323
USER_MODE_ONLY: Final = 1
FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY

_API: Final = 0xAA
_MISSING_SHMEM: Final = 1 << 5
_THREAD_ID: Final = 1 << 8
_MINOR_SHMEM: Final = 1 << 10
_EXACT_ADDRESS: Final = 1 << 11
_WP_SHMEM: Final = 1 << 12
_FEATURES: Final = _MISSING_SHMEM | _THREAD_ID | _MINOR_SHMEM | _EXACT_ADDRESS | _WP_SHMEM
_REGISTER_MODES: Final = 1 | 2 | 4  # missing, write-protect, minor
_CONTINUE_DONTWAKE: Final = 1
_CONTINUE_WP: Final = 2
_WRITEPROTECT_DONTWAKE: Final = 2

_FAULT_WRITE: Final = 1 | 2  # a store, or any access to a write-protected page

_FAULT_EVENT: Final = 0x12
_MESSAGE_SIZE: Final = 32
_MESSAGES_MAX: Final = 32


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0xAA << 8 | number


_UFFDIO_API: Final = _request(3, 0x3F, 24)
_UFFDIO_REGISTER: Final = _request(3, 0, 32)
_UFFDIO_UNREGISTER: Final = _request(2, 1, 16)
_UFFDIO_WAKE: Final = _request(2, 2, 16)
_UFFDIO_WRITEPROTECT: Final = _request(3, 6, 24)
_UFFDIO_CONTINUE: Final = _request(3, 7, 32)

_TWO: Final = struct.Struct("=QQ")
_THREE: Final = struct.Struct("=QQQ")
_FOUR: Final = struct.Struct("=QQQq")

SKIPS_MAX: Final = 4
"""Pages of a run that cannot be mapped now; those behind fault when they are touched."""


class PageFault(NamedTuple):
    address: int
    writes: bool
    task: int


class UserFaults:
    """The faults of one guest process, and what it may touch."""

    def __init__(self, descriptor: int) -> None:
        """Take a fresh descriptor over. OSError where the kernel lacks a feature."""
        self.descriptor = descriptor
        fcntl.ioctl(descriptor, _UFFDIO_API, bytearray(_THREE.pack(_API, _FEATURES, 0)))

    def _ask(self, request: int, argument: bytearray) -> None:
        try:
            fcntl.ioctl(self.descriptor, request, argument)
        except ProcessLookupError:
            raise GuestDied("the guest process is gone") from None

    def read(self) -> list[PageFault]:
        """The faults since; never blocks."""
        faults: list[PageFault] = []
        while True:
            try:
                data = os.read(self.descriptor, _MESSAGE_SIZE * _MESSAGES_MAX)
            except BlockingIOError:
                return faults
            for at in range(0, len(data), _MESSAGE_SIZE):
                flags, address, task = struct.unpack_from("=QQI", data, at + 8)
                if data[at] == _FAULT_EVENT:
                    faults.append(PageFault(address, bool(flags & _FAULT_WRITE), task))
            if len(data) < _MESSAGE_SIZE * _MESSAGES_MAX:
                return faults

    def register(self, start: int, length: int) -> None:
        """Faults in this range, which is guest memory altogether, come here from now on."""
        try:
            self._ask(_UFFDIO_REGISTER, bytearray(_FOUR.pack(start, length, _REGISTER_MODES, 0)))
        except OSError as error:
            if error.errno == errno.ENOMEM:  # so it is, too, where the process is about to end
                with contextlib.suppress(OSError):
                    self.write_protect(start, length, False)
            raise

    def unregister(self, start: int, length: int) -> bool:
        """Let the kernel handle this range's faults, and wake who waits there; False where
        that would make more mappings than it allows a process."""
        try:
            self._ask(_UFFDIO_UNREGISTER, bytearray(_TWO.pack(start, length)))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            return False
        return True

    def wake(self, page: int) -> None:
        """Let those who wait for this page (its address) try again."""
        self._ask(_UFFDIO_WAKE, bytearray(_TWO.pack(page, PAGE_SIZE)))

    def write_protect(self, start: int, length: int, on: bool, wake: bool = True) -> None:
        """Forbid stores to what is mapped of a range, or allow them and wake who waits."""
        mode = 1 if on else 0 if wake else _WRITEPROTECT_DONTWAKE
        request = bytearray(_THREE.pack(start, length, mode))
        while True:
            try:
                self._ask(_UFFDIO_WRITEPROTECT, request)
                return
            except OSError as error:
                if error.errno != errno.EAGAIN:  # the mappings are being changed: not by us
                    raise

    def map(self, start: int, length: int, writable: bool, wake: bool = True) -> int:
        """Map what is there of a range, and wake who waits; the errno of the first page
        that could not be mapped (EEXIST: it is already; EFAULT: a hole; ENOENT: none of
        those that are registered), 0 for none."""
        first = 0
        skips = SKIPS_MAX
        end = start + length
        mode = (0 if writable else _CONTINUE_WP) | (0 if wake else _CONTINUE_DONTWAKE)
        while start < end and skips:
            request = bytearray(_FOUR.pack(start, end - start, mode, 0))
            try:
                self._ask(_UFFDIO_CONTINUE, request)
                return first
            except OSError as error:
                mapped = _FOUR.unpack(request)[3]
                if error.errno == errno.EAGAIN:
                    start += max(mapped, 0)
                elif error.errno == errno.ENOENT and end - start > PAGE_SIZE:
                    # More than one of the kernel's mappings: mbind(2), for one, splits them.
                    middle = start + (end - start) // 2 // PAGE_SIZE * PAGE_SIZE
                    low = self.map(start, middle - start, writable, wake)
                    high = self.map(middle, end - middle, writable, wake)
                    return first or low or high
                elif error.errno in (errno.EEXIST, errno.EFAULT, errno.ENOENT):
                    first = first or error.errno
                    skips -= 1
                    start += PAGE_SIZE
                else:
                    raise
        return first

    def close(self) -> None:
        os.close(self.descriptor)


def blocked_at(descriptor: int) -> tuple[int, int] | None:
    """(rip, rsp) of a task that waits in a page fault, from its open /proc/TID/syscall."""
    try:
        fields = os.pread(descriptor, 256, 0).split()
    except OSError:
        return None
    if len(fields) != 3 or fields[0] != b"-1":
        return None
    return int(fields[2], 16), int(fields[1], 16)


def waits_for_page(task: int) -> bool:
    """Is it certain that a task waits for a page, and goes on only when it is woken from here?"""
    try:
        with open(f"/proc/{task}/wchan", "rb") as file:
            return file.read() == b"handle_userfault"
    except OSError:
        return False


def create_in(pidfd: int, call: Callable[..., int]) -> UserFaults:
    """Make a descriptor in a guest process by `call(number, *arguments)`, which runs system
    calls on a task with the process's own descriptor table, and fetch it. Raises OSError."""
    number = call(SYS_USERFAULTFD, FLAGS)
    if number < 0:
        raise OSError(-number, os.strerror(-number))
    try:
        return UserFaults(ptrace.borrow_descriptor(pidfd, number))
    finally:
        call(3, number)


@cache
def unavailable() -> str:
    """Why this kernel's userfaultfd will not do; empty when it will. Tried on a page of ours."""
    try:
        faults = UserFaults(ptrace.raw_syscall(SYS_USERFAULTFD, FLAGS))
    except OSError as error:
        return f"userfaultfd: {error.strerror}"
    memfd = os.memfd_create("dsmsup-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memfd, PAGE_SIZE)
        os.pwrite(memfd, b"\1", 0)
        page = mmap.mmap(memfd, PAGE_SIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        faults.register(address, PAGE_SIZE)
        faults.map(address, PAGE_SIZE, writable=False)
        faults.write_protect(address, PAGE_SIZE, False)
        return ""
    except OSError as error:
        return f"userfaultfd cannot map pages of a memfd write-protected: {error.strerror}"
    finally:
        faults.close()
        os.close(memfd)
