# SPDX-License-Identifier: GPL-2.0-or-later
"""The vessel: the guest process of a host other than home.

A tiny static ELF file, written into a memfd and executed from there, whose
own mappings (text, stack) are dropped: what is left is the control block, the
vDSO in it, and an empty address space, into which the program's areas are mapped at
their own addresses, inaccessible until fetched.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterable

from supervisor.tracee import control, inject
from supervisor.tracee.bootstrap import make_agent_of, map_control_block
from supervisor.tracee.clock import park_native
from supervisor.tracee.control import ControlBlock
from supervisor.tracee.inject import Agent
from supervisor.tracee.maps import read_maps
from supervisor.tracee.memory import GuestMemory
from supervisor.tracee.spawn import spawn

_LOAD_ADDRESS = 0x0030_0000


def vessel_image() -> bytes:
    """An ELF64 executable with one segment of traps; nothing of it ever runs."""
    header_size, program_header_size = 64, 56
    code = b"\xcc" * 16
    entry = _LOAD_ADDRESS + header_size + program_header_size
    size = header_size + program_header_size + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, entry, header_size, 0, 0, header_size,
        program_header_size, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    return header + segment + code


def launch_vessel(
    memory: GuestMemory,
    block: ControlBlock,
    filter_program: bytes,
    cpus: Iterable[int] | None,
    *,
    questions_fault: bool = False,
) -> tuple[int, Agent, int]:
    """Start a vessel; its pid, its parked agent, and what clock.park_native tells.

    With `questions_fault`, its CPUIDs raise SIGSEGV.
    """
    image = os.memfd_create("dsmsup-vessel", os.MFD_CLOEXEC)
    try:
        os.write(image, vessel_image())
        pid = spawn(
            image, [b"dsmsup-vessel"], {}, filter_program,
            cpus=cpus, new_session=True, own_signals=signal.valid_signals(),
        )  # fmt: skip
    finally:
        os.close(image)
    agent = make_agent_of(pid, block, map_control_block(pid, block, memory, questions_fault))
    native_clock = park_native(pid, agent)
    agent.run(
        [
            (inject.SYS_MUNMAP, mapping.start, mapping.end - mapping.start)
            for mapping in read_maps(pid)
            if not control.is_ours(mapping.start) and mapping.start < 1 << 47
        ]
    )
    return pid, agent, native_clock
