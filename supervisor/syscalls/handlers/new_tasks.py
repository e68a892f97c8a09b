# SPDX-License-Identifier: GPL-2.0-or-later
"""What clone(2) and clone3(2) ask for, and the call that has the kernel make it.

Of clone3's structure the kernel gets a copy, so it is the kernel that objects. Where it
would write (a pidfd), or read what lies elsewhere, it finds scratch memory.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.coherence.messages import Access
from supervisor.driver.operations import Native, Steps
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import arguments

if TYPE_CHECKING:
    from supervisor.arch import Arch
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.scratch import Lease

CLONE_VM: Final = 0x00000100
CLONE_PIDFD: Final = 0x00001000
CLONE_PTRACE: Final = 0x00002000
CLONE_VFORK: Final = 0x00004000
CLONE_THREAD: Final = 0x00010000
CLONE_SETTLS: Final = 0x00080000
CLONE_PARENT_SETTID: Final = 0x00100000
CLONE_CHILD_CLEARTID: Final = 0x00200000
CLONE_UNTRACED: Final = 0x00800000
CLONE_CHILD_SETTID: Final = 0x01000000
CLONE_CLEAR_SIGHAND: Final = 1 << 32
TRACER: Final = CLONE_PTRACE | CLONE_UNTRACED
"""Whether a new task has the tracer of its parent; a program that has none sees no difference."""

ARGS: Final = struct.Struct("<11Q")
"""struct clone_args (linux/sched.h): flags, pidfd, child_tid, parent_tid, exit_signal, stack,
stack_size, tls, set_tid, set_tid_size, cgroup."""
ARGS_LEAST: Final = 64
ARGS_MOST: Final = 4096
SET_TIDS_MOST: Final = 32


class Request(NamedTuple):
    """A new task. Pointers are the program's; 0 where it has none to give."""

    flags: int
    stack: int
    """Where its stack pointer begins; 0 for where its parent's is."""
    parent_tid: int
    child_tid: int
    tls: int
    pidfd: int
    fields: tuple[int, ...] = ()
    """Of clone3's structure."""
    set_tid: bytes = b""
    """The ids that it is to have."""

    def native(self, arch: Arch, lease: Lease, flags: int, child_tid: int, tls: int) -> Native:
        """The call that makes it with these instead, and with no id to be told."""
        pidfd = self.pidfd and lease.allocate(4)
        if not self.fields:
            values = [flags, self.stack, pidfd, child_tid, tls]
            return Native(arch.numbers["clone"], arch.clone_arguments(values))
        _, _, _, _, exit_signal, stack, size, _, set_tid, set_tid_size, cgroup = self.fields
        if self.set_tid:
            set_tid = lease.allocate(len(self.set_tid))
            lease.write(set_tid, self.set_tid)
        at = lease.allocate(ARGS.size)
        lease.write(at, ARGS.pack(
            flags, pidfd, child_tid, 0, exit_signal, stack, size, tls, set_tid, set_tid_size,
            cgroup,
        ))  # fmt: skip
        return Native(arch.numbers["clone3"], [at, ARGS.size])

    def told(self, home: Home, lease: Lease, native: Native) -> Steps:
        """The program finds the pidfd where it wants it."""
        if not self.pidfd:
            return
        if self.fields:
            at = int.from_bytes(lease.read(native.arguments[0] + 8, 8), "little")
        else:
            at = native.arguments[2]
        yield Acquire(((self.pidfd, 4, Access.WRITE),))
        home.write(self.pidfd, lease.read(at, 4))


def of_clone(home: Home, arch: Arch, args: list[int]) -> Request | int:
    """clone's, or a negative errno."""
    flags, stack, parent_tid, child_tid, tls = arch.clone_arguments(args)
    flags &= 0xFFFF_FFFF & ~TRACER
    pidfd = parent_tid if flags & CLONE_PIDFD else 0
    if pidfd and flags & CLONE_PARENT_SETTID:
        return -errno.EINVAL
    if flags & CLONE_PIDFD and not (pidfd and home.check(pidfd, 4, Access.WRITE)):
        return -errno.EFAULT
    return Request(flags, stack, parent_tid, child_tid, tls, pidfd)


def of_clone3(home: Home, args: list[int], call: SpecialCall | None) -> Steps:
    """clone3's, or a negative errno: as copy_clone_args_from_user (kernel/fork.c) reads it."""
    address, size = args[0], args[1]
    if size > ARGS_MOST:
        return -errno.E2BIG
    if size < ARGS_LEAST:
        return -errno.EINVAL
    data = (yield from arguments.read(home, address, size)) if call is None else call.payload
    if not data:
        return -errno.EFAULT
    if any(data[ARGS.size :]):
        return -errno.E2BIG
    fields = ARGS.unpack(data[: ARGS.size].ljust(ARGS.size, b"\0"))
    flags, pidfd, child_tid, parent_tid, _, stack, stack_size, tls, set_tid, count, _ = fields
    pidfd = pidfd if flags & CLONE_PIDFD else 0
    if flags & CLONE_PIDFD and not (pidfd and home.check(pidfd, 4, Access.WRITE)):
        return -errno.EFAULT
    tids = b""
    if set_tid and 0 < count <= SET_TIDS_MOST:
        tids = yield from arguments.read(home, set_tid, 4 * count)
        if tids is None:
            return -errno.EFAULT
    top = stack + stack_size if stack else 0
    return Request(flags & ~TRACER, top, parent_tid, child_tid, tls, pidfd, fields, tids)
