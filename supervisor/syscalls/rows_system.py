# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: the machine as a whole, and what is refused."""

from __future__ import annotations

from typing import Final

from supervisor.syscalls.spec import (
    RETURNED,
    Data,
    In,
    Out,
    Size,
    V,
    answered,
    home,
    int_arg,
    refused,
)

ENOSYS: Final = -38
EPERM: Final = -1

UTSNAME: Final = 390
SYSINFO: Final = Size(112, 64)

_NOT_IN_KERNEL: Final = (
    "uselib", "_sysctl", "create_module", "get_kernel_syms", "query_module", "nfsservctl",
    "getpmsg", "putpmsg", "afs_syscall", "tuxcall", "security", "vserver", "lookup_dcookie",
    "uretprobe", "uprobe",
)  # fmt: skip
_AIO: Final = (
    "io_setup", "io_destroy", "io_getevents", "io_submit", "io_cancel", "io_pgetevents",
)  # fmt: skip
_IO_URING: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register")
_MODULES: Final = (
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
)  # fmt: skip
_KEYS: Final = ("add_key", "request_key", "keyctl")
_LANDLOCK: Final = (
    "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
)  # fmt: skip
_LSM: Final = ("lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules")

ROWS: Final = (
    home("uname", Out(UTSNAME), quiet=True),
    home("sysinfo", Out(SYSINFO), quiet=True),
    home("sethostname", In(int_arg(1), limit=4096), V),
    home("setdomainname", In(int_arg(1), limit=4096), V),
    home("syslog", V, Out(int_arg(2), RETURNED, limit=1 << 20, clamp=True), V),
    home("vhangup"),
    home("getrandom", Data(1, out=True), V, V, quiet=True),
    *(answered(name, ENOSYS, "no longer in the kernel") for name in _NOT_IN_KERNEL),
    *(refused(name, ENOSYS, "the kernel would use the buffers after the call") for name in _AIO),
    *(refused(name, ENOSYS, "the kernel would use guest memory by itself") for name in _IO_URING),
    *(refused(name, EPERM, "changes the kernel of one host only") for name in _MODULES),
    *(answered(name, ENOSYS, "as without CONFIG_KEYS") for name in _KEYS),
    *(answered(name, ENOSYS, "would confine the supervisor's own calls") for name in _LANDLOCK),
    *(answered(name, ENOSYS) for name in _LSM),
    refused("ptrace", EPERM, "the program is traced by its supervisor already"),
    refused("perf_event_open", ENOSYS, "would count one host only"),
    refused("seccomp", ENOSYS, "would filter the supervisor's own calls"),
    refused("bpf", EPERM, "changes the kernel of one host only"),
    refused("iopl", EPERM, "ports of one host only"),
    refused("ioperm", EPERM, "ports of one host only"),
)
