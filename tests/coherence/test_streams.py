# SPDX-License-Identifier: GPL-2.0-or-later
"""How far ahead of sequential faults a host asks."""

from __future__ import annotations

from supervisor.coherence.messages import Access, Run
from supervisor.coherence.pages import PageMap, run_of
from supervisor.coherence.policy import STREAM_STREAK, WINDOW_PAGES_MAX
from supervisor.coherence.streams import CHUNK_PAGES, SLACK_PAGES, STRIDE_FILLED, Streams

ROOM = 10_000


class Host:
    """One host's accesses; home grants what is asked for, but pages in `denied`."""

    def __init__(self) -> None:
        self.own = PageMap(Access.NONE)
        self.streams = Streams()
        self.denied: set[int] = set()
        self.asked: list[tuple[int, int, int]] = []
        """(first page, pages, streak) of each request."""

    def touch(self, page: int, access: Access, room: tuple[int, int] = (ROOM, ROOM)) -> None:
        if self.own.get(page) >= access:
            return
        needs = (run_of(page, 1, access),)
        stream = self.streams.follow(needs)
        needs, ahead = stream.asks(needs, *room, self.own)
        asked = sorted((*needs, *ahead))
        self.asked.append((asked[0].first, sum(run.count for run in asked), stream.streak))
        for run in asked:
            for got in range(run.first, run.first + run.count):
                if got == page or got not in self.denied:
                    self.own.set(got, 1, max(self.own.get(got), run.access))
        self.streams.granted(stream, ahead, self.own)

    def lose(self, first: int, count: int, left: Access = Access.NONE) -> None:
        self.own.set(first, count, left)

    def faults(self) -> list[tuple[int, int, int]]:
        seen, self.asked = self.asked, []
        return seen


def test_sequential_faults_widen_the_window() -> None:
    host = Host()
    for page in range(100, 2000):
        host.touch(page, Access.READ)
    counts = [count for _, count, _ in host.asked]
    assert counts[:5] == [1, 4, 16, 64, 256] and max(counts) == WINDOW_PAGES_MAX
    assert [streak for _, _, streak in host.asked] == list(range(len(counts)))


def test_a_stream_may_go_down() -> None:
    host = Host()
    for page in range(2000, 100, -1):
        host.touch(page, Access.READ)
    assert host.faults()[:4] == [(2000, 1, 0), (1996, 4, 1), (1980, 16, 2), (1916, 64, 3)]
    host = Host()
    for page in range(60, 49, -1):
        host.touch(page, Access.READ, (ROOM, max(page - 58, 0)))
    assert host.faults()[1] == (58, 2, 1)


def test_a_stream_may_have_a_stride() -> None:
    for stride in (2, 5, -3):
        host = Host()
        pages = [3000 + at * stride for at in range(300)]
        for page in pages:
            host.touch(page, Access.WRITE)
        # Three faults make a stream; what first stores get besides hides some.
        assert len(host.faults()) <= 12
        assert all(host.own.get(page) == Access.WRITE for page in pages)
        host.lose(0, 10_000)
        host.faults()
        for page in pages[:30]:
            host.touch(page, Access.READ)
        between = {host.own.get(page + 1) for page in pages[3:30]}
        assert between == {Access.NONE if abs(stride) > STRIDE_FILLED else Access.READ}


def test_what_lies_between_pages_close_together_is_read_with_them() -> None:
    """The first half of each row of two pages, then the other half."""
    for stride in (2, -2):
        host = Host()
        pages = [5000 + at * stride for at in range(400)]
        for page in pages:
            host.touch(page, Access.READ)
        assert len(host.faults()) <= 4 + 400 * abs(stride) // 128
        for page in pages[3:300]:
            host.touch(page + (1 if stride > 0 else -1), Access.READ)
        assert not host.faults()


def test_streams_of_one_stride_may_take_turns() -> None:
    """Some pages of each row of a matrix, where each was a fault of its own before."""
    for together in ((0, 1), (0, 1, 2), (0, 2)):
        host = Host()
        pages = [3000 + 5 * row + at for row in range(200) for at in together]
        for _ in range(2):
            for page in pages:
                host.touch(page, Access.READ, (0, 0))
            assert len(host.faults()) == len(pages)
            host.lose(0, 10_000)
        for page in pages:
            host.touch(page, Access.READ)
        assert len(host.faults()) <= 16 * len(together)


