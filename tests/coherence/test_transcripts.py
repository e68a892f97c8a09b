# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol's conversations, written out: what each host says, in order."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from supervisor.coherence.diagram import mermaid, table
from supervisor.coherence.directory import RULES
from supervisor.coherence.flush import FLUSH_DEADLINE_US
from supervisor.coherence.messages import (
    Access,
    Arm,
    BusLock,
    Discarded,
    Event,
    Fault,
    ModeChanged,
    Protect,
    Protected,
    Received,
    Released,
    Resume,
    Retry,
    Send,
    Serialize,
    Tick,
    WakeAt,
)
from supervisor.coherence.node import Node
from supervisor.coherence.pages import run_of
from supervisor.coherence.policy import SingleWriter
from supervisor.units import HOME, HostId, PageNumber
from tests.coherence.hosts import SimMemory

LETTER = {Access.NONE: "-", Access.READ: "r", Access.WRITE: "w"}


class Stage:
    """Hosts whose every effect is carried out at once and written down."""

    def __init__(
        self,
        hosts: int,
        policy: SingleWriter | None = None,
        paths: frozenset[tuple[HostId, HostId]] = frozenset(),
    ) -> None:
        self.memories = [SimMemory() for _ in range(hosts)]
        self.nodes = [
            Node(HostId(h), hosts, self.memories[h], paths=paths) for h in range(hosts)
        ]
        self.changes: list[ModeChanged] = []
        if policy is not None:
            self.nodes[HOME].policy = policy
        self.lines: list[str] = []

    def play(self, host: int, event: Event) -> str:
        """What happens, one line an effect."""
        self.lines = []
        queue: deque[tuple[int, Event]] = deque([(host, event)])
        while queue:
            at, next_event = queue.popleft()
            for effect in self.nodes[at].step(next_event):
                if isinstance(effect, Protect):
                    runs = " ".join(f"{r.first}+{r.count}{LETTER[r.access]}" for r in effect.runs)
                    self.lines.append(f"{at}: protect {runs}".rstrip())
                    queue.appendleft((at, Protected(effect.token)))
                elif isinstance(effect, Send):
                    name = type(effect.message).__name__
                    self.lines.append(f"{at}: {name} to {effect.host}")
                    queue.append((effect.host, Received(HostId(at), effect.message)))
                elif isinstance(effect, (Resume, Retry)):
                    self.lines.append(f"{at}: {type(effect).__name__} {effect.requester}")
                elif isinstance(effect, Arm):
                    self.lines.append(f"{at}: {'arm' if effect.armed else 'disarm'}")
                elif isinstance(effect, ModeChanged):
                    self.changes.append(effect)
                else:
                    assert isinstance(effect, WakeAt)
        return "\n".join(self.lines)

    def fault(self, host: int, access: Access, page: int = 7, ahead: int = 0) -> str:
        return self.play(host, Fault(host + 1, (run_of(page, 1, access),), ahead))

    def release(self, host: int) -> str:
        return self.play(host, Released(host + 1))


class AlwaysMultiple(SingleWriter):
    watches = True

    def make_multiple(self, page: int) -> bool:
        return True


