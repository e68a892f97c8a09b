# SPDX-License-Identifier: GPL-2.0-or-later
"""A call in the making, and how bytes come out of the calling thread's memory.

Generators here yield `Acquire` before each read, and return what they read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import chain
from typing import Final

from supervisor.arch import Arch
from supervisor.coherence.messages import Access
from supervisor.syscalls.call import Acquire, Guest, Segment
from supervisor.syscalls.spec import Args
from supervisor.units import PAGE_MASK, PAGE_SIZE

PIECE: Final = 1 << 20
"""Bytes of guest memory that are pinned at once, at most."""

USER_TOP: Final = 1 << 47
"""The kernel rejects an address from here on by its value."""

BAD_ADDRESS: Final = 0x100
"""An address that no program can have mapped (below vm.mmap_min_addr)."""

READ: Final = Access.READ
WRITE: Final = Access.WRITE

Fetch = Generator[Acquire, None, bytes | None]


class Decided(Exception):
    """The call's outcome is known without running it."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class Build:
    """What the arguments of one call have contributed so far."""

    __slots__ = (
        "arch", "args", "done", "guest", "left", "pending", "pointers", "segments", "values",
        "whole",
    )  # fmt: skip

    def __init__(
        self, arch: Arch, args: Args, guest: Guest, values: list[int], done: int
    ) -> None:
        self.arch = arch
        self.args = args
        self.guest = guest
        self.done = done
        self.left = 0
        self.whole = 0
        self.values = values
        self.pointers: list[tuple[int, int]] = []
        self.segments: list[Segment] = []
        self.pending: list[tuple[Segment, int, int]] = []
        """Segments whose data is still to be read: (segment, address, length)."""

    def move_position(self, argument: int) -> None:
        """Let a file position begin behind what has been transferred; i386 has it in two words."""
        values, bits = self.values, self.arch.bits
        total = values[argument] + self.done
        values[argument] = total & (1 << bits) - 1
        if total >> bits and argument + 1 < len(values):
            values[argument + 1] += total >> bits

    def point(self, argument: int, segment: Segment) -> int:
        """Let an argument point to a new segment; its number."""
        number = len(self.segments)
        self.pointers.append((argument, number))
        self.segments.append(segment)
        return number

    def add(self, segment: Segment) -> int:
        """A new segment that only other segments point to; its number."""
        self.segments.append(segment)
        return len(self.segments) - 1


def bad(address: int) -> int:
    """The pointer to pass on for one to memory that the program may not access.

    Not the address itself, unless the kernel rejects it by value: another thread may
    be mapping something there, which the kernel must not touch behind our back.
    """
    return address if address >= USER_TOP or address == 0 else BAD_ADDRESS


def valid_prefix(guest: Guest, address: int, length: int, access: Access) -> int:
    """How many bytes from `address` the program may access; at most `length`."""
    first = PAGE_SIZE - (address & PAGE_MASK)
    if first >= length:
        return length if guest.check(address, length, access) else 0
    if not guest.check(address, first, access):
        return 0
    # Invariant: `low` further pages are accessible, `high` are not.
    low, high = 0, (length - first + PAGE_MASK) // PAGE_SIZE + 1
    while high - low > 1:
        middle = (low + high) // 2
        if guest.check(address, min(first + middle * PAGE_SIZE, length), access):
            low = middle
        else:
            high = middle
    return min(first + low * PAGE_SIZE, length)


def groups(parts: Iterable[tuple[int, int]]) -> Iterable[list[tuple[int, int]]]:
    """(address, length) parts, cut and gathered into lists of at most PIECE bytes each."""
    group: list[tuple[int, int]] = []
    room = PIECE
    for address, length in parts:
        while length > room:
            group.append((address, room))
            yield group
            address, length = address + room, length - room
            group, room = [], PIECE
        if length:
            group.append((address, length))
            room -= length
        if not room:
            yield group
            group, room = [], PIECE
    if group:
        yield group


def fetch_parts(guest: Guest, parts: Iterable[tuple[int, int]]) -> Generator[Acquire, None, bytes]:
    """The bytes of (address, length) parts that the program may read, joined."""
    pieces: list[bytes] = []
    for group in groups(parts):
        yield Acquire(tuple((address, length, READ) for address, length in group))
        pieces.extend(guest.read(address, length) for address, length in group)
    return b"".join(pieces)


def fetch(guest: Guest, address: int, length: int) -> Fetch:
    """`length` bytes, or None if the program may not read them all."""
    if not guest.check(address, length, READ):
        return None
    if length > PIECE:
        return (yield from fetch_parts(guest, ((address, length),)))
    yield Acquire(((address, length, READ),))
    return guest.read(address, length)


def fetch_pending(build: Build) -> Generator[Acquire, None, None]:
    """Read what the plain buffers of a call wait for, with one acquisition if it is small."""
    pending, guest = build.pending, build.guest
    if sum(length for _, _, length in pending) <= PIECE:
        yield Acquire(tuple((address, length, READ) for _, address, length in pending))
        for segment, address, length in pending:
            segment.data = guest.read(address, length)
    else:
        for segment, address, length in pending:
            segment.data = yield from fetch_parts(guest, ((address, length),))


def fetch_text(guest: Guest, address: int, limit: int) -> Fetch:
    """A string with its NUL, its first `limit` bytes if there is none among them, or None
    if it runs into memory that the program may not read. Page by page: what follows
    the NUL is nobody's business."""
    pieces: list[bytes] = []
    while limit:
        length = min(PAGE_SIZE - (address & PAGE_MASK), limit)
        if not guest.check(address, length, READ):
            return None
        yield Acquire(((address, length, READ),))
        data = guest.read(address, length)
        end = data.find(0)
        if end >= 0:
            pieces.append(data[: end + 1])
            break
        pieces.append(data)
        address, limit = address + length, limit - length
    return b"".join(pieces) if len(pieces) != 1 else pieces[0]


def fetch_pointers(
    guest: Guest, address: int, limit: int, word: int
) -> Generator[Acquire, None, list[int]]:
    """The words before the NULL of an array of at most `limit` pointers of `word` bytes.

    Raises Decided(-EFAULT) or Decided(-E2BIG).
    """
    words: list[int] = []
    while True:
        length = PAGE_SIZE - (address & PAGE_MASK & -word)
        if address & word - 1 or not guest.check(address, length, READ):
            length = word  # An unaligned array is legal; so slow that it does not matter.
        data = yield from fetch(guest, address, length)
        if data is None:
            raise Decided(-14)
        found = memoryview(data).cast("Q" if word == 8 else "I").tolist()
        if 0 in found:
            return list(chain(words, found[: found.index(0)]))
        words += found
        if len(words) > limit:
            raise Decided(-7)
        address += length
