# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's own memory, all in one place of the machine's memory.

A supervisor sleeps while the guest computes, and what it needs when it wakes lies on some
thousand pages all over the machine's memory. A hypervisor that looks for memory which is
not in use takes such pages out of the virtual machine's tables meanwhile, and each one
touched then costs it an exit; on any machine each needs an entry of the TLB, and a walk
through the tables to fill it. On large pages there are few of them: 30 microseconds of
Python took 400 after a sleep of 16 ms and 15,000 after one of a second on the virtual
machine where this was found, and take 60 and 1,100.

What is there is copied into large pages, which are then moved to where the copied was.
Nothing else may run meanwhile: this process must have one thread, and those few
instructions touch only what they copy. (MADV_COLLAPSE(2) would do it for aligned pieces of
2 MiB of anonymous memory, of which there are few here.)

Sources: mremap(2), madvise(2), proc_pid_maps(5), proc_pid_pagemap(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from supervisor.units import PAGE_SHIFT, PAGE_SIZE

LARGE: Final = 2 << 20
"""Bytes of a large page."""

OFTEN_USED: Final = ("python", "libc.so", "ld-linux", "libffi")
"""Parts of the names of files whose code supervisors execute. Of others only what has been
written to is moved, for they are large, and loaded for little."""

SOURCE: Final = """
    push rbx
    push r12
    mov r12, rdi
    mov rdx, rdi
    xor ebx, ebx
copy:
    mov rsi, [rdx]
    test rsi, rsi
    jz place
    mov rdi, [rdx + 8]
    mov rcx, [rdx + 16]
    rep movsb
    add rdx, 32
    jmp copy
place:
    mov rdi, [r12 + 8]
    test rdi, rdi
    jz done
    mov rsi, [r12 + 16]
    mov rdx, [r12 + 24]
    mov eax, 10
    syscall
    test rax, rax
    jnz next
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rdx, rsi
    mov r10d, 7
    mov r8, [r12]
    mov eax, 25
    syscall
    cmp rax, [r12]
    jne next
    add rbx, [r12 + 16]
next:
    add r12, 32
    jmp place
done:
    mov rax, rbx
    pop r12
    pop rbx
    ret
"""
"""A function of a table of pieces: copies each, then gives the copies their rights
(mprotect) and moves them (mremap) to where the pieces were, whose place stays mapped
(MREMAP_DONTUNMAP), or others' mappings might come there. Returns how many bytes it moved."""

CODE: Final = bytes.fromhex(
    "53" "4154" "4989fc" "4889fa" "31db"
    "488b32" "4885f6" "7410"
    "488b7a08" "488b4a10" "f3a4" "4883c220" "ebe8"
    "498b7c2408" "4885ff" "7445"
    "498b742410" "498b542418" "b80a000000" "0f05" "4885c0" "7529"
    "498b7c2408" "498b742410" "4889f2" "41ba07000000" "4d8b0424" "b819000000" "0f05"
    "493b0424" "7505" "49035c2410"
    "4983c420" "ebb1"
    "4889d8" "415c" "5b" "c3"
)  # fmt: skip
"""SOURCE; tests/tracee/test_compaction.py holds the two together."""

FILL_S_MAX: Final = 0.03
"""For how long large pages are asked for; those for 44 MiB take 10 ms where they are free."""

_MADV_POPULATE_WRITE: Final = 23
_PIECE: Final = struct.Struct("=4Q")
_PRESENT: Final = 1 << 7
"""In the last byte of a page's eight in pagemap."""


class Piece(NamedTuple):
    """Pages of one mapping that have memory."""

    rank: int
    """Code and what belongs to it is used the most for its size."""
    start: int
    length: int
    protection: int


def compact() -> int:
    """Gather this process's private memory; how many bytes. Nothing happens (0) where that
    is impossible: other threads, no large pages, a kernel that forbids code in such memory."""
    if len(os.listdir("/proc/self/task")) != 1 or not _has_large_pages():
        return 0
    everything = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        return _gather()
    except OSError:
        return 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _has_large_pages() -> bool:
    """Does the kernel give large pages to those who ask for them?"""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
            return "[never]" not in file.read()
    except OSError:
        return False


def _gather() -> int:
    pieces = sorted(_pieces(), key=lambda piece: piece.rank)
    length = sum(piece.length for piece in pieces)
    with contextlib.ExitStack() as closed:
        # Made after the pieces have been looked for, so none of these is one.
        room = closed.enter_context(mmap.mmap(-1, -(-length // LARGE) * LARGE + LARGE,
                                              mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        table = closed.enter_context(mmap.mmap(-1, (len(pieces) + 1) * _PIECE.size))
        code = closed.enter_context(mmap.mmap(
            -1, PAGE_SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        ))
        code.write(CODE)
        at = -(-_address(room) // LARGE) * LARGE
        end = at + _filled(room, at - _address(room), length)
        for index, piece in enumerate(pieces):
            if at + piece.length > end:
                break
            _PIECE.pack_into(table, index * _PIECE.size, piece.start, at, piece.length,
                             piece.protection)
            at += piece.length
        # PYFUNCTYPE, or the interpreter would be let go and taken again around the call.
        call = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(_address(code))
        return int(call(_address(table)))


def _filled(room: mmap.mmap, offset: int, length: int) -> int:
    """Give `length` bytes from an offset large pages, as many as the kernel has at hand:
    to make some where memory is in pieces takes it longer than it is worth."""
    room.madvise(mmap.MADV_HUGEPAGE)
    until = time.monotonic() + FILL_S_MAX
    for filled in range(0, length, LARGE):
        if time.monotonic() > until:
            return filled
        room.madvise(_MADV_POPULATE_WRITE, offset + filled, LARGE)
    return length


def _address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def _pieces() -> Iterator[Piece]:
    """What is to be gathered: private memory, but for stacks and what the kernel has put there."""
    with open("/proc/self/maps", "rb") as file:
        lines = file.read().splitlines()
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in lines:
            fields = line.split(maxsplit=5)
            name = os.path.basename(fields[5].decode(errors="replace")) if fields[5:] else ""
            rights = fields[1].decode()
            if rights[0] != "r" or rights[3] != "p" or (name[:1] == "[" and name != "[heap]"):
                continue
            if fields[4] != b"0" and rights[1] != "w" and not any(
                part in name for part in OFTEN_USED
            ):
                continue
            protection = sum(1 << bit for bit, right in enumerate(rights[:3]) if right != "-")
            start, end = (int(address, 16) for address in fields[0].split(b"-"))
            pagemap.seek(start >> PAGE_SHIFT << 3)
            entries = pagemap.read((end - start) >> PAGE_SHIFT << 3)
            for first, count in _present(entries[7::8]):
                at = start + (first << PAGE_SHIFT)
                yield Piece(0 if fields[4] != b"0" else 1, at, count << PAGE_SHIFT, protection)


def _present(pages: bytes) -> Iterator[tuple[int, int]]:
    """Runs (first, count) of pages that have memory, from the last bytes of their entries."""
    first = -1
    for page, flags in enumerate(pages):
        if flags & _PRESENT:
            if first < 0:
                first = page
        elif first >= 0:
            yield first, page - first
            first = -1
    if first >= 0:
        yield first, len(pages) - first
