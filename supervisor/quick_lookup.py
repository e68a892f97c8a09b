# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading of what looks for the C library by its name, without a process for each look.

python-ptrace and trio ask ctypes.util.find_library(3) for it when they are loaded, which
runs `ldconfig -p`; that takes longer than all else that loading them does.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
from collections.abc import Iterator

_OF_GLIBC = {"c": "libc.so.6", "pthread": "libpthread.so.0"}


@contextlib.contextmanager
def quick_lookup() -> Iterator[None]:
    """Until this ends, the libraries of glibc have the names that they have everywhere."""
    find = ctypes.util.find_library

    def found(name: str) -> str | None:
        return _OF_GLIBC.get(name) or find(name)

    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        ctypes.util.find_library = found
    try:
        yield
    finally:
        ctypes.util.find_library = find
