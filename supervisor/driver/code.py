# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewritten code in the guest: which file lies where, and where its traps lead.

Addresses of rewritten files are link-time ones; an object's load bias is added.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from rewriter.cache import Rewritten, rewritten
from rewriter.errors import RewriteError, Unsupported
from supervisor.errors import CannotExecute
from supervisor.tracee import image
from supervisor.tracee.image import Segment, Substitute
from supervisor.units import PAGE_MASK


class LoadedObject(NamedTuple):
    """One rewritten file mapped into the guest."""

    bias: int
    rewritten: Rewritten


class CodeMap:
    """The rewritten files of one program."""

    def __init__(self) -> None:
        self._by_identity: dict[tuple[int, int], Rewritten] = {}
        """(st_dev, st_ino) of a rewritten file in the cache."""
        self._by_path: dict[str, Rewritten] = {}
        self.objects: list[LoadedObject] = []

    def rewrite(self, path: str) -> Rewritten | None:
        """The rewritten file of an ELF file; None where there is nothing to rewrite.

        Also None for a file that the rewriter does not take (written by a
        compiler without unwind tables, checked by a hash of itself): while no
        page has several writers, code is correct without its traps.
        """
        try:
            result = rewritten(path)
        except Unsupported:
            return None
        except RewriteError as error:
            raise CannotExecute(str(error)) from None
        if result.unchanged:
            return None
        status = os.stat(result.path)
        self._by_identity[status.st_dev, status.st_ino] = result
        return result

    def rewrite_library(self, path: str) -> Rewritten | None:
        """As `rewrite`, for a library: what cannot be rewritten is for the linker to refuse."""
        try:
            return self.rewrite(path)
        except CannotExecute:
            return None

    def substitute(self, path: str) -> Substitute | None:
        """For the files that the kernel maps at exec: the program and its linker."""
        result = self.rewrite(path)
        if result is None:
            return None
        self._by_path[path] = result
        extra = [
            Segment(address, offset, file_size, memory_size, _protection(flags))
            for address, memory_size, offset, file_size, flags in result.extra
        ]
        return Substitute(result.path, extra)

    def loaded(self, path: str, bias: int) -> None:
        """A file that the kernel mapped at exec."""
        result = self._by_path.get(path)
        if result is not None:
            self.add(result, bias)

    def mapped(self, device: int, inode: int, start: int, offset: int) -> None:
        """The program has mapped code of a file, from this file offset."""
        result = self._by_identity.get((device, inode))
        if result is None:
            return
        for segment_offset, address in image.loadable_segments(result.path):
            if segment_offset & ~PAGE_MASK == offset:
                self.add(result, start - (address & ~PAGE_MASK))
                return

    def add(self, result: Rewritten, bias: int) -> None:
        if any(known.bias == bias and known.rewritten is result for known in self.objects):
            return
        self.objects.append(LoadedObject(bias, result))

    def find(self, address: int) -> tuple[int, bool] | None:
        """(where to go on, is it a trap) for an address that raised SIGILL or the like."""
        for bias, result in self.objects:
            at = address - bias
            if at in result.traps:
                return result.traps[at].native + bias, True
            if at in result.redirects:
                return result.redirects[at] + bias, False
        return None


def _protection(flags: int) -> int:
    """ELF PF_* (X 1, W 2, R 4) to PROT_* (R 1, W 2, X 4)."""
    return (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2
