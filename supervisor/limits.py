# SPDX-License-Identifier: GPL-2.0-or-later
"""What a supervisor may use (setrlimit(2)): open files, memory, the size of its files.

It has files open for each other host and each thread, maps far more than it uses, and
guest memory is a file of the size of an address space. So it takes what it may get, and
its guest with it. The program starts with the limits that dsmsup was started with: of
open files and of files' sizes in the kernel, of memory in driver/memory_limits.py, since
the kernel would count what is dsmsup's in the program's process.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Final, NamedTuple

from supervisor.errors import DsmsupError
from supervisor.units import ADDRESS_SPACE_SIZE

FILES_WANTED_MAX: Final = 1 << 16
"""More would only make the kernel's table of them larger."""
FILES_NEEDED: Final = 36
"""Of one host that runs a small program, beside those it was started with."""
FILES_NEEDED_PER_HOST: Final = 2

UNLIMITED: Final = resource.RLIM_INFINITY

Limit = tuple[int, int]
"""Soft and hard."""


class _Bytes(NamedTuple):
    needed: int
    option: str
    """Of the shell's `ulimit`, which counts in KiB."""
    what: str


_BYTES: Final = {
    resource.RLIMIT_AS: _Bytes((1 << 36) + (4 << 30), "-v", "of memory mapped"),
    resource.RLIMIT_DATA: _Bytes(256 << 20, "-d", "of data"),
    resource.RLIMIT_FSIZE: _Bytes(ADDRESS_SPACE_SIZE, "-f", "in one file"),
}
"""Of mapped memory most is home's scratch memory (arch/x86_64.py)."""
MEMORY: Final = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
_FROM_KERNEL: Final = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)

_given: dict[int, Limit] = {}


def raise_limits() -> None:
    """Take as much as this process may have."""
    for which in (*_BYTES, resource.RLIMIT_NOFILE):
        _given[which] = resource.getrlimit(which)
    for which in _BYTES:
        try:
            resource.setrlimit(which, (UNLIMITED, UNLIMITED))
        except (OSError, ValueError):  # only a privileged process may raise the hard one
            hard = _given[which][1]
            resource.setrlimit(which, (hard, hard))
    soft, hard = _given[resource.RLIMIT_NOFILE]
    wanted = FILES_WANTED_MAX if hard == UNLIMITED else min(hard, FILES_WANTED_MAX)
    if soft != UNLIMITED and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_limits(hosts: int) -> None:
    """Raises DsmsupError where a run needs more than this process may have."""
    for which, each in _BYTES.items():
        soft, _ = resource.getrlimit(which)
        if soft != UNLIMITED and soft < each.needed:
            raise DsmsupError(
                f"a process may have only {soft >> 10} KiB {each.what} here, and dsmsup needs "
                f"{each.needed >> 10}: raise the hard limit (ulimit {each.option})"
            )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_NEEDED + FILES_NEEDED_PER_HOST * hosts + _open_now()
    if soft != UNLIMITED and soft < needed:
        raise DsmsupError(
            f"a process may have only {soft} files open here, and {hosts} hosts need {needed}: "
            f"ulimit -n {needed}, or more"
        )


def restore_limits() -> None:
    """In a child that becomes the program: those that the kernel keeps, as they were."""
    for which in _FROM_KERNEL:
        if which in _given:
            resource.setrlimit(which, _given[which])


def given(which: int) -> Limit:
    """The program's limit at its start."""
    return _given.get(which) or resource.getrlimit(which)


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return 0
