# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of guest memory read by one load and replaced by one exchange, while others store."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import struct

from iced_x86 import Decoder

from supervisor.tracee.memory import GuestMemory
from supervisor.tracee.words import EXCHANGE, PAGES_MAX, Words
from supervisor.units import PAGE_SHIFT, PAGE_SIZE, PageNumber

WORD = struct.Struct("<Q")
PAGE = PageNumber(0x555555555)


def test_the_exchange_is_what_it_says() -> None:
    shown = [str(instruction) for instruction in Decoder(64, EXCHANGE)]
    assert shown == [
        "mov rax,rsi", "lock cmpxchg [rdi],rdx", "sete al", "movzx eax,al", "ret",
    ]  # fmt: skip


def test_words_are_read_and_replaced_where_they_are_what_is_expected() -> None:
    memory = GuestMemory()
    memory.write(PAGE, bytes(range(256)) * (PAGE_SIZE // 256))
    assert memory.read_word(PAGE, 16) == bytes(range(16, 24))
    assert memory.replace_word(PAGE, 16, bytes(range(16, 24)), b"replaced")
    assert not memory.replace_word(PAGE, 16, bytes(range(16, 24)), b"otherwise"[:8])
    assert memory.read(PAGE, 1)[8:32] == bytes(range(8, 16)) + b"replaced" + bytes(range(24, 32))


def test_a_page_given_back_reads_as_zeros() -> None:
    memory = GuestMemory()
    memory.write(PAGE, b"x" * PAGE_SIZE)
    assert memory.read_word(PAGE, 0) == b"x" * 8
    memory.zero(PAGE, 1)
    assert memory.read_word(PAGE, 0) == bytes(8)
    assert memory.replace_word(PAGE, 0, bytes(8), b"y" * 8)
    assert memory.read(PAGE, 1)[:9] == b"y" * 8 + b"\0"


def test_no_more_than_so_many_pages_stay_mapped() -> None:
    memory = GuestMemory()
    words = Words(memory.descriptor)
    for page in range(3 * PAGES_MAX):
        words.read(PageNumber(page + 1), 0)
    path = os.readlink(f"/proc/self/fd/{memory.descriptor}").split()[0]
    with open("/proc/self/maps") as maps:
        inode = str(os.fstat(memory.descriptor).st_ino)
        assert sum(inode in line and path in line for line in maps) <= PAGES_MAX


def _count(descriptor: int, times: int) -> None:
    """Add to the upper half of a word, by plain stores to its own bytes."""
    page = mmap.mmap(descriptor, PAGE_SIZE, offset=PAGE << PAGE_SHIFT)
    upper = memoryview(page).cast("I")
    for value in range(1, times + 1):
        upper[1] = value


def test_stores_of_others_to_the_same_word_are_not_lost() -> None:
    memory, times = GuestMemory(), 200_000
    memory.write(PAGE, bytes(PAGE_SIZE))
    other = multiprocessing.get_context("fork").Process(
        target=_count, args=(memory.descriptor, times)
    )
    other.start()
    made, seen = 0, 0
    while made < 20_000:
        old = memory.read_word(PAGE, 0)
        lower, upper = struct.unpack("<II", old)
        assert lower == made and upper >= seen
        seen = upper
        made += memory.replace_word(PAGE, 0, old, struct.pack("<II", made + 1, upper))
    other.join(60)
    assert other.exitcode == 0
    assert struct.unpack("<II", memory.read_word(PAGE, 0)) == (made, times)
