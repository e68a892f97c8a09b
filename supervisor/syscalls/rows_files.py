# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: files, directories, descriptors, file systems, events on descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor.syscalls.spec import (
    ALWAYS,
    FD,
    LONG,
    NAME,
    PATH,
    PATH_MAX,
    RETURNED,
    XATTR_NAME_MAX,
    XATTR_SIZE_MAX,
    Arg,
    Args,
    Buffer,
    Data,
    Either,
    In,
    Inner,
    InOut,
    Out,
    Row,
    Rule,
    SelfSized,
    Size,
    Struct,
    Text,
    TimeSize,
    V,
    Valid,
    Vector,
    answered,
    chosen,
    handled,
    home,
    int_arg,
    native,
    uint_arg,
)

ENOSYS: Final = -38

STAT: Final = Size(144, 64)
STATFS: Final = Size(120, 64)
STATX: Final = 256
TIMESPEC: Final = TimeSize(16, 8)
TIMEVAL: Final = Size(16, 8)
UTIMBUF: Final = Size(16, 8)
USTAT: Final = Size(32, 20)
POLLFD: Final = 8
EPOLL_EVENT: Final = 12
SIGSET: Final = 8
FS_DISK_QUOTA: Final = 112
FS_QUOTA_STAT: Final = Size(80, 68)
FS_QUOTA_STATV: Final = 160

_OFFSET: Final = InOut(8)
_TIMEOUT_LEFT: Final = InOut(TIMESPEC, ALWAYS, optional=True)

def sigset(position: int) -> Buffer:
    """A mask that is put in force for a while; its size in bytes is an argument."""
    return In(Arg(position), limit=4096)


def _fd_set_of(bits: int) -> Callable[[Args], int]:
    def length(args: Args) -> int:
        count = args[0] & 0xFFFFFFFF
        return 0 if count >> 31 else (count + bits - 1) // bits * (bits // 8)

    return length


# The kernel looks no further than the process's descriptor table goes, so programs may
# well ask for more (getdtablesize()) than their sets have room for.
_FD_SET: Final = InOut(Either(_fd_set_of(64), _fd_set_of(32)), prefix=True)


def _file_handle(header: bytes) -> int:
    """struct file_handle: handle_bytes, type, bytes (MAX_HANDLE_SZ is 128)."""
    return 8 + min(int.from_bytes(header[:4], "little"), 129)


def _mount_id(args: Args) -> int:
    """int, or u64 with AT_HANDLE_MNT_ID_UNIQUE."""
    return 8 if args[4] & 1 else 4


def _sized(header: bytes) -> int:
    """A struct that begins with its size, as an u32."""
    return min(int.from_bytes(header[:4], "little"), 4096)


def _quota(args: Args) -> Row:
    """quotactl(cmd, special, id, addr); commands of linux/quota.h and dqblk_xfs.h."""
    return _QUOTA.get((args[0] & 0xFFFFFFFF) >> 8, _QUOTA_NONE)


def _quota_fd(args: Args) -> Row:
    return _QUOTA_FD.get((args[1] & 0xFFFFFFFF) >> 8, _QUOTA_FD_NONE)


_DQBLK: Final = Size(72, 68)
_QUOTA_BUFFERS: Final = {
    0x800002: PATH,  # Q_QUOTAON
    0x800004: Out(4),  # Q_GETFMT
    0x800005: Out(24),  # Q_GETINFO
    0x800006: In(24),  # Q_SETINFO
    0x800007: Out(_DQBLK),  # Q_GETQUOTA
    0x800008: In(_DQBLK),  # Q_SETQUOTA
    0x800009: Out(_DQBLK),  # Q_GETNEXTQUOTA
    0x5801: In(4),  # Q_XQUOTAON
    0x5802: In(4),  # Q_XQUOTAOFF
    0x5803: InOut(FS_DISK_QUOTA),  # Q_XGETQUOTA
    0x5804: In(FS_DISK_QUOTA),  # Q_XSETQLIM
    0x5805: InOut(FS_QUOTA_STAT),  # Q_XGETQSTAT
    0x5806: In(4),  # Q_XQUOTARM
    0x5808: InOut(FS_QUOTA_STATV),  # Q_XGETQSTATV
    0x5809: InOut(FS_DISK_QUOTA),  # Q_XGETNEXTQUOTA
}
_QUOTA: Final = {
    command: home("quotactl", V, PATH, V, kind) for command, kind in _QUOTA_BUFFERS.items()
}
_QUOTA_NONE: Final = home("quotactl", V, PATH, V, V)
_QUOTA_FD: Final = {
    command: home("quotactl_fd", FD, V, V, kind) for command, kind in _QUOTA_BUFFERS.items()
}
_QUOTA_FD_NONE: Final = home("quotactl_fd", FD, V, V, V)


