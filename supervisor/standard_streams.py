# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard input, output and error of the command itself, whatever stands behind them.

A descriptor that dsmsup is started without is taken by the next file it opens, and what
is printed lands there: so /dev/null is opened onto it first. That closes on exec, and
the program starts without the descriptor, as it would have natively.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from supervisor.errors import DsmsupError

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer

_STANDARD: Final = (0, 1, 2)


class _Raw(io.RawIOBase):
    """A descriptor that is written to; `failed` says what becomes of what cannot be."""

    descriptor: int

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return os.write(self.descriptor, data)
        except OSError as error:
            self.failed(error)
            return memoryview(data).nbytes

    def failed(self, error: OSError) -> None:
        raise NotImplementedError


class _Output(_Raw):
    """Standard output: a reader that went away ends the command by SIGPIPE, as any other.

    (Python ignores SIGPIPE, for the sake of sockets, and so must a supervisor.)
    """

    descriptor = 1
    has_failed = False

    def failed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)
        if not self.has_failed:  # told once: Python flushes again at its end
            self.has_failed = True
            raise OSError(error.errno, error.strerror, "standard output")


class _Error(_Raw):
    """Standard error, as far as anybody reads it: that nobody is told changes no status."""

    descriptor = 2

    def failed(self, error: OSError) -> None:
        pass


def open_null() -> int:
    """A descriptor of /dev/null, which programs do not inherit. Raises DsmsupError."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError as error:
        raise DsmsupError(
            f"cannot open {os.devnull} ({error.strerror}): is /dev mounted here?"
        ) from None


def settle() -> None:
    """Make descriptors 0 to 2 usable, and printing to them end as documented.

    Raises DsmsupError.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            open_null()  # the lowest that is free
    sys.stdout = _text(_Output(), sys.stdout)
    sys.stderr = _text(_Error(), sys.stderr)


def _text(raw: _Raw, before: TextIO | None) -> TextIO:
    encoding, errors = ("utf-8", "replace") if before is None else (before.encoding, before.errors)
    by_line = raw.descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line
    )


def say(line: str) -> None:
    """Tell the user on stderr, in one write so that hosts sharing a terminal do not mix."""
    with contextlib.suppress(OSError):  # Nobody may be there to read it.
        os.write(2, f"dsmsup: {line}\n".encode(errors="replace"))
