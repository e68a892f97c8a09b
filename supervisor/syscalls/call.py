# SPDX-License-Identifier: GPL-2.0-or-later
"""What travels for one system call, and the memories it is moved between.

A `Call` describes itself wholly: home needs no table to place it in scratch memory,
run it and collect its results; the origin needs none to scatter them.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec

from supervisor.coherence.messages import Access

LITERAL: Final = -1


class Acquire(NamedTuple):
    """What a generator needs pinned, with these rights, before it goes on.

    The pins may be dropped when it yields again or ends. At most PIECE bytes.
    """

    ranges: tuple[tuple[int, int, Access], ...]
    """(guest address, length in bytes, access) each."""


class BadAddress(Exception):
    """Thrown into a generator by the driver: what it wanted acquired is gone."""


class Guest(Protocol):
    """The calling thread's memory."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...

    def check(self, address: int, length: int, access: Access) -> bool:
        """Whether the program itself (logical protection) may so access every byte."""
        ...


class Scratch(Protocol):
    """Memory private to home's process, of one call at a time."""

    def allocate(self, length: int) -> int:
        """Address of `length` bytes, page-aligned."""
        ...

    def write(self, address: int, data: bytes) -> None: ...

    def read(self, address: int, length: int) -> bytes: ...


class Segment(msgspec.Struct, array_like=True):
    """A piece of memory that the call's arguments point to."""

    data: bytes
    """What the kernel finds there: `length` bytes at most, zeros after. Empty where it
    only writes."""
    length: int
    rule: int = 0
    """With `unit`, `base`, `least` a spec.Valid: what is valid of it afterwards."""
    unit: int = 1
    base: int = 0
    least: int = 0
    address: int = 0
    """Where it lies in guest memory, unless it is spread over `parts`."""
    fixups: tuple[tuple[int, int, int], ...] = ()
    """(offset, segment, addend) of each pointer in it, to byte `addend` of a segment.
    For segment LITERAL the addend is itself the pointer. The bytes in `data` stay the
    program's own, to be told from what the call changes."""
    parts: tuple[tuple[int, int], ...] = ()
    """(guest address, length) of its pieces, in order."""


class Call(msgspec.Struct, array_like=True):
    """One system call with all that its arguments point to."""

    nr: int
    args: list[int]
    """Register arguments; those in `pointers` are replaced."""
    pointers: list[tuple[int, int]] = []
    """(argument, segment)."""
    segments: list[Segment] = []
    left: int = 0
    """Bytes of the program's transfer that are not in this call: see marshal.goes_on."""
    piece: int = 0
    """Bytes of a transfer that is cut short because it is long."""
    word: int = 8
    """Bytes of a pointer in the segments."""
    whole: int = 0
    """Bytes of a transfer that the kernel makes in full, but for errors and signals."""
    addresses: list[int] = []
    """Home only: where `place` put each segment."""


class Result(msgspec.Struct, array_like=True):
    """What came of a call."""

    ret: int
    """Return value or negative errno."""
    outs: list[tuple[int, int, bytes]] = []
    """(segment, offset, bytes) that are to be written there."""
    cut_short: bool = False
    """A signal that does nothing has interrupted it, which it would not have natively."""
