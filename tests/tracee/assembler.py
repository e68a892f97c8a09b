# SPDX-License-Identifier: GPL-2.0-or-later
"""keystone in a process of its own.

keystone 0.9.2 keeps, for all engines of a process, the radix that the last one's syntax
left behind: after AT&T code, which the rewriter assembles, `11` may be read as 0x11.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

_ASSEMBLE = """
import sys, keystone
mode = keystone.KS_MODE_64 if sys.argv[1] == "64" else keystone.KS_MODE_32
code, _ = keystone.Ks(keystone.KS_ARCH_X86, mode).asm(sys.stdin.read(), int(sys.argv[2]))
sys.stdout.buffer.write(bytes(code))
"""


@cache
def assembled(text: str, address: int, bits: int = 64) -> bytes:
    """The bytes of Intel-syntax code at an address; CalledProcessError where it is none."""
    done = subprocess.run(
        [sys.executable, "-c", _ASSEMBLE, str(bits), str(address)],
        input=text.encode(), stdout=subprocess.PIPE, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout
