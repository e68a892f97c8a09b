# SPDX-License-Identifier: GPL-2.0-or-later
"""Scratch memory: where forwarded system calls have their buffers.

A sparse memfd mapped in home's guest process (and nowhere else) and, here, in
the supervisor. The program does not know of it, coherence does not protect
it: the kernel may write to it at any time while a call blocks.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Final

from supervisor.arch import Arch
from supervisor.tracee.memory import punch
from supervisor.units import round_up

_SLOT_SIZE: Final = 1 << 16


class Scratch:
    """The whole scratch memory of one guest process."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.base = arch.scratch
        """Its address in the guest."""
        self.large_start = _SLOT_SIZE * arch.scratch_slots
        self.descriptor = os.memfd_create("dsmsup-scratch", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)  # with its last lease
        os.ftruncate(self.descriptor, arch.scratch_size)
        self.view = mmap.mmap(self.descriptor, self.large_start)
        self._free_slots = list(range(arch.scratch_slots - 1, -1, -1))
        # Invariant: sorted by offset, disjoint, never adjacent.
        self._free_large: list[tuple[int, int]] = [(self.large_start, arch.scratch_size)]

    def lease(self) -> Lease:
        """Memory for one call; give it back by `release`."""
        return Lease(self)

    def take_slot(self) -> int:
        if not self._free_slots:
            return self.take_large(_SLOT_SIZE)
        return self._free_slots.pop() * _SLOT_SIZE

    def give_slot(self, offset: int) -> None:
        if offset >= self.large_start:
            self.give_large(offset, _SLOT_SIZE)
        else:
            self._free_slots.append(offset // _SLOT_SIZE)

    def take_large(self, length: int) -> int:
        for index, (start, end) in enumerate(self._free_large):
            if end - start >= length:
                if end - start == length:
                    del self._free_large[index]
                else:
                    self._free_large[index] = (start + length, end)
                return start
        raise MemoryError("scratch memory is used up")

    def give_large(self, start: int, length: int) -> None:
        punch(self.descriptor, start, length)
        extents = sorted([*self._free_large, (start, start + length)])
        merged = [extents[0]]
        for low, high in extents[1:]:
            if low == merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free_large = merged


class Lease:
    """Scratch memory of one call: one slot, and more where its buffers are large."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._slot = scratch.take_slot()
        self._used = 0
        self._large: list[tuple[int, int]] = []

    def allocate(self, length: int) -> int:
        """Guest address of `length` fresh bytes, 16-byte aligned."""
        size = max(length + 15 & ~15, 16)
        if self._used + size <= _SLOT_SIZE:
            offset = self._slot + self._used
            self._used += size
        else:
            size = round_up(size)
            offset = self._scratch.take_large(size)
            self._large.append((offset, size))
        return self._scratch.base + offset

    def write(self, address: int, data: bytes) -> None:
        offset = address - self._scratch.base
        if offset < self._scratch.large_start:
            self._scratch.view[offset : offset + len(data)] = data
        else:
            done = 0
            while done < len(data):
                done += os.pwrite(self._scratch.descriptor, data[done:], offset + done)

    def read(self, address: int, length: int) -> bytes:
        offset = address - self._scratch.base
        if offset < self._scratch.large_start:
            return self._scratch.view[offset : offset + length]
        data = os.pread(self._scratch.descriptor, length, offset)
        while len(data) < length:
            data += os.pread(self._scratch.descriptor, length - len(data), offset + len(data))
        return data

    def release(self) -> None:
        self._scratch.give_slot(self._slot)
        for offset, size in self._large:
            self._scratch.give_large(offset, size)
        self._large = []
