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
from typing import Final, NoReturn

from supervisor import given_signals, tasks
from supervisor.errors import CannotExecute, DsmsupError, GuestDied, NotFound
from supervisor.limits import restore_limits
from supervisor.tracee import priority, ptrace, seccomp
from supervisor.tracee.stops import Stop, StopKind, wait_for

_PERSONALITY_ADDR_NO_RANDOMIZE = 0x0040000
_REPORT_BYTES_MAX: Final = 64
"""An errno, and the step that failed where it was not the exec."""

_FAULTS: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


def spawn(
    path: str | int,
    arguments: list[bytes],
    environment: Mapping[bytes, bytes],
    filter_program: bytes | None,
    *,
    cpus: Iterable[int] | None = None,
    new_session: bool = False,
    own_signals: Iterable[int] = (),
) -> int:
    """Start a program under ptrace; it is left at the exit of its execve. Returns its pid.

    `path` may be a descriptor (fexecve); without a filter no system call stops. Of signals
    that dsmsup was started with ignored or blocked it has `own_signals` as by default.
    Raises CannotExecute, NotFound.
    """
    go_read, go_write = os.pipe()
    error_read, error_write = os.pipe()
    pid = tasks.fork()
    if pid == 0:
        os.close(go_write)
        _child(
            path, arguments, environment, filter_program, go_read, error_write,
            None if cpus is None else set(cpus), new_session, own_signals,
        )  # fmt: skip
    os.close(go_read)
    os.close(error_write)
    try:
        try:
            ptrace.seize(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            report = os.read(error_read, _REPORT_BYTES_MAX)  # it may have failed before
            raise (_exec_error(report, path) if report else _no_tracing(error)) from None
        os.write(go_write, b"g")
        _run_to_exec(pid, error_read, path)
    finally:
        os.close(go_write)
        os.close(error_read)
    return pid


def _no_tracing(error: OSError) -> DsmsupError:
    """A process can have one tracer: that of ours may have taken our child first."""
    tracer = _own_tracer()
    if error.errno == errno.EPERM and tracer:
        return DsmsupError(
            f"may not trace the program: dsmsup and its children are already traced, by process "
            f"{tracer} (strace -f, a debugger): run dsmsup without it"
        )
    return DsmsupError(
        f"may not trace a process here ({os.strerror(error.errno or 0)}): ptrace is forbidden by "
        "this system (see /proc/sys/kernel/yama/ptrace_scope, or the container's seccomp profile)"
    )


def _own_tracer() -> int:
    with open("/proc/self/status", encoding="utf-8", errors="surrogateescape") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("TracerPid:"))


def _run_to_exec(pid: int, error_read: int, path: str | int) -> None:
    """Signals that come meanwhile (a terminal's, to the whole group) are the program's."""
    later: list[int] = []
    while True:
        stop: Stop = wait_for(pid)
        match stop.kind:
            case StopKind.EVENT:  # exec is the only event that a lone child can have
                finish_exec(pid)
                for number in later:
                    os.kill(pid, number)
                return
            case StopKind.EXITED | StopKind.KILLED:
                raise _exec_error(os.read(error_read, _REPORT_BYTES_MAX), path)
            case StopKind.SIGNAL if stop.detail in _FAULTS:
                ptrace.cont(pid, stop.detail)
            case StopKind.SIGNAL:
                later.append(stop.detail)
                ptrace.cont(pid)
            case _:
                ptrace.cont(pid)


def finish_exec(pid: int) -> None:
    """From PTRACE_EVENT_EXEC to the exit of the execve, whose return would overwrite rax."""
    ptrace.cont_to_syscall(pid)
    if wait_for(pid).kind is not StopKind.SYSCALL:
        raise GuestDied("the program was killed while it was being started")


def _exec_error(report: bytes, path: str | int) -> DsmsupError:
    code_text, _, step = report.decode().partition(" ")
    if step:
        return DsmsupError(
            f"cannot prepare a process for the program ({step}: {os.strerror(int(code_text))}): "
            "this system forbids it (the container's seccomp profile?)"
        )
    if not report:  # execve(2) kills the process where it finds out too late to return
        return CannotExecute(
            f"cannot execute '{path}': the kernel cannot load it (a damaged ELF file?)"
        )
    code = int(code_text)
    if code == errno.ENOENT:
        if isinstance(path, str) and os.path.exists(path):
            return CannotExecute(f"cannot execute '{path}': its interpreter is not there")
        return NotFound(f"cannot find '{path}'")
    return CannotExecute(f"cannot execute '{path}': {os.strerror(code)}")


def _child(
    path: str | int,
    arguments: list[bytes],
    environment: Mapping[bytes, bytes],
    filter_program: bytes | None,
    go_read: int,
    error_write: int,
    cpus: set[int] | None,
    new_session: bool,
    own_signals: Iterable[int],
) -> NoReturn:
    step = ""
    try:
        if new_session:
            os.setsid()
        if cpus is not None:
            step = " sched_setaffinity"
            os.sched_setaffinity(0, cpus)
        # Addresses must be the same in every host, and low ones free.
        step = " personality"
        personality = ptrace.raw_syscall(135, 0xFFFFFFFF)
        ptrace.raw_syscall(135, personality | _PERSONALITY_ADDR_NO_RANDOMIZE)
        if os.read(go_read, 1) != b"g":
            os._exit(127)
        step = " setrlimit"
        restore_limits()
        priority.restore()
        given_signals.restore(but=own_signals)
        if filter_program is not None:
            step = " seccomp"
            seccomp.install(filter_program)
        step = ""
        os.execve(path, arguments, environment)
    except OSError as error:
        os.write(error_write, f"{error.errno}{step}".encode())
    finally:
        os._exit(127)
