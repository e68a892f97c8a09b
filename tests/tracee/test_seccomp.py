# SPDX-License-Identifier: GPL-2.0-or-later
"""Which calls the filter lets pass, by where they are made."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys

import pytest

from supervisor.arch import X86_64
from supervisor.driver import calls
from supervisor.tracee import control, seccomp

PROGRAM = """
import ctypes, mmap, os, sys
from supervisor.arch import X86_64
from supervisor.tracee import seccomp

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long]
at = int(sys.argv[1])
page = at & ~0xfff
if libc.mmap(page, 0x2000, 7, 0x100022, -1, 0) != page:
    os._exit(98)
code = bytes.fromhex("b8e40000000f05c3")  # clock_gettime(2) by itself; ret
ctypes.memmove(at, code, len(code))
spec = (ctypes.c_int64 * 2)()
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)(at)
numbers = X86_64.numbers
seccomp.install(seccomp.build({X86_64: frozenset((numbers["exit_group"],))}))
os._exit(-call(1, ctypes.addressof(spec)))
"""


@pytest.mark.parametrize(
    ("at", "passes"),
    [
        (control.CODE, True),
        (control.CALLS_PASS_END, False),
        (control.PARK - 16, False),
        (control.PARK, True),
        (control.END - 16, True),
        (control.END, False),
        (control.PARK + (1 << 32), False),
    ],
)
def test_calls_pass_from_the_agent_and_from_the_parked_vdso(at: int, passes: bool) -> None:
    """Else, with nobody tracing, they fail with ENOSYS."""
    status = subprocess.run([sys.executable, "-c", PROGRAM, str(at)], check=False).returncode
    assert status == (0 if passes else errno.ENOSYS)


def outcome(program: bytes, audit: int, number: int) -> int:
    """What a filter returns for a call from the program's own code: the few instructions that
    filters are made of, as seccomp(2) and the kernel's networking/filter have them."""
    data = {0: number, 4: audit, 8: 0x1000, 12: 0}
    loaded = at = 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                loaded = data[k]
            case 0x05:
                at += k
            case 0x15:
                at += if_true if loaded == k else if_false
            case 0x35:
                at += if_true if loaded >= k else if_false
            case 0x06:
                return int(k)
            case _:
                pytest.fail(f"instruction {code:#x}")


ALLOWED = 0x7FFF0000
TRACED = 0x7FF00000


@pytest.mark.parametrize("hosts", [1, 2])
def test_calls_of_each_architecture_pass_by_their_numbers(hosts: int) -> None:
    native = calls.native_at_home(hosts)
    program = seccomp.build(native)
    assert len(program) // 8 < 4096  # BPF_MAXINSNS
    for arch, passes in native.items():
        for number in range(600):
            expected = ALLOWED if number in passes else TRACED | arch.bits
            assert outcome(program, arch.audit, number) == expected, (arch.bits, number)
        assert outcome(program, arch.audit, 0xFFFF_FFFF) == TRACED | arch.bits
    assert outcome(program, 0x1234, 0) == TRACED


def test_alone_a_program_stops_only_where_more_is_to_be_done() -> None:
    passes = calls.native_at_home(1)[X86_64]
    for name in ("futex", "poll", "close", "wait4"):
        assert X86_64.numbers[name] in passes, name
    for name in ("mmap", "openat", "read", "fstat", "kill", "ppoll", "epoll_wait"):
        assert X86_64.numbers[name] not in passes, name
    assert X86_64.numbers["futex"] not in calls.native_at_home(2)[X86_64]
