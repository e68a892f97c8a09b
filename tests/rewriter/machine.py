# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF files of this machine, for samples."""

from __future__ import annotations

import os
import random
from functools import lru_cache

ROOTS = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/lib32")


@lru_cache(maxsize=1)
def elf_files() -> tuple[tuple[str, int], ...]:
    """(path, bytes) of every ELF file under ROOTS, links followed to one path each."""
    found: dict[tuple[int, int], tuple[str, int]] = {}
    for root in ROOTS:
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                try:
                    s = os.lstat(path)
                    if os.path.islink(path) or not os.path.isfile(path):
                        continue
                    if (s.st_dev, s.st_ino) in found:
                        continue
                    with open(path, "rb") as f:
                        if f.read(4) == b"\x7fELF":
                            found[(s.st_dev, s.st_ino)] = (path, s.st_size)
                except OSError:
                    continue
    return tuple(sorted(found.values()))


def sample(number: int, seed: int, bytes_max: int) -> list[str]:
    """A repeatable sample of files of at most `bytes_max` bytes, libraries of threads first."""
    small = [path for path, size in elf_files() if size <= bytes_max]
    chosen = [
        p for p in small if os.path.basename(p).startswith(("ld-linux", "libgomp", "libatom"))
    ]
    rest = [p for p in small if p not in chosen]
    random.Random(seed).shuffle(rest)
    return (chosen + rest)[:number]
