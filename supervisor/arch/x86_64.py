# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64."""

from __future__ import annotations

import struct
from typing import Any, Final

from supervisor.arch.base import Arch
from supervisor.arch.syscalls_x86_64 import NAMES, NUMBERS


def _map_call(
    address: int, length: int, protection: int, flags: int, descriptor: int, offset: int
) -> tuple[int, list[int]]:
    return NUMBERS["mmap"], [address, length, protection, flags, descriptor, offset]


def _set_tls(registers: Any, tls: int, record: bytes) -> None:
    del record
    registers.fs_base = tls


X86_64: Final = Arch(
    name="x86-64",
    bits=64,
    word=8,
    code_selector=0x33,
    audit=0xC000003E,
    elf=(2, 62),
    numbers=NUMBERS,
    names=NAMES,
    arguments=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    gadget=0x000E_0000,
    call_length=2,
    clone_order=(0, 1, 2, 3, 4),
    map_call=_map_call,
    tls_record=0,
    set_tls=_set_tls,
    pointer=struct.Struct("<Q"),
    timespec=struct.Struct("<qq"),
    action=struct.Struct("<QQQQ"),
    stack=struct.Struct("<QixxxxQ"),
    robust_list=struct.Struct("<QqQ"),
    segment=struct.Struct("<QQ"),
    segment_at=8,
    elf_table=(32, 54),
    user_top=0x7FFF_FFFF_F000,
    mmap_top=0x7FFF_F000_0000,
    mmap_bottom=0x0000_1000_0000,
    vdso=0x000F_0000,
    # Just below position-independent programs: no sanitizer has a shadow or a gap there.
    scratch=0x0000_5500_0000_0000,
    scratch_size=1 << 36,
    scratch_slots=4096,
    buffer_max=64 << 20,
    frame_mask_at=(304, 304),
    return_mask_at={"rt_sigreturn": 296},
)
