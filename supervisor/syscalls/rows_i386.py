# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: what i386 has besides, or otherwise than, x86-64.

Every other i386 call has x86-64's row of the same name, on smaller words
(narrow.py). File positions and lengths of 64 bits come in two registers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from supervisor.arch import I386
from supervisor.syscalls import rows_control, rows_ipc
from supervisor.syscalls.build import fetch
from supervisor.syscalls.call import Guest
from supervisor.syscalls.narrow import narrow
from supervisor.syscalls.spec import (
    FD,
    PATH,
    POSITIVE,
    RETURNED,
    Args,
    Data,
    In,
    InOut,
    Kind,
    Out,
    Row,
    Unwrapping,
    V,
    Where,
    answered,
    chosen,
    handled,
    home,
    int_arg,
    native,
    refused,
    space,
    uint_arg,
)

ENOSYS: Final = -38
EINVAL: Final = -22
EFAULT: Final = -14

STAT64: Final = 96
STATFS64: Final = 84
OLD_STAT: Final = 32
FLOCK64: Final = 24
TIMESPEC: Final = 8
USER_DESC: Final = 16
OLD_DIRENT: Final = 268
OLD_UTSNAME: Final = 325
OLDOLD_UTSNAME: Final = 45
KERNEL_SIGSET: Final = 4
OLD_SIGACTION: Final = 16

SAME_WITH_32_BIT_IDS: Final = (
    "lchown", "getuid", "getgid", "geteuid", "getegid", "setreuid", "setregid", "getgroups",
    "setgroups", "fchown", "setresuid", "getresuid", "setresgid", "getresgid", "chown",
    "setuid", "setgid", "setfsuid", "setfsgid",
)  # fmt: skip
"""Calls that are x86-64's with 32 after the name; without it their ids have 16 bits."""

WITH_64_BIT_TIMES: Final = {
    "clock_gettime64": "clock_gettime",
    "clock_settime64": "clock_settime",
    "clock_adjtime64": "clock_adjtime",
    "clock_getres_time64": "clock_getres",
    "clock_nanosleep_time64": "clock_nanosleep",
    "timer_gettime64": "timer_gettime",
    "timer_settime64": "timer_settime",
    "timerfd_gettime64": "timerfd_gettime",
    "timerfd_settime64": "timerfd_settime",
    "utimensat_time64": "utimensat",
    "pselect6_time64": "pselect6",
    "ppoll_time64": "ppoll",
    "recvmmsg_time64": "recvmmsg",
    "mq_timedsend_time64": "mq_timedsend",
    "mq_timedreceive_time64": "mq_timedreceive",
    "semtimedop_time64": "semtimedop",
    "rt_sigtimedwait_time64": "rt_sigtimedwait",
    "futex_time64": "futex",
    "sched_rr_get_interval_time64": "sched_rr_get_interval",
    "io_pgetevents_time64": "io_pgetevents",
}

RENAMED: Final = {"_newselect": "select", "ugetrlimit": "getrlimit"}

_NOT_IN_KERNEL: Final = (
    "break", "stty", "gtty", "ftime", "prof", "lock", "mpx", "ulimit", "profil", "idle", "bdflush",
    "sgetmask", "ssetmask",
)  # fmt: skip

_FCNTL64: Final[dict[int, Kind]] = {
    12: InOut(FLOCK64),  # F_GETLK64
    13: In(FLOCK64),  # F_SETLK64
    14: In(FLOCK64),  # F_SETLKW64
}
_FCNTL64_ROWS: Final = {
    command: home("fcntl64", FD, V, kind, blocks=command == 14)
    for command, kind in _FCNTL64.items()
}


def _fcntl(args: Args) -> Row:
    return _FCNTL64_ROWS.get(args[1]) or rows_control.by_command(args)


# Calls whose arguments are in memory ----------------------------------------------------

by_name: Final[dict[str, Row]] = {}
"""i386's rows, when they have their numbers (see `fill`)."""


def _listed(name: str, address: int, count: int, guest: Guest) -> Unwrapping:
    """The call `name` with the `count` words at an address for arguments."""
    data = yield from fetch(guest, address, 4 * count)
    if data is None:
        return EFAULT
    return by_name[name], [*struct.unpack(f"<{count}I", data), *[0] * (6 - count)]