def _fsconfig(args: Args) -> Row:
    """fsconfig(fd, cmd, key, value, aux) by cmd (enum fsconfig_command)."""
    return _FSCONFIG.get(args[1] & 0xFFFFFFFF, _FSCONFIG_OTHER)


_FSCONFIG: Final = {
    0: home("fsconfig", FD, V, Text(256), V, V),  # SET_FLAG
    1: home("fsconfig", FD, V, Text(256), Text(256), V),  # SET_STRING
    2: home("fsconfig", FD, V, Text(256), In(int_arg(4), limit=1 << 20), V),  # SET_BINARY
    3: home("fsconfig", FD, V, Text(256), PATH, V),  # SET_PATH
    4: home("fsconfig", FD, V, Text(256), PATH, V),  # SET_PATH_EMPTY
    5: home("fsconfig", FD, V, Text(256), V, V),  # SET_FD
}
_FSCONFIG_OTHER: Final = home("fsconfig", FD, V, V, V, V)


def _xattr_args(reads: bool) -> Struct:
    """struct xattr_args: u64 value, u32 size, u32 flags."""
    inner = Inner(
        0,
        lambda data: min(int.from_bytes(data[8:12], "little"), XATTR_SIZE_MAX),
        reads,
        Valid(Rule.NONE) if reads else RETURNED,
    )
    return Struct(16, (inner,))


_VALUE_IN: Final = In(Arg(3), limit=XATTR_SIZE_MAX)
_VALUE_OUT: Final = Out(Arg(3), RETURNED, limit=XATTR_SIZE_MAX, clamp=True)
_LIST_OUT: Final = Out(Arg(2), RETURNED, limit=XATTR_SIZE_MAX, clamp=True)
_TEXT_OUT: Final = {"limit": PATH_MAX, "clamp": True}
_DIRECTORY: Final = Out(uint_arg(2), RETURNED, limit=1 << 20, clamp=True)

