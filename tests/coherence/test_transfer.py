# SPDX-License-Identifier: GPL-2.0-or-later
"""Page contents as parts: whatever the pages hold, they come out as they went in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.coherence.messages import Access, Content
from supervisor.coherence.transfer import pack, unpack
from supervisor.units import PAGE_SIZE

ZEROS = bytes(PAGE_SIZE)
ENDS_WITH_DATA = bytes(PAGE_SIZE - 1) + b"\1"
BEGINS_WITH_DATA = b"\1" + bytes(PAGE_SIZE - 1)
DATA = b"\xa5" * PAGE_SIZE

pages = st.lists(
    st.tuples(
        st.sampled_from((ZEROS, ENDS_WITH_DATA, BEGINS_WITH_DATA, DATA)), st.integers(1, 24)
    ),
    min_size=1,
    max_size=6,
).map(lambda spans: [page for page, count in spans for _ in range(count)])


@settings(max_examples=200, deadline=None)
@given(pages)
def test_zeros_are_left_out_and_nothing_else(contents: list[bytes]) -> None:
    parts, data = pack(b"".join(contents), 0x100, Access.READ)
    assert len(data) == PAGE_SIZE * sum(page != ZEROS for page in contents)
    found = []
    for part, piece in unpack(parts, data):
        assert part.first == 0x100 + len(found) and part.access == Access.READ
        if part.content == Content.ZERO:
            found += [ZEROS] * part.count
        else:
            found += [piece[at : at + PAGE_SIZE] for at in range(0, len(piece), PAGE_SIZE)]
    assert found == contents
    # Neighbours are of different kinds: as few parts as can be.
    kinds = [part.content for part in parts]
    assert all(kind != after for kind, after in pairwise(kinds))


@pytest.mark.parametrize("count", [1, 256])
def test_pages_of_data_alone_are_not_copied(count: int) -> None:
    contents = BEGINS_WITH_DATA * count
    parts, data = pack(contents, 0, Access.WRITE)
    assert data is contents and [part.count for part in parts] == [count]
