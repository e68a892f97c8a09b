# SPDX-License-Identifier: GPL-2.0-or-later
"""The seccomp filter of a guest process: which system calls stop for the supervisor.

Calls made from the control block (the agent, shadows running forwarded calls, the
kernel's own vDSO where it cannot read a clock by itself) pass; calls whose number is
in `native` of their architecture pass; every other one stops with
PTRACE_EVENT_SECCOMP. One filter serves both architectures, for it stays when a
program of one executes one of the other. The event's message tells which it was:
64-bit code can make i386 calls too. See seccomp(2); the data
layout is struct seccomp_data.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from typing import Final

from supervisor.arch import Arch
from supervisor.tracee import ptrace
from supervisor.tracee.control import CALLS_PASS_END, CODE, END, PARK

_ALLOW: Final = 0x7FFF0000
_TRACE: Final = 0x7FF00000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_GREATER_EQUAL: Final = 0x35
_ALWAYS: Final = 0x05  # BPF_JMP | BPF_JA: by so many
_RETURN: Final = 0x06

_OFFSET_NUMBER: Final = 0
_OFFSET_ARCH: Final = 4
_OFFSET_POINTER_LOW: Final = 8
_OFFSET_POINTER_HIGH: Final = 12

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, k)


def build(native: Mapping[Arch, frozenset[int]]) -> bytes:
    """The filter program as an array of struct sock_filter."""
    program = [
        _instruction(_LOAD, _OFFSET_POINTER_HIGH),
        _instruction(_EQUAL, 0, 0, 6),
        _instruction(_LOAD, _OFFSET_POINTER_LOW),
        _instruction(_GREATER_EQUAL, CODE, 0, 4),
        _instruction(_GREATER_EQUAL, CALLS_PASS_END, 0, 2),
        _instruction(_GREATER_EQUAL, PARK, 0, 2),
        _instruction(_GREATER_EQUAL, END, 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, _OFFSET_ARCH),
    ]
    for arch, calls in native.items():
        search = _search(_spans(calls), _TRACE | arch.bits)
        program.append(_instruction(_EQUAL, arch.audit, 1, 0))
        program.append(_instruction(_ALWAYS, len(search) + 1))
        program.append(_instruction(_LOAD, _OFFSET_NUMBER))
        program += search
    program.append(_instruction(_RETURN, _TRACE))
    return b"".join(program)


def _spans(calls: frozenset[int]) -> list[tuple[int, bool]]:
    """Where numbers begin that are in the set, or that are not, up to where the next begin."""
    spans = [(0, 0 in calls)]
    for number in sorted({edge for call in calls for edge in (call, call + 1)}):
        if (number in calls) is not spans[-1][1]:
            spans.append((number, number in calls))
    return spans


def _search(spans: list[tuple[int, bool]], stop: int) -> list[bytes]:
    """A binary search for the span of the number that is loaded: `stop`, or allow it."""
    if len(spans) == 1:
        return [_instruction(_RETURN, _ALLOW if spans[0][1] else stop)]
    middle = len(spans) // 2
    below, above = _search(spans[:middle], stop), _search(spans[middle:], stop)
    return [_instruction(_GREATER_EQUAL, spans[middle][0], len(below), 0), *below, *above]


def install(program: bytes) -> None:
    """Install a filter on the calling process (for a child, between fork and exec).

    Without CAP_SYS_ADMIN the kernel wants no_new_privs first.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    header_buffer = ctypes.create_string_buffer(header, len(header))
    address = ctypes.addressof(header_buffer)
    try:
        ptrace.raw_syscall(157, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0)
    except OSError:
        ptrace.raw_syscall(157, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        ptrace.raw_syscall(157, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0)
