# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages are asked for to write although they are only read yet."""

from __future__ import annotations

from supervisor.coherence.messages import Access
from supervisor.driver.migratory import PAIRS, SOON_S, TRUSTED, Migratory


def test_a_page_that_is_read_and_then_written_is_asked_for_to_write() -> None:
    pages, now = Migratory(), 100.0
    asked = []
    for _ in range(PAIRS + TRUSTED + 2):
        now += 1
        asked.append(pages.asks(7, Access.READ, now))
        if asked[-1] == Access.READ:
            assert pages.asks(7, Access.WRITE, now + SOON_S / 2) == Access.WRITE
    assert asked == [Access.READ] * PAIRS + [Access.WRITE] * TRUSTED + [Access.READ, Access.WRITE]


def test_a_page_that_is_written_much_later_is_not() -> None:
    pages, now = Migratory(), 100.0
    for _ in range(40):
        now += 1
        assert pages.asks(7, Access.READ, now) == Access.READ
        assert pages.asks(7, Access.WRITE, now + 2 * SOON_S) == Access.WRITE


def test_the_way_of_the_page_does_not_count() -> None:
    pages, now = Migratory(), 100.0
    for _ in range(PAIRS):
        now += 1
        assert pages.asks(7, Access.READ, now) == Access.READ
        pages.granted(7, now + 10 * SOON_S)
        pages.asks(7, Access.WRITE, now + 10.5 * SOON_S)
    assert pages.asks(7, Access.READ, now + 1) == Access.WRITE


def test_a_page_that_others_read_meanwhile_is_trusted_ever_less() -> None:
    pages, now, early = Migratory(), 100.0, 0
    for _ in range(200):
        now += 1
        early += pages.asks(7, Access.READ, now) == Access.WRITE
        assert pages.asks(7, Access.WRITE, now + SOON_S / 2) == Access.WRITE
    assert 1 <= early <= 4


def test_a_page_that_is_only_read_any_more_is_left_alone() -> None:
    pages, now = Migratory(), 100.0
    for _ in range(PAIRS):
        now += 1
        pages.asks(7, Access.READ, now)
        pages.asks(7, Access.WRITE, now)
    asked = [pages.asks(7, Access.READ, now + at) for at in range(1, 41)]
    assert asked == [Access.WRITE] * TRUSTED + [Access.READ] * (40 - TRUSTED)
    assert all(pages.asks(8, Access.READ, now + at) == Access.READ for at in range(1, 41))


def test_trust_that_was_lost_is_earned_again() -> None:
    pages, now = Migratory(), 100.0

    def early(times: int, mistaken: bool) -> int:
        nonlocal now
        count = 0
        for _ in range(times):
            now += 1
            asked = pages.asks(7, Access.READ, now) == Access.WRITE
            count += asked
            if mistaken or not asked:
                pages.asks(7, Access.WRITE, now + SOON_S / 2)
        return count

    early(12, mistaken=True)
    lost = early(50, mistaken=False)
    assert early(50, mistaken=False) > lost
    early(500, mistaken=False)
    pages.asks(7, Access.READ, now)
    assert early(PAIRS, mistaken=True) <= PAIRS
    assert early(100, mistaken=False) > 50
