# SPDX-License-Identifier: GPL-2.0-or-later
"""An architecture as one record of facts and functions.

`x86_64.py` and `i386.py` each make one. A thread's follows from the selector of
its code segment: 64-bit kernels run both kinds of code, and one supervisor
serves both kinds of programs. Elsewhere nothing asks which of the two it has.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_CALL = 0xFFFF_FFFF_FFFF_FFFF
"""orig_rax of a thread that is in no system call."""


@dataclass(frozen=True, eq=False)
class Arch:
    """What differs between the programs that one x86-64 kernel runs."""

    name: str
    bits: int
    word: int
    """Bytes of a pointer and of a long."""
    code_selector: int
    """cs of its user code (arch/x86/include/asm/segment.h)."""
    audit: int
    """AUDIT_ARCH_* of its system calls (linux/audit.h)."""
    elf: tuple[int, int]
    """EI_CLASS and e_machine of its programs."""

    numbers: Mapping[str, int]
    """System call numbers by name."""
    names: Mapping[int, str]
    arguments: tuple[str, ...]
    """Fields of user_regs_struct that hold a call's six arguments."""
    gadget: int
    """In the control block: its system call instruction, then int3."""
    call_length: int
    """Bytes of its system call instruction."""
    clone_order: tuple[int, ...]
    """Where flags, stack, parent's tid, child's tid and TLS are among clone's arguments."""
    map_call: Callable[[int, int, int, int, int, int], tuple[int, list[int]]]
    """Number and arguments of an mmap, from address, length, protection, flags,
    descriptor and offset in bytes."""
    tls_record: int
    """Bytes of what clone's TLS argument points to; 0 where it is the address itself."""
    set_tls: Callable[[Any, int, bytes], None]
    """Give a new thread's registers its TLS: from clone's argument, or that record."""

    # Layouts of what the supervisor itself reads and writes.
    pointer: struct.Struct
    timespec: struct.Struct
    """Seconds, nanoseconds; also struct timeval."""
    action: struct.Struct
    """struct kernel_sigaction: handler, flags, restorer, mask."""
    stack: struct.Struct
    """stack_t: address, flags, size."""
    robust_list: struct.Struct
    """struct robust_list_head: first entry, offset of the futex word, pending entry."""
    segment: struct.Struct
    """Elf_Phdr's p_offset, p_vaddr from its `segment_at` on."""
    segment_at: int
    elf_table: tuple[int, int]
    """Offsets in Elf_Ehdr of e_phoff and of e_phentsize (followed by e_phnum)."""

    user_top: int
    """The end of what a program may map."""
    mmap_top: int
    """Where the kernel puts mappings, from here downwards."""
    mmap_bottom: int
    vdso: int
    """In the control block: the vDSO image that its programs see; 0 for none."""
    scratch: int
    """Home's scratch memory: in no program's way (see driver/scratch.py)."""
    scratch_size: int
    scratch_slots: int
    buffer_max: int
    """Bytes of one buffer that travel in one call at most."""

    frame_mask_at: tuple[int, int]
    """From the stack pointer at a handler's first instruction to the mask in the frame, of
    a handler without and with siginfo (its first word, where it is in two places)."""
    return_mask_at: Mapping[str, int]
    """The same at the call that ends the handler, by its name."""
    restorers: tuple[int, int] = (0, 0)
    """Where a signal handler without a restorer of its own returns to, without and with
    siginfo; 0 where the kernel wants one of the program."""

    def clone_arguments(self, values: Sequence[int]) -> list[int]:
        """clone's arguments from this architecture's order into x86-64's, or back."""
        return [values[at] for at in self.clone_order]

    def arguments_of(self, registers: Any) -> list[int]:
        mask = (1 << self.bits) - 1
        return [getattr(registers, name) & mask for name in self.arguments]

    def set_arguments(self, registers: Any, values: Sequence[int]) -> None:
        mask = (1 << self.bits) - 1
        for name, value in zip(self.arguments, values, strict=False):
            setattr(registers, name, value & mask)

    def begin_call(self, registers: Any, number: int, values: Sequence[int]) -> None:
        """Let registers run a call at the control block's gadget."""
        self.set_arguments(registers, values)
        registers.rip = self.gadget
        registers.rax = number
        registers.orig_rax = NO_CALL

    def result_of(self, rax: int) -> int:
        """A call's value, or negative errno or kernel-internal code."""
        value = rax & (1 << self.bits) - 1
        return value - (1 << self.bits) if value >= (1 << self.bits) - 4095 else value

    def pointer_at(self, data: bytes, offset: int) -> int:
        return int.from_bytes(data[offset : offset + self.word], "little")
