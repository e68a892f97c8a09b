# SPDX-License-Identifier: GPL-2.0-or-later
"""What a simulated host consists of: its memory, its guest threads, its node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from supervisor.coherence.messages import WORD_SIZE, Access, Effect
from supervisor.coherence.node import Node
from supervisor.units import PAGE_SIZE, PageNumber
from tests.coherence.programs import Op

_ZERO: Final = bytes(PAGE_SIZE)


class SimMemory:
    """Guest memory of one host: pages that are not there read as zeros.

    Guest threads run while the supervisor reads and writes: `meanwhile` is
    called before each page and lets them.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.meanwhile: Callable[[], None] = lambda: None

    def read(self, first: PageNumber, count: int) -> bytes:
        found: list[bytes | bytearray] = []
        for page in range(first, first + count):
            self.meanwhile()
            found.append(bytes(self.pages.get(page, _ZERO)))
        return b"".join(found)

    def read_word(self, page: PageNumber, offset: int) -> bytes:
        self.meanwhile()
        return bytes(self.pages.get(page, _ZERO)[offset : offset + WORD_SIZE])

    def replace_word(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool:
        self.meanwhile()
        held = self.pages.setdefault(page, bytearray(PAGE_SIZE))
        if held[offset : offset + WORD_SIZE] != old:
            return False
        held[offset : offset + WORD_SIZE] = new
        return True

    def write(self, first: PageNumber, data: bytes) -> None:
        assert len(data) % PAGE_SIZE == 0
        for at in range(len(data) // PAGE_SIZE):
            self.meanwhile()
            self.pages[first + at] = bytearray(data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE])

    def zero(self, first: PageNumber, count: int) -> None:
        for page in range(first, first + count):
            self.pages.pop(page, None)

    def holes(self, first: PageNumber, count: int) -> int:
        for page in range(first, first + count):
            if page in self.pages:
                return page - first
        return count

    def peek(self, page: int, offset: int) -> int:
        held = self.pages.get(page)
        return 0 if held is None else held[offset]

    def poke(self, page: int, offset: int, value: int) -> None:
        held = self.pages.get(page)
        if held is None:
            held = self.pages[page] = bytearray(PAGE_SIZE)
        held[offset] = value


@dataclass(eq=False)
class Thread:
    """A guest thread, or a system call: something that executes ops and may fault."""

    number: int
    host: SimHost
    ops: tuple[Op, ...]
    at: int = 0
    speed: float = 1.0
    waiting: bool = False
    pinned: bool = False
    gone: bool = False
    fenced: bool = False  # its synchronization instruction trapped and may now run
    at_pin: int = -1  # the op whose fault was answered last
    reads: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.at == len(self.ops)


@dataclass(eq=False)
class SimHost:
    """A node, its memory, the protections in force in its guest, effects not yet done."""

    node: Node
    memory: SimMemory
    default: Access
    guest: dict[int, Access] = field(default_factory=dict)
    effects: deque[Effect] = field(default_factory=deque)
    unreported: list[int] = field(default_factory=list)  # tokens in force, not yet stepped
    armed: bool = False
    still: bool = False
    lost: bool = False
    wake_us: int | None = None
    threads: list[Thread] = field(default_factory=list)

    def allows(self, page: int, access: Access) -> bool:
        return self.guest.get(page, self.default) >= access
