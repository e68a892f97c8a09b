# SPDX-License-Identifier: GPL-2.0-or-later
"""A few instructions of our own in the supervisor: what Python has no expression for."""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache


@cache
def mapped(code: bytes) -> int:
    """The address of this code, mapped for good; OSError where code cannot be mapped.

    From a memory file, so that no page is ever both writable and executable.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    descriptor = os.memfd_create("dsmsup-code", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, code)
        rights = mmap.PROT_READ | mmap.PROT_EXEC
        at = libc.mmap(None, len(code), rights, mmap.MAP_PRIVATE, descriptor, 0)
    finally:
        os.close(descriptor)
    if at is None or at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "cannot map code")
    return int(at)
