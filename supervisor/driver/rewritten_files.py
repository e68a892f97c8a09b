# SPDX-License-Identifier: GPL-2.0-or-later
"""Where this run's rewritten files are: in the user's cache, else in a folder of its own.

The program maps them from there, so a folder of the run's own lives as long as the run. One
whose run was killed is removed by the next that needs one: nobody holds its lock any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from rewriter.cache import CacheError, Rewritten, is_cache, rewritten
from rewriter.errors import RewriteError
from rewriter.kinds import Kind
from supervisor import tasks
from supervisor.errors import DsmsupError
from supervisor.standard_streams import say
from supervisor.tracee import ptrace

SYS_PRCTL: Final = 157
PR_SET_PDEATHSIG: Final = 1
LONG_S: Final = 5.0
"""Who waits for so long, at a terminal, is told for what."""
CACHE_UNUSABLE: Final = 100
"""How a process that prepares files exits when it finds that out."""


_PREFIX: Final = "dsmsup-"
_ABANDONED_S: Final = 10.0
"""A folder younger than that may be one whose run is about to lock it."""
_ELSEWHERE: Final = ("/tmp", "/var/tmp")
"""Where the usual temporary folder cannot be used."""


class RewrittenFiles:
    """At home, for as long as the run."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._own = ""
        """The run's own folder, when it has one."""
        self._held = -1
        """A descriptor of it, with its lock."""
        self._leaving = threading.Lock()  # libraries are rewritten in worker threads
        self._helpers: dict[int, int] = {}
        """Processes that prepare files: pid -> process descriptor."""

    def get(self, path: str, always_trap: frozenset[Kind]) -> Rewritten:
        """As `rewritten`; DsmsupError where no folder can be used."""
        own = self._own
        try:
            return rewritten(path, own or None, always_trap=always_trap)
        except CacheError as error:
            if own or not self.leave_cache(error.reason):
                raise _nowhere(error) from None
        try:
            return rewritten(path, self._own, always_trap=always_trap)
        except CacheError as error:
            raise _nowhere(error) from None

    def leave_cache(self, why: str) -> bool:
        """Go on in a folder of the run's own; False when there can be none."""
        with self._leaving:
            if self._own:
                return True
            for place in _temporary_folders():
                with contextlib.suppress(OSError):
                    _remove_abandoned(place)
                    self._own = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
                    self._held = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    fcntl.flock(self._held, fcntl.LOCK_EX)
                    break
            else:
                return False
        self._tell(f"{why}: rewritten files are in {self._own}, for this run only")
        return True

    def start_to_prepare(self, paths: Iterable[str], always_trap: frozenset[Kind]) -> int:
        """Rewrite ELF files in a process of its own; its pid. Its exit is for `prepared`.

        Rewriting takes minutes for the largest; beside the event loop, in a thread, it
        would keep the interpreter's lock, and this host would be silent for too long.
        What is wrong with a file shows when it is used.
        """
        front = os.getpid()
        pid = tasks.fork()
        if pid:
            self._helpers[pid] = os.pidfd_open(pid)
            return pid
        status = 0
        try:
            ptrace.raw_syscall(SYS_PRCTL, PR_SET_PDEATHSIG, signal.SIGKILL, 0)
            if os.getppid() != front:  # it died before the kernel knew
                os._exit(1)
            for path in paths:
                self._tell_later(path)
                try:
                    rewritten(path, self._own or None, always_trap=always_trap)
                except CacheError:
                    status = CACHE_UNUSABLE
                    break
                except (RewriteError, OSError):
                    continue
        finally:
            os._exit(status)

    def _tell_later(self, path: str) -> None:
        """Say so if this file takes long; what was to be said of the one before is not."""

        def tell(_number: int, _frame: object) -> None:
            if os.isatty(2):
                size = os.stat(path).st_size >> 20
                say(f"rewriting {path} ({size} MiB), which takes its time, once")

        signal.signal(signal.SIGALRM, tell)
        signal.setitimer(signal.ITIMER_REAL, LONG_S)

    def prepared(self, pid: int, status: int) -> bool:
        """A process that prepares files has exited; False where it is to be done again."""
        os.close(self._helpers.pop(pid))
        if status != CACHE_UNUSABLE or self._own:
            return True
        return not self.leave_cache("the cache of rewritten files cannot be used")

    def close(self) -> None:
        """Nobody needs the files any more, nor goes on to write there."""
        for pid, pidfd in self._helpers.items():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            os.close(pidfd)
        self._helpers.clear()
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._held)


def _remove_abandoned(place: str) -> None:
    """Folders that killed runs of this user have left."""
    for entry in os.scandir(place):
        if not entry.name.startswith(_PREFIX) or not entry.is_dir(follow_symlinks=False):
            continue
        status = entry.stat(follow_symlinks=False)
        age_s = time.time() - status.st_mtime
        if status.st_uid != os.geteuid() or age_s < _ABANDONED_S or not is_cache(entry.path):
            continue
        with contextlib.suppress(OSError):
            held = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(held)


def _temporary_folders() -> list[str]:
    """Where a program may be run from; the one that the user or the system prefers first."""
    found = list(_ELSEWHERE)
    with contextlib.suppress(OSError):
        found.insert(0, tempfile.gettempdir())
    return [
        place for place in found
        if os.path.isdir(place) and not os.statvfs(place).f_flag & os.ST_NOEXEC
    ]


def _nowhere(error: CacheError) -> DsmsupError:
    return DsmsupError(
        f"{error.reason}, nor can a temporary folder: set DSMSUP_CACHE_DIR to one that can"
    )
