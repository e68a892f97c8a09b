# SPDX-License-Identifier: GPL-2.0-or-later
"""Files whose opening is special: what the dynamic linker maps is rewritten first."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from supervisor.arch import I386, of_selector
from supervisor.coherence.messages import Access
from supervisor.driver import machine
from supervisor.driver.operations import Background, Native, Steps
from supervisor.syscalls.call import Acquire
from supervisor.units import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread
    from supervisor.tracee.ptrace import Registers

PATH_MAX: Final = 4096
_RET: Final = b"\xc3"
LARGE_FILE: Final = 4 << 20
"""More bytes than this take a while to rewrite."""


def open_(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    row = home.calls.row_of(thread, call)
    by_linker = False
    if row.name in machine.FLAGS:
        by_linker = yield from _is_made_by_linker(home, home.calls.context_of(thread, call))
    if by_linker:
        folder, at = machine.PATHS[row.name]
        flags = args[machine.FLAGS[row.name]]
        path = yield from _read_path(home, args[at])
        if path and flags & os.O_ACCMODE == os.O_RDONLY:
            directory = machine.AT_FDCWD if folder is None else args[folder]
            substitute = yield from _substitute(home, thread, directory, path)
            if substitute is not None:
                lease = home.scratch.lease()
                try:
                    name = os.fsencode(substitute) + b"\0"
                    where = lease.allocate(len(name))
                    lease.write(where, name)
                    number = thread.arch.numbers["openat"]
                    opened = yield Native(number, [machine.AT_FDCWD, where, flags, 0])
                finally:
                    lease.release()
                if opened >= 0:
                    return opened
                # It has given up its user, or has another root: it gets the file itself.
    return (yield from home.calls.run_marshalled(thread, row, args))


def _is_made_by_linker(home: Home, registers: Registers) -> Steps:
    """Is this call the dynamic linker's own?

    Where an i386 program has no vDSO, all calls of its C library are made by a stub in the
    linker (_dl_sysinfo_int80: `int $0x80; ret`): then it is who has called that.
    """
    caller = registers.rip
    if not home.is_linker_code(caller):
        return False
    if of_selector(registers.cs) is I386 and home.read(caller, 1) == _RET:
        stack = ((registers.rsp, I386.word, Access.READ),)
        if not home.check(*stack[0]):
            return False
        yield Acquire(stack)
        caller = int.from_bytes(home.read(registers.rsp, I386.word), "little")
    return home.is_linker_code(caller)


def _read_path(home: Home, address: int) -> Steps:
    path = b""
    while len(path) < PATH_MAX:
        size = PAGE_SIZE - (address & PAGE_MASK)
        if not home.check(address, 1, Access.READ):
            return ""
        yield Acquire(((address, size, Access.READ),))
        piece, end, _ = home.read(address, size).partition(b"\0")
        path += piece
        if end:
            return os.fsdecode(path)
        address += size
    return ""


def _substitute(home: Home, thread: Thread, directory: int, path: str) -> Steps:
    """The rewritten file for an ELF file with synchronization instructions, else None."""
    if not path.startswith("/"):
        number = directory & 0xFFFF_FFFF
        place = "cwd" if number == machine.AT_FDCWD else f"fd/{number}"
        path = os.path.join(f"/proc/{thread.task}/{place}", path)
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            return None  # to open a FIFO would be to wait for its writer
        with open(path, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
    except OSError:
        return None
    if about.st_size > LARGE_FILE:
        yield from home.prepared([path])
    result = yield Background(lambda: home.code.rewrite_library(path))
    return None if result is None else result.path


def getdents64(home: Home, thread: Thread, args: list[int], call: SpecialCall | None) -> Steps:
    """The folder of the program's tasks is listed without the agent; that of processors whole."""
    row = home.calls.row_of(thread, call)
    size = args[2] & 0xFFFF_FFFF
    try:
        folder = os.readlink(f"/proc/{thread.task}/fd/{args[0] & 0xFFFF_FFFF}")
    except OSError:
        folder = ""
    args = [*args[:2], home.machine.room(folder, size), *args[3:]]
    while True:
        length = yield from home.calls.run_marshalled(thread, row, args)
        if length <= 0 or not home.check(args[1], length, Access.WRITE):
            return length
        if folder != f"/proc/{home.pid}/task" and not home.machine.amends(folder):
            return length
        yield Acquire(((args[1], length, Access.WRITE),))
        listed = home.read(args[1], length)
        if home.machine.amends(folder):
            kept = home.machine.entries(folder, listed, size)
            if not home.check(args[1], len(kept), Access.WRITE):
                return -errno.EFAULT
            yield Acquire(((args[1], len(kept), Access.WRITE),))
        else:
            kept = _without(listed, str(home.agent.tid).encode())
        if kept:
            home.write(args[1], kept)
            return len(kept)


def _without(entries: bytes, name: bytes) -> bytes:
    """struct linux_dirent64 records (getdents(2)) but that of one name."""
    kept = b""
    at = 0
    while at < len(entries):
        length = int.from_bytes(entries[at + 16 : at + 18], "little")
        if entries[at + 19 : at + length].partition(b"\0")[0] != name:
            kept += entries[at : at + length]
        at += length
    return kept


HANDLERS: Final = {
    "getdents64": getdents64,
    "open": open_,
    "openat": open_,
    "openat2": open_,
    "creat": open_,
}
