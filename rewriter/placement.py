# SPDX-License-Identifier: GPL-2.0-or-later
"""Where trampolines go: addresses whose bytes trap when jumped into.

`jmp rel32` is `e9 b1 b2 b3 b4`. Where an original instruction boundary falls on
one of b1..b4, the trampoline is put at an address that makes this byte an
opcode that cannot run. Then a branch that analysis missed does not land in the
middle of a jump and run garbage: it faults at exactly that boundary, and
whoever handles the fault looks the boundary up in the redirect map.

64-bit: bytes that are invalid opcodes. i386 has none of one byte; b1..b3 take
instructions that are privileged instead (a fault of their own), b4 cannot be
chosen (the trampolines would be gigabytes away), so there analysis alone
stands behind the last boundary.

Trampolines lie above the image: b4 of 6 or 7 means 96 to 128 MiB beyond the
text. Pages are filled before new ones are opened.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Final

from rewriter.elf import PAGE_SIZE
from rewriter.relocate import JUMP

_LAST_64: Final = (0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F)
_MIDDLE_64: Final = tuple(sorted((*_LAST_64, 0x60, 0x61, 0x82, 0x9A, 0xCE, 0xEA)))
_MIDDLE_32: Final = (
    0x6C, 0x6D, 0x6E, 0x6F, 0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF, 0xF4, 0xFA, 0xFB,
)  # fmt: skip
_ANY: Final = tuple(range(256))
FILL: Final = {64: 0x06, 32: 0xF4}
"""What replaces the bytes of a patch behind its jump: an invalid opcode; hlt."""
_OPEN_PAGES_MAX: Final = 96
_LOW_64: Final = 0x0600_0000
_LOW_32: Final = 0x0010_0000


class NoRoom(Exception):
    """No address satisfies a patch's constraints within reach."""


@dataclass
class _Page:
    start: int
    free: list[tuple[int, int]] = field(default_factory=list)
    """free intervals [lo, hi), ascending; a trampoline may end in the next page"""


class Arena:
    """Addresses handed out to trampolines, above `image_end`."""

    def __init__(self, bits: int, text_start: int, image_end: int) -> None:
        self.bits = bits
        self.last = _LAST_64 if bits == 64 else _ANY[:128]
        self.middle = _MIDDLE_64 if bits == 64 else _MIDDLE_32
        low = max(text_start + _LOW_64, image_end) if bits == 64 else image_end + _LOW_32
        self.low = -(-low // PAGE_SIZE) * PAGE_SIZE
        self.limit = 0x7E00_0000 if bits == 64 else 0x7000_0000
        self.pages: dict[int, list[tuple[int, int]]] = {}
        self._open: list[int] = []

    def place(self, start: int, boundaries: tuple[int, ...], size: int) -> int:
        """An address for `size` bytes, for a jump at `start`; NoRoom when there is none.

        `boundaries` are original instruction addresses inside the patch.
        """
        end = start + JUMP
        held = {b - start for b in boundaries if b - start < JUMP}
        if not held - ({4} if self.bits == 32 else set()):
            return self._anywhere(end, size)
        for page in reversed(self._open):
            at = self._in_page(page, end, held, size)
            if at:
                return at
        for page in self._new_pages(end, held):
            if page not in self.pages:
                self._open_page(page)
                at = self._in_page(page, end, held, size)
                if at:
                    return at
        raise NoRoom

    def span(self) -> tuple[int, int]:
        """(start, end) of all pages handed out, page-aligned; (low, low) when none."""
        if not self.pages:
            return self.low, self.low
        return min(self.pages), max(self.pages) + PAGE_SIZE

    def _anywhere(self, end: int, size: int) -> int:
        for page in reversed(self._open):
            for lo, hi in self.pages[page]:
                if hi - lo >= size:
                    return self._take(page, lo, size)
        page = self.low
        if self.pages:
            page = max(self._open[-1] if self._open else self.low, self.low)
            while page in self.pages:
                page += PAGE_SIZE
        if page + size - end > self.limit:
            raise NoRoom
        self._open_page(page)
        return self._take(page, self.pages[page][0][0], size)

    def _open_page(self, page: int) -> None:
        self.pages[page] = [(page, page + PAGE_SIZE)]
        self._open.append(page)
        if len(self._open) > _OPEN_PAGES_MAX:
            self._open.pop(0)

    def _take(self, page: int, at: int, size: int) -> int:
        free = self.pages[page]
        for i, (lo, hi) in enumerate(free):
            if lo <= at and at + size <= hi:
                free[i : i + 1] = [p for p in ((lo, at), (at + size, hi)) if p[1] - p[0] >= 8]
                return at
        raise AssertionError("the interval taken is not free")

    def _in_page(self, page: int, end: int, held: set[int], size: int) -> int:
        """A fitting address in one page, 0 when there is none."""
        for lo, hi in self.pages[page]:
            at = lo
            while at + size <= hi:
                following = self._next_fit(at - end, held)
                if following < 0:
                    break
                if following == at - end:
                    return self._take(page, at, size)
                at = following + end
        return 0

    def _next_fit(self, rel: int, held: set[int]) -> int:
        """The least rel32 >= rel whose constrained bytes are all allowed; -1 for none."""
        if rel < 0:
            return -1
        # From the highest byte down: raise it to an allowed value, and what is
        # below then starts from its least.
        for byte in (4, 3, 2, 1):
            if byte not in held or (byte == 4 and self.bits == 32):
                continue
            allowed = self.last if byte == 4 else self.middle
            shift = 8 * (byte - 1)
            value = rel >> shift & 0xFF
            if value in allowed:
                continue
            i = bisect.bisect_left(allowed, value)
            if i < len(allowed):
                rel = (rel >> shift + 8 << shift + 8) | allowed[i] << shift
                continue
            # Carry into the byte above, which may break what was settled there.
            rel = ((rel >> shift + 8) + 1) << shift + 8
            return -1 if rel > 0x7FFFFFFF else self._next_fit(rel, held)
        return rel if rel <= 0x7FFFFFFF else -1

    def _new_pages(self, end: int, held: set[int]) -> list[int]:
        """Pages not yet handed out that hold a fitting address, lowest first."""
        out: list[int] = []
        rel = self.low - end
        while len(out) < 64:
            rel = self._next_fit(max(rel, 0), held)
            if rel < 0 or rel > self.limit:
                break
            page = (end + rel) // PAGE_SIZE * PAGE_SIZE
            if page not in self.pages and page >= self.low:
                out.append(page)
            rel = page + PAGE_SIZE - end
        return out
