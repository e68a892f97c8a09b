# SPDX-License-Identifier: GPL-2.0-or-later
"""The home image: the real program, at its exec stop, put under the supervisor.

Every writable mapping is moved onto guest memory, the stack at its full size
(RLIMIT_STACK), so that nothing grows behind the supervisor's back. Read-only
mappings stay as the kernel made them; those of the program and of its dynamic
linker are replaced by the rewritten files' segments at the same addresses.
The vDSO is hidden, for other hosts' kernels have other ones; what the program
finds in its place is in the control block (clock.py). Nor does the auxiliary vector
tell of what other hosts' processors lack.
"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from supervisor.arch import Arch, of_elf
from supervisor.areas import READ, WRITE, AddressSpace, Area, Kind
from supervisor.errors import CannotExecute
from supervisor.tracee import control, inject, ptrace
from supervisor.tracee.bootstrap import Fresh, make_agent_thread, map_control_block
from supervisor.tracee.clock import park_native
from supervisor.tracee.control import ControlBlock
from supervisor.tracee.inject import Agent
from supervisor.tracee.maps import Mapping, openable, read_maps
from supervisor.tracee.memory import FileBacking, GuestMemory, ProcessBacking
from supervisor.units import PAGE_SIZE, round_up

_AT_NULL = 0
_AT_IGNORE = 1
_AT_HWCAP = 16
_AT_HWCAP2 = 26
_AT_SYSINFO_EHDR = 33
_AT_SYSINFO = frozenset((32, 33))
"""AT_SYSINFO and AT_SYSINFO_EHDR."""

STACK_DEFAULT = 8 << 20
STACK_MAX = 1 << 30


class Capabilities(Protocol):
    """Bits that the auxiliary vector may have in AT_HWCAP and AT_HWCAP2; if CPUID is to fault."""

    @property
    def first_capabilities(self) -> int: ...
    @property
    def capabilities(self) -> int: ...
    @property
    def questions_fault(self) -> bool: ...


class Segment(NamedTuple):
    """A loadable segment of a rewritten file that the original does not have."""

    address: int
    offset: int
    file_size: int
    memory_size: int
    protection: int


class Substitute(NamedTuple):
    """A rewritten file to lay over an original one that the kernel has mapped."""

    path: str
    extra: list[Segment]


class HomeImage(NamedTuple):
    agent: Agent
    space: AddressSpace
    break_start: int
    native: ProcessBacking
    """/proc/PID/mem of the program, for what is not on guest memory."""
    loaded: dict[str, int]
    """Load bias of each file that the kernel mapped (the program, its linker), by the path
    that `substitute` was asked for."""
    copied: list[tuple[int, int, FileBacking]]
    """Of the writable mappings: start, end, and the file whose bytes they began with."""
    native_clock: int
    """See clock.park_native."""


def take_over(
    pid: int,
    memory: GuestMemory,
    block: ControlBlock,
    scratch: Callable[[Arch], int],
    substitute: Callable[[str], Substitute | None],
    shown: Capabilities,
) -> HomeImage:
    """Prepare a program that stands in its exec stop.

    `scratch` gives the descriptor of its scratch memory. Raises CannotExecute.
    """
    fresh = Fresh(pid)
    caller, arch = fresh.caller, fresh.arch
    _check_room(pid, arch)
    opened = fresh.open(scratch(arch))
    caller.must(
        inject.SYS_MMAP, arch.scratch, arch.scratch_size, READ | WRITE,
        inject.MAP_SHARED | inject.MAP_FIXED | inject.MAP_NORESERVE, opened, 0,
    )  # fmt: skip
    caller.must(inject.SYS_CLOSE, opened)
    break_start = caller.must(inject.SYS_BRK, 0)
    fresh.restore()
    descriptor = map_control_block(pid, block, memory, shown.questions_fault)
    agent = make_agent_thread(pid, block, descriptor)
    native_clock = park_native(pid, agent)
    process_memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    space = AddressSpace(arch=arch)
    native = ProcessBacking(process_memory)
    calls: list[tuple[int, ...]] = []
    loaded: dict[str, int] = {}
    copied: list[tuple[int, int, FileBacking]] = []
    for mapping in read_maps(pid):
        start, end = mapping.start, mapping.end
        if control.is_ours(start) or start >= 1 << 47:
            continue
        if arch.scratch <= start < arch.scratch + arch.scratch_size:
            continue
        if mapping.path == "[stack]":
            bottom = _stack_bottom(end)
            contents = bytearray(os.pread(process_memory, end - start, start))
            at = _auxiliary_vector(contents, ptrace.get_registers(pid).rsp - start, arch)
            amend_auxiliary(contents, at, arch, shown)
            memory.write_bytes(start, bytes(contents))
            calls.append(agent.map_guest(bottom, end - bottom, READ | WRITE))
            space.add(Area(bottom, end, READ | WRITE, Kind.GUEST, "[stack]"))
        elif mapping.protection & WRITE:
            memory.write_bytes(start, os.pread(process_memory, end - start, start))
            calls.append(agent.map_guest(start, end - start, mapping.protection))
            space.add(Area(start, end, mapping.protection, Kind.GUEST, mapping.path))
            file = _file_of(pid, mapping)
            if file is not None:
                copied.append((start, end, file))
        else:
            space.add(Area(start, end, mapping.protection, Kind.NATIVE, mapping.path))
            memory.set_backing(start, end, native)
            if mapping.path.startswith("/") and mapping.path not in loaded:
                loaded[mapping.path] = start
    agent.check(calls)
    biases: dict[str, int] = {}
    for path, start in loaded.items():
        file_path = openable(pid, path)
        replacement = substitute(file_path)
        bias = biases[file_path] = start - _first_address(file_path)
        if replacement is not None:
            _lay_over(agent, space, memory, native, path, bias, replacement)
    return HomeImage(agent, space, break_start, native, biases, copied, native_clock)


def _file_of(pid: int, mapping: Mapping) -> FileBacking | None:
    """The file that is mapped, where it is one and may be read."""
    if not mapping.path.startswith("/"):
        return None
    try:
        file = os.open(openable(pid, mapping.path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    return FileBacking(file, mapping.start - mapping.offset)


def _check_room(pid: int, arch: Arch) -> None:
    """The program must have left free what the supervisor needs."""
    for start, length in (
        (control.BASE, control.SIZE), (arch.scratch, arch.scratch_size),
    ):  # fmt: skip
        for mapping in read_maps(pid):
            if mapping.start < start + length and start < mapping.end:
                raise CannotExecute(
                    f"cannot execute '{mapping.path}': it is linked to {mapping.start:#x}, where "
                    f"dsmsup has memory of its own ({start:#x}-{start + length:#x}); link it to "
                    "its architecture's usual address"
                )


def _stack_bottom(top: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    size = STACK_DEFAULT if soft == resource.RLIM_INFINITY else min(soft, STACK_MAX)
    return top - round_up(max(size, 256 << 10))


def _auxiliary_vector(stack: bytearray, at: int, arch: Arch) -> int:
    """Where it is on a fresh stack: behind arguments and environment."""
    pointer, word = arch.pointer, arch.word
    (count,) = pointer.unpack_from(stack, at)
    at += word * (count + 2)
    while pointer.unpack_from(stack, at)[0]:  # the environment
        at += word
    return at + word


def amend_auxiliary(vector: bytearray, at: int, arch: Arch, shown: Capabilities) -> None:
    """Have an auxiliary vector tell of our own vDSO, or of none, and of what all hosts have.

    In place, from an offset in bytes to its AT_NULL.
    """
    pointer, word = arch.pointer, arch.word
    bits = {_AT_HWCAP: shown.first_capabilities, _AT_HWCAP2: shown.capabilities}
    for entry in range(at, len(vector) - 2 * word + 1, 2 * word):
        (kind,) = pointer.unpack_from(vector, entry)
        if kind == _AT_NULL:
            return
        if kind == _AT_SYSINFO_EHDR and arch.vdso:
            pointer.pack_into(vector, entry + word, arch.vdso)
        elif kind in _AT_SYSINFO:
            pointer.pack_into(vector, entry, _AT_IGNORE)
        elif kind in bits:
            (value,) = pointer.unpack_from(vector, entry + word)
            pointer.pack_into(vector, entry + word, value & bits[kind])


def loadable_segments(path: str) -> list[tuple[int, int]]:
    """(file offset, link-time address) of each PT_LOAD of an ELF file."""
    with open(path, "rb") as file:
        header = file.read(64)
        arch = of_elf(header)
        assert arch is not None, path
        table_at, sizes_at = arch.elf_table
        (table,) = arch.pointer.unpack_from(header, table_at)
        size, count = struct.unpack_from("<HH", header, sizes_at)
        file.seek(table)
        entries = file.read(size * count)
    return [
        arch.segment.unpack_from(entries, at + arch.segment_at)
        for at in range(0, size * count, size)
        if struct.unpack_from("<I", entries, at)[0] == 1
    ]


def _first_address(path: str) -> int:
    """Link-time address of the first page of an ELF file's lowest segment."""
    return min(address for _, address in loadable_segments(path)) & ~(PAGE_SIZE - 1)