def script(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def test_pins_let_go_late_take_no_request_along() -> None:
    """A thread's next request may come before its last pages' pins are let go."""
    stage = Stage(2, AlwaysMultiple())
    for host in (0, 1):
        stage.fault(host, Access.READ)
        stage.release(host)
    stage.fault(1, Access.WRITE)  # dirty here, and pinned
    assert stage.play(1, Serialize(2 + 1)) == ""  # another thread's fence waits for the pin
    assert stage.play(1, Released(2 + 1)) == ""
    assert "1: Resume 3" in stage.release(1).splitlines()


def test_a_page_is_read_then_written_then_taken_back() -> None:
    stage = Stage(3)
    stage.memories[HOME].poke(7, 0, 1)
    assert stage.fault(1, Access.READ) == script(
        """1: Fetch to 0
        0: protect 7+1r
        0: Grant to 1
        1: protect 7+1r
        1: Resume 2"""
    )
    stage.release(1)
    stage.fault(2, Access.READ)
    stage.release(2)
    # An upgrade costs no data and waits for nobody: the other reader is only told.
    assert stage.fault(1, Access.WRITE) == script(
        """1: Fetch to 0
        0: protect 7+1-
        0: Invalidate to 2
        0: Grant to 1
        2: protect 7+1-
        1: protect 7+1w
        1: Resume 2"""
    )
    # A pin holds the recall up until the release.
    assert stage.fault(0, Access.READ) == "0: Recall to 1"
    assert stage.release(1) == script(
        """1: protect 7+1r
        1: Yielded to 0
        0: protect 7+1r
        0: Resume 1"""
    )


def test_never_touched_memory_comes_in_chunks_without_data() -> None:
    stage = Stage(2)
    assert stage.fault(1, Access.WRITE, ahead=100) == script(
        """1: Fetch to 0
        0: protect 7+16-
        0: Grant to 1
        1: protect 7+16w
        1: Resume 2"""
    )
    assert not stage.memories[1].pages, "zero pages of fresh memory are not even written"


def test_a_discard_sends_waiting_requesters_back() -> None:
    stage = Stage(2)
    stage.fault(1, Access.WRITE)
    assert stage.fault(0, Access.READ) == "0: Recall to 1"
    assert stage.play(0, Discarded(PageNumber(7), 1)) == script(
        """0: protect 7+1w
        0: Retry 1
        0: Forget to 1
        1: protect 7+1-
        1: Yielded to 0"""
    )


def many_writers() -> Stage:
    """Page 7 is multiple-writer, and hosts 1 and 2 have copies."""
    stage = Stage(3, AlwaysMultiple())
    for host in (1, 2):
        stage.fault(host, Access.WRITE)
        stage.release(host)
        stage.play(host, Serialize(host + 1))
    return stage


def test_a_store_into_a_multiple_writer_page_asks_nobody() -> None:
    stage = many_writers()
    assert stage.fault(1, Access.WRITE) == script(
        """1: arm
        1: protect 7+1w
        1: Resume 2"""
    )
    stage.release(1)
    stage.memories[1].poke(7, 5, 42)
    assert stage.play(1, Serialize(2)) == script(
        """1: protect 7+1r
        1: Flush to 0
        0: Update to 2
        0: Flushed to 1
        1: Resume 2
        1: disarm"""
    )
    assert [memory.peek(7, 5) for memory in stage.memories] == [42, 42, 42]


def test_stores_to_several_words_show_at_once() -> None:
    stage = many_writers()
    stage.fault(1, Access.WRITE)
    stage.release(1)
    for at in (5, 8):
        stage.memories[1].poke(7, at, 42)
    assert stage.play(1, Serialize(2)) == script(
        """1: protect 7+1r
        1: Flush to 0
        0: Update to 2
        0: Flushed to 1
        2: protect 7+1-
        2: protect 7+1r
        1: Resume 2
        1: disarm"""
    )
    assert [memory.peek(7, at) for memory in stage.memories for at in (5, 8)] == [42] * 6


def test_a_fence_at_home_costs_no_round_trip() -> None:
    stage = many_writers()
    stage.fault(0, Access.WRITE)
    stage.release(0)
    stage.memories[HOME].poke(7, 0, 9)
    before_the_resume = stage.play(0, Serialize(1)).split("0: Resume 1")[0]
    assert "Flushed" not in before_the_resume and "1:" not in before_the_resume


DIRTY_US = 2_000
DUE_US = DIRTY_US + FLUSH_DEADLINE_US


def dirty() -> Stage:
    """Host 1 may store to a page of several writers, until its deadline at DUE_US."""
    stage = many_writers()
    stage.play(1, Tick(1_000))
    stage.fault(1, Access.WRITE)
    stage.release(1)
    assert stage.play(1, Tick(DIRTY_US)) == ""
    return stage


def test_the_deadline_flushes() -> None:
    stage = dirty()
    stage.memories[1].poke(7, 0, 3)
    assert stage.play(1, Tick(DUE_US - 1)) == ""
    assert stage.play(1, Tick(DUE_US)) == script(
        """1: Flush to 0
        0: Update to 2
        0: Flushed to 1"""
    )
    assert [memory.peek(7, 0) for memory in stage.memories] == [3, 3, 3]


def test_the_deadline_stops_threads_that_have_stored_to_several_words() -> None:
    stage = dirty()
    for at in (0, 8):
        stage.memories[1].poke(7, at, 3)
    assert stage.play(1, Tick(DUE_US)).startswith("1: protect 7+1r")


def test_a_word_is_not_published_before_stores_that_came_first() -> None:
    """Another is stored to just before it, behind the back of the first look."""
    stage = dirty()
    memory = stage.memories[1]
    memory.poke(7, 0, 3)
    looks = iter((lambda: None, lambda: (memory.poke(7, 8, 1), memory.poke(7, 0, 4))))
    memory.meanwhile = lambda: next(looks, lambda: None)()
    assert stage.play(1, Tick(DUE_US)).startswith("1: protect 7+1r")
    assert [m.peek(7, at) for m in stage.memories for at in (0, 8)] == [4, 1] * 3


def test_a_page_that_nobody_stores_to_any_more_is_clean_at_the_next_deadline() -> None:
    stage = dirty()
    stage.memories[1].poke(7, 0, 3)
    stage.play(1, Tick(DUE_US))
    assert stage.play(1, Tick(DUE_US + FLUSH_DEADLINE_US)) == script(
        """1: protect 7+1r
        1: disarm"""
    )


def test_a_thread_that_stores_to_the_word_too_keeps_its_bytes() -> None:
    """Bytes side by side in one word, one stored to just before the other is laid in."""
    stage = many_writers()
    for host in (1, 2):
        stage.fault(host, Access.WRITE)
        stage.release(host)
    stage.memories[1].poke(7, 0, 3)
    memory = stage.memories[2]
    looks = iter((lambda: None, lambda: memory.poke(7, 1, 9)))
    memory.meanwhile = lambda: next(looks, lambda: None)()
    assert "2:" not in stage.play(1, Serialize(2))
    assert [memory.peek(7, at) for at in (0, 1)] == [3, 9]
    stage.play(2, Serialize(3))
    assert [m.peek(7, at) for m in stage.memories for at in (0, 1)] == [3, 9] * 3


def test_a_bus_lock_takes_every_copy_the_own_one_too() -> None:
    stage = many_writers()
    assert stage.play(1, BusLock(2, (run_of(7, 1, Access.WRITE),))) == script(
        """1: Fetch to 0
        0: Recall to 1
        0: Recall to 2
        1: protect 7+1-
        1: Yielded to 0
        2: protect 7+1-
        2: Yielded to 0
        0: Grant to 1
        1: protect 7+1w
        1: Resume 2"""
    )
    assert not stage.nodes[1].buffer.multiple


def test_a_bus_lock_asks_for_its_page_right_behind_its_stores() -> None:
    stage = many_writers()
    stage.play(1, Fault(2, (run_of(7, 1, Access.WRITE),)))
    stage.memories[1].poke(7, 0, 5)
    stage.release(1)
    assert stage.play(1, BusLock(2, (run_of(9, 1, Access.WRITE),))) == script(
        """1: protect 7+1r
        1: Flush to 0
        1: Fetch to 0
        0: Update to 2
        0: Flushed to 1
        0: protect 9+1-
        0: Grant to 1
        1: disarm
        1: protect 9+1w
        1: Resume 2"""
    )


def test_changes_of_mode_are_told_with_their_reason() -> None:
    stage = Stage(2, AlwaysMultiple())
    stage.play(1, Fault(2, (run_of(7, 1, Access.WRITE),)))
    assert stage.changes == [(7, 1, True, "a write of host 1")]
    stage.release(1)
    stage.play(1, BusLock(2, (run_of(7, 1, Access.WRITE),)))
    assert stage.changes[1:] == [(7, 1, False, "a bus lock of host 1")]


def test_a_page_goes_from_host_to_host_when_home_knows_a_path() -> None:
    """Home's grant comes after the owner's answer: it is what gives the data its place."""
    both = (HostId(1), HostId(2))
    stage = Stage(3, paths=frozenset((both, both[::-1])))
    stage.fault(1, Access.WRITE)
    stage.memories[1].poke(7, 0, 5)
    stage.release(1)
    assert stage.fault(2, Access.READ) == script(
        """2: Fetch to 0
        0: Recall to 1
        1: protect 7+1r
        1: Delivery to 2
        1: Yielded to 0
        0: Grant to 2
        2: protect 7+1r
        2: Resume 3"""
    )
    assert stage.memories[2].peek(7, 0) == 5 and stage.memories[HOME].peek(7, 0) == 0
    stage.release(2)
    assert stage.fault(0, Access.READ) == script(
        """0: Recall to 1
        1: protect 7+1r
        1: Yielded to 0
        0: protect 7+1r
        0: Resume 1"""
    )
    assert stage.memories[HOME].peek(7, 0) == 5


def test_single_writer_pages_are_never_flushed_or_armed() -> None:
    stage = Stage(2)
    stage.fault(1, Access.WRITE)
    stage.release(1)
    assert stage.play(1, Serialize(2)) == "1: Resume 2"
    assert not stage.nodes[1].armed


def test_the_diagram_in_the_documentation_is_the_tables() -> None:
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    assert f"```mermaid\n{mermaid()}\n```" in text, (
        "python -m supervisor.coherence.diagram prints the one that belongs there"
    )


@pytest.mark.parametrize("word", ["Exclusive", "Shared", "SharedAway", "MultipleWriter"])
def test_the_diagram_shows_every_state(word: str) -> None:
    assert f"--> {word}" in mermaid()
    assert len(table().splitlines()) == len(RULES) + 2
