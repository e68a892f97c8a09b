# SPDX-License-Identifier: GPL-2.0-or-later
"""What the userfaultfd pager asks of the kernel for a page, against a kernel of stubs."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.areas import READ, WRITE, AddressSpace, Area
from supervisor.coherence.messages import Access, Run
from supervisor.driver.pager import UserfaultPager
from supervisor.units import PAGE_SHIFT, PAGE_SIZE, HostId, PageNumber

FIRST = 16
START = FIRST << PAGE_SHIFT
AREA = Area(START, START + 8 * PAGE_SIZE, READ | WRITE)


class Kernel:
    """Entries of pages, and what was asked for."""

    def __init__(self, entries: dict[int, str]) -> None:
        self.entries = entries  # address -> "r" or "w"
        self.asked: list[str] = []

    def register(self, start: int, length: int) -> None:
        pass

    def write_protect(self, start: int, length: int, on: bool, wake: bool = True) -> None:
        self.asked.append("protect" if on else "unprotect")
        for page in range(start, start + length, PAGE_SIZE):
            if page in self.entries:
                self.entries[page] = "r" if on else "w"

    def map(self, start: int, length: int, writable: bool, wake: bool = True) -> int:
        self.asked.append("map")
        failed = 0
        for page in range(start, start + length, PAGE_SIZE):
            if page in self.entries:
                failed = errno.EEXIST
            else:
                self.entries[page] = "w" if writable else "r"
        return failed


def pager_of(kernel: Kernel, still: bool = False) -> UserfaultPager:
    space = AddressSpace()
    space.add(AREA)
    supervisor: Any = SimpleNamespace(
        host=HostId(1), space=space, memory=SimpleNamespace(descriptor=-1),
        standstill=SimpleNamespace(on=still), agent=None,
    )  # fmt: skip
    pager = UserfaultPager(supervisor, kernel)  # type: ignore[arg-type]
    pager._registered.add(AREA)
    return pager


@pytest.mark.parametrize(
    ("before", "access", "lowered", "asked", "after"),
    [
        ("", Access.READ, 0, ["map"], "r"),
        ("w", Access.READ, 1, ["protect"], "r"),
        ("", Access.WRITE, 0, ["map"], "w"),
        ("r", Access.WRITE, 0, ["map", "unprotect"], "w"),
        ("w", Access.READ, None, ["protect", "map"], "r"),  # it is not known what was before
        ("", Access.READ, None, ["protect", "map"], "r"),
    ],
)
def test_a_page_takes_as_few_requests_as_can_be(
    before: str, access: Access, lowered: int | None, asked: list[str], after: str
) -> None:
    kernel = Kernel({START: before} if before else {})
    pager_of(kernel).protect([Run(PageNumber(FIRST), 1, access)], lowered)
    assert kernel.asked == asked
    assert kernel.entries == {START: after}


@pytest.mark.parametrize(("before", "access"), [("", Access.READ), ("", Access.WRITE),
                                                ("r", Access.WRITE)])  # fmt: skip
def test_who_waits_has_been_woken_where_the_page_was_given(before: str, access: Access) -> None:
    pager = pager_of(Kernel({START: before} if before else {}))
    pager.protect([Run(PageNumber(FIRST), 1, access)], 0)
    assert pager.woken == (START, START + PAGE_SIZE)


def test_nobody_has_been_woken_by_what_takes_something() -> None:
    pager = pager_of(Kernel({START: "w"}))
    pager.protect([Run(PageNumber(FIRST), 1, Access.READ)], 1)
    assert pager.woken == (0, 0)


def test_nobody_has_been_woken_where_an_entry_was_there_to_read() -> None:
    """UFFDIO_CONTINUE wakes nobody where it maps nothing."""
    pager = pager_of(Kernel({START: "r"}))
    pager.protect([Run(PageNumber(FIRST), 1, Access.READ)], 0)
    assert pager.woken == (0, 0)


def test_in_a_standstill_nobody_is_woken() -> None:
    pager = pager_of(Kernel({}), still=True)
    pager.protect([Run(PageNumber(FIRST), 1, Access.WRITE)], 0)
    assert pager.woken == (0, 0)


def test_each_run_is_given_or_taken() -> None:
    kernel = Kernel({START: "w"})
    pager_of(kernel).protect(
        [Run(PageNumber(FIRST), 1, Access.READ), Run(PageNumber(FIRST + 2), 2, Access.READ)], 1
    )
    assert kernel.asked == ["protect", "map"]
    assert kernel.entries == {
        START: "r", START + 2 * PAGE_SIZE: "r", START + 3 * PAGE_SIZE: "r",
    }  # fmt: skip
