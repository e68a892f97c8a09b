# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory: one sparse memfd a host, file offset = guest virtual address.

The guest maps it MAP_SHARED, page by page with the protection that coherence
allows; the supervisor reads and writes it by pread and pwrite at the same
offsets, whatever the guest may touch. (Reading a hole that way gives zeros
and allocates nothing, which reading through a mapping would.)

At home some areas are not on the memfd: text and other read-only private file
mappings stay as the kernel mapped them, and MAP_SHARED mappings of files stay
on their file. `backings` says for a page where its bytes are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final, Protocol

from supervisor.coherence.messages import WORD_SIZE
from supervisor.errors import DsmsupError
from supervisor.range_map import RangeMap
from supervisor.tracee import ptrace
from supervisor.tracee.words import Words
from supervisor.units import (
    ADDRESS_SPACE_SIZE,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PageNumber,
    round_up,
)

_FALLOC_KEEP_SIZE: Final = 0x01
_FALLOC_PUNCH_HOLE: Final = 0x02


class Backing(Protocol):
    """Where the bytes of a range of pages are, when not on the memfd."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


class FileBacking:
    """A mapping of a file: `delta` is address minus file offset.

    It owns its descriptor.
    """

    def __init__(self, descriptor: int, delta: int) -> None:
        self.descriptor = descriptor
        self._delta = delta

    def moved(self, distance: int) -> FileBacking:
        """The same file's backing for a mapping this many bytes further up."""
        return FileBacking(os.dup(self.descriptor), self._delta + distance)

    def offset_of(self, address: int) -> int:
        """In the file."""
        return address - self._delta

    def continues(self, other: FileBacking) -> bool:
        """Is it the same file, as far from its addresses?"""
        return self is other or (
            self._delta == other._delta
            and os.path.sameopenfile(self.descriptor, other.descriptor)
        )

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read(self, address: int, length: int) -> bytes:
        data = os.pread(self.descriptor, length, address - self._delta)
        return data + bytes(length - len(data))

    def write(self, address: int, data: bytes) -> None:
        offset = address - self._delta
        # Bytes beyond the end of the file are not the file's: a store there
        # through the mapping would not lengthen it either.
        size = os.fstat(self.descriptor).st_size
        if offset < size:
            os.pwrite(self.descriptor, data[: size - offset], offset)

    def end_within(self, start: int, end: int) -> int:
        """Where in a range the pages begin that lie wholly beyond the end of the file: all, of
        a device."""
        status = os.fstat(self.descriptor)
        size = round_up(status.st_size) if stat.S_ISREG(status.st_mode) else 0
        return min(max(start, self._delta + size), end)

    def reaches(self, end: int) -> bool:
        """Does the file go on up to there? (A device does.)"""
        status = os.fstat(self.descriptor)
        return not stat.S_ISREG(status.st_mode) or end <= self._delta + round_up(status.st_size)

    def extents(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range, in whole pages, for which the file has bytes: holes have none."""
        end = self.end_within(start, end)
        if start >= end:
            return []
        try:
            # The descriptor's offset is the program's, which this would move: another one.
            own = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # its rights may have been changed since it was opened
            return [(start, end)]
        try:
            found = data_extents(own, start - self._delta, end - self._delta)
        except OSError:  # a file system that cannot tell
            return [(start, end)]
        finally:
            os.close(own)
        pages: list[tuple[int, int]] = []
        for low, high in found:
            low = (low & ~PAGE_MASK) + self._delta
            if pages and low <= pages[-1][1]:
                low = pages.pop()[0]
            pages.append((low, min(round_up(high) + self._delta, end)))
        return pages


class ProcessBacking:
    """What the kernel has mapped in home's process, through /proc/PID/mem."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, address: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, address)
        except OSError:
            data = b""
        if len(data) == length:
            return data
        # A page past the end of its file cannot be read at all (SIGBUS to the program).
        pages = []
        end = address + length
        while address < end:
            size = min(PAGE_SIZE - (address & PAGE_MASK), end - address)
            try:
                page = os.pread(self._descriptor, size, address)
            except OSError:
                page = b""
            pages.append(page.ljust(size, b"\0"))
            address += size
        return b"".join(pages)

    def write(self, address: int, data: bytes) -> None:
        # A page past the end of its file is nowhere, as a store to it would be.
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, data, address)


