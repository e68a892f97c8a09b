# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of another process that is not guest memory (process_vm_readv(2))."""

from __future__ import annotations

import ctypes
from typing import Final

from supervisor.tracee import ptrace

_READ: Final = 310
_WRITE: Final = 311
_PAGE: Final = 4096


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _move(call: int, pid: int, buffer: ctypes.Array[ctypes.c_char], address: int) -> int:
    here = _Vector(ctypes.addressof(buffer), len(buffer))
    there = _Vector(address, len(buffer))
    return ptrace.raw_syscall(call, pid, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)


def read(pid: int, address: int, length: int) -> bytes:
    """Up to `length` bytes, fewer where memory ends; OSError where there is none."""
    buffer = ctypes.create_string_buffer(length)
    count = _move(_READ, pid, buffer, address)
    return buffer.raw[:count]


def write(pid: int, address: int, data: bytes) -> None:
    """OSError where not all of it can be written."""
    buffer = ctypes.create_string_buffer(data, len(data))
    if _move(_WRITE, pid, buffer, address) != len(data):
        raise OSError


def read_text(pid: int, address: int, limit: int = _PAGE) -> bytes:
    """Up to the next NUL; empty where there is none within the limit, or no memory."""
    text = b""
    try:
        while len(text) < limit:
            piece = read(pid, address, _PAGE - address % _PAGE)
            before, end, _ = piece.partition(b"\0")
            text += before
            if end:
                return text
            address += len(piece)
    except OSError:
        pass
    return b""


def process_of(task: int) -> int:
    """The process that a task is of; OSError where it is gone."""
    with open(f"/proc/{task}/status", encoding="utf-8", errors="surrogateescape") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
