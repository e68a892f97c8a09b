# SPDX-License-Identifier: GPL-2.0-or-later
"""Which calls the filter lets pass, by where they are made."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from supervisor.tracee import control

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
