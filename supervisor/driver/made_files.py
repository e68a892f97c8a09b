# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of the program's that show files which are made for it (surroundings.py).

The kernel makes such a file anew for each read of its beginning, as monitors do that keep
/proc/stat open. So it is made here before such a read. Its size, file system and name are
those of the file that it stands for. A descriptor is known by the number that it was
opened with; what other numbers (dup) or processes have of it stays as it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.driver.machine import PROCESS
from supervisor.driver.operations import Steps
from supervisor.syscalls.call import Call, Segment
from supervisor.syscalls.marshal import resolve
from supervisor.syscalls.spec import Data, Row, Vector
from supervisor.tracee import ptrace

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

READS: Final = frozenset(("read", "readv", "pread64", "preadv", "preadv2"))
ABOUT: Final = frozenset(("fstat", "fstat64", "fstatfs", "fstatfs64"))
"""Calls about a descriptor; without the `f`, those about a path."""
_BY_FOLDER: Final = frozenset(("newfstatat", "fstatat64", "statx"))
"""With an empty path they are about the folder's descriptor."""
_OWN_POSITION: Final = (1 << 64) - 1
"""What preadv2(2) takes for the file's own position."""
CALLS: Final = READS | ABOUT | _BY_FOLDER


class MemoryFile(NamedTuple):
    """A memory file in place of one of the kernel's."""

    descriptor: int
    """Here."""
    path: str
    """That of the file it stands for."""


class _Shown(NamedTuple):
    inode: int
    path: str


class MadeFiles:
    """Those that the program has opened."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._shown: dict[int, _Shown] = {}
        """By number; what another file has meanwhile is found out when it is looked at."""

    def concerns(self, row: Row, args: list[int]) -> bool:
        """May a call be about one of them?"""
        return row.name in CALLS and args[0] & 0xFFFF_FFFF in self._shown

    def opened(self, thread: Thread, number: int, file: MemoryFile) -> None:
        """The program has one more."""
        found = PROCESS.fullmatch(file.path)
        path = file.path
        if found is not None and found[1] in ("self", "thread-self"):
            which = f"{self._home.pid}"
            if found[1] == "thread-self":
                which += f"/task/{thread.tid}"
            path = path.replace(found[1], which, 1)
        self._shown[number] = _Shown(os.fstat(file.descriptor).st_ino, path)

    def path_of(self, thread: Thread, number: int) -> str | None:
        """The path of what a descriptor stands for; None where it is none of these."""
        shown = self._shown.get(number)
        if shown is None:
            return None
        try:
            if os.stat(f"/proc/{thread.task}/fd/{number}").st_ino == shown.inode:
                return shown.path
        except OSError:
            pass
        del self._shown[number]
        return None

    def prepare(self, thread: Thread, row: Row, call: Call) -> Steps:
        """A call is about to run: have it find what the kernel's own file would show."""
        number = call.args[0] & 0xFFFF_FFFF
        path = self.path_of(thread, number)
        if path is None:
            return
        if row.name in ABOUT:
            named = os.fsencode(self._home.machine.elsewhere(path) or path) + b"\0"
            call.nr = thread.arch.numbers[row.name.removeprefix("f")]
            call.pointers = [*call.pointers, (0, len(call.segments))]
            call.segments = [*call.segments, Segment(named, len(named))]
        elif row.name in READS and _begins(thread, number, row, call):
            contents = yield from self._home.surroundings.contents(thread, path)
            if contents is not None:
                self._write(thread, number, contents)

    def _write(self, thread: Thread, number: int, contents: bytes) -> None:
        try:
            theirs = ptrace.borrow_from_task(thread.task, number, self._home.pidfd)
        except OSError:
            return  # another thread has closed it
        try:
            os.fchmod(theirs, 0o644)  # whoever is not root may not open it to write else
            ours = os.open(f"/proc/self/fd/{theirs}", os.O_RDWR | os.O_CLOEXEC)
            os.fchmod(theirs, 0o444)
            try:
                os.ftruncate(ours, len(contents))
                os.pwrite(ours, contents, 0)
            finally:
                os.close(ours)
        finally:
            os.close(theirs)


def _begins(thread: Thread, number: int, row: Row, call: Call) -> bool:
    """Does a call read from the beginning?"""
    kind = resolve(row, call.args + [0] * (6 - len(call.args))).args[1]
    assert isinstance(kind, (Data, Vector))
    if kind.position is not None:
        at = call.args[kind.position]
        if thread.arch.word == 4:
            at = at & 0xFFFF_FFFF | call.args[kind.position + 1] << 32
        if at != _OWN_POSITION:
            return at == 0
    try:
        with open(f"/proc/{thread.task}/fdinfo/{number}", encoding="ascii") as file:
            return int(file.readline().split()[1]) == 0
    except OSError:
        return False
