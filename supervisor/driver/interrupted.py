# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits that a signal which nobody handles has interrupted: they go on, for the time left.

The kernel does not even wake a thread for a signal that its process ignores, unless the
thread is traced: then the tracer is to see it, and the call ends, with a code to begin
again or with EINTR for good (signal(7) lists which). So it does when the tracer itself has
asked for a stop. Here the call begins again as a
whole, with other scratch memory, so its timeout is cut to what is left of it. That of a socket
(SO_RCVTIMEO) cannot be: its call is interrupted once more at the end of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from supervisor.driver import signals
from supervisor.driver.restarts import ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from supervisor.syscalls.call import Call, Result, Scratch
from supervisor.syscalls.spec import Row
from supervisor.tracee import ptrace
from supervisor.tracee.usage import NS_PER_S

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

_MS: Final = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}
"""Calls with a timeout in milliseconds, and which argument it is."""
_TIMES: Final = {
    "nanosleep": 0, "clock_nanosleep": 2, "epoll_pwait2": 3, "semtimedop": 3, "ipc": 5,
    "rt_sigtimedwait": 2,
}  # fmt: skip
"""Those with the address of one. "ipc" is i386's semtimedop. Of select, pselect6 and ppoll the
kernel writes what is left."""
ENDED: Final = frozenset(
    ("epoll_wait", "epoll_pwait", "epoll_pwait2", "semop", "semtimedop", "ipc", "rt_sigtimedwait")
)
"""Calls that any signal ends with EINTR."""
SOCKETS: Final = {
    **dict.fromkeys(
        ("read", "readv", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4"),
        socket.SO_RCVTIMEO,
    ),
    **dict.fromkeys(("write", "writev", "sendto", "sendmsg", "sendmmsg"), socket.SO_SNDTIMEO),
}
"""Calls that any signal ends with EINTR where their socket has this timeout."""
TIMEOUTS: Final = frozenset((socket.SO_RCVTIMEO, socket.SO_SNDTIMEO, 66, 67))
"""The options that set one; the latter two on i386, for 64-bit times."""
_NS_PER_MS: Final = 1_000_000
_ABSOLUTE: Final = 1
_TIMEVAL: Final = struct.Struct("<qq")
_STOPS: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
"""Their EINTR is one natively, too."""


def name_of(row: Row) -> str:
    """Of i386's calls, the one with times of 64 bits has the name of the other."""
    return row.name.removesuffix("_time64")


class Wait:
    """A call that is about to run: until when it waits at most."""

    def __init__(self, home: Home, thread: Thread, row: Row, call: Call) -> None:
        self._home, self._thread, self._row, self._call = home, thread, row, call
        self._until_ns = 0
        """By the monotonic clock; 0 where it has no timeout."""
        resumed, thread.resumes = thread.resumes, None
        name = name_of(row)
        self._of_socket = home.socket_timeouts and name in SOCKETS
        self._over = False
        if name not in _MS and name not in _TIMES and not self._of_socket:
            return
        timeout_ns = self._of_its_socket_ns() if self._of_socket else self._timeout_ns()
        if timeout_ns is None:
            return
        self._until_ns = time.monotonic_ns() + timeout_ns
        if resumed is not None and resumed[0] == thread.registers.rip:
            self._until_ns = min(self._until_ns, resumed[1])
            if self._of_socket:
                self._end_in_time()
            else:
                self._shorten()

    def goes_on(self, value: int, final: list[int], scratch: Scratch) -> bool:
        """Is the call to be made again at once? Its arguments are what they must be then.

        At the gadget the kernel begins again by itself what it can.
        """
        thread = self._thread
        if (
            value != -errno.EINTR or not self._ends() or not thread.at_gadget
            or thread.pending_signals or self._home.kept_signals.is_awaited(thread)
        ):
            return False
        if self._of_socket:
            self._end_in_time()
            return time.monotonic_ns() < self._until_ns
        self.again(final, scratch)
        return True

    def again(self, final: list[int], scratch: Scratch) -> None:
        """Put what is left of the timeout in place of it."""
        if not self._until_ns or self._of_socket:
            return
        self._shorten()
        name = name_of(self._row)
        if name in _MS:
            final[_MS[name]] = self._call.args[_MS[name]]
        else:
            number = dict(self._call.pointers)[_TIMES[name]]
            scratch.write(self._call.addresses[number], self._call.segments[number].data)

    def end(self, result: Result) -> Result:
        """What came of the call: to begin again it does where no handler runs meanwhile."""
        thread, value = self._thread, result.ret
        self._over = True
        if (
            value == -errno.EINTR and self._of_socket and not thread.pending_signals
            and 0 < self._until_ns <= time.monotonic_ns()
        ):  # fmt: skip
            return Result(-errno.EAGAIN, result.outs)
        if thread.at_gadget:
            return result
        if value == -errno.EINTR and self._ends() and (thread.interrupted or _signalled(thread)):
            result = Result(ERESTARTNOHAND, result.outs)
        elif value != ERESTART_RESTARTBLOCK:
            return result
        if self._until_ns:
            thread.resumes = (thread.registers.rip, self._until_ns)
        return result

    def _ends(self) -> bool:
        """Would any signal end it with EINTR?"""
        return name_of(self._row) in ENDED or (self._of_socket and self._until_ns > 0)

    def _of_its_socket_ns(self) -> int | None:
        option = SOCKETS[name_of(self._row)]
        try:
            theirs = ptrace.borrow_from_task(
                self._thread.task, self._call.args[0] & 0xFFFF_FFFF, self._home.pidfd
            )
        except OSError:
            return None
        try:
            own = socket.socket(fileno=theirs)
        except OSError:
            os.close(theirs)
            return None  # no socket
        with own:
            data = own.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size)
        seconds, microseconds = _TIMEVAL.unpack(data)
        return (seconds * NS_PER_S + microseconds * 1000) or None

    def _end_in_time(self) -> None:
        """The kernel has the whole timeout for it again: it is to end before that."""
        self._home.events.at(self._until_ns / NS_PER_S, self._interrupt)

    def _interrupt(self) -> None:
        if not self._over:
            with contextlib.suppress(ptrace.TraceeGone):
                ptrace.interrupt(self._thread.task)

    def _timeout_ns(self) -> int | None:
        name, call = name_of(self._row), self._call
        if name in _MS:
            wait_ms = call.args[_MS[name]] & 0xFFFF_FFFF
            return None if wait_ms >> 31 else wait_ms * _NS_PER_MS
        if name == "clock_nanosleep" and call.args[1] & _ABSOLUTE:
            return None
        number = dict(call.pointers).get(_TIMES[name])
        layout = self._row.timespec
        if number is None or len(call.segments[number].data) != layout.size:
            return None
        seconds, rest = layout.unpack(call.segments[number].data)
        return None if seconds < 0 or not 0 <= rest < NS_PER_S else seconds * NS_PER_S + rest

    def _shorten(self) -> None:
        name, call = name_of(self._row), self._call
        left_ns = max(self._until_ns - time.monotonic_ns(), 0)
        if name in _MS:
            call.args[_MS[name]] = -(-left_ns // _NS_PER_MS)
        else:
            segment = call.segments[dict(call.pointers)[_TIMES[name]]]
            segment.data = self._row.timespec.pack(*divmod(left_ns, NS_PER_S))


def _signalled(thread: Thread) -> bool:
    """Does a signal await a task? Of those that a stop or nothing else has, EINTR is right."""
    pending = signals.deliverable(thread.task)
    return bool(pending) and _STOPS.isdisjoint(pending)
