# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be read whole: a regular file of bounded size."""

from __future__ import annotations

import os
import stat
from typing import Final

from rewriter.errors import NotElf, Unsupported

FILE_BYTES_MAX: Final = 2 << 30


def check_regular(name: str, status: os.stat_result) -> None:
    """NotElf or Unsupported for a fifo, a device, a directory, an endless file."""
    if not stat.S_ISREG(status.st_mode):
        raise NotElf(name, "not a regular file")
    if status.st_size > FILE_BYTES_MAX:
        raise Unsupported(name, "larger than 2 GiB")


def read_source(name: str) -> bytes:
    """The bytes of a file that the user named; RewriteError or OSError, which names it."""
    # Opening a fifo would wait for its writer.
    handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(name, os.fstat(handle))
        with open(handle, "rb", closefd=False) as f:
            return f.read(FILE_BYTES_MAX)
    except OSError as e:
        e.filename = name
        raise
    finally:
        os.close(handle)
