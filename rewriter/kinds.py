# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of synchronization instruction, and where one stands: light to import."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What a site does; the names are the manual's mnemonics."""

    LOCK = "lock"
    XCHG = "xchg"
    MFENCE = "mfence"
    SFENCE = "sfence"
    LFENCE = "lfence"
    CPUID = "cpuid"
    SERIALIZE = "serialize"


KINDS: Final[tuple[Kind, ...]] = tuple(Kind)
"""In the order of their codes in a side map; append only."""

TRAP: Final = b"\x8e\xc8"
"""`mov %eax,%cs`: #UD in every mode and on every processor (Intel SDM, MOV)."""

ARMED_ADDRESS: Final = 0x000E_2000
"""Where the check finds its byte in every process: below every image that Linux
loads by itself, above the default `vm.mmap_min_addr`, and within reach of an
absolute 32-bit displacement."""


class Site(NamedTuple):
    """One synchronization instruction: link-time address, bytes, kind."""

    address: int
    length: int
    kind: Kind
