# SPDX-License-Identifier: GPL-2.0-or-later
"""Two ways to make a system call in a test: directly, and marshalled.

`Native` has its buffers in this process. `Marshalled` has them in a guest memory that
this process does not have mapped, at addresses where nothing is: a pointer that
escapes the marshalling makes the kernel fail, and an access that was not acquired
first makes the test fail. A test is written once and run on both.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Generator
from typing import Any, Protocol

import msgspec

from supervisor.coherence.messages import Access
from supervisor.syscalls.marshal import (
    Acquire,
    Call,
    Result,
    collect,
    gather,
    goes_on,
    place,
    scatter,
)
from supervisor.syscalls.names import number_of
from supervisor.syscalls.table import ROWS
from supervisor.units import PAGE_SIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

MASK = (1 << 64) - 1
AT_FDCWD = -100


def raw_syscall(number: int, *args: int) -> int:
    """The kernel's answer: a value or a negative errno."""
    padded = [ctypes.c_long(number)]
    padded += [ctypes.c_ulong(argument & MASK) for argument in args]  # type: ignore[misc]
    value: int = _libc.syscall(*padded)
    return value if value != -1 else -ctypes.get_errno()


class Machine(Protocol):
    def put(self, data: bytes) -> int:
        """Address of a copy of `data`, with room for nobody's bytes after it."""
        ...

    def room(self, length: int, fill: int = 0xA5) -> int: ...

    def get(self, address: int, length: int) -> bytes: ...

    def set(self, address: int, data: bytes) -> None: ...

    def call(self, name: str, *args: int) -> int: ...

    def hole(self) -> int:
        """Address of a page that is accessible, before one that is not."""
        ...

    def read_only(self, data: bytes) -> int: ...


