# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a process ask for its processor's number where the supervisor sees it.

The kernel's vDSO answers getcpu(2) without a stop, with a processor of this host.
"""

from __future__ import annotations

import os
from typing import Final

from supervisor.tracee.clock import symbol
from supervisor.tracee.maps import read_maps

_CALL: Final = bytes.fromhex("b835010000 0f05 c3")  # mov $309,%eax (getcpu); syscall; ret
_ELF64: Final = b"\x7fELF\x02"


def ask_kernel(pid: int) -> None:
    """Have the vDSO of a process that has just executed a file make the system call.

    A 32-bit one's is left as it is. OSError where the process is gone.
    """
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for each in read_maps(pid):
            if each.path != "[vdso]":
                continue
            image = os.pread(memory.fileno(), each.end - each.start, each.start)
            offset = symbol(image, b"__vdso_getcpu") if image.startswith(_ELF64) else 0
            if offset:
                os.pwrite(memory.fileno(), _CALL, each.start + offset)
