# SPDX-License-Identifier: GPL-2.0-or-later
"""The event loop of one supervisor: one trio task, one operating-system thread.

Stops of tracees (SIGCHLD) and the user's signals arrive by signalfd(2), packets
by sockets, deadlines by the clock; all descriptors stand in one epoll set,
which the trio task waits for. A wake-up drains everything that is ready before
it sleeps again: no coroutine, and no pass through the scheduler, for each trap.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from typing import Final

import trio

USER_SIGNALS: Final = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP,
    signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_SIGNALFD_INFO_SIZE: Final = 128
_SIGNALFD_HEAD: Final = struct.Struct("<Iii")
_READY_MAX: Final = 16
_SIGCHLD: Final = int(signal.SIGCHLD)
SPIN_S: Final = 0.0005
YIELD_S: Final = 0.1
NEVER_S: Final = 3600.0
COARSE_S: Final = 0.01
"""Deadlines this near have a timer: epoll_wait(2) counts in whole milliseconds, and a page
kept a millisecond too long is a host that waits as long."""
_CLOCK_MONOTONIC: Final = 1
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_CLOEXEC: Final = os.O_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def block_signals() -> None:
    """Block what the signal descriptor will read; before any thread or child is made."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, *USER_SIGNALS))


def _signal_descriptor() -> int:
    mask = 0
    for number in (signal.SIGCHLD, *USER_SIGNALS):
        mask |= 1 << (number - 1)
    buffer = ctypes.create_string_buffer(mask.to_bytes(128, "little"), 128)
    descriptor = int(_libc.signalfd(-1, buffer, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return descriptor


class _Timer:
    """A descriptor that becomes readable at a time of CLOCK_MONOTONIC (timerfd_create(2))."""

    def __init__(self) -> None:
        self.descriptor = int(_libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC))
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._set_for = 0.0
        self._value = (ctypes.c_long * 4)()  # interval and first expiration: seconds, ns

    def set(self, deadline: float) -> None:
        """To time.monotonic()'s `deadline`; setting it makes it unreadable until then."""
        if deadline == self._set_for:
            return
        self._set_for = deadline
        seconds = int(deadline)
        self._value[2], self._value[3] = seconds, int((deadline - seconds) * 1e9)
        _libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, self._value, None)

    def close(self) -> None:
        os.close(self.descriptor)


class Events:
    """Descriptors, deadlines and signals, and the wait for any of them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._interests: dict[int, int] = {}
        self._deadlines: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._signals = _signal_descriptor()
        self.on_children: Callable[[], None] = lambda: None
        self.on_user_signal: Callable[[int, bool], None] = lambda number, from_kernel: None
        self.watch(self._signals, select.EPOLLIN, self._read_signals)
        self._timer = _Timer()
        # Edge-triggered: it wakes, and nobody has to read it.
        self.watch(self._timer.descriptor, select.EPOLLIN | select.EPOLLET, lambda _: None)
        self.background = 0
        """Tasks of the event loop's that are under way beside the supervisor's."""
        self._yield_due = 0.0
        self._sleep: trio.CancelScope | None = None
        self.slept_s = 0.0
        """For how long this has left the processor to others, without trio's sleeps."""

    def watch(self, descriptor: int, interest: int, handler: Callable[[int], None]) -> None:
        self._handlers[descriptor] = handler
        self._interests[descriptor] = interest
        self._epoll.register(descriptor, interest)

    def rewatch(self, descriptor: int, interest: int) -> None:
        if self._interests[descriptor] != interest:
            self._interests[descriptor] = interest
            self._epoll.modify(descriptor, interest)

    def unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def at(self, deadline: float, action: Callable[[], object]) -> None:
        """Run an action when time.monotonic() reaches the deadline."""
        heapq.heappush(self._deadlines, (deadline, next(self._order), action))

    def soon(self, action: Callable[[], None]) -> None:
        """Run an action in the supervisor's task, from another one of trio's."""
        self.at(0.0, action)
        if self._sleep is not None:
            self._sleep.cancel()

    def _read_signals(self, _interest: int) -> None:
        """The signals that are pending; of children, others are told of at the next wait."""
        while True:
            try:
                data = os.read(self._signals, _SIGNALFD_INFO_SIZE)
            except BlockingIOError:
                return
            if data[0] == _SIGCHLD:  # (ssi_signo, of which no more than a byte is used)
                self.on_children()
                return
            number, _, code = _SIGNALFD_HEAD.unpack_from(data)
            self.on_user_signal(number, code > 0)

    def _run_due(self) -> None:
        """What the actions themselves add for now has its turn after what is ready then."""
        deadlines, now = self._deadlines, time.monotonic()
        while deadlines and deadlines[0][0] <= now:
            heapq.heappop(deadlines)[2]()

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        handlers = self._handlers
        for descriptor, interest in ready:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler(interest)

    def _until_due(self, now: float) -> float:
        """How long until the next deadline, seconds; for one that is near there is the timer."""
        if not self._deadlines:
            return NEVER_S
        due = self._deadlines[0][0]
        if 0 < due - now < COARSE_S:
            self._timer.set(due)
        return due - now

    def wait_briefly(self, spin: bool) -> bool:
        """Handle what becomes ready or due within a moment; False when nothing did.

        With `spin`, do not sleep at first: the processor has nothing else to do,
        and to wake one that has gone idle costs more than handling a page fault.

        This is in the epoll set itself, for a pass through trio's scheduler costs as
        much as handling a page fault. It gets its turn (False) every so often; at once while
        `background` tasks are under way, whose ends only trio can tell.

        (The moment is long: to have the kernel wake this up sooner than its next tick would
        cost a third of a C program's ptrace stop, for setting the processor's timer.)
        """
        now = time.monotonic()
        if self.background or now >= self._yield_due:
            return False
        due = self._until_due(now) if self._deadlines else NEVER_S
        if spin:
            end = now + min(due, SPIN_S)
            while time.monotonic() < end:
                ready = self._epoll.poll(0, _READY_MAX)
                if ready:
                    self._handle(ready)
                    self._run_due()
                    return True
            now = time.monotonic()
        timeout = self._yield_due - now
        if due < timeout:
            timeout = due
        ready = self._epoll.poll(timeout if timeout > 0 else 0, _READY_MAX)
        self.slept_s += time.monotonic() - now
        self._handle(ready)
        if self._deadlines:
            self._run_due()
        return bool(ready) or due <= timeout

    async def wait(self) -> None:
        """Sleep until something is ready or due, then handle it; trio's tasks run meanwhile."""
        timeout = self._until_due(time.monotonic())
        if timeout > 0:
            with trio.move_on_after(timeout) as self._sleep:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._sleep = None
        else:
            await trio.lowlevel.checkpoint()
        self._yield_due = time.monotonic() + YIELD_S
        self._handle(self._epoll.poll(0, _READY_MAX))
        self._run_due()

    def close(self) -> None:
        self._epoll.close()
        self._timer.close()
        os.close(self._signals)
