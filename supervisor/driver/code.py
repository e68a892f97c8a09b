# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewritten code in the guest: which file lies where, and where its traps lead.

Addresses of rewritten files are link-time ones; an object's load bias is added.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from rewriter.cache import Rewritten
from rewriter.errors import RewriteError, Unsupported
from rewriter.kinds import Kind
from supervisor.driver.rewritten_files import RewrittenFiles
from supervisor.errors import CannotExecute, DsmsupError
from supervisor.tracee import image
from supervisor.tracee.image import Segment, Substitute
from supervisor.units import PAGE_MASK


class CodeObject(NamedTuple):
    """One rewritten file as it lies in the guest; addresses without the bias."""

    bias: int
    traps: dict[int, int]
    """`8e c8` -> the native instruction that the trap stands for."""
    redirects: dict[int, int]
    """An instruction boundary that a patch overwrote -> the same instruction elsewhere."""
    checked: dict[int, int]
    """Where the armed byte has just been read -> the native instruction after the check."""
    questions: dict[int, int]
    """`8e c8` of a CPUID that is not to run -> behind it. Others are in `traps` only."""


class Lead(NamedTuple):
    """Where a thread goes on that cannot where it is."""

    target: int
    is_trap: bool
    behind: int = 0
    """Behind the CPUID that the target is, where it is answered instead of run."""


class TrapMap:
    """Where traps and redirects lead, for all objects in a guest process."""

    def __init__(self) -> None:
        self.objects: list[CodeObject] = []
        self._sorted: list[list[int]] = []
        self.bare: dict[int, int] = {}
        """Where traps lead that have been met, of instructions that touch no memory."""

    def add(self, found: CodeObject) -> bool:
        """Enter an object; False when it is known."""
        if any(known.bias == found.bias and known.traps == found.traps for known in self.objects):
            return False
        self.objects.append(found)
        self._sorted.append(sorted(found.checked))
        self.bare.clear()
        return True

    def copy(self) -> TrapMap:
        """That of a process which goes its own way from here on."""
        other = TrapMap()
        other.objects, other._sorted = self.objects.copy(), self._sorted.copy()
        return other

    def find(self, address: int) -> Lead | None:
        """Where to go on from an address that raised SIGILL or the like."""
        for bias, traps, redirects, _, questions in self.objects:
            at = address - bias
            if at in traps:
                behind = questions[at] + bias if at in questions else 0
                return Lead(traps[at] + bias, True, behind)
            if at in redirects:
                return Lead(redirects[at] + bias, False)
        return None

    def past_check(self, address: int) -> int | None:
        """The native instruction that a thread at this address is about to run.

        None unless it has read the armed byte and not yet begun the instruction.
        """
        for found, ordered in zip(self.objects, self._sorted, strict=True):
            at = address - found.bias
            index = bisect_right(ordered, at) - 1
            if index >= 0 and at <= found.checked[ordered[index]]:
                return found.checked[ordered[index]] + found.bias
        return None


class CodeMap:
    """The rewritten files of the program, at home. CPUIDs trap always, or never as such."""

    def __init__(
        self,
        files: RewrittenFiles,
        on_object: Callable[[CodeObject], None],
        *,
        questions_trap: bool = False,
    ) -> None:
        self._files = files
        self.traps = TrapMap()
        self._always = kinds_that_trap(questions_trap)
        self.untrapped = ""
        """A file whose synchronization instructions do not trap, if there is one."""
        self._on_object = on_object
        self._by_identity: dict[tuple[int, int], Rewritten] = {}
        """(st_dev, st_ino) of a rewritten file in the cache."""
        self._moved: list[tuple[int, dict[int, int]]] = []
        """Of each object the bias, and where moved instructions stood: new address -> original."""
        self._clean: set[tuple[int, int]] = set()
        """Files that have nothing to rewrite."""
        self.sources: dict[str, str] = {}
        """Path of a rewritten file in the cache -> the file that it was made from."""
        self._by_path: dict[str, Rewritten] = {}

    def rewrite(self, path: str) -> Rewritten | None:
        """The rewritten file of an ELF file; None where there is nothing to rewrite.

        Also None for a file that the rewriter does not take (written by a
        compiler without unwind tables, checked by a hash of itself): while no
        page has several writers, code is correct without its traps.
        """
        try:
            result = self._files.get(path, self._always)
        except Unsupported:
            self.untrapped = path
            return None
        except RewriteError as error:
            raise CannotExecute(str(error)) from None
        if result.partial:
            self.untrapped = path
        status = os.stat(result.path)
        if result.unchanged:
            self._clean.add((status.st_dev, status.st_ino))
            return None
        self._by_identity[status.st_dev, status.st_ino] = result
        self.sources[result.path] = os.path.realpath(path)  # as the kernel shows it
        return result

    def rewrite_library(self, path: str) -> Rewritten | None:
        """As `rewrite`, for a library: what cannot be rewritten is for the linker to refuse.

        Where it does not, `mapped` finds code without traps.
        """
        try:
            return self.rewrite(path)
        except DsmsupError:
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
            self._add(result, bias)

    def mapped(self, status: os.stat_result, start: int, offset: int, name: str) -> None:
        """The program has mapped code of a file, from this file offset."""
        identity = (status.st_dev, status.st_ino)
        result = self._by_identity.get(identity)
        if result is None:
            if identity not in self._clean:
                self.untrapped = name
            return
        for segment_offset, address in image.loadable_segments(result.path):
            if segment_offset & ~PAGE_MASK == offset:
                self._add(result, start - (address & ~PAGE_MASK))
                return

    def _add(self, result: Rewritten, bias: int) -> None:
        traps = {at: site.native for at, site in result.traps.items()}
        checked = {site.checked: site.native for site in result.traps.values() if site.checked}
        questions = {
            at: site.native + site.length
            for at, site in result.traps.items()
            if site.kind in self._always
        }
        found = CodeObject(bias, traps, dict(result.redirects), checked, questions)
        if self.traps.add(found):
            self._moved.append((bias, result.moved()))
            self._on_object(found)

    def original(self, address: int) -> int:
        """Where an instruction of a trampoline stood in the file; other addresses as they are."""
        for bias, moved in self._moved:
            if address - bias in moved:
                return moved[address - bias] + bias
        return address


def kinds_that_trap(questions: bool) -> frozenset[Kind]:
    """Which kinds of instruction trap whether or not a page has several writers."""
    return frozenset((Kind.CPUID,)) if questions else frozenset()


def _protection(flags: int) -> int:
    """ELF PF_* (X 1, W 2, R 4) to PROT_* (R 1, W 2, X 4)."""
    return (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2