def _select(args: Args, guest: Guest) -> Unwrapping:
    return _listed("_newselect", args[0], 5, guest)


_SOCKET_CALLS: Final = {
    1: ("socket", 3), 2: ("bind", 3), 3: ("connect", 3), 4: ("listen", 2), 5: ("accept4", 3),
    6: ("getsockname", 3), 7: ("getpeername", 3), 8: ("socketpair", 4), 9: ("sendto", 4),
    10: ("recvfrom", 4), 11: ("sendto", 6), 12: ("recvfrom", 6), 13: ("shutdown", 2),
    14: ("setsockopt", 5), 15: ("getsockopt", 5), 16: ("sendmsg", 3), 17: ("recvmsg", 3),
    18: ("accept4", 4), 19: ("recvmmsg", 5), 20: ("sendmmsg", 4),
}  # fmt: skip
"""linux/net.h: what stands for each, and how many arguments the program gives."""


def _socketcall(args: Args, guest: Guest) -> Unwrapping:
    found = _SOCKET_CALLS.get(args[0])
    if found is None:
        return EINVAL
    name, count = found
    return (yield from _listed(name, args[1], count, guest))


_IPC_64: Final = 0x100
_SEMTIMEDOP: Final = replace(
    narrow(home("ipc", V, V, V, V, In(uint_arg(2, rows_ipc.SEMBUF)), In(TIMESPEC), blocks=True)),
    number=I386.numbers["ipc"],
)

_SHMAT: Final = replace(
    Row("ipc", Where.SPACE, (V,) * 6, handler="ipc"),
    arch=I386,
    number=I386.numbers["ipc"],
)


def _ipc(args: Args, guest: Guest) -> Unwrapping:
    """ipc(call, first, second, third, pointer, fifth) as the call that it stands for."""
    call, first, second, third, pointer, fifth = args
    version, call = call >> 16, call & 0xFFFF
    match call:
        case 1:  # SEMOP
            return by_name["semtimedop_time64"], [first, pointer, second, 0, 0, 0]
        case 2:  # SEMGET
            return by_name["semget"], [first, second, third, 0, 0, 0]
        case 3:  # SEMCTL
            if not pointer:
                return EINVAL
            data = yield from fetch(guest, pointer, 4)
            if data is None:
                return EFAULT
            value = int.from_bytes(data, "little")
            return by_name["semctl"], [first, second, third & ~_IPC_64, value, 0, 0]
        case 4:  # SEMTIMEDOP
            return _SEMTIMEDOP, list(args)
        case 11:  # MSGSND
            return by_name["msgsnd"], [first, pointer, second, third, 0, 0]
        case 12:  # MSGRCV
            if version:
                return by_name["msgrcv"], [first, pointer, second, fifth, third, 0]
            data = yield from fetch(guest, pointer, 8)
            if data is None:
                return EFAULT
            buffer, kind = struct.unpack("<II", data)
            return by_name["msgrcv"], [first, buffer, second, kind, third, 0]
        case 13:  # MSGGET
            return by_name["msgget"], [first, second, 0, 0, 0, 0]
        case 14:  # MSGCTL
            return by_name["msgctl"], [first, second & ~_IPC_64, pointer, 0, 0, 0]
        case 21:  # SHMAT
            return _SHMAT, list(args)
        case 22:  # SHMDT
            return by_name["shmdt"], [pointer, 0, 0, 0, 0, 0]
        case 23:  # SHMGET
            return by_name["shmget"], [first, second, third, 0, 0, 0]
        case 24:  # SHMCTL
            return by_name["shmctl"], [first, second & ~_IPC_64, pointer, 0, 0, 0]
    return ENOSYS


def _unwrapped(name: str, unwrap: Callable[[Args, Guest], Unwrapping], *args: Kind) -> Row:
    return Row(name, Where.HOME, args, blocks=True, unwrap=unwrap)


_UID16: Final = Out(2)

