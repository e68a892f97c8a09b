# SPDX-License-Identifier: GPL-2.0-or-later
"""The words that stand for the program's futexes, and the arithmetic of FUTEX_WAKE_OP."""

from __future__ import annotations

import pytest

from supervisor.arch import X86_64
from supervisor.coherence.messages import WORD_SIZE
from supervisor.driver.futex_words import FutexWord, FutexWords
from supervisor.driver.scratch import Scratch
from supervisor.syscalls.handlers import futex_op
from supervisor.units import PageNumber


class World:
    def __init__(self) -> None:
        self.scratch = Scratch(X86_64)
        self.words = FutexWords()

    def enter(self, address: int) -> FutexWord:
        return self.words.enter(self.scratch, address)

    def contents(self, word: FutexWord) -> int:
        at = word.at - self.scratch.base
        return int.from_bytes(self.scratch.view[at : at + 4], "little")


@pytest.fixture
def world() -> World:
    return World()


def test_waiters_of_one_address_share_a_word(world: World) -> None:
    first, other, second = world.enter(16), world.enter(32), world.enter(16)
    assert first is second
    assert first.at != other.at
    assert world.words.find(16) is first
    assert world.words.find(48) is None


def test_a_word_lasts_as_long_as_threads_wait(world: World) -> None:
    other = world.enter(32)
    word = world.enter(16)
    world.enter(16)
    world.words.leave(word)
    assert world.words.find(16) is word
    world.words.leave(word)
    assert world.words.find(16) is None
    assert world.words.find(32) is other


def test_who_looked_before_a_wake_up_finds_another_number(world: World) -> None:
    word = world.enter(16)
    seen = word.value
    assert world.contents(word) == seen
    world.words.change(word)
    assert world.contents(word) == word.value != seen


def test_numbers_go_on_where_a_word_is_used_anew(world: World) -> None:
    """A thread of before, should there be one, would not wait for another's wake-up."""
    word = world.enter(16)
    world.words.change(word)
    seen = word.value
    world.words.leave(word)
    again = world.enter(48)
    assert again is word
    assert world.contents(again) == again.value == seen


def test_words_that_waiters_were_moved_between_stay_while_any_wait(world: World) -> None:
    word, elsewhere = world.enter(16), world.enter(64)
    target = world.words.of(world.scratch, 32)
    word.linked = target.linked = True
    world.words.leave(word)
    assert world.words.find(16) is word
    assert world.words.find(32) is target
    world.words.leave(elsewhere)
    assert world.words.find(16) is world.words.find(32) is None


def test_there_are_as_many_as_are_wanted(world: World) -> None:
    words = [world.enter(16 * address) for address in range(1000)]
    assert len({word.at for word in words}) == 1000


class Memory:
    """A page of words, of which the first attempts to replace one fail."""

    def __init__(self, failures: int = 0) -> None:
        self.data = bytearray(64)
        self.failures = failures

    def read_word(self, page: PageNumber, offset: int) -> bytes:
        return bytes(self.data[offset : offset + WORD_SIZE])

    def replace_word(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool:
        if self.failures:
            self.failures -= 1
            return False
        assert self.read_word(page, offset) == old
        self.data[offset : offset + WORD_SIZE] = new
        return True


def encoded(operation: int, operand: int, comparison: int, threshold: int) -> int:
    """FUTEX_OP() of <linux/futex.h>."""
    return operation << 28 | comparison << 24 | (operand & 0xFFF) << 12 | threshold & 0xFFF


@pytest.mark.parametrize("address", [8, 12])
@pytest.mark.parametrize(
    ("operation", "operand", "after"),
    [(0, 5, 5), (1, -3, 6), (2, 6, 15), (3, 1, 8), (4, 3, 10), (9, 4, 25), (0, -1, 0xFFFF_FFFF)],
)
def test_a_word_is_changed_and_nothing_beside_it(
    address: int, operation: int, operand: int, after: int
) -> None:
    memory = Memory(failures=3)
    memory.data[:] = b"\xee" * 64
    memory.data[address : address + 4] = (9).to_bytes(4, "little")
    operate, _ = futex_op.decoded(encoded(operation, operand, 0, 0))
    assert futex_op.carry_out(memory, address, operate) == 9
    assert int.from_bytes(memory.data[address : address + 4], "little") == after
    rest = memory.data[:address] + memory.data[address + 4 :]
    assert rest == b"\xee" * 60


@pytest.mark.parametrize(
    ("comparison", "threshold", "old", "holds"),
    [
        (0, 9, 9, True), (1, 9, 9, False), (2, 0, 0xFFFF_FFFF, True), (3, 9, 9, True),
        (4, -1, 0, True), (5, 1, 0, False),
    ],
)  # fmt: skip
def test_conditions_are_of_signed_words(
    comparison: int, threshold: int, old: int, holds: bool
) -> None:
    _, compare = futex_op.decoded(encoded(0, 0, comparison, threshold))
    assert compare(old) == holds


@pytest.mark.parametrize("wrong", [encoded(5, 0, 0, 0), encoded(0, 0, 6, 0)])
def test_unknown_ones_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="no such futex operation"):
        futex_op.decoded(wrong)


def test_memory_that_cannot_be_changed_in_one_step_is_left_alone() -> None:
    operate, _ = futex_op.decoded(encoded(0, 5, 0, 0))
    memory = Memory(failures=1 << 30)
    assert futex_op.carry_out(memory, 0, operate) is None
    assert memory.data == bytes(64)
