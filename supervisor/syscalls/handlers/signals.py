# SPDX-License-Identifier: GPL-2.0-or-later
"""Signal masks, handlers and sending: see supervisor/driver/signals.py for the theory."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.messages import BringHome
from supervisor.driver.operations import Hold, Native, Proceed, Steps
from supervisor.driver.signals import ACTION, FORCED_MASK, FRAME_SIZE, for_kernel
from supervisor.syscalls.call import Acquire
from supervisor.tracee import ptrace
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

SYS_RT_SIGACTION: Final = 13
SYS_SIGALTSTACK: Final = 131
SIGSET_SIZE: Final = 8
STACK_SIZE: Final = 24
SS_DISABLE: Final = 2


def _read(home: Home, address: int, length: int) -> Steps:
    """Bytes of the program; None when it may not read there."""
    if not home.check(address, length, Access.READ):
        return None
    yield Acquire(((address, length, Access.READ),))
    return home.read(address, length)


def _write(home: Home, address: int, data: bytes) -> Steps:
    """0, or -EFAULT when the program may not write there."""
    if not home.check(address, len(data), Access.WRITE):
        return -errno.EFAULT
    yield Acquire(((address, len(data), Access.WRITE),))
    home.write(address, data)
    return 0


def rt_sigaction(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    number, new, old, size = args[:4]
    number &= 0xFFFF_FFFF
    if size != SIGSET_SIZE or not 1 <= number <= 64:
        return -errno.EINVAL
    before = thread.actions.get(number)
    if new:
        action = yield from _read(home, new, ACTION.size)
        if action is None:
            return -errno.EFAULT
        lease = home.scratch.lease()
        try:
            at = lease.allocate(ACTION.size)
            lease.write(at, for_kernel(number, action))
            result = yield Native(SYS_RT_SIGACTION, [number, at, 0, SIGSET_SIZE])
        finally:
            lease.release()
        if result < 0:
            return result
        thread.actions.set(number, action)
    if old:
        return (yield from _write(home, old, before))
    return 0


def rt_sigprocmask(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    how, new, old, size = args[:4]
    if size != SIGSET_SIZE:
        return -errno.EINVAL
    before = ptrace.get_signal_mask(thread.task) & ~FORCED_MASK | thread.virtual_mask
    if new:
        data = yield from _read(home, new, SIGSET_SIZE)
        if data is None:
            return -errno.EFAULT
        mask = int.from_bytes(data, "little")
        match how & 0xFFFF_FFFF:
            case signal.SIG_BLOCK:
                after = before | mask
            case signal.SIG_UNBLOCK:
                after = before & ~mask
            case signal.SIG_SETMASK:
                after = mask
            case _:
                return -errno.EINVAL
        after &= ~(1 << (signal.SIGKILL - 1) | 1 << (signal.SIGSTOP - 1))
        thread.virtual_mask = after & FORCED_MASK
        ptrace.set_signal_mask(thread.task, after & ~FORCED_MASK)
    if old:
        return (yield from _write(home, old, before.to_bytes(SIGSET_SIZE, "little")))
    return 0


def sigaltstack(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    new, old = args[:2]
    description = b""
    if new:
        description = yield from _read(home, new, STACK_SIZE)
        if description is None:
            return -errno.EFAULT
    lease = home.scratch.lease()
    try:
        at, at_old = lease.allocate(STACK_SIZE), lease.allocate(STACK_SIZE)
        lease.write(at, description)
        result = yield Native(SYS_SIGALTSTACK, [at if new else 0, at_old if old else 0])
        before = lease.read(at_old, STACK_SIZE)
    finally:
        lease.release()
    if result < 0:
        return result
    if new:
        disabled = int.from_bytes(description[8:12], "little") & SS_DISABLE
        thread.alternate_stack = (
            int.from_bytes(description[:8], "little"),
            0 if disabled else int.from_bytes(description[16:24], "little"),
        )
    if old:
        return (yield from _write(home, old, before))
    return 0


def rt_sigreturn(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    """The kernel reads the frame at rsp: it must be here until it has."""
    stack = thread.registers.rsp
    yield Hold(((stack - 8, FRAME_SIZE, Access.READ),))
    yield Proceed()
    home.resume(thread)
    return None


def send(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """tkill, tgkill, rt_tgsigqueueinfo, kill, rt_sigqueueinfo: then see to threads elsewhere.

    A shadow is parked in a ptrace stop, where the kernel delivers nothing: a
    thread that a signal waits for comes home.
    """
    row = home.row_of(thread, call)
    result = yield from home.run_marshalled(thread, row, args)
    if result < 0:
        return result
    if row.name in ("tkill", "tgkill", "rt_tgsigqueueinfo"):
        target = home.by_tid.get(args[0 if row.name == "tkill" else 1] & 0xFFFF_FFFF)
        targets = [] if target is None else [target]
    else:
        targets = _candidates(home, args[1] & 0xFFFF_FFFF)
    for target in targets:
        if target.away != HOME and target is not thread:
            home.send(target.away, BringHome(target.tid))
    return result


def _candidates(home: Home, number: int) -> list[Thread]:
    """Threads elsewhere that may have to take a signal sent to the process."""
    if not home.actions.runs_handler(number):
        return []
    for thread in home.by_tid.values():
        if thread.away == HOME and not ptrace_blocked(thread, number):
            return []
    for thread in home.by_tid.values():
        if thread.away != HOME and not ptrace_blocked(thread, number):
            return [thread]
    return []


def ptrace_blocked(thread: Thread, number: int) -> bool:
    """Has a task blocked a signal? (From /proc: it need not be stopped.)"""
    try:
        with open(f"/proc/{thread.task}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("SigBlk:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return True


HANDLERS: Final = {
    "rt_sigaction": rt_sigaction,
    "rt_sigprocmask": rt_sigprocmask,
    "sigaltstack": sigaltstack,
    "rt_sigreturn": rt_sigreturn,
    "tkill": send,
    "tgkill": send,
    "rt_tgsigqueueinfo": send,
    "kill": send,
    "rt_sigqueueinfo": send,
}
