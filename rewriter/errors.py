# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a file cannot be rewritten, each as one line that names the file.

Invariant: nothing in `rewriter/` lets another exception out for a bad input
file: what a hostile file does to a parser is caught where bytes are read and
becomes `Corrupt`.
"""

from __future__ import annotations


class RewriteError(Exception):
    """A file cannot be rewritten; `str()` is one line with the file and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class NotElf(RewriteError):
    """The file does not begin as an ELF file does (a script, a text, nothing)."""


class WrongArchitecture(RewriteError):
    """An ELF file of a machine other than x86-64 and i386."""


class Corrupt(RewriteError):
    """An ELF file whose tables contradict themselves or reach outside the file."""


class Unsupported(RewriteError):
    """An ELF file that may run, of a sort that the rewriter does not handle."""
