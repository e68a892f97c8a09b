# SPDX-License-Identifier: GPL-2.0-or-later
"""The address space against a model that keeps every page by itself."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.areas import EXEC, READ, WRITE, AddressSpace, Area, Kind

PAGE = 4096
_PAGES = 40
_BASE = 0x1_0000_0000

_spans = st.tuples(st.integers(0, _PAGES - 1), st.integers(1, 12)).map(
    lambda span: (span[0], min(span[0] + span[1], _PAGES))
)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _spans, st.sampled_from([0, READ, READ | WRITE, READ | EXEC])),
        st.tuples(st.just("remove"), _spans, st.just(0)),
        st.tuples(st.just("protect"), _spans, st.sampled_from([0, READ, READ | WRITE])),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(_steps)
def test_against_a_page_by_page_model(steps: list[tuple[str, tuple[int, int], int]]) -> None:
    space = AddressSpace()
    model: dict[int, int] = {}
    for action, (low, high), protection in steps:
        start, end = _BASE + low * PAGE, _BASE + high * PAGE
        before = {page: model[page] for page in range(low, high) if page in model}
        if action == "add":
            parts = space.add(Area(start, end, protection))
            model.update(dict.fromkeys(range(low, high), protection))
        elif action == "remove":
            parts = space.remove(start, end)
            for page in range(low, high):
                model.pop(page, None)
        else:
            parts = space.protect(start, end, protection)
            model.update(dict.fromkeys(before, protection))
            before = dict.fromkeys(before, protection)
        assert _by_page(parts) == before
        assert _by_page(list(space)) == model
        areas = list(space)
        for left, right in itertools.pairwise(areas):
            assert left.end <= right.start
            assert left.end < right.start or left.protection != right.protection
        for page in range(_PAGES):
            found = space.find(_BASE + page * PAGE + 17)
            assert (found.protection if found else None) == model.get(page)


def _by_page(areas: list[Area]) -> dict[int, int]:
    return {
        (at - _BASE) // PAGE: area.protection
        for area in areas
        for at in range(area.start, area.end, PAGE)
    }


def test_free_ranges_are_given_from_the_top_down() -> None:
    space = AddressSpace()
    first = space.free_range(3 * PAGE)
    assert first is not None
    space.add(Area(first, first + 3 * PAGE, READ))
    second = space.free_range(PAGE)
    assert second == first - PAGE
    assert space.free_range(PAGE, hint=_BASE) == _BASE
    space.add(Area(_BASE, _BASE + PAGE, READ))
    assert space.free_range(PAGE, hint=_BASE) == first - PAGE
    assert space.free_range(PAGE, ceiling=first) == first - PAGE
    assert space.free_range(PAGE, ceiling=_BASE + PAGE) == _BASE - PAGE


def test_reserved_memory_is_not_the_program_s() -> None:
    space = AddressSpace([Area(_BASE, _BASE + PAGE, READ, Kind.RESERVED)])
    assert not space.covers(_BASE, _BASE + PAGE)
