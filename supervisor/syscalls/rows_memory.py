# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: the address space. Home's supervisor owns it and serialises its changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor.syscalls.spec import (
    FD,
    Args,
    Either,
    In,
    Out,
    V,
    answered,
    handled,
    home,
    refused,
    space,
)
from supervisor.units import PAGE_SIZE

ENOSYS: Final = -38
_NO_NUMA: Final = "pages lie where they are used, which no call tells"
_NO_KEYS: Final = "protection keys are per thread and per processor"


def _pages(args: Args) -> int:
    """One byte a page of [args[0], args[0] + args[1])."""
    return (args[1] + PAGE_SIZE - 1) // PAGE_SIZE


def _nodes(position: int) -> Either:
    """Bytes of a set of nodes of `args[position]` bits, less one (mm/mempolicy.c)."""

    def words(bits: int) -> Callable[[Args], int]:
        return lambda args: -(-max(args[position] - 1, 0) // bits) * (bits // 8)

    return Either(words(64), words(32))


ROWS: Final = (
    space("mmap", V, V, V, V, FD, V),
    space("munmap", V, V),
    space("mprotect", V, V, V),
    space("mremap", V, V, V, V, V),
    space("brk", V),
    space("madvise", V, V, V),
    space("msync", V, V, V),
    space("mlock", V, V),
    space("mlock2", V, V, V),
    space("munlock", V, V),
    space("mlockall", V),
    space("munlockall"),
    space("shmat", V, V, V),
    space("shmdt", V),
    space("pkey_mprotect", V, V, V, V),
    space("mincore", V, V, Out(_pages)),
    answered("pkey_alloc", -28, _NO_KEYS),
    answered("pkey_free", -22, _NO_KEYS),
    # The machine that the program is shown is one node (driver/machine.py), and home's
    # kernel keeps what is asked for about it. It decides nothing: coherence moves pages.
    home("mbind", V, V, V, In(_nodes(4)), V, V, quiet=True),
    home("set_mempolicy", V, In(_nodes(2)), V, quiet=True),
    home("get_mempolicy", Out(4), Out(_nodes(2)), V, V, V, quiet=True),
    answered("set_mempolicy_home_node", ENOSYS, _NO_NUMA),
    answered("migrate_pages", ENOSYS, _NO_NUMA),
    answered("move_pages", ENOSYS, _NO_NUMA),
    answered("mseal", ENOSYS, "the supervisor itself changes mappings"),
    answered("map_shadow_stack", ENOSYS, "the supervisor writes return addresses"),
    refused("remap_file_pages", ENOSYS, "obsolete; the pages of a file out of order"),
    refused("process_madvise", ENOSYS, "advice about another process's address space"),
    refused("process_mrelease", ENOSYS, "takes another process's memory away"),
    refused("userfaultfd", ENOSYS, "page faults are the supervisor's own"),
    handled("process_vm_readv", V, V, V, V, V, V),
    handled("process_vm_writev", V, V, V, V, V, V),
)
