# SPDX-License-Identifier: GPL-2.0-or-later
"""Sequential faults of one host, and how far ahead of them it asks.

A stream goes up or down through memory; each fault that continues it widens its
window. Programs walk through the same memory again and again, so a stream that
begins where it began before asks at once for as much as was needed the last two
times. A stream of loads whose pages are written soon after asks for pages to write.

What is asked for is a hint: home leaves out what it had to take from others too
dearly (`collect.py`), and `granted` tells how far the stream really got. A fault
on a page that had been granted means that somebody else wants it: the stream
begins anew, small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from supervisor.coherence.messages import Access, Run
from supervisor.coherence.pages import PageMap, run_of
from supervisor.coherence.policy import STREAM_STREAK, WINDOW_PAGES_MAX

GROWTH: Final = 4
"""Of a stream's window with each fault: 256 KiB come in four faults, of which the
third proves a stream; doubling takes six."""

CHUNK_PAGES: Final = 16
"""What the first write fault of an area may get of never-touched memory (64 KiB)."""

STREAMS_MAX: Final = 32
"""Of each access; the one that was followed longest ago is forgotten."""

_UP, _DOWN = 1, -1


@dataclass(slots=True)
class Stream:
    """Pages: `start` is the first one needed, [low, high) the last need, [floor, limit) it
    and what was granted around it; `way` is 0 while both are possible."""

    access: Access
    start: int
    low: int
    high: int
    floor: int
    limit: int
    way: int = 0
    streak: int = 0
    window: int = 1
    reach: int = 1
    """How many pages from `start` on have been needed since it began there."""
    reach_before: int = 0
    """The same the time before; 0 for never."""
    writes: bool = False
    """A stream of loads: its last window was asked for to write."""

    def way_to(self, first: int, end: int) -> int:
        """In which direction a need [first, end) continues the stream; 0 for neither."""
        if self.way != _DOWN and self.high <= first <= self.limit:
            return _UP
        if self.way != _UP and self.floor <= end <= self.low:
            return _DOWN
        return 0

    def go_on(self, way: int, first: int, end: int) -> None:
        """A need [first, end) continues it."""
        lost = first < self.limit if way == _UP else end > self.floor
        if lost:
            self.start, self.way, self.streak, self.window = first, 0, 0, 1
            self.reach, self.reach_before = end - first, 0
            self._stand(first, end)
            return
        self.way = way
        self.streak += 1
        self.window = min(self.window * GROWTH, WINDOW_PAGES_MAX)
        self.reach = end - self.start if way == _UP else self.start + 1 - first
        self._stand(first, end)

    def begin_again(self, first: int, end: int) -> None:
        """A need where it began before: as much will be needed as both times before."""
        expected = min(self.reach, self.reach_before, WINDOW_PAGES_MAX)
        self.reach_before = self.reach
        if expected > 1:
            self.streak, self.window, self.reach = STREAM_STREAK, expected, expected
        else:
            self.way, self.streak, self.window, self.reach = 0, 0, 1, end - first
        self._stand(first, end)

    def _stand(self, first: int, end: int) -> None:
        self.low, self.high = first, end
        self.floor, self.limit = first, end

    def asks(
        self, needs: tuple[Run, ...], above: int, below: int, own: PageMap
    ) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """(needs, pages ahead) to ask home for, with at most `above` and `below` pages ahead.

        `own` is what this host may do to each page.
        """
        *others, last = needs
        if self.access == Access.READ and self.streak:
            before = last.first - 1 if self.way == _UP else last.first + last.count
            # What was asked for to write tells nothing of what comes next: every other time.
            self.writes = not self.writes and own.get(before) == Access.WRITE
        access = Access.WRITE if self.writes else last.access
        needs = (*others, run_of(last.first, last.count, access))
        count = self.window - 1
        if not self.streak:
            count = CHUNK_PAGES - 1 if access == Access.WRITE else 0
        if self.begins:
            # What comes behind was never needed: go on by as much again, no more.
            self.window = max(self.window // GROWTH, 1)
        if self.way == _DOWN:
            count = min(count, below if not others else 0)
            first = last.first - count
        else:
            count = min(count, above)
            first = last.first + last.count
        return needs, (run_of(first, count, access),) if count else ()

    @property
    def begins(self) -> bool:
        """Whether it stands where it began, with expectations."""
        return self.streak == STREAM_STREAK and self.start in (self.low, self.high - 1)

    def granted(self, asked: tuple[Run, ...], own: PageMap) -> None:
        """What was asked for is here, as far as it could be had."""
        for run in asked:
            if run.first <= self.low < run.first + run.count:
                for span in own.runs(run.first, run.count):
                    end = span.first + span.count
                    if span.value < self.access:
                        continue
                    if span.first <= self.high <= end:
                        self.limit = end
                    if span.first <= self.low <= end:
                        self.floor = span.first


class Streams:
    """The streams of one host."""

    def __init__(self) -> None:
        self._streams: dict[Access, list[Stream]] = {Access.READ: [], Access.WRITE: []}

    def follow(self, needs: tuple[Run, ...]) -> Stream:
        """The stream that the last of these needs continues, begins again or begins."""
        first, count, access = needs[-1]
        streams = self._streams[access]
        end = first + count
        for at, stream in enumerate(streams):
            way = stream.way_to(first, end)
            if way:
                stream.go_on(way, first, end)
            elif stream.start == first:
                stream.begin_again(first, end)
            else:
                continue
            streams.append(streams.pop(at))
            return stream
        stream = Stream(access, first, first, end, first, end, reach=count)
        streams.append(stream)
        if len(streams) > STREAMS_MAX:
            del streams[0]
        return stream
