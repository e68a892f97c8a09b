# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults of one host that form streams, and how far ahead of them it asks.

A stream goes up or down through memory, page by page or by a constant stride (a
column of a matrix, part of each of its rows); each fault that continues it widens
its window. Programs walk through the same memory again and again, so a stream
that begins where it began before asks at once for as much as was needed the last
two times. A stream of loads whose pages are written soon after asks for pages to
write.

What is asked for is a hint: home leaves out what it had to take from others too
dearly (`collect.py`), and `granted` tells how far the stream really got. A fault
on a page that had been granted means that somebody else wants it: the stream
begins anew, small.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from supervisor.coherence.messages import Access, Run
from supervisor.coherence.pages import PageMap, run_of
from supervisor.coherence.policy import STREAM_STREAK, WINDOW_PAGES_MAX

GROWTH: Final = 4
"""Of a stream's window with each fault: 256 KiB come in four faults, of which the
third proves a stream; doubling takes six."""

CHUNK_PAGES: Final = 16
"""What the first write fault of a stream may get of never-touched memory at most (64 KiB).
Each stream that begins halves that, each that is continued doubles it: where stores go
here and there, the pages beside them are somebody else's to write."""

STREAMS_MAX: Final = 128
"""Of each access; the one that was followed longest ago is forgotten."""

WIDE_MAX: Final = 16
"""Among so many of them, those that got pages ahead last, a lost page is sought."""

STRIDE_MAX: Final = 256
"""Pages: a matrix with rows of 1 MiB."""

STRIDE_FILLED: Final = 2
"""Of so short a stride what lies between is asked for too, to read: a page on its own costs
both hosts more than ten in a run, and such walks come back for the rest. (At four, a
transposition was a fifth faster and moved four times as much, which a slow link would feel.)"""

READ_AHEAD_STREAK: Final = 6
"""Faults after which a stream of loads at its widest is asked for a window further than
needed: then it has used one, and goes on. Where it ends, that window is wasted, and
what is taken from another that writes there is missed; so no store does it."""

AHEAD_SHARE: Final = 4
AHEAD_WINDOWS_MAX: Final = 2
"""One that has gone on for long is asked for further windows still, as much as a quarter of
what it has gone through: they are on their way while one is being put into memory. More
would keep a slow link from everybody else, and gain nothing."""

SLACK_PAGES: Final = 32
"""So many pages more than needed cost less than to ask once more."""

RECENT: Final = 8
"""Among so many faults that continue nothing three in a row of one stride are sought."""