_SIGSET_AND_SIZE: Final = Struct(
    2 * LONG,
    (Inner(0, lambda data: min(int.from_bytes(data[len(data) // 2 :], "little"), 4096)),),
)  # fmt: skip
"""A pointer to a mask, and the mask's size."""

ROWS: Final = (
    # Data
    home("read", FD, Data(2, out=True), V, blocks=True),
    home("write", FD, Data(2, out=False), V, blocks=True),
    home("pread64", FD, Data(2, out=True, position=3), V, V, blocks=True),
    home("pwrite64", FD, Data(2, out=False, position=3), V, V, blocks=True),
    home("readv", FD, Vector(2, out=True), V, blocks=True),
    home("writev", FD, Vector(2, out=False), V, blocks=True),
    home("preadv", FD, Vector(2, out=True, position=3), V, V, V, blocks=True),
    home("pwritev", FD, Vector(2, out=False, position=3), V, V, V, blocks=True),
    home("preadv2", FD, Vector(2, out=True, position=3), V, V, V, V, blocks=True),
    home("pwritev2", FD, Vector(2, out=False, position=3), V, V, V, V, blocks=True),
    home("sendfile", FD, FD, _OFFSET, V, blocks=True),
    home("splice", FD, _OFFSET, FD, _OFFSET, V, V, blocks=True),
    home("tee", FD, FD, V, V, blocks=True),
    home("copy_file_range", FD, _OFFSET, FD, _OFFSET, V, V, blocks=True),
    handled("vmsplice", FD, Vector(2, out=False), V, blocks=True),
    home("lseek", FD, V, V),
    home("readahead", FD, V, V, quiet=True),
    home("fadvise64", FD, V, V, V, quiet=True),
    home("fallocate", FD, V, V, V),
    home("ftruncate", FD, V),
    home("truncate", PATH, V),
    home("fsync", FD),
    home("fdatasync", FD),
    home("sync_file_range", FD, V, V, V),
    native("sync"),
    home("syncfs", FD),
    home("flock", FD, V, blocks=True),
    home("cachestat", FD, In(16), Out(40), V, quiet=True),
    # Opening and descriptors
    handled("open", PATH, V, V, blocks=True),
    handled("openat", FD, PATH, V, V, by="open", blocks=True),
    handled("openat2", FD, PATH, In(Arg(3), limit=4096), V, by="open", blocks=True),
    handled("creat", PATH, V, by="open"),
    home("close", FD),
    home("close_range", V, V, V),
    home("dup", FD),
    home("dup2", FD, FD),
    home("dup3", FD, FD, V),
    home("pipe", Out(8)),
    home("pipe2", Out(8), V),
    home("name_to_handle_at", FD, PATH, SelfSized(4, _file_handle, ALWAYS),
         InOut(_mount_id, ALWAYS), V),
    home("open_by_handle_at", FD, SelfSized(8, _file_handle), V),
    home("memfd_create", Text(256), V),
    answered("memfd_secret", ENOSYS, "memory that the supervisor could not reach"),
    # Names
    home("access", PATH, V),
    home("faccessat", FD, PATH, V),
    home("faccessat2", FD, PATH, V, V),
    home("stat", PATH, Out(STAT)),
    home("fstat", FD, Out(STAT), quiet=True),
    home("lstat", PATH, Out(STAT)),
    home("newfstatat", FD, PATH, Out(STAT), V),
    home("statx", FD, PATH, V, V, Out(STATX)),
    home("statfs", PATH, Out(STATFS)),
    home("fstatfs", FD, Out(STATFS), quiet=True),
    home("ustat", V, Out(USTAT)),
    handled("readlink", PATH, Out(int_arg(2), RETURNED, **_TEXT_OUT), V),
    handled("readlinkat", FD, PATH, Out(int_arg(3), RETURNED, **_TEXT_OUT), V, by="readlink"),
    home("getcwd", Out(Arg(1), RETURNED, **_TEXT_OUT), V, quiet=True),
    home("chdir", PATH),
    home("fchdir", FD),
    home("chroot", PATH),
    home("pivot_root", PATH, PATH),
    home("rename", PATH, PATH),
    home("renameat", FD, PATH, FD, PATH),
    home("renameat2", FD, PATH, FD, PATH, V),
    home("mkdir", PATH, V),
    home("mkdirat", FD, PATH, V),
    home("rmdir", PATH),
    home("link", PATH, PATH),
    home("linkat", FD, PATH, FD, PATH, V),
    home("unlink", PATH),
    home("unlinkat", FD, PATH, V),
    home("symlink", PATH, PATH),
    home("symlinkat", PATH, FD, PATH),
    home("mknod", PATH, V, V),
    home("mknodat", FD, PATH, V, V),
    home("chmod", PATH, V),
    home("fchmod", FD, V),
    home("fchmodat", FD, PATH, V),
    home("fchmodat2", FD, PATH, V, V),
    home("chown", PATH, V, V),
    home("fchown", FD, V, V),
    home("lchown", PATH, V, V),
    home("fchownat", FD, PATH, V, V, V),
    home("utime", PATH, In(UTIMBUF)),
    home("utimes", PATH, In(2 * TIMEVAL)),
    home("futimesat", FD, PATH, In(2 * TIMEVAL)),
    home("utimensat", FD, PATH, In(2 * TIMESPEC), V),
    home("getdents", FD, _DIRECTORY, V),
    home("getdents64", FD, _DIRECTORY, V),
    native("umask", V),
    home("file_getattr", FD, PATH, InOut(Arg(3), limit=4096), V, V),
    home("file_setattr", FD, PATH, In(Arg(3), limit=4096), V, V),
    # Extended attributes
    home("setxattr", PATH, NAME, _VALUE_IN, V, V),
    home("lsetxattr", PATH, NAME, _VALUE_IN, V, V),
    home("fsetxattr", FD, NAME, _VALUE_IN, V, V),
    home("setxattrat", FD, PATH, V, NAME, _xattr_args(True), V),
    home("getxattr", PATH, NAME, _VALUE_OUT, V),
    home("lgetxattr", PATH, NAME, _VALUE_OUT, V),
    home("fgetxattr", FD, NAME, _VALUE_OUT, V),
    home("getxattrat", FD, PATH, V, NAME, _xattr_args(False), V),
    home("listxattr", PATH, _LIST_OUT, V),
    home("llistxattr", PATH, _LIST_OUT, V),
    home("flistxattr", FD, _LIST_OUT, V),
    home("listxattrat", FD, PATH, V,
         Out(Arg(4), RETURNED, limit=XATTR_SIZE_MAX, clamp=True), V),
    home("removexattr", PATH, NAME),
    home("lremovexattr", PATH, NAME),
    home("fremovexattr", FD, NAME),
    home("removexattrat", FD, PATH, V, Text(XATTR_NAME_MAX)),
    # Waiting for descriptors
    home("poll", InOut(uint_arg(1, POLLFD)), V, V, blocks=True),
    home("ppoll", InOut(uint_arg(1, POLLFD)), V, _TIMEOUT_LEFT, sigset(4), V, blocks=True),
    home("select", V, _FD_SET, _FD_SET, _FD_SET, InOut(TIMEVAL, ALWAYS, optional=True),
         blocks=True),
    home("pselect6", V, _FD_SET, _FD_SET, _FD_SET, _TIMEOUT_LEFT,
         _SIGSET_AND_SIZE, blocks=True),
    home("epoll_create", V),
    home("epoll_create1", V),
    home("epoll_ctl", FD, V, FD, In(EPOLL_EVENT)),
    home("epoll_wait", FD, Out(int_arg(2, EPOLL_EVENT), RETURNED._replace(unit=EPOLL_EVENT),
                               limit=1 << 20, clamp=True), V, V, blocks=True),
    home("epoll_pwait", FD, Out(int_arg(2, EPOLL_EVENT), RETURNED._replace(unit=EPOLL_EVENT),
                                limit=1 << 20, clamp=True), V, V, sigset(5), V, blocks=True),
    home("epoll_pwait2", FD, Out(int_arg(2, EPOLL_EVENT), RETURNED._replace(unit=EPOLL_EVENT),
                                 limit=1 << 20, clamp=True), V, In(16), sigset(5), V,
         blocks=True),
    answered("epoll_ctl_old", ENOSYS),
    answered("epoll_wait_old", ENOSYS),
    home("eventfd", V),
    home("eventfd2", V, V),
    home("signalfd", FD, In(Arg(2), limit=4096), V),
    home("signalfd4", FD, In(Arg(2), limit=4096), V, V),
    home("inotify_init"),
    home("inotify_init1", V),
    home("inotify_add_watch", FD, PATH, V),
    home("inotify_rm_watch", FD, V),
    home("fanotify_init", V, V),
    home("fanotify_mark", FD, V, V, FD, PATH),
    # File systems
    home("mount", Text(), PATH, Text(), V, In(4096, prefix=True)),
    home("umount2", PATH, V),
    home("swapon", PATH, V),
    home("swapoff", PATH),
    home("acct", PATH),
    chosen("quotactl", _quota),
    chosen("quotactl_fd", _quota_fd),
    home("open_tree", FD, PATH, V),
    home("open_tree_attr", FD, PATH, V, In(Arg(4), limit=4096), V),
    home("move_mount", FD, PATH, FD, PATH, V),
    home("fsopen", Text(), V),
    chosen("fsconfig", _fsconfig),
    home("fsmount", FD, V, V),
    home("fspick", FD, PATH, V),
    home("mount_setattr", FD, PATH, V, In(Arg(4), limit=4096), V),
    home("statmount", SelfSized(4, _sized), InOut(Arg(2), limit=1 << 20, clamp=True), V, V),
    home("listmount", SelfSized(4, _sized),
         Out(Arg(2, 8), RETURNED._replace(unit=8), limit=1 << 20, clamp=True), V, V),
    home("listns", SelfSized(4, _sized),
         Out(Arg(2, 8), RETURNED._replace(unit=8), limit=1 << 20, clamp=True), V, V),
    answered("sysfs", ENOSYS, "obsolete"),
)
