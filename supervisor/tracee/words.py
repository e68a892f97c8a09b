# SPDX-License-Identifier: GPL-2.0-or-later
"""Single words of guest memory while guest threads run: one load, one compare-and-exchange."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final, NamedTuple

from supervisor.coherence.messages import WORD_SIZE
from supervisor.tracee import own_code
from supervisor.units import PAGE_SHIFT, PAGE_SIZE, PageNumber

PAGES_MAX: Final = 64
"""Of guest memory that are mapped here at a time."""

EXCHANGE: Final = bytes.fromhex(
    "4889f0 f0480fb117"  # mov %rsi,%rax; lock cmpxchg %rdx,(%rdi)
    "0f94c0 0fb6c0 c3"  # sete %al; movzbl %al,%eax; ret
)


class _Mapped(NamedTuple):
    words: memoryview[int]
    address: int


class Words:
    """Words of pages of a memory file whose offsets are the guest's addresses."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pages: dict[PageNumber, _Mapped] = {}  # the one used last is the last

    def read(self, page: PageNumber, offset: int) -> bytes:
        """Read by one load, so never half of a store."""
        return self._mapped(page).words[offset // WORD_SIZE].to_bytes(WORD_SIZE, "little")

    def replace(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool:
        """In place of `old`; False where something else is there (or code cannot be mapped)."""
        try:
            exchange = _exchange_at(own_code.mapped(EXCHANGE))
        except OSError:
            return False
        address = self._mapped(page).address + offset
        return bool(
            exchange(address, int.from_bytes(old, "little"), int.from_bytes(new, "little"))
        )

    def _mapped(self, page: PageNumber) -> _Mapped:
        found = self._pages.pop(page, None)
        if found is None:
            memory = mmap.mmap(
                self._descriptor, PAGE_SIZE, mmap.MAP_SHARED,
                mmap.PROT_READ | mmap.PROT_WRITE, offset=page << PAGE_SHIFT,
            )  # fmt: skip
            # The buffer keeps the mapping, and both go together.
            buffer = (ctypes.c_char * PAGE_SIZE).from_buffer(memory)
            found = _Mapped(memoryview(buffer).cast("B").cast("Q"), ctypes.addressof(buffer))
            if len(self._pages) >= PAGES_MAX:
                del self._pages[next(iter(self._pages))]
        self._pages[page] = found
        return found


_exchange_at: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64
)
