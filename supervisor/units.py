# SPDX-License-Identifier: GPL-2.0-or-later
"""Units and identities that every room shares.

A guest address is an address of the program; a page number is a guest address
divided by PAGE_SIZE. The two are different types and never mix.
"""

from __future__ import annotations

from typing import Final, NewType

GuestAddress = NewType("GuestAddress", int)
PageNumber = NewType("PageNumber", int)
HostId = NewType("HostId", int)
Tid = NewType("Tid", int)
"""Thread id as the program sees it: that of the thread's kernel task at home."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = PAGE_SIZE - 1
ADDRESS_SPACE_SIZE: Final = 1 << 47
"""No address of a program is as great as this."""
PAGES_END: Final = ADDRESS_SPACE_SIZE >> PAGE_SHIFT

HOME: Final = HostId(0)
"""The host that owns the program's kernel side and decides in the protocol."""


def page_of(address: int) -> PageNumber:
    """The page that holds a guest address."""
    return PageNumber(address >> PAGE_SHIFT)


def address_of(page: int) -> GuestAddress:
    """The address of a page's first byte."""
    return GuestAddress(page << PAGE_SHIFT)


def page_span(address: int, length: int) -> tuple[PageNumber, int]:
    """First page and number of pages that hold any byte of [address, address+length)."""
    if length <= 0:
        return PageNumber(address >> PAGE_SHIFT), 0
    first = address >> PAGE_SHIFT
    return PageNumber(first), ((address + length - 1) >> PAGE_SHIFT) - first + 1


def round_up(length: int) -> int:
    """Length in bytes, rounded up to whole pages."""
    return (length + PAGE_MASK) & ~PAGE_MASK
