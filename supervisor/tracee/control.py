# SPDX-License-Identifier: GPL-2.0-or-later
"""The control block: the few pages of every guest process that are ours.

It lies at a fixed low address, so that any code reaches the armed byte with an
absolute 32-bit displacement, and ends at 1 MiB, for Valgrind has its program from there on:

    CODE    read-execute: the system call gadgets, the agent's stub, and what handlers of
            i386 programs return to
    DATA    read-write:   strings the agent's calls point to
    ARMED   read-only:    one byte, the rewritten code's check
    CALLS   read-write:   the agent's list of calls, with their results
    VDSO    read-execute: what the program takes for the kernel's vDSO (clock.py)
    CLOCK   read-only:    what its functions read: generation, native function, timelines
    PARK    the kernel's own vDSO and its data, moved here

All but the last are one memfd that the supervisor maps as well, so that a list of
calls is written and its results are read without a system call.

The code is assembled from the text below with keystone and checked with the
decoder by tests/tracee/test_control.py; the bytes are pasted here, because an
assembler has no place in the start-up of a program.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.arch import I386, X86_64
from supervisor.timeline import Reading
from supervisor.units import PAGE_SIZE, HostId

BASE: Final = 0x000E_0000
CODE: Final = BASE
DATA: Final = BASE + 0x1000
ARMED: Final = BASE + 0x2000
"""rewriter's ARMED_ADDRESS; tests/tracee/test_control.py holds the two together."""
CALLS: Final = BASE + 0x3000
CALLS_END: Final = BASE + 0x10000
VDSO: Final = X86_64.vdso
CLOCK: Final = BASE + 0x11000
PARK: Final = BASE + 0x12000
END: Final = BASE + 0x20000
SIZE: Final = END - BASE

GADGET: Final = X86_64.gadget
"""`syscall; int3`: set registers here to run one call on a stopped thread."""
GADGET_SIZE: Final = 3
CALLS_PASS_END: Final = CODE + 0x100
"""Calls made from CODE up to here are the supervisor's own: the filter lets them pass."""
STUB: Final = CODE + 0x10
"""The agent's loop: stops at its int3, runs the list, stops again."""

SOURCE: Final = f"""
gadget:
    syscall
    int3
.org {I386.gadget - BASE:#x}
gadget32:
    int 0x80
    int3
.org 0x10
stub:
    int3
    mov ebx, {CALLS:#x}
next:
    mov rax, [rbx]
    test rax, rax
    js stub
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    syscall
    mov [rbx + 56], rax
    add rbx, 64
    jmp next
"""

RESTORER_SOURCE: Final = """
    nop
    pop eax
    mov eax, 119
    int 0x80
.org 0x10
    nop
    mov eax, 173
    int 0x80
"""
"""i386 code, one byte before its restorers: sigreturn, rt_sigreturn. What unwinders know
a signal's frame by; the byte before is there because they look up the address less one."""

CODE_BYTES: Final = bytes.fromhex(
    "0f05cc" + "90" * 5 +
    "cd80cc" + "90" * 5 +
    "cc"
    "bb00300e00"
    "488b03"
    "4885c0"
    "78f2"
    "488b7b08"
    "488b7310"
    "488b5318"
    "4c8b5320"
    "4c8b4328"
    "4c8b4b30"
    "0f05"
    "48894338"
    "4883c340"
    "ebd4"
)  # fmt: skip

RESTORER_BYTES: Final = bytes.fromhex("90" + "58b877000000cd80" + "90" * 8 + "b8ad000000cd80")

CALL: Final = struct.Struct("<q6Qq")
"""One entry of the list: number, six arguments, result."""
CALLS_MAX: Final = (CALLS_END - CALLS) // CALL.size - 1
"""Calls in one list; the last entry is its end mark."""
DATA_SIZE: Final = PAGE_SIZE

_CLOCK: Final = struct.Struct("<QQ")
"""After the generation (8 bytes; odd while the rest changes): native clock_gettime or 0, and
whether clocks are read along timelines."""
READINGS: Final = 64
"""Where in CLOCK the readings are, by number of the clock."""
READING: Final = struct.Struct("<Q6q8x")
"""The native clock that is read, then each line of the timeline: start, value, rate."""
_END = struct.Struct("<q").pack(-1)


def is_ours(address: int) -> bool:
    """Is it in the control block?"""
    return BASE <= address < END


class ControlBlock:
    """The supervisor's view of one guest process's control block."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("dsmsup-control", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, SIZE)
        self._view = mmap.mmap(self.descriptor, SIZE)
        self._view[: len(CODE_BYTES)] = CODE_BYTES
        at = I386.restorers[0] - 1 - BASE
        self._view[at : at + len(RESTORER_BYTES)] = RESTORER_BYTES

    def hold_clock(self) -> None:
        """Whoever reads a clock waits from here on, until `set_clock`.

        What it reads is neither earlier by the old timelines nor later by the new ones
        than the instant at which those meet, which is chosen in between.
        """
        self._view[CLOCK - BASE] |= 1

    def set_clock(self, host: HostId, native: int, readings: Mapping[int, Reading]) -> None:
        """Say how this host's clocks are read (clock.py): none, or all that it has code for.

        The generation names the host, so that a thread that is moved notices.
        """
        self.hold_clock()
        at, view = CLOCK - BASE, self._view
        (generation,) = struct.unpack_from("<Q", view, at)
        count = ((generation & 0xFFFF_FFFF) + 1) & 0xFFFF_FFFF
        for clock, (source, (first, then), ahead_ns) in readings.items():
            READING.pack_into(
                view, at + READINGS + clock * READING.size, source,
                first.start_ns, first.value_ns + ahead_ns, first.rate,
                then.start_ns, then.value_ns + ahead_ns, then.rate,
            )  # fmt: skip
        _CLOCK.pack_into(view, at + 8, native, bool(readings))
        # pack_into fills with zeros first: it never writes the generation, which must not
        # be seen even before all is there. The lowest byte comes last, alone.
        view[at : at + 8] = (host << 32 | count | 1).to_bytes(8, "little")
        view[at] = count & 0xFF

    def set_image(self, image: bytes) -> None:
        """Lay down the vDSO image."""
        assert len(image) <= PAGE_SIZE
        self._view[VDSO - BASE : VDSO - BASE + len(image)] = image

    def set_armed(self, armed: bool) -> None:
        self._view[ARMED - BASE] = int(armed)

    def write_calls(self, calls: Sequence[tuple[int, ...]]) -> None:
        """Lay down a list of (number, up to six arguments)."""
        assert len(calls) <= CALLS_MAX
        offset = CALLS - BASE
        view = self._view
        for call in calls:
            number, arguments = call[0], call[1:]
            CALL.pack_into(view, offset, number, *arguments, *(0,) * (7 - len(arguments)))
            offset += CALL.size
        view[offset : offset + 8] = _END

    def results(self, count: int) -> list[int]:
        """The results (or negative errno) of the first `count` calls of the list."""
        view = self._view
        start = CALLS - BASE + 56
        return [
            int.from_bytes(view[at : at + 8], "little", signed=True)
            for at in range(start, start + count * CALL.size, CALL.size)
        ]

    def write_data(self, data: bytes) -> int:
        """Lay bytes into the data page; their address in the guest."""
        assert len(data) <= DATA_SIZE
        offset = DATA - BASE
        self._view[offset : offset + len(data)] = data
        return DATA

    def close(self) -> None:
        self._view.close()
        os.close(self.descriptor)