def test_a_stream_that_begins_again_ends_where_it_ended() -> None:
    """What lies behind is somebody else's: it is asked for but a little of it."""
    for length in (700, 1300, 2000, 2300):
        host = Host()
        host.own.set(0, 10_000, Access.READ)
        for walk in range(6):
            for page in range(1000, 1000 + length):
                host.touch(page, Access.WRITE)
            beyond = host.own.runs(1000 + length, 2000)
            taken = sum(run.count for run in beyond if run.value == Access.WRITE)
            assert taken <= (WINDOW_PAGES_MAX, WINDOW_PAGES_MAX // 2, 64, *[SLACK_PAGES] * 3)[walk]
            host.lose(0, 10_000, Access.READ)
        assert len(host.faults()) <= 6 * 9


def test_a_need_may_be_of_more_pages_than_the_stream_ever_had() -> None:
    streams, own = Streams(), PageMap(Access.NONE)
    for first, count in [(50, 1), (51, 1), (52, 1)] * 3 + [(50, 5), (50, 9), (50, 1)]:
        needs = (run_of(first, count, Access.READ),)
        stream = streams.follow(needs)
        got, ahead = stream.asks(needs, ROOM if count > 1 else 0, 0, own)
        assert got == needs
        assert all(run.count > 0 for run in ahead)


def test_faults_here_and_there_are_no_stream() -> None:
    host = Host()
    for page in (7, 100, 31, 2000, 52, 777, 9, 1234):
        host.touch(page, Access.READ)
    assert all(asked[1:] == (1, 0) for asked in host.faults())


def test_a_first_store_gets_a_chunk_and_no_more_than_there_is_room() -> None:
    host = Host()
    host.touch(5, Access.WRITE)
    host.touch(500, Access.WRITE, (3, 0))
    host.touch(900, Access.READ, (0, 0))
    assert host.faults() == [(5, CHUNK_PAGES, 0), (500, 4, 0), (900, 1, 0)]


def test_stores_here_and_there_get_no_chunks_any_more() -> None:
    host = Host()
    places = [1000 * at for at in range(1, 13)]
    for place in places:
        host.touch(place, Access.WRITE)
    assert [count for _, count, _ in host.faults()] == [16, 8, 4, 2] + [1] * 8
    for place in places[:4]:
        for page in range(100_000 + place, 100_020 + place):
            host.touch(page, Access.WRITE)
    assert [count for _, count, streak in host.faults() if not streak] == [1, 2, 2, 2]


def test_what_home_left_out_does_not_widen_the_window_less() -> None:
    """Home takes pages of other hosts only for a stream that is proved."""
    host = Host()
    host.denied = {101, 102, 103, 104}
    for page in range(100, 140):
        host.touch(page, Access.WRITE)
    assert host.faults()[:4] == [(100, 16, 0), (101, 4, 1), (102, 16, 2), (103, 64, 3)]


def test_a_page_that_is_lost_makes_the_stream_begin_anew() -> None:
    host = Host()
    for page in range(100, 130):
        host.touch(page, Access.WRITE)
    host.faults()
    host.lose(130, 20)
    host.touch(130, Access.WRITE)
    assert host.faults() == [(130, CHUNK_PAGES, 0)]


def test_the_third_time_as_much_is_asked_for_as_was_needed_before() -> None:
    host = Host()
    passes = []
    for _ in range(6):
        for page in range(100, 164):
            host.touch(page, Access.READ)
        passes.append(host.faults())
        host.lose(0, 1000)
    # The second time it is found out how much of the last window was needed.
    assert [len(one) for one in passes] == [4, 5, 1, 1, 1, 1]
    assert all(one[0][2] == STREAM_STREAK for one in passes[2:])
    assert all(sum(count for _, count, _ in one) <= 64 + SLACK_PAGES for one in passes[2:])
    # A loss ends that.
    host.touch(100, Access.READ)
    host.lose(120, 10)
    host.touch(120, Access.READ)
    host.lose(0, 1000)
    host.faults()
    host.touch(100, Access.READ)
    assert host.faults() == [(100, 1, 0)]


def test_loads_that_stores_follow_ask_for_pages_to_write() -> None:
    host = Host()
    for page in range(100, 400):
        host.touch(page, Access.READ)
        host.touch(page, Access.WRITE)
    # Without that, each page would be asked for twice.
    assert sum(count for _, count, _ in host.faults()) < 2 * 300
    host = Host()
    for page in range(100, 400):
        host.touch(page, Access.READ)
    assert all(host.own.get(page) == Access.READ for page in range(100, 400))


def test_what_lies_before_a_stream_that_begins_again_is_no_part_of_it() -> None:
    host = Host()
    host.own.set(99, 1, Access.WRITE)
    for _ in range(4):
        for page in range(100, 164):
            host.touch(page, Access.READ)
        assert all(host.own.get(page) == Access.READ for page in range(100, 164))
        host.lose(100, 900)


def test_only_the_last_of_several_needs_is_followed() -> None:
    streams, own = Streams(), PageMap(Access.NONE)
    needs = (Run(run_of(7, 1, Access.READ).first, 1, Access.READ), run_of(70, 1, Access.WRITE))
    for first in (70, 71):
        needs = (needs[0], run_of(first, 1, Access.WRITE))
        stream = streams.follow(needs)
        got, ahead = stream.asks(needs, ROOM, ROOM, own)
        assert got == needs and ahead[0].first == first + 1


def test_a_long_stream_of_loads_asks_for_a_window_more() -> None:
    host = Host()
    widest = 100 + 1 + 4 + 16 + 64 + 256
    for page in range(100, widest + 1):
        host.touch(page, Access.READ)
    stream = host.streams.follow((run_of(widest + WINDOW_PAGES_MAX, 1, Access.READ),))
    assert stream.streak == 6
    needs = (run_of(stream.low, 1, Access.READ),)
    stream.asks(needs, ROOM, 0, host.own)
    end = stream.low + WINDOW_PAGES_MAX
    assert stream.asks_on(needs, ROOM, host.own) == run_of(end, WINDOW_PAGES_MAX, Access.READ)
    assert stream.asks_on(needs, 2 * WINDOW_PAGES_MAX, host.own) is None  # no room is left
    assert host.streams.follow((run_of(7, 1, Access.READ),)).asks_on(needs, ROOM, host.own) is None