def _lay_over(
    agent: Agent,
    space: AddressSpace,
    memory: GuestMemory,
    native: ProcessBacking,
    path: str,
    bias: int,
    replacement: Substitute,
) -> None:
    """Map a rewritten file's read-only segments over the original's, and its added ones."""
    at = agent.control.write_data(os.fsencode(replacement.path) + b"\0")
    (descriptor,) = agent.run([(inject.SYS_OPENAT, inject.AT_FDCWD, at, os.O_RDONLY, 0)])
    if descriptor < 0:
        ours = os.open(replacement.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            descriptor = agent.handed(ours)
        finally:
            os.close(ours)
    fixed = inject.MAP_PRIVATE | inject.MAP_FIXED
    calls: list[tuple[int, ...]] = []
    pid = agent.tid
    for mapping in read_maps(pid):
        if mapping.path == path and not mapping.shared and not mapping.protection & WRITE:
            calls.append(
                (
                    inject.SYS_MMAP, mapping.start, mapping.end - mapping.start,
                    mapping.protection, fixed, descriptor, mapping.offset,
                )
            )  # fmt: skip
    for segment in replacement.extra:
        start = (segment.address + bias) & ~(PAGE_SIZE - 1)
        end = round_up(segment.address + bias + segment.memory_size)
        calls.append(
            (
                inject.SYS_MMAP, start, end - start, segment.protection, fixed, descriptor,
                segment.offset & ~(PAGE_SIZE - 1),
            )
        )  # fmt: skip
        space.add(Area(start, end, segment.protection, Kind.NATIVE, path))
        memory.set_backing(start, end, native)
    calls.append((inject.SYS_CLOSE, descriptor))
    agent.check(calls)

