# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that a host reads and then writes each time it gets them.

Those of locks, counters and barriers are such: a load, and at once a store. They
are asked for to write when they are read, which saves the second fault (migratory
data: Cox and Fowler; Stenstroem, Brorsson and Sandberg; both ISCA 1993). A page
that is read now and written much later is not one: others may want to read it
meanwhile, and whoever asks to write takes it from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from supervisor.coherence.messages import Access

SOON_S: Final = 4e-4
"""From when a page is there to read to the fault of the store: to go on, to fault, and for
its supervisor to hear of it."""

PAIRS: Final = 2
"""Loads with a store soon after, in a row, after which a page counts as migratory."""

MISTAKE_FACTOR: Final = 4
PAIRS_MAX: Final = 1 << 12
"""So many times more it takes after each time that the right to write was asked for and
lost before the store: others read the page all the time. When they have come, so many
times fewer again."""

TRUSTED: Final = 4
"""Times that it is asked for to write before a load is left alone again, to see; so many more
each time that a store follows soon again."""

TRUSTED_MAX: Final = 32

PAGES_MAX: Final = 1 << 12


@dataclass(slots=True)
class _Habit:
    read_s: float = 0.0
    """Since when it may be read, or was asked for to read; 0 where a store has followed."""
    pairs: int = 0
    needed: int = PAIRS
    trusted: int = 0
    early: bool = False
    """The last load asked for the right to write."""


class Migratory:
    """The habits of a host's pages."""

    def __init__(self) -> None:
        self._habits: dict[int, _Habit] = {}

    def asks(self, page: int, access: Access, now_s: float) -> Access:
        """With which access to ask for a page that `access` is needed of."""
        habit = self._habits.get(page)
        if habit is None:
            if access == Access.READ:
                if len(self._habits) >= PAGES_MAX:
                    del self._habits[next(iter(self._habits))]
                self._habits[page] = _Habit(read_s=now_s)
            return access
        if access == Access.WRITE:
            if habit.early:
                habit.pairs, habit.early = 0, False
                habit.needed = min(habit.needed * MISTAKE_FACTOR, PAIRS_MAX)
            elif habit.read_s:
                soon = now_s - habit.read_s < SOON_S
                habit.pairs = habit.pairs + 1 if soon else 0
                seen = max(habit.pairs - habit.needed, 0) + 1
                if seen > 1:  # after loads that asked for the right to write, none in vain
                    habit.needed = max(habit.needed // MISTAKE_FACTOR, PAIRS)
                habit.trusted = min(TRUSTED * seen, TRUSTED_MAX)
            habit.read_s = 0.0
            return access
        if habit.read_s:
            habit.pairs = 0  # it was read alone
        habit.early = habit.pairs >= habit.needed and habit.trusted > 0
        if habit.early:
            habit.trusted -= 1
            return Access.WRITE
        habit.read_s = now_s
        return access

    def granted(self, page: int, now_s: float) -> None:
        """A page that was asked for is there."""
        habit = self._habits.get(page)
        if habit is not None and habit.read_s:
            habit.read_s = now_s
