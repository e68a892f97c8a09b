# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent: a thread of ours in each guest process, to run system calls there.

It is always parked in a ptrace stop at the stub's int3 (control.py). To run a
list of calls the supervisor writes the list into the control block, lets the
agent go, and waits for its next int3: two context switches for any number of
calls, and no register traffic. Stops of other threads that arrive meanwhile
are kept for the event loop.

The agent has a descriptor table of its own (cloned without CLONE_FILES): the
program neither sees nor can close the guest memory's descriptor, and the agent
holds none of the program's pipes open.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Sequence
from typing import Final

from supervisor.errors import DsmsupError, GuestDied
from supervisor.tracee import handing, ptrace
from supervisor.tracee.control import CALLS_MAX, ControlBlock
from supervisor.tracee.stops import Stop, StopKind, wait_among

SYS_MMAP: Final = 9
SYS_MPROTECT: Final = 10
SYS_MREMAP: Final = 25
SYS_MUNMAP: Final = 11
SYS_BRK: Final = 12
SYS_MADVISE: Final = 28
SYS_RT_SIGACTION: Final = 13
SYS_CLONE: Final = 56
SYS_EXIT: Final = 60
SYS_OPENAT: Final = 257
SYS_CLOSE: Final = 3
SYS_FUTEX: Final = 202
SYS_CLOSE_RANGE: Final = 436

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000

AT_FDCWD: Final = -100 & 0xFFFF_FFFF_FFFF_FFFF

THREAD_FLAGS: Final = (
    0x00000100  # CLONE_VM
    | 0x00000200  # CLONE_FS
    | 0x00000800  # CLONE_SIGHAND
    | 0x00010000  # CLONE_THREAD
    | 0x00040000  # CLONE_SYSVSEM
)


class InjectionFailed(DsmsupError):
    """A call of a list failed in the guest."""

    def __init__(self, call: tuple[int, ...], code: int) -> None:
        super().__init__(f"injected system call {call[0]} {call[1:]}: {os.strerror(code)}")
        self.errno = code


class Agent:
    """Runs lists of system calls in one guest process."""

    def __init__(self, tid: int, control: ControlBlock, guest_descriptor: int) -> None:
        self.tid = tid
        self.control = control
        self.guest_descriptor = guest_descriptor
        """The guest memory's descriptor number in the agent's table."""
        self.injections = 0
        self.calls = 0
        self.others: deque[Stop] = deque()
        """What other tasks told meanwhile; for the event loop to handle."""
        self.sent: deque[bytes] = deque()
        """SIGTRAPs (siginfo) that were sent to the process and came to the agent, which alone
        could take them then: they are the program's. Each is told as a stop in `others`."""
        self.born: list[int] = []
        """Threads that a list's clone calls made; taken by `take_born`."""

    def run(self, calls: Sequence[tuple[int, ...]]) -> list[int]:
        """Run a list; the result, or negative errno, of each call."""
        results: list[int] = []
        for at in range(0, len(calls), CALLS_MAX):
            results += self._run_batch(calls[at : at + CALLS_MAX])
        return results

    def _run_batch(self, calls: Sequence[tuple[int, ...]]) -> list[int]:
        self.injections += 1
        self.calls += len(calls)
        self.control.write_calls(calls)
        signal_number = 0
        while True:
            try:
                ptrace.cont(self.tid, signal_number)
            except ptrace.TraceeGone:
                raise GuestDied("the guest process is gone") from None
            stop = wait_among(self.tid, self.others)
            signal_number = 0
            if stop.kind is StopKind.SIGNAL:
                if stop.detail == signal.SIGTRAP:
                    info = ptrace.get_siginfo_bytes(self.tid)
                    if int.from_bytes(info[8:12], "little", signed=True) > 0:
                        return self.control.results(len(calls))
                    self.sent.append(info)
                    self.others.append(stop)
                    continue
                # All other signals are blocked in the agent: what still comes is forced.
                raise GuestDied(f"the guest's agent got {signal.Signals(stop.detail).name}")
            if stop.kind in (StopKind.EXITED, StopKind.KILLED):
                raise GuestDied("the guest process is gone")
            if stop.kind is StopKind.EVENT:
                self.born.append(ptrace.get_event_message(self.tid))

    def check(self, calls: Sequence[tuple[int, ...]]) -> list[int]:
        """Run a list of which no call may fail."""
        results = self.run(calls)
        for call, result in zip(calls, results, strict=True):
            if -4096 < result < 0:
                raise InjectionFailed(call, -result)
        return results

    def open(self, descriptor: int) -> int:
        """Open one of the supervisor's descriptors in the agent's table; its number there."""
        path = self.control.write_data(f"/proc/{os.getpid()}/fd/{descriptor}".encode() + b"\0")
        opened = self.run([(SYS_OPENAT, AT_FDCWD, path, os.O_RDWR | os.O_CLOEXEC, 0)])[0]
        return opened if opened >= 0 else self.handed(descriptor)

    def handed(self, descriptor: int) -> int:
        """The same where the process may not open it by that path (Linux 6.9 or later)."""

        def call(*words: int) -> int:
            return self.check([(*words, *[0] * (6 - len(words)))])[0]

        memory = os.open(f"/proc/{self.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            at = self.control.write_data(bytes(handing.SPACE))
            return handing.hand(self.tid, memory, at, call, descriptor, thread=True)
        finally:
            os.close(memory)

    def open_to_read(self, descriptor: int) -> int:
        """The same, to read it; a negative errno where that may not be."""
        path = self.control.write_data(f"/proc/{os.getpid()}/fd/{descriptor}".encode() + b"\0")
        return self.run([(SYS_OPENAT, AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0)])[0]

    def code(self, address: int, length: int) -> bytes:
        """Bytes of the guest process itself, for code that is not in guest memory."""
        with open(f"/proc/{self.tid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), length, address)

    def take_born(self) -> list[int]:
        born, self.born = self.born, []
        return born

    def quit(self) -> None:
        """Let the agent exit: it must not outlive the program's last thread."""
        self.control.write_calls([(SYS_EXIT, 0)])
        with contextlib.suppress(ptrace.TraceeGone):
            ptrace.cont(self.tid)

    def map_guest(self, start: int, length: int, protection: int) -> tuple[int, ...]:
        """The call that maps guest memory at its own address."""
        return (
            SYS_MMAP, start, length, protection, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
            self.guest_descriptor, start,
        )  # fmt: skip
