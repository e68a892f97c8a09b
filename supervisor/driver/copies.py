# SPDX-License-Identifier: GPL-2.0-or-later
"""Private file mappings that the program may write: copies, in guest memory, of the files' bytes.

The kernel would fill a page when it is first touched. Here a file is copied when it
is mapped, a piece at a time, and its holes not at all. It is kept open for as long
as it is mapped: what the program discards of its stores (madvise(2)) is the file's
again, and a mapping that grows shows more of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from supervisor.areas import Area
from supervisor.coherence.messages import Access
from supervisor.driver.operations import Pause, Steps
from supervisor.range_map import RangeMap
from supervisor.syscalls.call import Acquire
from supervisor.tracee.memory import FileBacking

if TYPE_CHECKING:
    from supervisor.driver.home import Home

COPY_PIECE: Final = 1 << 20
"""Bytes that are copied in one go."""


class Copies:
    """At home: which file is copied, or would be, where."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._files: RangeMap[FileBacking] = RangeMap()
        """Of private mappings: those copied, and the kernel's own that may yet be."""

    def add(self, start: int, end: int, file: FileBacking) -> None:
        self._files.set(start, end, file)

    def forget(self, start: int, end: int) -> None:
        """Something else is mapped there, or nothing."""
        self._files.set(start, end, None)

    def file_at(self, address: int) -> FileBacking | None:
        return self._files.at(address)

    def copy(self, start: int, end: int, target: int) -> None:
        """What is copied in [start, end) is at the target too."""
        for at, length, file in self._files.pieces(start, end - start):
            if file is not None:
                to = at - start + target
                self._files.set(to, to + length, file.moved(target - start))

    def extents(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range, in whole pages, that may be other than zero: all that is
        of no file that is known, and what the files have bytes for."""
        found: list[tuple[int, int]] = []
        for at, length, file in self._files.pieces(start, end - start):
            found += [(at, at + length)] if file is None else file.extents(at, at + length)
        return found

    def end_of_file(self, start: int, end: int) -> int:
        """Where in a range the pages begin that lie wholly beyond the end of the file."""
        file = self._files.at(start)
        return end if file is None else file.end_within(start, end)

    def fill(self, start: int, end: int) -> Steps:
        """Copy the files' bytes; what they have none for is left as it is."""
        for at, length, file in self._files.pieces(start, end - start):
            if file is not None:
                for low, high in file.extents(at, at + length):
                    yield from self._copy(file, low, high)

    def discard(self, area: Area) -> Steps:
        """The program's stores are gone: what was copied is as in its file, the rest zero.

        The file's bytes come in place of the others at once, so that no thread sees zeros
        meanwhile.
        """
        for at, length, file in self._files.pieces(area.start, area.end - area.start):
            end = at + length
            if file is not None:
                for low, high in file.extents(at, end):
                    self._zero(area, at, low)
                    yield from self._copy(file, low, high)
                    at = high
            self._zero(area, at, end)

    def _copy(self, file: FileBacking, start: int, end: int) -> Steps:
        home = self._home
        for at in range(start, end, COPY_PIECE):
            size = min(COPY_PIECE, end - at)
            yield Acquire(((at, size, Access.WRITE),))
            home.write(at, file.read(at, size))
            yield Pause()

    def _zero(self, area: Area, start: int, end: int) -> None:
        if start < end:
            self._home.layout.discard(start, end)
            self._home.pager.apply([area.cut(start, end)])
