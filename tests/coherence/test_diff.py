# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs: exactly the bytes that differ, for random pages."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.coherence.diff import apply_diff, changed_bytes, changed_mask, check_diff, make_diff
from supervisor.units import PAGE_SIZE

stores = st.lists(
    st.tuples(st.integers(0, PAGE_SIZE - 1), st.binary(min_size=1, max_size=40)), max_size=120
)


def stored(page: bytes, what: list[tuple[int, bytes]]) -> bytes:
    changed = bytearray(page)
    for offset, data in what:
        changed[offset : offset + len(data)] = data[: PAGE_SIZE - offset]
    return bytes(changed)


TWIN = bytes(range(256)) * (PAGE_SIZE // 256)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(stores)
def test_a_diff_holds_the_bytes_that_differ_and_no_other(what: list[tuple[int, bytes]]) -> None:
    holds_what_differs(what)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, PAGE_SIZE - 1), st.binary(max_size=130))
def test_bytes_close_to_each_other(offset: int, data: bytes) -> None:
    """Where most diffs are: some bytes of one spot, up to the ends of the page."""
    holds_what_differs([(offset, data)])


def holds_what_differs(what: list[tuple[int, bytes]]) -> None:
    page = stored(TWIN, what)
    diff = make_diff(3, TWIN, page)
    differing = [at for at in range(PAGE_SIZE) if page[at] != TWIN[at]]
    if diff is None:
        assert not differing
        return
    check_diff(diff)
    assert changed_bytes(diff).tolist() == differing
    assert changed_mask(diff) == sum(1 << at for at in differing)
    rebuilt = bytearray(TWIN)
    apply_diff(diff, rebuilt)
    assert bytes(rebuilt) == page


def test_adjacent_bytes_of_one_word_by_two_hosts() -> None:
    mine, theirs = (
        make_diff(0, TWIN, stored(TWIN, [(8, b"a")])),
        make_diff(0, TWIN, stored(TWIN, [(9, b"b")])),
    )
    assert mine is not None and theirs is not None
    assert not changed_mask(mine) & changed_mask(theirs)
    page = bytearray(TWIN)
    apply_diff(theirs, page)
    apply_diff(mine, page)
    assert page[8:10] == b"ab"


def test_a_wholly_new_page_is_one_run() -> None:
    diff = make_diff(0, bytes(PAGE_SIZE), b"\x01" * PAGE_SIZE)
    assert diff is not None and len(diff.starts) == 2 and len(diff.data) == PAGE_SIZE
