# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of test programs: what each is run with, and what to expect of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import harness


class Program(NamedTuple):
    """One row. `threads` is how many threads besides main are alive at once; 0 or 1 for
    a program that need not spread. `order_free` programs print lines in any order.
    `fetches` pages must reach other hosts than home, all together, when the threads do
    run on two hosts: that many times the program hands a message from one to the other.
    """

    name: str
    args: tuple[str, ...] = ()
    threads: int = 4
    status: int = 0
    fetches: int = 0
    order_free: bool = False
    stdin: bytes = b""
    compare_stderr: bool = False

    @property
    def path(self) -> Path:
        return harness.BIN / self.name

    @property
    def argv(self) -> list[str]:
        return [str(self.path), *self.args]

    @property
    def id(self) -> str:
        return "-".join([self.name, *self.args])

    def output(self, stdout: bytes) -> bytes | list[bytes]:
        """What of its output is the same in every run."""
        return sorted(stdout.splitlines()) if self.order_free else stdout


SYNCHRONIZATION = [
    Program("mutex"),
    Program("condvar"),
    Program("barrier", fetches=20),
    Program("rwlock"),
    Program("semaphore", fetches=60),
    Program("futex_all"),
    Program("spinlock"),
    Program("pthread_spin", threads=3),
    Program("atomics"),
    Program("flag_message", threads=1, fetches=60),
    Program("flag_message", ("60", "0"), threads=2),
    Program("flag_plain", threads=1),
    Program("dekker_mfence", threads=1),
    Program("dekker_mfence", ("100", "0"), threads=2),
    Program("dekker_xchg", threads=1),
    Program("dekker_xchg", ("100", "0"), threads=2),
    Program("asymmetric", threads=2),
    Program("robust_mutex", threads=1),
    Program("timed_waits"),
    Program("false_sharing"),
    Program("bit_strings"),
    Program("page_crossing", threads=3),
    Program("clock_order"),
    Program("clock_signals", threads=1),
    Program("clock_moves", threads=0),
    Program("clock_messages", threads=1),
]

THREADS = [
    Program("tls"),
    Program("large_tls"),
    Program("once", fetches=10),
    Program("detach", threads=0),
    Program("nested", threads=3),
    Program("nested", ("2", "4"), threads=2),
    Program("sequence", threads=1),
    Program("join_values", threads=0),
    Program("main_exits", threads=0),
    Program("child_threads", threads=0),
    Program("untraced"),
    Program("new_tasks", threads=1),
    Program("given_stacks", threads=3),
    Program("own_tables"),
    Program("short_threads", threads=2),
    Program("gives_up_user", threads=0),
    Program("exit_thread", status=7),
    Program("cancel", threads=3),
    Program("ids"),
    Program("errno_thread"),
    Program("memory_policy"),
    Program("moved_registers", threads=3),
    Program("mutex", ("12", "50"), threads=12),
]

MEMORY = [
    Program("malloc_all"),
    Program("mmap_churn"),
    Program("mmap_hints"),
    Program("shadow_memory", threads=1),
    Program("mprotect"),
    Program("jit"),
    Program("jit", ("4", "20", "1")),
    Program("changed_code", threads=1),
    Program("changed_code", ("8", "1"), threads=1),
    Program("deep_stack", threads=0),
    Program("brk_growth"),
    Program("memory_limits", threads=1),
    Program("own_memory", threads=1),
    Program("made_files", threads=1),
    Program("remap", threads=1),
    Program("beyond_file", threads=1),
    Program("transfers", threads=1),
    Program("written_file", threads=1),
    Program("mapped_names", threads=1, order_free=True),
    Program("holes", threads=3),
    Program("sparse_file", threads=0),
    Program("stream", threads=1),
    Program("stream", ("64", "0"), threads=2),
]

