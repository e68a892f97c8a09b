# SPDX-License-Identifier: GPL-2.0-or-later
"""The vessel: the guest process of a host other than home.

A tiny static ELF file, written into a memfd and executed from there, whose
own mappings (text, stack) are dropped: what is left is the control block, the
vDSO in it, and an empty address space, into which the program's areas are mapped at
their own addresses, inaccessible until fetched.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import tempfile
from collections.abc import Iterable

from supervisor.tracee import control, inject
from supervisor.tracee.bootstrap import make_agent_of, map_control_block
from supervisor.tracee.clock import park_native
from supervisor.tracee.control import ControlBlock
from supervisor.tracee.inject import Agent
from supervisor.tracee.maps import read_maps
from supervisor.tracee.memory import GuestMemory
from supervisor.tracee.spawn import spawn

_NAME = "dsmsup-vessel"
_MFD_EXEC = 0x10
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


def _vessel_file() -> int:
    """A descriptor of the vessel's file that may be executed.

    Where vm.memfd_noexec forbids that of files in memory, it is one without a name in the
    folder for temporary files.
    """
    flags = os.MFD_CLOEXEC
    try:
        try:
            writable = os.memfd_create(_NAME, flags | _MFD_EXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            writable = os.memfd_create(_NAME, flags)  # before Linux 6.3 all may be executed
    except PermissionError:
        writable = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o700)
    try:
        os.write(writable, vessel_image())
        # What is open for writing is not executed (ETXTBSY).
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


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
    image = _vessel_file()
    try:
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
