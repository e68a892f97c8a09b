# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads' and processes' beginnings and ends: clone, exit, fork and kin.

The kernel task of every thread is made at home, natively, so thread ids, join
and tgkill stay true. The words that the kernel would write by itself
(CLONE_PARENT_SETTID, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID) are written by
the supervisor, as guest writes: the kernel's own would be lost on a page that
is elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Final

from supervisor.arch import Arch
from supervisor.arch.base import NO_CALL
from supervisor.coherence.messages import Access
from supervisor.driver.operations import AcquireLocked, Flush, Hold, Steps, Unhold, Wait
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import futex, new_tasks
from supervisor.syscalls.handlers.new_tasks import (
    CLONE_CHILD_CLEARTID,
    CLONE_CHILD_SETTID,
    CLONE_PARENT_SETTID,
    CLONE_SETTLS,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
)
from supervisor.tracee import ptrace
from supervisor.tracee.xstate import restore_xstate
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

SIGCHLD: Final = 17
OURS: Final = CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID

FUTEX_TID_MASK: Final = 0x3FFFFFFF
FUTEX_OWNER_DIED: Final = 0x40000000
FUTEX_WAITERS: Final = 0x80000000
ROBUST_LIST_MAX: Final = 2048


def clone(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    request = new_tasks.of_clone(home, thread.arch, args)
    if isinstance(request, int):
        return request
    return (yield from _make(home, thread, request, call))


def clone3(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    request = yield from new_tasks.of_clone3(home, args, call)
    if isinstance(request, int):
        return request
    return (yield from _make(home, thread, request, call))


def _make(
    home: Home, thread: Thread, request: new_tasks.Request, call: SpecialCall | None
) -> Steps:
    arch = thread.arch
    flags, stack, parent_tid, child_tid, tls = request[:5]
    if not flags & CLONE_THREAD:
        return (yield from home.forks.fork(thread, request, call))
    record = yield from tls_record(home, arch, flags, tls)
    if record is None:
        return -errno.EFAULT
    context = ptrace.Registers.from_buffer_copy(
        call.registers if call is not None else bytes(thread.registers)
    )
    thread.born.clear()
    lease = home.scratch.lease()
    try:
        native_tls = tls
        if record:
            native_tls = lease.allocate(len(record))
            lease.write(native_tls, record)
        native = request.native(arch, lease, flags & ~OURS, 0, native_tls)
        result = yield native
        if result < 0:
            return result
        yield from request.told(home, lease, native)
    finally:
        lease.release()
    task = thread.born.pop()
    if task not in home.newborn:
        yield Wait(("born", task))
    home.newborn.discard(task)
    child = home.add_thread(task, task, arch)
    home.by_tid[task] = child
    child.virtual_mask = thread.virtual_mask
    child.affinity = thread.affinity
    word = task.to_bytes(4, "little")
    for flag, address in ((CLONE_PARENT_SETTID, parent_tid), (CLONE_CHILD_SETTID, child_tid)):
        if flags & flag and home.check(address, 4, Access.WRITE):
            yield Acquire(((address, 4, Access.WRITE),))
            home.write(address, word)
    yield Flush()  # the child may run elsewhere
    if flags & CLONE_CHILD_CLEARTID:
        child.clear_child_tid = child_tid
    context.rax = 0
    context.orig_rax = NO_CALL
    if stack:
        context.rsp = stack
    if flags & CLONE_SETTLS:
        arch.set_tls(context, tls, record)
    start(home, child, context, call.xstate if call is not None else b"")
    return task


def tls_record(home: Home, arch: Arch, flags: int, address: int) -> Steps:
    """What clone's TLS argument points to; empty where it is no pointer, None if unreadable."""
    if not flags & CLONE_SETTLS or not arch.tls_record:
        return b""
    if not home.check(address, arch.tls_record, Access.READ):
        return None
    yield Acquire(((address, arch.tls_record, Access.READ),))
    return home.read(address, arch.tls_record)


def start(home: Home, child: Thread, context: ptrace.Registers, xstate: bytes) -> None:
    """Let a new thread run, where home wants it to begin."""
    host = home.trials.place(child)
    home.placement.started(host)
    try:
        if host == HOME:
            home.counters["threads_started"] += 1
            ctypes.pointer(child.registers)[0] = context
            ptrace.set_registers(child.task, context)
            if xstate:
                restore_xstate(child.task, xstate, home.shown.states)
            child.cont()
        else:
            home.away.send(
                child, host, bytes(context), xstate or ptrace.get_xstate(child.task)
            )
    except ptrace.TraceeGone:
        pass


def set_robust_list(
    home: Home, thread: Thread, args: list[int], _call: SpecialCall | None
) -> Steps:
    head, size = args[:2]
    if size != thread.arch.robust_list.size:
        return -errno.EINVAL
    thread.robust_list = head
    return 0
    yield


def _word(home: Home, address: int, size: int) -> Steps:
    """An unsigned word of the program; None where it may not be read."""
    if not home.check(address, size, Access.READ):
        return None
    yield Acquire(((address, size, Access.READ),))
    return int.from_bytes(home.read(address, size), "little")


def _release_robust_list(home: Home, thread: Thread) -> Steps:
    """Mark the robust futexes that a dying thread holds (kernel/futex/core.c).

    The kernel's own walk would silently stop at the first page that is elsewhere.
    """
    head, layout, word_size = thread.robust_list, thread.arch.robust_list, thread.arch.word
    if not head or not home.check(head, layout.size, Access.READ):
        return
    yield Acquire(((head, layout.size, Access.READ),))
    entry, offset, pending = layout.unpack(home.read(head, layout.size))
    entries: list[int] = []
    while entry is not None and entry & ~1 != head and len(entries) < ROBUST_LIST_MAX:
        if entry & ~1 != pending & ~1:
            entries.append(entry)
        entry = yield from _word(home, entry & ~1, word_size)
    if pending:
        entries.append(pending)
    for entry in entries:
        address = (entry & ~1) + offset
        if address & 3 or not home.check(address, 4, Access.WRITE):
            continue
        yield AcquireLocked(((address, 4, Access.WRITE),))
        word = int.from_bytes(home.read(address, 4), "little")
        if word & FUTEX_TID_MASK != thread.tid:
            continue
        died = word & FUTEX_WAITERS | FUTEX_OWNER_DIED
        home.write(address, died.to_bytes(4, "little"))
        if word & FUTEX_WAITERS and not entry & 1:
            futex.wake_one(home, address)


def exit_(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    """The end of one thread: clear its id word and wake who waits for it (futex(2))."""
    address = thread.clear_child_tid
    clears = bool(address) and home.check(address, 4, Access.WRITE)
    if clears:  # its page has the list's head, too, as a rule: have it fetched once
        yield Acquire(((address, 4, Access.WRITE),))
    yield from _release_robust_list(home, thread)
    if clears:
        yield Hold(((address, 4, Access.WRITE),))
        home.write(address, bytes(4))
        futex.wake_one(home, address)
        yield Unhold()
        yield Flush()
    home.endings.exit_task(thread, args[0])
    return None


def exit_group(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    home.endings.exit_program(thread, args[0])
    return None
    yield


def set_tid_address(
    home: Home, thread: Thread, args: list[int], _call: SpecialCall | None
) -> Steps:
    thread.clear_child_tid = args[0]
    return thread.tid
    yield


def fork(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    return (yield from home.forks.fork(thread, new_tasks.Request(SIGCHLD, 0, 0, 0, 0, 0), call))


def vfork(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    flags = CLONE_VM | CLONE_VFORK | SIGCHLD
    request = new_tasks.Request(flags, 0, 0, 0, 0, 0)
    return (yield from home.forks.fork(thread, request, call))


def execve(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """On success the next stop is PTRACE_EVENT_EXEC, and nobody returns from here."""
    return (yield from home.calls.run_marshalled(thread, home.calls.row_of(thread, call), args))


HANDLERS: Final = {
    "fork": fork,
    "vfork": vfork,
    "execve": execve,
    "execveat": execve,
    "clone": clone,
    "clone3": clone3,
    "exit": exit_,
    "exit_group": exit_group,
    "set_robust_list": set_robust_list,
    "set_tid_address": set_tid_address,
}
