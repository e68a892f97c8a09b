# SPDX-License-Identifier: GPL-2.0-or-later
"""Page contents into messages and out of them: data only where a page is not zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from supervisor.coherence.messages import Access, Content, Part, Run
from supervisor.coherence.pages import Span
from supervisor.errors import PeerError
from supervisor.units import PAGE_SIZE, PageNumber

TRANSFER_PAGES_MAX: Final = 512
"""Pages of data in one message: 2 MiB, so that a link's other messages get between."""

NEEDS_PAGES_MAX: Final = 1 << 14
"""Pages one fault may need at once (64 MiB); a larger buffer is driven in pieces."""

_ZERO_PAGE: Final = bytes(PAGE_SIZE)
_BEGIN: Final = (7, 0, 6, 1, 5, 2, 4, 3)
"""Bytes of a page's first word, which tell of most pages that they are not zeros: first
that in which a double, then that in which an integer most often is not."""
_new: Final = tuple.__new__  # see pages.py
_MANY: Final = 16
"""From so many pages on it is cheaper to look at the beginnings of all first."""


def zero_pages(data: bytes) -> int:
    """Number of pages at the front of `data` that hold only zeros."""
    at = 0
    while data.startswith(_ZERO_PAGE, at):
        at += PAGE_SIZE
    return at // PAGE_SIZE


def pack(data: bytes, first: int, access: Access) -> tuple[list[Part], bytes]:
    """The contents of whole pages from `first` as parts of zeros and of data, and the data."""
    count = len(data) // PAGE_SIZE
    if count == 1:
        if data == _ZERO_PAGE:
            return [_new(Part, (first, 1, access, Content.ZERO))], b""
        return [_new(Part, (first, 1, access, Content.DATA))], data
    if count >= _MANY and _all_begin(data):
        return [Part(PageNumber(first), count, access, Content.DATA)], data
    spans: list[tuple[bool, int, int]] = []  # zero?, from page, to page (within data)
    for at in range(count):
        zero = data.startswith(_ZERO_PAGE, at * PAGE_SIZE)
        if spans and spans[-1][0] == zero:
            spans[-1] = (zero, spans[-1][1], at + 1)
        else:
            spans.append((zero, at, at + 1))
    parts = [
        Part(PageNumber(first + low), high - low, access, Content.ZERO if zero else Content.DATA)
        for zero, low, high in spans
    ]
    if len(spans) == 1:
        return parts, b"" if spans[0][0] else data
    return parts, b"".join(
        data[low * PAGE_SIZE : high * PAGE_SIZE] for zero, low, high in spans if not zero
    )


def _all_begin(data: bytes) -> bool:
    """Has each page something else than zeros in its first word?"""
    found = 0
    for at in _BEGIN:
        column = data[at::PAGE_SIZE]
        found |= int.from_bytes(column, "little")
        if 0 not in column or 0 not in found.to_bytes(len(column), "little"):
            return True
    return False


def unpack(parts: Iterable[Part], data: bytes) -> Iterator[tuple[Part, bytes]]:
    """Each part with its bytes (empty unless it is data)."""
    at = 0
    for part in parts:
        if part.content == Content.DATA:
            end = at + part.count * PAGE_SIZE
            yield part, data[at:end] if (at, end) != (0, len(data)) else data
            at = end
        else:
            yield part, b""


def check_parts(parts: tuple[Part, ...], data: bytes) -> None:
    """Parts ascend, do not overlap, and the data is theirs; PeerError otherwise."""
    end = pages = 0
    for part in parts:
        if part.first < end or part.count < 1:
            raise PeerError(f"pages out of order at {part.first:#x}")
        end = part.first + part.count
        if part.content == Content.DATA:
            pages += part.count
    if len(data) != pages * PAGE_SIZE:
        raise PeerError(f"{len(data)} bytes for {pages} pages of data")


def check_needs(needs: tuple[Run, ...]) -> None:
    """Needs ascend, do not overlap, want an access, are not too many; else PeerError."""
    if len(needs) == 1:  # most often
        first, count, access = needs[0]
        if first >= 0 and 0 < count <= NEEDS_PAGES_MAX and access != Access.NONE:
            return
    end = pages = 0
    for need in needs:
        if need.first < end or need.count < 1 or need.access == Access.NONE:
            raise PeerError(f"needs out of order at {need.first:#x}")
        end = need.first + need.count
        pages += need.count
    if not 0 < pages <= NEEDS_PAGES_MAX:
        raise PeerError(f"a request for {pages} pages")


def pages_in(runs: Iterable[Run | Part | Span]) -> int:
    total = 0
    for run in runs:
        total += run[1]
    return total