class Native:
    """Calls made directly."""

    def __init__(self) -> None:
        self._keep: list[Any] = []

    def put(self, data: bytes) -> int:
        buffer = ctypes.create_string_buffer(data, len(data) or 1)
        self._keep.append(buffer)
        return ctypes.addressof(buffer)

    def room(self, length: int, fill: int = 0xA5) -> int:
        return self.put(bytes([fill]) * length)

    def get(self, address: int, length: int) -> bytes:
        return ctypes.string_at(address, length)

    def set(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def call(self, name: str, *args: int) -> int:
        return raw_syscall(number_of(name), *args)

    def hole(self) -> int:
        address = raw_syscall(number_of("mmap"), 0, 2 * PAGE_SIZE, 3, 0x22, -1 & MASK, 0)
        assert raw_syscall(number_of("mprotect"), address + PAGE_SIZE, PAGE_SIZE, 0) == 0
        return address

    def read_only(self, data: bytes) -> int:
        address = self.hole()
        self.set(address, data)
        assert raw_syscall(number_of("mprotect"), address, PAGE_SIZE, 1) == 0
        return address


class FakeGuest:
    """Guest memory with a protection for each page, of which only acquired bytes may be used."""

    BASE = 0x7A00_0000_0000

    def __init__(self, pages: int = 64) -> None:
        self.memory = bytearray(pages * PAGE_SIZE)
        self.rights = [Access.NONE] * pages
        self.pins: tuple[tuple[int, int, Access], ...] = ()
        self.acquired_bytes: list[int] = []
        self.writes: list[tuple[int, int]] = []

    def pin(self, want: Acquire) -> None:
        for address, length, access in want.ranges:
            assert length > 0 and self.check(address, length, access), "acquires what is not there"
        self.pins = want.ranges
        self.acquired_bytes.append(sum(length for _, length, _ in want.ranges))

    def check(self, address: int, length: int, access: Access) -> bool:
        first = (address - self.BASE) // PAGE_SIZE
        last = (address + max(length, 1) - 1 - self.BASE) // PAGE_SIZE
        if first < 0 or last >= len(self.rights):
            return False
        return all(right >= access for right in self.rights[first : last + 1])

    def _pinned(self, address: int, length: int, access: Access) -> bool:
        return any(
            start <= address and address + length <= start + size and access <= right
            for start, size, right in self.pins
        )

    def read(self, address: int, length: int) -> bytes:
        assert self._pinned(address, length, Access.READ), "reads what it did not acquire"
        return self.peek(address, length)

    def write(self, address: int, data: bytes) -> None:
        assert self._pinned(address, len(data), Access.WRITE), "writes what it did not acquire"
        self.writes.append((address, len(data)))
        self.poke(address, data)

    def peek(self, address: int, length: int) -> bytes:
        start = address - self.BASE
        return bytes(self.memory[start : start + length])

    def poke(self, address: int, data: bytes) -> None:
        start = address - self.BASE
        self.memory[start : start + len(data)] = data


class FakeScratch:
    """Memory of this process, filled with rubbish so that nothing relies on zeros."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def allocate(self, length: int) -> int:
        memory = mmap.mmap(-1, length + PAGE_SIZE)
        if length < 1 << 20:
            memory[:] = b"\xee" * len(memory)
        self._maps.append(memory)
        return ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def read(self, address: int, length: int) -> bytes:
        return ctypes.string_at(address, length)


    def around(self, call: Call) -> list[bytes]:
        """The bytes that are in no segment of the call (small calls only)."""
        left = []
        for memory in self._maps:
            if len(memory) <= 1 << 20:
                start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
                data = bytearray(memory)
                for address, segment in zip(call.addresses, call.segments, strict=True):
                    data[address - start : address - start + segment.length] = bytes(
                        segment.length
                    )
                left.append(bytes(data))
        return left


def drive(guest: FakeGuest, steps: Generator[Acquire, None, Any]) -> Any:
    """Run a generator of the marshalling, granting what it wants; what it returns."""
    try:
        want = next(steps)
        while True:
            guest.pin(want)
            want = steps.send(None)
    except StopIteration as stop:
        guest.pins = ()
        return stop.value


class Marshalled:
    """Calls as the driver makes them, both messages encoded and decoded on the way."""

    def __init__(self, pages: int = 1024) -> None:
        self.guest = FakeGuest(pages)
        self._next = 0
        self.request_bytes = 0
        self.answer_bytes = 0
        self.calls = 0

    def _pages(self, count: int, access: Access) -> int:
        first = self._next
        self._next += count + 1  # A page between, never accessible.
        for page in range(first, first + count):
            self.guest.rights[page] = access
        return FakeGuest.BASE + first * PAGE_SIZE

    def put(self, data: bytes) -> int:
        pages = (len(data) + PAGE_SIZE - 1) // PAGE_SIZE or 1
        # Against the end, so that a byte too many is noticed.
        address = self._pages(pages, Access.WRITE) + pages * PAGE_SIZE - len(data)
        self.guest.poke(address, data)
        return address

    def room(self, length: int, fill: int = 0xA5) -> int:
        return self.put(bytes([fill]) * length)

    def get(self, address: int, length: int) -> bytes:
        return self.guest.peek(address, length)

    def set(self, address: int, data: bytes) -> None:
        self.guest.poke(address, data)

    def hole(self) -> int:
        return self._pages(1, Access.WRITE)

    def read_only(self, data: bytes) -> int:
        address = self._pages(1, Access.READ)
        self.guest.poke(address, data)
        return address

    def call(self, name: str, *args: int) -> int:
        row = ROWS[number_of(name)]
        registers = [argument & MASK for argument in args] + [0] * (6 - len(args))
        guest = self.guest
        done = 0
        while True:
            call = drive(guest, gather(row, registers, guest, done))
            if isinstance(call, int):
                return done or call
            request = msgspec.msgpack.encode(call)
            self.request_bytes += len(request)
            self.calls += 1
            there = msgspec.msgpack.decode(request, type=Call)
            scratch = FakeScratch()
            final = place(there, scratch)
            around = scratch.around(there)
            ret = raw_syscall(there.nr, *final)
            assert scratch.around(there) == around, "the kernel wrote more than the row says"
            answer = msgspec.msgpack.encode(collect(row, there, ret, scratch))
            self.answer_bytes += len(answer)
            result = msgspec.msgpack.decode(answer, type=Result)
            value: int = drive(guest, scatter(row, registers, call, result, guest))
            if value < 0:
                return done or value
            done += value
            if not goes_on(call, value):
                return done


def c_string(text: str | bytes) -> bytes:
    return os.fsencode(text) + b"\0"


def iovec(*parts: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQ", address, length) for address, length in parts)
