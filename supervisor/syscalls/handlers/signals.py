# SPDX-License-Identifier: GPL-2.0-or-later
"""Signal masks, handlers and sending: see supervisor/driver/signals.py for the theory."""

from __future__ import annotations

import errno
import signal
import struct
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import Access
from supervisor.driver.messages import BringHome
from supervisor.driver.operations import Hold, Native, Proceed, Steps
from supervisor.driver.restarts import ERESTARTNOHAND, ERESTARTNOINTR
from supervisor.driver.signals import ACTION, FORCED_MASK, FORCED_WORD, FRAME_SIZE, for_kernel
from supervisor.syscalls.call import Call, Result, Segment
from supervisor.syscalls.handlers import arguments
from supervisor.syscalls.marshal import gather, scatter
from supervisor.syscalls.spec import Row
from supervisor.syscalls.table import TABLES
from supervisor.tracee import ptrace
from supervisor.tracee.usage import NS_PER_S
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

SIGSET_SIZE: Final = 8
SS_DISABLE: Final = 2
SA_FLAGS: Final = 0xDC00_0807
"""The flags of an action that the kernel knows; it forgets others (kernel/signal.c)."""
NEVER_BLOCKED: Final = 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1


def rt_sigaction(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    number, new, old, size = args[:4]
    number &= 0xFFFF_FFFF
    if size != SIGSET_SIZE or not 1 <= number <= 64:
        return -errno.EINVAL
    layout = thread.arch.action
    before = layout.pack(*ACTION.unpack(thread.actions.get(number)))
    if new:
        data = yield from arguments.read(home, new, layout.size)
        if data is None:
            return -errno.EFAULT
        result = yield from act(home, thread, number, ACTION.pack(*layout.unpack(data)))
        if result < 0:
            return result
    if old:
        return (yield from arguments.write(home, old, before))
    return 0


def act(home: Home, thread: Thread, number: int, action: bytes) -> Steps:
    """Put an action into force; 0 or a negative errno."""
    arch = thread.arch
    handler, flags, restorer, mask = ACTION.unpack(action)
    action = ACTION.pack(handler, flags & SA_FLAGS, restorer, mask & ~NEVER_BLOCKED)
    lease = home.scratch.lease()
    try:
        at = lease.allocate(arch.action.size)
        lease.write(at, for_kernel(number, action, arch))
        result = yield Native(arch.numbers["rt_sigaction"], [number, at, 0, SIGSET_SIZE])
    finally:
        lease.release()
    if result == 0:
        thread.actions.set(number, action)
    return result


def rt_sigprocmask(
    home: Home, thread: Thread, args: list[int], call: SpecialCall | None
) -> Steps:
    """The host of a thread elsewhere reads and writes the sets, which lie on its stack there."""
    how, new, old, size = args[:4]
    if size != SIGSET_SIZE:
        return -errno.EINVAL
    before = ptrace.get_signal_mask(thread.task) & ~FORCED_MASK | thread.virtual_mask
    if new:
        if call is None:
            data = yield from arguments.read(home, new, SIGSET_SIZE)
        else:
            data = call.payload
        if not data:
            return -errno.EFAULT
        after = _masked(how, before, int.from_bytes(data, "little"), 0)
        if after is None:
            return -errno.EINVAL
        _set_mask(thread, after)
        yield from _unblocked(home, thread)
    told = before.to_bytes(SIGSET_SIZE, "little")
    if call is not None:
        return Result(0, [(0, 0, told)])
    return (yield from arguments.write(home, old, told)) if old else 0


def _unblocked(home: Home, thread: Thread) -> Steps:
    """What was blocked until now is delivered before the call returns.

    At home the kernel sees to it. A shadow takes nothing where it stands: it is
    let into the kernel for a moment.
    """
    yield from _send_again(home, thread)
    if thread.away != HOME and pending(home, thread):
        yield Native(thread.arch.numbers["getpid"], [])


def _send_again(home: Home, thread: Thread) -> Steps:
    """Forced signals that were kept while they were blocked come to the thread anew."""
    number = thread.arch.numbers["rt_tgsigqueueinfo"]
    while found := home.kept_signals.take(thread, ~thread.virtual_mask):
        kept, info = found
        lease = home.scratch.lease()
        try:
            at = lease.allocate(len(info))
            lease.write(at, info)
            yield Native(number, [home.pid, thread.tid, kept, at])
        finally:
            lease.release()


def _masked(how: int, before: int, mask: int, kept: int) -> int | None:
    """The mask after sigprocmask; `kept` are the bits that setting it leaves alone."""
    match how & 0xFFFF_FFFF:
        case signal.SIG_BLOCK:
            return before | mask
        case signal.SIG_UNBLOCK:
            return before & ~mask
        case signal.SIG_SETMASK:
            return before & kept | mask
    return None


def _set_mask(thread: Thread, mask: int) -> None:
    mask &= ~(1 << (signal.SIGKILL - 1) | 1 << (signal.SIGSTOP - 1))
    thread.virtual_mask = mask & FORCED_MASK
    ptrace.set_signal_mask(thread.task, mask & ~FORCED_MASK)


def sigaltstack(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    new, old = args[:2]
    layout = thread.arch.stack
    description = b""
    if new:
        description = yield from arguments.read(home, new, layout.size)
        if description is None:
            return -errno.EFAULT
    lease = home.scratch.lease()
    try:
        at, at_old = lease.allocate(layout.size), lease.allocate(layout.size)
        lease.write(at, description)
        number = thread.arch.numbers["sigaltstack"]
        result = yield Native(number, [at if new else 0, at_old if old else 0])
        before = lease.read(at_old, layout.size)
    finally:
        lease.release()
    if result < 0:
        return result
    if new:
        address, flags, size = layout.unpack(description)
        thread.alternate_stack = (address, 0 if flags & SS_DISABLE else size)
    if old:
        return (yield from arguments.write(home, old, before))
    return 0


def rt_sigreturn(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The kernel reads the frame at rsp: it must be here until it has."""
    stack = thread.registers.rsp
    frame = ((stack - 8, FRAME_SIZE, Access.READ),)
    yield Hold(frame)
    home.pager.reach(frame)
    at = stack + thread.arch.return_mask_at[home.calls.row_of(thread, call).name]
    word = home.read(at, FORCED_WORD)
    thread.virtual_mask = int.from_bytes(word, "little") & FORCED_MASK
    yield Proceed()
    if thread.virtual_mask:
        mask = ptrace.get_signal_mask(thread.task)
        ptrace.set_signal_mask(thread.task, mask & ~FORCED_MASK)
    if home.kept_signals.pending(thread) & ~thread.virtual_mask:
        ptrace.get_registers(thread.task, thread.registers)
        yield from _send_again(home, thread)
        ptrace.set_registers(thread.task, thread.registers)
        if thread.pending_signals:
            home.deliver_pending(thread)
            return None
    if thread.returns_to != HOME:
        home.processor_timers.takers.goes_back(thread)
    else:
        home.resume(thread)
    return None


def send(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """tkill, tgkill, rt_tgsigqueueinfo, kill, rt_sigqueueinfo: then see to threads elsewhere.

    A shadow is parked in a ptrace stop, where the kernel delivers nothing: a
    thread that a signal waits for comes home.
    """
    row = home.calls.row_of(thread, call)
    result = yield from home.calls.run_marshalled(thread, row, args)
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


def pending(home: Home, thread: Thread) -> bool:
    """Does a signal that a task has not blocked wait for it, or for the process?"""
    waiting = blocked = 0
    try:
        with open(f"/proc/{thread.task}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(("SigPnd:", "ShdPnd:")):
                    waiting |= int(line.split()[1], 16)
                elif line.startswith("SigBlk:"):
                    blocked = int(line.split()[1], 16)
                    break
    except OSError:
        return False
    return bool(waiting & ~blocked)


def rt_sigpending(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The kernel's, and the forced ones that are kept here."""
    result = yield from home.calls.run_marshalled(thread, home.calls.row_of(thread, call), args)
    kept = home.kept_signals.pending(thread) & thread.virtual_mask
    if result >= 0 and kept and args[1] == SIGSET_SIZE:
        data = yield from arguments.read(home, args[0], SIGSET_SIZE)
        word = int.from_bytes(data or b"", "little") | kept
        return (yield from arguments.write(home, args[0], word.to_bytes(SIGSET_SIZE, "little")))
    return result


def rt_sigtimedwait(
    home: Home, thread: Thread, args: list[int], call: SpecialCall | None
) -> Steps:
    """Of the kernel's, but for the forced ones that are kept here: those come first."""
    row = home.calls.row_of(thread, call)
    gathered = yield from gather(row, args, home)
    if isinstance(gathered, int):
        return gathered
    segments = {argument: gathered.segments[number].data for argument, number in gathered.pointers}
    wanted, found = int.from_bytes(segments.get(0, b""), "little"), None
    # From here on without a pause until the kernel has the call.
    if args[3] == SIGSET_SIZE and (2 not in segments or _is_time(row, segments[2])):
        found = home.kept_signals.take(thread, wanted)
    if found is None:
        home.kept_signals.waiting[thread.task] = wanted
        try:
            result = yield from home.calls.run(thread, row, gathered)
        finally:
            del home.kept_signals.waiting[thread.task]
        if result.ret in (-errno.EINTR, ERESTARTNOINTR, ERESTARTNOHAND):
            found = home.kept_signals.take(thread, wanted)
        if found is None:
            return (yield from scatter(row, args, gathered, result, home))
    thread.resumes = None
    number, info = found
    if args[1]:
        if thread.arch.word == 4:  # struct compat_siginfo has no gap behind the code
            info = (info[:12] + info[16:28]).ljust(len(info), b"\0")
        told = yield from arguments.write(home, args[1], info)
        if told < 0:
            return told
    return number


def _is_time(row: Row, data: bytes) -> bool:
    seconds, rest = row.timespec.unpack(data)
    return bool(seconds >= 0 and 0 <= rest < NS_PER_S)


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


# i386's older calls, with masks of one word -----------------------------------------------

OLD_ACTION: Final = struct.Struct("<IIII")
"""struct old_sigaction: handler, mask, flags, restorer."""
SA_ONESHOT_NOMASK: Final = 0x80000000 | 0x40000000
OLD_MASK_SIZE: Final = 4


def sigaction(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    number, new, old = args[:3]
    if not 1 <= number <= 64:
        return -errno.EINVAL
    handler, flags, restorer, mask = ACTION.unpack(thread.actions.get(number))
    before = OLD_ACTION.pack(handler, mask & 0xFFFF_FFFF, flags, restorer)
    if new:
        data = yield from arguments.read(home, new, OLD_ACTION.size)
        if data is None:
            return -errno.EFAULT
        handler, mask, flags, restorer = OLD_ACTION.unpack(data)
        action = ACTION.pack(handler, flags, restorer, mask)
        result = yield from act(home, thread, number, action)
        if result < 0:
            return result
    if old:
        return (yield from arguments.write(home, old, before))
    return 0


def signal_(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    number, handler = args[:2]
    if not 1 <= number <= 64:
        return -errno.EINVAL
    before: int = ACTION.unpack(thread.actions.get(number))[0]
    action = ACTION.pack(handler, SA_ONESHOT_NOMASK, 0, 0)
    result = yield from act(home, thread, number, action)
    return before if result == 0 else result


def sigprocmask(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    """The first word of the mask only."""
    how, new, old = args[:3]
    before = ptrace.get_signal_mask(thread.task) & ~FORCED_MASK | thread.virtual_mask
    if new:
        data = yield from arguments.read(home, new, OLD_MASK_SIZE)
        if data is None:
            return -errno.EFAULT
        after = _masked(how, before, int.from_bytes(data, "little"), ~0xFFFF_FFFF)
        if after is None:
            return -errno.EINVAL
        _set_mask(thread, after)
        yield from _unblocked(home, thread)
    if old:
        word = (before & 0xFFFF_FFFF).to_bytes(OLD_MASK_SIZE, "little")
        return (yield from arguments.write(home, old, word))
    return 0


def sigsuspend(home: Home, thread: Thread, args: list[int], _: SpecialCall | None) -> Steps:
    row = TABLES[thread.arch].rows[thread.arch.numbers["rt_sigsuspend"]]
    mask = args[2].to_bytes(SIGSET_SIZE, "little")
    suspend = Call(row.number, [0, SIGSET_SIZE], [(0, 0)], [Segment(mask, SIGSET_SIZE)])
    result = yield from home.calls.run(thread, row, suspend)
    return result.ret


HANDLERS: Final = {
    "rt_sigaction": rt_sigaction,
    "rt_sigprocmask": rt_sigprocmask,
    "sigaltstack": sigaltstack,
    "rt_sigpending": rt_sigpending,
    "rt_sigtimedwait": rt_sigtimedwait,
    "rt_sigtimedwait_time64": rt_sigtimedwait,
    "rt_sigreturn": rt_sigreturn,
    "sigreturn": rt_sigreturn,
    "sigaction": sigaction,
    "signal": signal_,
    "sigprocmask": sigprocmask,
    "sigsuspend": sigsuspend,
    "tkill": send,
    "tgkill": send,
    "rt_tgsigqueueinfo": send,
    "kill": send,
    "rt_sigqueueinfo": send,
}
