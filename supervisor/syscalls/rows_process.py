# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: threads, processes, identities, scheduling, signals, timers and clocks."""

from __future__ import annotations

from typing import Final

from supervisor.syscalls.rows_files import sigset
from supervisor.syscalls.spec import (
    ALWAYS,
    FD,
    LONG,
    PATH,
    POSITIVE,
    RETURNED,
    Arg,
    In,
    InOut,
    Out,
    Row,
    SelfSized,
    Size,
    Texts,
    TimeSize,
    V,
    Where,
    answered,
    handled,
    home,
    int_arg,
    native,
    uint_arg,
)

ENOSYS: Final = -38

RUSAGE: Final = Size(144, 72)
RLIMIT: Final = Size(16, 8)
RLIMIT64: Final = 16
SIGINFO: Final = 128
SIGACTION: Final = Size(32, 20)
STACK: Final = Size(24, 12)
SIGEVENT: Final = 64
ITIMERSPEC: Final = TimeSize(32, 16)
ITIMERVAL: Final = Size(32, 16)
TIMESPEC: Final = TimeSize(16, 8)
TIMEVAL: Final = Size(16, 8)
TIMEZONE: Final = 8
TIMEX: Final = TimeSize(208, 128)
TMS: Final = Size(32, 16)
CLONE_ARGS_MAX: Final = 4096
ROBUST_LIST_HEAD: Final = Size(24, 12)
_CAP_DATA: Final = 24


def _sched_attr(header: bytes) -> int:
    """struct sched_attr begins with its size; 0 means the first version's."""
    return min(int.from_bytes(header[:4], "little") or 48, 4096)


_INFO: Final = In(SIGINFO)

