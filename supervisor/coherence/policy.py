# SPDX-License-Identifier: GPL-2.0-or-later
"""Choices that change speed and never results: how far to fetch ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from supervisor.coherence.messages import Access

WINDOW_PAGES_MAX: Final = 256
"""1 MiB: beyond it a round trip is small beside the transfer itself."""

CHUNK_PAGES: Final = 16
"""What the first write fault of an area may get of never-touched memory (64 KiB)."""

STREAMS_MAX: Final = 32

DOWNGRADE_STREAK: Final = 2
"""Sequential read faults after which an owner's further pages are downgraded with
the one needed. One fault is chance; three in a row in one owner's pages are a scan,
and without this a page written elsewhere would cost a round trip each."""


@dataclass(slots=True)
class _Stream:
    last: int
    limit: int  # first page after what was asked for
    streak: int
    window: int


class Streams:
    """Sequential faults of one host: each one that continues a stream doubles its window."""

    def __init__(self) -> None:
        self._streams: dict[Access, list[_Stream]] = {Access.READ: [], Access.WRITE: []}

    def ahead(self, first: int, count: int, access: Access, room: int) -> tuple[int, int]:
        """(pages to ask for beyond the need, length of the streak), at most `room` pages."""
        streams = self._streams[access]
        end = first + count
        for at, stream in enumerate(streams):
            if stream.last < first <= stream.limit:
                stream.streak += 1
                stream.window = min(stream.window * 2, WINDOW_PAGES_MAX)
                streams.append(streams.pop(at))
                break
        else:
            stream = _Stream(first, end, 0, 2)
            streams.append(stream)
            if len(streams) > STREAMS_MAX:
                del streams[0]
        if stream.streak:
            wanted = stream.window - 1
        else:
            wanted = CHUNK_PAGES - 1 if access == Access.WRITE else 0
        ahead = max(min(wanted, room), 0)
        stream.last, stream.limit = end - 1, end + ahead
        return ahead, stream.streak
