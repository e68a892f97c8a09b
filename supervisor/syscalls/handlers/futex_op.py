# SPDX-License-Identifier: GPL-2.0-or-later
"""What FUTEX_WAKE_OP does to its second word, and by what it decides whether to wake (futex(2))."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from supervisor.coherence.messages import WORD_SIZE
from supervisor.units import PAGE_MASK, PAGE_SHIFT, PageNumber

_SHIFTED: Final = 8
_MASK: Final = 0xFFFF_FFFF
_TRIES_MAX: Final = 1000

_OPERATIONS: Final[Sequence[Callable[[int, int], int]]] = (
    lambda old, operand: operand,
    lambda old, operand: old + operand,
    lambda old, operand: old | operand,
    lambda old, operand: old & ~operand,
    lambda old, operand: old ^ operand,
)
_COMPARISONS: Final[Sequence[Callable[[int, int], bool]]] = (
    lambda old, operand: old == operand,
    lambda old, operand: old != operand,
    lambda old, operand: old < operand,
    lambda old, operand: old <= operand,
    lambda old, operand: old > operand,
    lambda old, operand: old >= operand,
)


class Words(Protocol):
    """Of coherence.messages.Memory."""

    def read_word(self, page: PageNumber, offset: int) -> bytes: ...
    def replace_word(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool: ...


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def decoded(encoded: int) -> tuple[Callable[[int], int], Callable[[int], bool]]:
    """The operation on a word (unsigned), and the condition of what it was (signed).

    Raises ValueError for one that there is not.
    """
    kind, comparison = encoded >> 28 & 0xF, encoded >> 24 & 0xF
    operand, threshold = _signed(encoded >> 12, 12), _signed(encoded, 12)
    if kind & _SHIFTED:
        operand = 1 << (operand & 31)
    kind &= ~_SHIFTED
    if kind >= len(_OPERATIONS) or comparison >= len(_COMPARISONS):
        raise ValueError(f"no such futex operation: {encoded:#x}")
    operate, compare = _OPERATIONS[kind], _COMPARISONS[comparison]
    return (
        lambda old: operate(old, operand) & _MASK,
        lambda old: compare(_signed(old, 32), threshold),
    )


def carry_out(memory: Words, address: int, operate: Callable[[int], int]) -> int | None:
    """Apply an operation to the word at an address, in one step as others see it; what it was.

    Other threads of this host may store to it meanwhile. None, and nothing done, where
    that cannot be had (memory of a file).
    """
    page, offset = PageNumber(address >> PAGE_SHIFT), address & PAGE_MASK & ~(WORD_SIZE - 1)
    shift = 8 * (address % WORD_SIZE)
    for _ in range(_TRIES_MAX):
        before = memory.read_word(page, offset)
        value = int.from_bytes(before, "little")
        old = value >> shift & _MASK
        value = value & ~(_MASK << shift) | operate(old) << shift
        if memory.replace_word(page, offset, before, value.to_bytes(WORD_SIZE, "little")):
            return old
    return None
