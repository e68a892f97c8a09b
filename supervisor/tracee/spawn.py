# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a traced process: fork, seize, filter, exec.

The child waits until it is seized before it installs the filter (a filter's
TRACE verdict without a tracer is ENOSYS), then executes the program. A failed
exec comes back as an errno over a close-on-exec pipe, as in subprocess.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Mapping
from typing import NoReturn

from supervisor.errors import CannotExecute, DsmsupError, GuestDied, NotFound
from supervisor.tracee import ptrace, seccomp
from supervisor.tracee.stops import Stop, StopKind, wait_for

_PERSONALITY_ADDR_NO_RANDOMIZE = 0x0040000


def spawn(
    path: str | int,
    arguments: list[bytes],
    environment: Mapping[bytes, bytes],
    filter_program: bytes,
    *,
    inherit: Iterable[int],
    cpus: Iterable[int] | None = None,
    new_session: bool = False,
) -> int:
    """Start a program under ptrace; it is left at the exit of its execve. Returns its pid.

    `path` may be a descriptor (fexecve). `inherit` are descriptors to keep
    across the exec. Raises CannotExecute, NotFound.
    """
    go_read, go_write = os.pipe()
    error_read, error_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        _child(
            path, arguments, environment, filter_program, go_read, error_write,
            list(inherit), None if cpus is None else set(cpus), new_session,
        )  # fmt: skip
    os.close(go_read)
    os.close(error_write)
    try:
        try:
            ptrace.seize(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise DsmsupError(
                f"may not trace a process here ({error.strerror}): ptrace is forbidden by this "
                "system (see /proc/sys/kernel/yama/ptrace_scope, or the container's seccomp "
                "profile)"
            ) from None
        os.write(go_write, b"g")
        _run_to_exec(pid, error_read, path)
    finally:
        os.close(go_write)
        os.close(error_read)
    return pid


def _run_to_exec(pid: int, error_read: int, path: str | int) -> None:
    while True:
        stop: Stop = wait_for(pid)
        match stop.kind:
            case StopKind.EVENT:  # exec is the only event that a lone child can have
                # This stop is inside execve(2), whose return would still overwrite rax.
                ptrace.cont_to_syscall(pid)
                if wait_for(pid).kind is not StopKind.SYSCALL:
                    raise GuestDied("the program was killed while it was being started")
                return
            case StopKind.EXITED | StopKind.KILLED:
                raise _exec_error(os.read(error_read, 16), path)
            case StopKind.SIGNAL:
                ptrace.cont(pid, stop.detail)
            case _:
                ptrace.cont(pid)


def _exec_error(report: bytes, path: str | int) -> DsmsupError:
    if not report:
        return DsmsupError(f"cannot start '{path}': the child process died")
    code = int(report)
    if code == errno.ENOENT:
        if isinstance(path, str) and os.path.exists(path):
            return CannotExecute(f"cannot execute '{path}': its interpreter is not there")
        return NotFound(f"cannot find '{path}'")
    return CannotExecute(f"cannot execute '{path}': {os.strerror(code)}")


def _child(
    path: str | int,
    arguments: list[bytes],
    environment: Mapping[bytes, bytes],
    filter_program: bytes,
    go_read: int,
    error_write: int,
    inherit: list[int],
    cpus: set[int] | None,
    new_session: bool,
) -> NoReturn:
    try:
        if new_session:
            os.setsid()
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        if cpus is not None:
            os.sched_setaffinity(0, cpus)
        for descriptor in inherit:
            os.set_inheritable(descriptor, True)
        # Addresses must be the same in every host, and low ones free.
        ptrace.raw_syscall(135, ptrace.raw_syscall(135, 0xFFFFFFFF) | _PERSONALITY_ADDR_NO_RANDOMIZE)
        if os.read(go_read, 1) != b"g":
            os._exit(127)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        seccomp.install(filter_program)
        os.execve(path, arguments, environment)
    except OSError as error:
        os.write(error_write, str(error.errno).encode())
    finally:
        os._exit(127)