CALLS = [
    Program("stdio_all", order_free=True),
    Program("pipe_threads"),
    Program("file_io"),
    Program("large_io", threads=0),
    Program("poll_sleep"),
    Program("layouts", threads=3),
    Program("ends_at_once", threads=0, status=9),
    Program("child_memory", threads=0),
    Program("forks_at_once"),
    Program("sysv_memory", threads=0),
    Program("echo", threads=2, stdin=bytes(range(256)) * 300, compare_stderr=True),
    Program("echo", ("empty",), threads=2, compare_stderr=True),
]

SIGNALS = [
    Program("signal_alarm", threads=2),
    Program("forced_waits", threads=1),
    Program("sent_traps", threads=1),
    Program("interrupted_waits", threads=1),
    Program("wait_masks", threads=1),
    Program("signal_self", threads=0),
    Program("signal_thread", threads=3),
    Program("fault_address", threads=0),
    Program("segv_main", threads=2, status=139),
    Program("segv_thread", threads=4, status=139),
    Program("abort_thread", threads=1, status=134),
    Program("abort_thread", ("0",), threads=0, status=134),
    Program("cpu_limit", threads=1, status=137),
    Program("forced_masks", threads=1, status=139),
    Program("status", ("0",), threads=0),
    Program("status", ("1",), threads=0, status=1),
    Program("status", ("255",), threads=0, status=255),
]

LANGUAGES = [
    Program("cxx_threads"),
    Program("cxx_exceptions", threads=0),
    Program("cxx_futures", threads=6),
    Program("omp_loops", threads=3),
    Program("omp_tasks", threads=3),
    Program("omp_matmul", threads=3),
]

COMPUTE = [
    Program("matmul", threads=0),
    Program("pi", threads=4),
    Program("nqueens", threads=4),
    Program("mandelbrot", threads=4),
]

VARIANTS = [
    Program(f"{name}_{kind}", threads=threads, order_free=name == "stdio_all")
    for kind, names in {
        "static": {
            "mutex": 4, "condvar": 4, "tls": 4, "malloc_all": 4, "stdio_all": 4, "nested": 3,
            "file_io": 4, "cancel": 3, "omp_loops": 3, "cxx_exceptions": 0,
        },
        "nopie": {
            "mutex": 4, "condvar": 4, "tls": 4, "malloc_all": 4, "stdio_all": 4, "nested": 3,
            "deep_stack": 0, "omp_loops": 3, "cxx_exceptions": 0,
        },
        "staticpie": {"mutex": 4, "tls": 4},
    }.items()
    for name, threads in names.items()
]

I386_KINDS = {
    "m32": (
        "mutex", "condvar", "barrier", "tls", "atomics", "page_crossing", "robust_mutex",
        "malloc_all", "brk_growth", "mprotect", "stdio_all", "file_io", "poll_sleep", "layouts",
        "signal_alarm", "signal_self", "signal_thread", "segv_thread", "cancel", "nested",
        "cxx_threads", "cxx_exceptions", "omp_loops", "cpu_limit", "forced_masks", "forced_waits",
        "interrupted_waits", "wait_masks", "new_tasks",
        "sysv_memory", "memory_limits", "own_memory", "memory_policy", "futex_all",
        "forks_at_once", "bit_strings", "sparse_file", "child_memory", "remap",
        "beyond_file", "transfers", "written_file",
    ),
    "m32static": ("mutex", "tls", "malloc_all", "cancel", "cxx_exceptions"),
    "m32nopie": ("mutex", "condvar", "omp_loops"),
}

_BY_NAME = {
    program.name: program
    for program in reversed(
        [*SYNCHRONIZATION, *THREADS, *MEMORY, *CALLS, *SIGNALS, *LANGUAGES, *COMPUTE]
    )
}

VARIANTS += [
    _BY_NAME[name]._replace(name=f"{name}_{kind}")
    for kind, names in I386_KINDS.items()
    for name in names
]

ALL = [
    *SYNCHRONIZATION, *THREADS, *MEMORY, *CALLS, *SIGNALS, *LANGUAGES, *COMPUTE, *VARIANTS,
]
