# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: fcntl by command, prctl by option."""

from __future__ import annotations

from typing import Final

from supervisor.syscalls.build import USER_TOP
from supervisor.syscalls.spec import (
    FD,
    LONG,
    RETURNED,
    Arg,
    Args,
    In,
    InOut,
    Kind,
    Out,
    Row,
    Size,
    Text,
    V,
    answered,
    chosen,
    home,
    unknown,
)

EINVAL: Final = -22
EPERM: Final = -1

FLOCK: Final = Size(32, 16)
FLOCK_OF_DESCRIPTION: Final = Size(32, 24)
"""With i386 it is struct flock64."""

_FCNTL_KINDS: Final[dict[int, Kind]] = {
    **{command: V for command in (0, 1, 2, 3, 4, 8, 9, 10, 11)},  # F_DUPFD ... F_GETSIG
    5: InOut(FLOCK),  # F_GETLK
    6: In(FLOCK),  # F_SETLK
    7: In(FLOCK),  # F_SETLKW
    15: In(8),  # F_SETOWN_EX
    16: Out(8),  # F_GETOWN_EX
    17: Out(8),  # F_GETOWNER_UIDS
    36: InOut(FLOCK_OF_DESCRIPTION),  # F_OFD_GETLK
    37: In(FLOCK_OF_DESCRIPTION),  # F_OFD_SETLK
    38: In(FLOCK_OF_DESCRIPTION),  # F_OFD_SETLKW
    **{command: V for command in (1024, 1025, 1026, 1027, 1028, 1029, 1030, 1031, 1032,
                                  1033, 1034)},  # F_SETLEASE ... F_GET_SEALS
    1035: Out(8),  # F_GET_RW_HINT
    1036: In(8),  # F_SET_RW_HINT
    1037: Out(8),  # F_GET_FILE_RW_HINT
    1038: In(8),  # F_SET_FILE_RW_HINT
    1039: InOut(16),  # F_GETDELEG
    1040: In(16),  # F_SETDELEG
}  # fmt: skip
_WAITING: Final = (7, 38)
FCNTL: Final = {
    command: home("fcntl", FD, V, kind, blocks=command in _WAITING)
    for command, kind in _FCNTL_KINDS.items()
}
_FCNTL_PLAIN: Final = home("fcntl", FD, V, V)


def by_command(args: Args) -> Row:
    """The row of one fcntl(fd, command, argument)."""
    command = args[1] & 0xFFFFFFFF
    row = FCNTL.get(command)
    if row is not None:
        return row
    if args[2] < 0x10000 or args[2] >= USER_TOP:
        return _FCNTL_PLAIN
    return unknown("fcntl", f"command {command} is in no table", FD, V)


_NUMBERS: Final = home("prctl", V, V, V, V, V, quiet=True)
_INT_OUT: Final = home("prctl", V, Out(4), V, V, V, quiet=True)
_OF_THE_CPU: Final = answered("prctl", EINVAL, "of another architecture, or no longer there")
_CONFINES: Final = answered("prctl", EINVAL, "would confine the supervisor's own calls")

_PRCTL: Final[dict[int, Row]] = {
    # Numbers only: parent's death signal, dumpable, capabilities, timer slack,
    # machine checks, subreaper, no_new_privs, huge pages, ambient capabilities,
    # speculation, I/O flusher, side stack of timers, memory merging, futex hash ...
    **{option: _NUMBERS for option in (1, 3, 4, 7, 8, 13, 14, 23, 24, 27, 28, 29, 30, 31, 32,
                                       33, 34, 36, 38, 39, 41, 42, 47, 52, 53, 57, 58, 67, 68,
                                       77, 78, 0x59616D61)},
    2: _INT_OUT,  # PR_GET_PDEATHSIG
    5: _OF_THE_CPU,  # PR_GET_UNALIGN
    6: _OF_THE_CPU,
    9: _OF_THE_CPU,  # PR_GET_FPEMU
    10: _OF_THE_CPU,
    11: _OF_THE_CPU,  # PR_GET_FPEXC
    12: _OF_THE_CPU,
    15: home("prctl", V, Text(16), V, V, V),  # PR_SET_NAME
    16: home("prctl", V, Out(16), V, V, V, quiet=True),  # PR_GET_NAME
    19: _OF_THE_CPU,  # PR_GET_ENDIAN
    20: _OF_THE_CPU,
    # Our own filter must not be seen.
    21: answered("prctl", 0),  # PR_GET_SECCOMP
    22: _CONFINES,  # PR_SET_SECCOMP
    25: _INT_OUT,  # PR_GET_TSC
    26: answered("prctl", EINVAL, "the time stamp counter is read on every host"),  # PR_SET_TSC
    35: answered("prctl", EPERM, "as without CAP_SYS_RESOURCE"),  # PR_SET_MM
    37: _INT_OUT,  # PR_GET_CHILD_SUBREAPER
    40: home("prctl", V, Out(LONG), V, V, V, quiet=True),  # PR_GET_TID_ADDRESS
    59: _CONFINES,  # PR_SET_SYSCALL_USER_DISPATCH
    65: _CONFINES,  # PR_SET_MDWE
    66: answered("prctl", 0),  # PR_GET_MDWE
    # As without CONFIG_ANON_VMA_NAME, which programs expect.
    0x53564D41: answered("prctl", EINVAL),  # PR_SET_VMA
    0x41555856: home("prctl", V, Out(Arg(2), RETURNED, limit=4096, clamp=True), V, V, V),
}  # fmt: skip
# The kernel's answer to an option that it does not have.
_PRCTL_UNKNOWN: Final = answered("prctl", EINVAL, "an option that is in no table")


def by_option(args: Args) -> Row:
    """The row of one prctl(option, ...)."""
    return _PRCTL.get(args[0] & 0xFFFFFFFF, _PRCTL_UNKNOWN)


ROWS: Final = (chosen("fcntl", by_command), chosen("prctl", by_option))
