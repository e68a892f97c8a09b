# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of bytes as runs of pages, and what may be fetched ahead of them."""

from __future__ import annotations

from supervisor.areas import EXEC, READ, WRITE, AddressSpace, Area, Kind
from supervisor.coherence.messages import Access, Run
from supervisor.driver.ranges import mapped_runs, room, runs_of

_SPACE = AddressSpace([Area(0x10000, 0x90000, READ), Area(0xA0000, 0xA3000, READ | WRITE)])


def test_pages_ahead_are_of_the_area_of_the_missing_page() -> None:
    """An instruction may read a large area and write the last page of another."""
    read, write = (0x10008, 8, Access.READ), (0xA2FF8, 8, Access.WRITE)
    assert room(_SPACE, runs_of([read]), 0x10) == (0x7F, 0, 0x10, False)
    assert room(_SPACE, runs_of([read, write]), 0xA2) == (0, 2, 0xA2, False)
    assert room(_SPACE, runs_of([read, write]), 0x10) == (0x7F, 0, 0x10, False)
    assert room(_SPACE, runs_of([read, (0xA0000, 1, Access.WRITE)]), 0xA0) == (2, 0, 0xA0, False)


def test_code_of_files_and_little_else_is_constant() -> None:
    big, small = 1 << 20, 1 << 16
    sorts = [
        (big, READ | EXEC, Kind.NATIVE, "/lib/libc.so.6", True),
        (big, READ, Kind.NATIVE, "/usr/share/data", False),
        (small, READ, Kind.GUEST, "/lib/libc.so.6", True),
        (big, READ | WRITE | EXEC, Kind.GUEST, "/lib/old.so", False),
        (big, READ | EXEC, Kind.GUEST, "", False),  # what a just-in-time compiler makes
        (small, READ, Kind.FILE, "/tmp/shared", False),
    ]
    for length, protection, kind, name, constant in sorts:
        space = AddressSpace([Area(0x100000, 0x100000 + length, protection, kind, name)])
        *_, found = room(space, runs_of([(0x101000, 4, Access.READ)]), 0x101)
        assert found == constant, (length, protection, kind, name)


def test_a_page_is_asked_for_once_with_the_greatest_access() -> None:
    ranges = [(0x10FF8, 16, Access.READ), (0x11000, 1, Access.WRITE), (0x13000, 0, Access.WRITE)]
    assert runs_of(ranges) == (Run(0x10, 1, Access.READ), Run(0x11, 1, Access.WRITE))


def test_pages_that_are_not_mapped_any_more_are_left_out() -> None:
    assert mapped_runs(_SPACE, [(0x8FFFF, 0x10002, Access.READ)]) == (
        Run(0x8F, 1, Access.READ), Run(0xA0, 1, Access.READ)
    )  # fmt: skip