ROWS: Final = (
    # Making and ending threads and processes
    handled("clone", V, V, V, V, V),
    handled("clone3", V, V),
    handled("fork"),
    handled("vfork"),
    handled("execve", PATH, Texts(), Texts()),
    handled("execveat", FD, PATH, Texts(), Texts(), V, by="execve"),
    handled("exit", V),
    handled("exit_group", V),
    home("wait4", V, Out(4, POSITIVE), V, InOut(RUSAGE, POSITIVE), blocks=True),
    home("waitid", V, V, InOut(SIGINFO), V, InOut(RUSAGE), blocks=True),
    handled("set_tid_address", V),
    handled("set_robust_list", V, V),
    handled("get_robust_list", V, Out(LONG), Out(LONG)),
    answered("rseq", ENOSYS, "the kernel would write to guest memory by itself"),
    answered("rseq_slice_yield", ENOSYS),
    handled("futex", V, V, V, V, V, V, blocks=True),
    answered("futex_waitv", ENOSYS),
    answered("futex_wait", ENOSYS),
    answered("futex_wake", ENOSYS),
    answered("futex_requeue", ENOSYS),
    handled("arch_prctl", V, V),
    answered("set_thread_area", ENOSYS, "of i386 only"),
    answered("get_thread_area", ENOSYS, "of i386 only"),
    answered("modify_ldt", ENOSYS, "segments are per process, not per program"),
    handled("membarrier", V, V, V),
    Row("restart_syscall", Where.NATIVE, (), quiet=True),
    home("pidfd_open", V, V),
    home("pidfd_getfd", FD, V, V),
    home("pidfd_send_signal", FD, V, _INFO, V),
    home("kcmp", V, V, V, V, V, quiet=True),
    home("unshare", V),
    home("setns", FD, V),
    # Identities
    native("getpid"),
    native("gettid"),
    native("getppid"),
    native("getpgrp"),
    native("getpgid", V),
    native("getsid", V),
    home("setpgid", V, V),
    home("setsid"),
    native("getuid"),
    native("geteuid"),
    native("getgid"),
    native("getegid"),
    native("setuid", V),
    native("setgid", V),
    native("setreuid", V, V),
    native("setregid", V, V),
    native("setresuid", V, V, V),
    native("setresgid", V, V, V),
    native("setfsuid", V),
    native("setfsgid", V),
    home("getresuid", Out(4), Out(4), Out(4), quiet=True),
    home("getresgid", Out(4), Out(4), Out(4), quiet=True),
    home("getgroups", V, Out(int_arg(0, 4), RETURNED._replace(unit=4), clamp=True), quiet=True),
    home("setgroups", V, In(int_arg(0, 4))),
    home("capget", InOut(8, ALWAYS), InOut(_CAP_DATA, prefix=True), quiet=True),
    home("capset", InOut(8, ALWAYS), In(_CAP_DATA, prefix=True)),
    handled("personality", V),
    # Limits and accounts
    home("getrlimit", V, Out(RLIMIT), quiet=True),
    home("setrlimit", V, In(RLIMIT)),
    home("prlimit64", V, V, In(RLIMIT64), Out(RLIMIT64)),
    home("getrusage", V, Out(RUSAGE), quiet=True),
    home("times", Out(TMS), quiet=True),
    # Scheduling
    Row("sched_yield", Where.NATIVE, (), quiet=True),
    native("getpriority", V, V),
    native("setpriority", V, V, V),
    native("ioprio_get", V, V),
    native("ioprio_set", V, V, V),
    home("sched_setparam", V, In(4)),
    home("sched_getparam", V, Out(4), quiet=True),
    home("sched_setscheduler", V, V, In(4)),
    native("sched_getscheduler", V),
    native("sched_get_priority_max", V),
    native("sched_get_priority_min", V),
    home("sched_rr_get_interval", V, Out(TIMESPEC), quiet=True),
    home("sched_setattr", V, SelfSized(4, _sched_attr, ALWAYS), V),
    home("sched_getattr", V, InOut(uint_arg(2), limit=4096), V, V, quiet=True),
    handled("sched_setaffinity", V, V, In(uint_arg(1))),
    handled("sched_getaffinity", V, V, Out(uint_arg(1), RETURNED, clamp=True, limit=8192)),
    handled("getcpu", Out(4), Out(4), V, quiet=True),
    # Signals
    handled("rt_sigaction", V, In(SIGACTION), Out(SIGACTION), V),
    handled("rt_sigprocmask", V, In(Arg(3), limit=4096), Out(Arg(3), limit=4096), V, quiet=True),
    handled("rt_sigreturn"),
    handled("sigaltstack", In(STACK), Out(STACK)),
    home("rt_sigpending", Out(Arg(1), limit=4096), V, quiet=True),
    home("rt_sigtimedwait", In(Arg(3), limit=4096), Out(SIGINFO, POSITIVE), In(TIMESPEC), V,
         blocks=True),
    home("rt_sigsuspend", sigset(1), V, blocks=True),
    home("rt_sigqueueinfo", V, V, _INFO),
    home("rt_tgsigqueueinfo", V, V, V, _INFO),
    home("kill", V, V),
    home("tkill", V, V),
    home("tgkill", V, V, V),
    home("pause", blocks=True),
    home("alarm", V),
    # Timers and clocks
    home("getitimer", V, Out(ITIMERVAL), quiet=True),
    home("setitimer", V, In(ITIMERVAL), Out(ITIMERVAL)),
    home("timer_create", V, In(SIGEVENT), Out(4)),
    home("timer_settime", V, V, In(ITIMERSPEC), Out(ITIMERSPEC)),
    home("timer_gettime", V, Out(ITIMERSPEC), quiet=True),
    home("timer_getoverrun", V, quiet=True),
    home("timer_delete", V),
    home("timerfd_create", V, V),
    home("timerfd_settime", FD, V, In(ITIMERSPEC), Out(ITIMERSPEC)),
    home("timerfd_gettime", FD, Out(ITIMERSPEC)),
    handled("nanosleep", In(TIMESPEC), InOut(TIMESPEC, ALWAYS), blocks=True),
    handled("clock_nanosleep", V, V, In(TIMESPEC), InOut(TIMESPEC, ALWAYS), blocks=True),
    handled("clock_gettime", V, Out(TIMESPEC), quiet=True),
    handled("clock_getres", V, Out(TIMESPEC), quiet=True),
    handled("gettimeofday", Out(TIMEVAL), Out(TIMEZONE), quiet=True),
    handled("time", Out(LONG), quiet=True),
    home("clock_settime", V, In(TIMESPEC)),
    home("settimeofday", In(TIMEVAL), In(TIMEZONE)),
    home("adjtimex", InOut(TIMEX)),
    home("clock_adjtime", V, InOut(TIMEX)),
)