class GuestMemory:
    """One host's guest memory, in whole pages for the coherence node and in bytes for calls."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("dsmsup-guest", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, ADDRESS_SPACE_SIZE)
        self._backings: RangeMap[Backing] = RangeMap()
        self._words = Words(self.descriptor)

    # Where bytes are ------------------------------------------------------------

    def set_backing(self, start: int, end: int, backing: Backing | None) -> None:
        """Say where [start, end) is kept; None is the memfd."""
        self._backings.set(start, end, backing)

    def backing_at(self, address: int) -> Backing | None:
        return self._backings.at(address)

    # Bytes ------------------------------------------------------------------------

    def read_bytes(self, address: int, length: int) -> bytes:
        if not self._backings:
            return self._read_memfd(address, length)
        pieces = self._backings.pieces(address, length)
        if len(pieces) == 1:
            (_, _, backing) = pieces[0]
            if backing is None:
                return self._read_memfd(address, length)
            return backing.read(address, length)
        return b"".join(
            self._read_memfd(at, size) if backing is None else backing.read(at, size)
            for at, size, backing in pieces
        )

    def _read_memfd(self, address: int, length: int) -> bytes:
        data = os.pread(self.descriptor, length, address)
        while len(data) < length:  # one call moves at most 2 GiB
            more = os.pread(self.descriptor, length - len(data), address + len(data))
            if not more:
                raise DsmsupError(f"no program has memory at {address + len(data):#x}")
            data += more
        return data

    def write_bytes(self, address: int, data: bytes) -> None:
        at = 0
        for start, size, backing in self._backings.pieces(address, len(data)):
            piece = data if size == len(data) else data[at : at + size]
            if backing is not None:
                backing.write(start, piece)
            else:
                written = os.pwrite(self.descriptor, piece, start)
                while written < size:
                    written += os.pwrite(self.descriptor, piece[written:], start + written)
            at += size

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy whole pages inside guest memory; the target is zero so far, and stays a hole
        where all of the source is one."""
        count = length >> PAGE_SHIFT
        if self.holes(PageNumber(source >> PAGE_SHIFT), count) < count:
            self.write_bytes(target, self.read_bytes(source, length))

    # Pages (the coherence node's Memory) --------------------------------------------

    def read(self, first: PageNumber, count: int) -> bytes:
        return self.read_bytes(first << PAGE_SHIFT, count << PAGE_SHIFT)

    def read_word(self, page: PageNumber, offset: int) -> bytes:
        """Read by one load, so never half of a store."""
        if self.backing_at(page << PAGE_SHIFT) is not None:
            return self.read(page, 1)[offset : offset + WORD_SIZE]
        return self._words.read(page, offset)

    def replace_word(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool:
        """Put a word where `old` is, in one step; False where something else is, or it cannot."""
        on_memfd = self.backing_at(page << PAGE_SHIFT) is None
        return on_memfd and self._words.replace(page, offset, old, new)

    def write(self, first: PageNumber, data: bytes) -> None:
        assert len(data) % PAGE_SIZE == 0
        self.write_bytes(first << PAGE_SHIFT, data)

    def zero(self, first: PageNumber, count: int) -> None:
        """Make pages read as zero and give their memory back."""
        punch(self.descriptor, first << PAGE_SHIFT, count << PAGE_SHIFT)

    def holes(self, first: PageNumber, count: int) -> int:
        """How many pages at the front are holes of the memfd."""
        start = first << PAGE_SHIFT
        end = start + (count << PAGE_SHIFT)
        low, size, backing = self._backings.pieces(start, end - start)[0]
        if backing is not None:
            return 0
        try:
            data = os.lseek(self.descriptor, start, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but holes from here on
            data = end
        return (min(data, low + size) - start) >> PAGE_SHIFT

    def close(self) -> None:
        os.close(self.descriptor)


def data_extents(descriptor: int, start: int, end: int) -> list[tuple[int, int]]:
    """The parts of a range of a sparse file that hold data (lseek(2), SEEK_DATA)."""
    extents = []
    at = start
    while at < end:
        try:
            low = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but holes from here on
        if low >= end:
            break
        high = min(os.lseek(descriptor, low, os.SEEK_HOLE), end)
        extents.append((low, high))
        at = high
    return extents


def punch(descriptor: int, offset: int, length: int) -> None:
    """Make a range of a memfd read as zeros and give its memory back (fallocate(2))."""
    ptrace.raw_syscall(285, descriptor, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length)
