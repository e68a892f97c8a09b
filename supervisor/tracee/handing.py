# SPDX-License-Identifier: GPL-2.0-or-later
"""Hands a descriptor to a process that may not open it by the supervisor's /proc/PID/fd.

Who has given up its user, or has another root folder, is refused that path. So the process
makes a pair of sockets, of which the supervisor, its tracer, takes one (pidfd_getfd(2)).
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from supervisor.errors import DsmsupError
from supervisor.tracee import ptrace

SYS_CLOSE: Final = 3
SYS_RECVMSG: Final = 47
SYS_SOCKETPAIR: Final = 53
MSG_CMSG_CLOEXEC: Final = 0x40000000
SPACE: Final = 128
"""Bytes of the process that it needs."""
_CAP_SYS_PTRACE: Final = 1 << 19


def may_open_ours(task: int) -> bool:
    """May a task open the supervisor's descriptors by its /proc/PID/fd? (See ptrace(2).)"""
    wanted = {"Uid": os.geteuid(), "Gid": os.getegid()}
    try:
        with open(f"/proc/{task}/status", encoding="ascii", errors="replace") as file:
            words = {key: text.split() for key, _, text in (line.partition(":") for line in file)}
    except OSError:
        return False
    if int(words["CapEff"][0], 16) & _CAP_SYS_PTRACE:
        return True
    return all(int(words[name][3]) == own for name, own in wanted.items())


def path_of(descriptor: int, task: int) -> str | None:
    """By which path a task may open a descriptor of the supervisor; None where it may not.

    One that has another /proc, of a PID namespace of its own, or none, does not find it.
    """
    if not may_open_ours(task):
        return None
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    try:
        found = os.stat(f"/proc/{task}/root{path}")
    except PermissionError:
        return path  # a task that shows nothing of itself, and finds what its parent does
    except OSError:
        return None
    return path if os.path.samestat(found, os.fstat(descriptor)) else None


def hand(
    pid: int, memory: int, at: int, call: Callable[..., int], descriptor: int, *,
    thread: bool = False,
) -> int:
    """Its number there. `memory` is the process's, `at` where SPACE bytes may be overwritten.

    `thread` where `pid` is a task with a table of its own. Raises DsmsupError.
    """
    call(SYS_SOCKETPAIR, socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0, at)
    ours, theirs = struct.unpack("<2i", os.pread(memory, 8, at))
    try:
        process = os.pidfd_open(pid, os.O_EXCL if thread else 0)
    except OSError:
        raise DsmsupError(
            "a program that has given up its user, or has another root folder, needs Linux 6.9"
        ) from None
    try:
        taken = ptrace.borrow_descriptor(process, ours)
    finally:
        os.close(process)
    with socket.socket(fileno=taken) as link:
        rights = array.array("i", [descriptor])
        link.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    header = struct.pack("<QQQQQQQ", 0, 0, at + 56, 1, at + 72, 24, 0)
    os.pwrite(memory, header + struct.pack("<QQ", at + 96, 1), at)
    call(SYS_RECVMSG, theirs, at, MSG_CMSG_CLOEXEC)
    (handed,) = struct.unpack("<i", os.pread(memory, 4, at + 88))
    call(SYS_CLOSE, ours)
    call(SYS_CLOSE, theirs)
    return int(handed)
