# SPDX-License-Identifier: GPL-2.0-or-later
"""The architectures of programs: see base.py."""

from __future__ import annotations

from typing import Final

from supervisor.arch.base import Arch
from supervisor.arch.i386 import I386
from supervisor.arch.x86_64 import X86_64

__all__ = ["ALL", "I386", "X86_64", "Arch", "of_elf", "of_selector"]

ALL: Final = (X86_64, I386)

_BY_SELECTOR: Final = {arch.code_selector: arch for arch in ALL}
_BY_ELF: Final = {arch.elf: arch for arch in ALL}


def of_selector(selector: int) -> Arch:
    """The architecture of code that runs with this cs; KeyError for no selector of user code."""
    return _BY_SELECTOR[selector]


def of_elf(header: bytes) -> Arch | None:
    """The architecture of an ELF file, from its first 20 bytes or more; None for another."""
    return _BY_ELF.get((header[4], int.from_bytes(header[18:20], "little")))
