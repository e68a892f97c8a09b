# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges with values against a model that keeps every address by itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.range_map import RangeMap

ADDRESSES = 30

_spans = st.tuples(st.integers(0, ADDRESSES - 1), st.integers(1, 10))
_steps = st.lists(st.tuples(_spans, st.sampled_from(["a", "b", None])), max_size=20)


@settings(max_examples=200, deadline=None)
@given(_steps)
def test_against_a_model_of_every_address(
    steps: list[tuple[tuple[int, int], str | None]]
) -> None:
    ranges: RangeMap[str] = RangeMap()
    model: dict[int, str | None] = {}
    for (start, length), value in steps:
        ranges.set(start, start + length, value)
        model.update(dict.fromkeys(range(start, start + length), value))
    end = ADDRESSES + 10
    assert [ranges.at(address) for address in range(end)] == [model.get(a) for a in range(end)]
    assert bool(ranges) == any(model.values())
    for start in range(0, end, 7):
        pieces = ranges.pieces(start, end - start)
        spread = [value for _, length, value in pieces for _ in range(length)]
        assert spread == [model.get(address) for address in range(start, end)]
        assert [at for at, _, _ in pieces] == [
            start + sum(length for _, length, _ in pieces[:i]) for i in range(len(pieces))
        ]