@dataclass(slots=True)
class Stream:
    """`start` is the first page that was needed, [low, high) the last need."""

    access: Access
    start: int
    low: int
    high: int
    step: int = 0
    """Pages from one to the next, negative downwards; 0 while 1 and -1 are possible."""
    streak: int = 0
    """Faults that continued it."""
    window: int = 1
    """Pages asked for with the last need, it included."""
    window_max: int = WINDOW_PAGES_MAX
    ahead_streak: int = READ_AHEAD_STREAK
    asked: int = 0
    """Where it goes up page by page: the page behind the last that was asked for."""
    hoped: int = 0
    """How many pages along the stream, beyond the last need, were asked for."""
    had: int = 0
    """How many pages beyond the last need were granted, along the stream."""
    reach: int = 1
    """How many pages along the stream have been needed since it began."""
    reach_before: int = 0
    """The same the time before; 0 for never."""
    chunk: int = 1
    """Pages that a first store asks for."""
    expected: int = 0
    """How many were expected when it began."""
    least: int = 0
    """How many it needed each time before, at least as far as is known."""
    most: int = 0
    """And at most; 0 where nothing is known."""
    writes: bool = False
    """A stream of loads: its last window was asked for to write."""

    def continues(self, first: int, end: int) -> int:
        """With which step a need [first, end) continues the stream; 0: it does not."""
        for step in (self.step,) if self.step else (1, -1):
            away = first - (self.high - 1) if step > 0 else end - 1 - self.low
            along, beside = divmod(away, step)
            if not beside and 1 <= along <= self._had(step) + 1:
                return step
        return 0

    def next_pages(self) -> tuple[int, ...]:
        """The pages that would be the first or last of a need that continues it."""
        if not self.step:
            return (self.high + self.had, self.low - 1)
        if self.step > 0:
            return (self.high - 1 + self.step * (self.had + 1),)
        return (self.low + self.step * (self.had + 1),)

    def _had(self, step: int) -> int:
        """While it is open in which direction it goes, pages ahead are above."""
        return self.had if step == (self.step or 1) else 0

    def go_on(self, step: int, first: int, end: int) -> None:
        """A need [first, end) continues it."""
        along = (first - (self.high - 1) if step > 0 else end - 1 - self.low) // step
        if along <= self._had(step):
            # It was here, and somebody else has taken it.
            self.start, self.streak, self.window = first, 0, 1
            self.reach, self.reach_before, self.expected = end - first, 0, 0
            self.least = self.most = 0
            self.step = 0 if abs(step) == 1 else step
        else:
            self.step = step
            self.streak += 1
            self.reach += along - 1 + end - first
            if 0 < self.most < self.reach:
                self.most, self.window = 0, 1  # further than ever: who knows how far
            self.window = min(self.window * GROWTH, self.window_max)
        self.low, self.high, self.had = first, end, 0

    def begin_again(self, first: int, end: int) -> None:
        """A need where it began before: as much will be needed as the times before.

        That was what it needed last, and perhaps some of what it had beyond.
        """
        least, most = self.reach, self.reach + self.had
        alike = self.least <= most and least <= self.most
        if alike:
            self.least, self.most = max(least, self.least), min(most, self.most)
        else:
            self.least, self.most = least, most
        self.expected = min(self._sure, self.window_max) if alike else 0
        self.reach, self.reach_before = end - first, least
        if self.expected > 1:
            self.streak, self.window = STREAM_STREAK, self.expected
        else:
            self.step = 0 if abs(self.step) == 1 else self.step
            self.streak, self.window = 0, 1
        self.low, self.high, self.had = first, end, 0

    @property
    def _sure(self) -> int:
        """How many it will need, and not many more."""
        return self.most if self.most - self.least <= SLACK_PAGES else self.least

    @property
    def _left(self) -> int:
        """How many to ask for beyond the need it stands at: what lies further on may be somebody
        else's to write. Where it is not known how many, half of what there may be."""
        if self.reach < self._sure:
            return self._sure - self.reach
        left = max(self.most - self.reach, 0)  # a need may be of more pages than ever
        return left if left <= SLACK_PAGES else left // 2

    @property
    def lonely(self) -> bool:
        """Whether no more than one page was ever needed of it."""
        return max(self.reach, self.reach_before) == 1

    @property
    def _begins(self) -> bool:
        """Whether it stands where it began, with expectations."""
        return self.streak == STREAM_STREAK and self.start == self.low and self.window > 1

    def asks(
        self, needs: tuple[Run, ...], above: int, below: int, own: PageMap
    ) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """(needs, pages ahead) to ask home for; the last of `needs` is the one that is followed.

        The pages ahead are at most `above` behind that one, and `below` before it. `own` is
        what this host may do to each page.
        """
        *others, last = needs
        if self.access == Access.READ and self.streak:
            # What was asked for to write tells nothing of what comes next: every other time.
            # And where it begins, what lies before is no part of it.
            before = last.first - self.step if self.step > 0 else self.high - 1 - self.step
            stored = own.get(before) == Access.WRITE and not self._begins
            self.writes = stored and not self.writes
        access = Access.WRITE if self.writes else last.access
        needs = (*others, run_of(last.first, last.count, access))
        count = self.window - 1
        if not self.streak:
            count = self.chunk - 1 if access == Access.WRITE and abs(self.step) <= 1 else 0
        elif self._begins:
            # What comes behind was never needed: go on by as much again, no more.
            self.window = max(self.window // GROWTH, 1)
        if self.most and self.streak:
            count = min(count, self._left)
        step = self.step or 1
        room, far = (above, step) if step > 0 else (below, -step)
        filled = far == 1 or (far <= STRIDE_FILLED and access == Access.READ)
        if filled:
            count = min(count, self.window_max // far - 1)
        count = min(count, room // far)
        self.asked, self.hoped = self.high, count
        if not count:
            return needs, ()
        if step == 1:
            self.asked += count
        if filled:
            span = min(count * far + far - 1, room)  # up to where it will ask again
            return needs, (run_of(self.high if step > 0 else self.low - span, span, access),)
        edge = self.high - 1 if step > 0 else self.low
        pages = sorted(edge + step * (at + 1) for at in range(count))
        return needs, tuple(run_of(page, 1, access) for page in pages)

    def asks_on(self, needs: tuple[Run, ...], above: int, own: PageMap) -> Run | None:
        """The window behind the last that was asked for, where that one is sure to be used
        up soon; `above` is what room there is above these needs."""
        end = needs[-1].first + needs[-1].count
        if self.step != 1 or self.streak < self.ahead_streak or self.window < self.window_max:
            return None
        if self.access != Access.READ or self.writes:
            return None
        ahead = min((end - self.start) // AHEAD_SHARE, AHEAD_WINDOWS_MAX * self.window)
        if self.asked >= end + max(ahead, self.window):
            return None
        count = min(self.window, end + above - self.asked)
        if count < 2 or own.get(self.asked) != Access.NONE:
            return None
        run = run_of(self.asked, count, Access.READ)
        self.asked += count
        return run

    def granted(self, ahead: tuple[Run, ...], own: PageMap) -> None:
        """See `Streams.granted`."""
        run = ahead[0]
        if self.step in (0, 1) and self.high <= run.first < self.asked:
            span = own.runs(self.high, self.asked - self.high)[0]
            self.had = span.count if span.value >= self.access else 0
            return
        if self.step == -1 and run.first + run.count == self.low:
            span = own.runs(run.first, run.count)[-1]
            self.had = span.count if span.value >= self.access else 0
            return
        step = self.step or 1
        edge = self.high - 1 if step > 0 else self.low
        self.had = 0
        while self.had < self.hoped and own.get(edge + step * (self.had + 1)) >= self.access:
            self.had += 1


class Streams:
    """The streams of one host, those of loads apart from those of stores."""

    def __init__(
        self, window_max: int = WINDOW_PAGES_MAX, ahead_streak: int = READ_AHEAD_STREAK
    ) -> None:
        """`window_max`: pages that one request may be for; `ahead_streak`: faults of a
        stream after which it asks for windows that are not needed yet."""
        self._window_max = window_max
        self._ahead_streak = ahead_streak
        self._tables = {Access.READ: _Table(), Access.WRITE: _Table()}
        self._chunk = CHUNK_PAGES

    def follow(self, needs: tuple[Run, ...]) -> Stream:
        """The stream that the last of these needs continues, begins again or begins."""
        first, count, access = needs[-1]
        table = self._tables[access]
        end = first + count
        stream, step = table.find(first, end)
        stride = 0
        if count == 1 and not step and (stream is None or stream.lonely):
            stride = table.stride(first)
        if stream is None or stride:
            stream = Stream(
                access, first, first, end, window_max=self._window_max,
                ahead_streak=self._ahead_streak, reach=count, chunk=self._chunk,
            )  # fmt: skip
            if stride:
                stream.step, stream.streak = stride, STREAM_STREAK
                stream.window = min(GROWTH**STREAM_STREAK, self._window_max)
            elif access == Access.WRITE:
                self._chunk = max(self._chunk // 2, 1)
        else:
            table.remove(stream)
            if step:
                if not stream.streak:
                    self._chunk = min(2 * self._chunk, CHUNK_PAGES)
                stream.go_on(step, first, end)
            else:
                stream.begin_again(first, end)
        table.add(stream)
        return stream

    def granted(self, stream: Stream, ahead: tuple[Run, ...], own: PageMap) -> None:
        """What was asked for is here, as far as it could be had."""
        if ahead:
            table = self._tables[stream.access]
            known = table.remove(stream)
            stream.granted(ahead, own)
            if known:
                table.add(stream)


class _Table:
    """Streams of one access, found by the pages that they are likely to need next."""

    def __init__(self) -> None:
        self._by_start: dict[int, Stream] = {}  # the one followed last is the last
        self._by_next: dict[int, Stream] = {}
        self._wide: dict[int, Stream] = {}  # those that have pages ahead, by start
        self._recent: deque[int] = deque(maxlen=RECENT)

    def find(self, first: int, end: int) -> tuple[Stream | None, int]:
        """The stream that a need fits, with its step, or 0 where it begins again.

        One under way before one that is known to begin there, and that before one
        that is no more than a guess.
        """
        again = self._by_start.get(first)
        for page in (first,) if end == first + 1 else (first, end - 1):
            stream = self._by_next.get(page)
            if stream is not None and (stream.streak or again is None or not again.reach_before):
                step = stream.continues(first, end)
                if step:
                    return stream, step
        if again is None or not again.reach_before:
            for stream in self._wide.values():
                step = stream.continues(first, end)
                if step:
                    return stream, step
        return again, 0

    def remove(self, stream: Stream) -> bool:
        """Forget a stream; False where it is not known."""
        if self._by_start.get(stream.start) is not stream:
            return False
        del self._by_start[stream.start]
        self._wide.pop(stream.start, None)
        for page in stream.next_pages():
            if self._by_next.get(page) is stream:
                del self._by_next[page]
        return True

    def add(self, stream: Stream) -> None:
        """Enter a stream as the one followed last, in place of one with the same start."""
        same = self._by_start.get(stream.start)
        if same is not None:
            self.remove(same)
        elif len(self._by_start) >= STREAMS_MAX:
            self.remove(next(iter(self._by_start.values())))
        self._by_start[stream.start] = stream
        if stream.had:
            self._wide[stream.start] = stream
            if len(self._wide) > WIDE_MAX:
                del self._wide[next(iter(self._wide))]
        for page in stream.next_pages():
            self._by_next[page] = stream

    def stride(self, page: int) -> int:
        """The stride by which a page follows two faults that continued nothing; 0 for none.

        Several streams of one stride may take turns: some pages of each row of a matrix.
        """
        recent = self._recent
        known = {*recent, page}
        found = 0
        for before in reversed(recent):
            stride = page - before
            if 1 < abs(stride) <= STRIDE_MAX and before - stride in known:
                # Of faults all over a place any three may happen to be as far apart.
                low, high = sorted((before - stride, page))
                if all(
                    other - stride in known or other + stride in known
                    for other in known if low < other < high
                ):  # fmt: skip
                    found = stride
                break
        recent.append(page)
        return found
