# SPDX-License-Identifier: GPL-2.0-or-later
"""i386, as an x86-64 kernel runs it (CONFIG_IA32_EMULATION).

System calls are made by `int $0x80`: the vDSO, whose __kernel_vsyscall might use
another instruction, is hidden.

Addresses. The control block is at 1 MiB. Programs begin at 0x08048000 (or, as
position-independent ones, at 0x56555000), and what lies below is mapped only by
whoever insists on it: scratch memory is there. The kernel maps from 128 MiB below
the top downwards (mmap_base of arch/x86/mm/mmap.c).
"""

from __future__ import annotations

import struct
from typing import Any, Final

from supervisor.arch.base import Arch
from supervisor.arch.syscalls_i386 import NAMES, NUMBERS

_USER_DESC: Final = struct.Struct("<IIII")
"""struct user_desc: entry number, base address, limit, flags (asm/ldt.h)."""


def _map_call(
    address: int, length: int, protection: int, flags: int, descriptor: int, offset: int
) -> tuple[int, list[int]]:
    """mmap2, which counts the offset in pages."""
    return NUMBERS["mmap2"], [address, length, protection, flags, descriptor, offset >> 12]


def _set_tls(registers: Any, tls: int, record: bytes) -> None:
    """The base of the segment register that holds the entry's selector, if one does.

    The entry itself is the thread's own and the kernel's to keep.
    """
    del tls
    entry, base, _, _ = _USER_DESC.unpack(record)
    for register in ("fs", "gs"):
        if getattr(registers, register) >> 3 == entry:
            setattr(registers, register + "_base", base)


I386: Final = Arch(
    name="i386",
    bits=32,
    word=4,
    code_selector=0x23,
    audit=0x40000003,
    elf=(1, 3),
    numbers=NUMBERS,
    names=NAMES,
    arguments=("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    gadget=0x000E_0008,
    call_length=2,
    clone_order=(0, 1, 2, 4, 3),
    map_call=_map_call,
    tls_record=_USER_DESC.size,
    set_tls=_set_tls,
    pointer=struct.Struct("<I"),
    timespec=struct.Struct("<ii"),
    action=struct.Struct("<IIIQ"),
    stack=struct.Struct("<IiI"),
    robust_list=struct.Struct("<IiI"),
    segment=struct.Struct("<II"),
    segment_at=4,
    elf_table=(28, 42),
    user_top=0xFFFF_E000,
    mmap_top=0xF7FF_E000,
    mmap_bottom=0x0800_0000,
    vdso=0,
    scratch=0x0080_0000,
    scratch_size=0x0780_0000,
    scratch_slots=512,
    buffer_max=4 << 20,
    # struct sigframe_ia32: sc.oldmask; struct rt_sigframe_ia32: uc.uc_sigmask (asm/sigframe.h).
    # sigreturn begins after the handler's ret and a pop, rt_sigreturn after the ret.
    frame_mask_at=(88, 252),
    return_mask_at={"sigreturn": 80, "rt_sigreturn": 248},
    restorers=(0x000E_0800, 0x000E_0810),
)