OWN: Final = (
    # Files
    home("stat64", PATH, Out(STAT64), V),
    home("lstat64", PATH, Out(STAT64), V),
    home("fstat64", FD, Out(STAT64), V, quiet=True),
    home("fstatat64", FD, PATH, Out(STAT64), V),
    home("oldstat", PATH, Out(OLD_STAT)),
    home("oldlstat", PATH, Out(OLD_STAT)),
    home("oldfstat", FD, Out(OLD_STAT), quiet=True),
    home("statfs64", PATH, V, Out(STATFS64)),
    home("fstatfs64", FD, V, Out(STATFS64), quiet=True),
    home("pread64", FD, Data(2, out=True, position=3), V, V, V, blocks=True),
    home("pwrite64", FD, Data(2, out=False, position=3), V, V, V, blocks=True),
    home("_llseek", FD, V, V, Out(8), V),
    home("sendfile", FD, FD, InOut(4), V, blocks=True),
    home("sendfile64", FD, FD, InOut(8), V, blocks=True),
    home("truncate64", PATH, V, V),
    home("ftruncate64", FD, V, V),
    home("readahead", FD, V, V, V, quiet=True),
    home("fadvise64", FD, V, V, V, V, quiet=True),
    home("fadvise64_64", FD, V, V, V, V, V, quiet=True),
    home("fallocate", FD, V, V, V, V, V),
    home("sync_file_range", FD, V, V, V, V, V),
    home("fanotify_mark", FD, V, V, V, FD, PATH),
    home("readdir", FD, InOut(OLD_DIRENT), V),
    home("umount", PATH),
    chosen("fcntl", _fcntl),
    chosen("fcntl64", _fcntl),
    _unwrapped("select", _select, V),
    # Sockets, System V
    _unwrapped("socketcall", _socketcall, V, V),
    _unwrapped("ipc", _ipc, V, V, V, V, V, V),
    # The address space
    Row("mmap", Where.SPACE, (V,), handler="old_mmap"),
    space("mmap2", V, V, V, V, FD, V),
    # Threads and processes
    home("set_thread_area", InOut(USER_DESC), quiet=True),
    home("get_thread_area", InOut(USER_DESC), quiet=True),
    answered("arch_prctl", EINVAL, "its options are for 64-bit code"),
    refused("vm86", ENOSYS, "of 32-bit kernels only"),
    refused("vm86old", ENOSYS, "of 32-bit kernels only"),
    home("waitpid", V, Out(4, POSITIVE), V, blocks=True),
    native("nice", V),
    # Identities with 16 bits
    home("getresuid", _UID16, _UID16, _UID16, quiet=True),
    home("getresgid", _UID16, _UID16, _UID16, quiet=True),
    home("getgroups", V, Out(int_arg(0, 2), RETURNED._replace(unit=2), clamp=True), quiet=True),
    home("setgroups", V, In(int_arg(0, 2))),
    # Signals
    handled("sigreturn"),
    handled("sigaction", V, In(OLD_SIGACTION), Out(OLD_SIGACTION)),
    handled("signal", V, V),
    handled("sigprocmask", V, In(KERNEL_SIGSET), Out(KERNEL_SIGSET), quiet=True),
    handled("sigsuspend", V, V, V, blocks=True),
    home("sigpending", Out(KERNEL_SIGSET), quiet=True),
    # The machine
    home("olduname", Out(OLD_UTSNAME), quiet=True),
    home("oldolduname", Out(OLDOLD_UTSNAME), quiet=True),
    home("stime", In(4)),
    *(answered(name, ENOSYS, "no longer in the kernel") for name in _NOT_IN_KERNEL),
)


def derive(wide: Iterable[Row]) -> list[Row]:
    """i386's rows, from x86-64's."""
    by_wide_name = {row.name: row for row in wide}
    rows = [narrow(row) for row in OWN]
    rows += [narrow(by_wide_name[name], name + "32") for name in SAME_WITH_32_BIT_IDS]
    rows += [
        narrow(by_wide_name[of], name, wide_times=True) for name, of in WITH_64_BIT_TIMES.items()
    ]
    rows += [narrow(by_wide_name[of], name) for name, of in RENAMED.items()]
    have = {row.name for row in rows}
    rows += [
        narrow(row) for name, row in by_wide_name.items()
        if name in I386.numbers and name not in have
    ]  # fmt: skip
    return rows


def fill(table: dict[int, Row]) -> None:
    """Make known the rows that calls with their arguments in memory stand for."""
    by_name.update((row.name, row) for row in table.values())
