# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers and sizes of structures, against this machine's kernel headers by gcc."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from supervisor.arch import I386, X86_64, Arch
from supervisor.syscalls import (
    nested,
    rows_control,
    rows_files,
    rows_i386,
    rows_ioctl,
    rows_ipc,
    rows_network,
    rows_process,
    rows_system,
)
from supervisor.syscalls.spec import LONG, Size

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

HEADERS = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/msg.h>
#include <sys/shm.h>
#include <sys/quota.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <mqueue.h>
#include <signal.h>
#include <time.h>
#include <utime.h>
#include <linux/capability.h>
#include <linux/dqblk_xfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/hdreg.h>
#include <linux/loop.h>
#include <linux/serial.h>
#include <linux/filter.h>
"""

KERNEL_TERMIOS = "#include <asm/termbits.h>\n#include <asm/termios.h>\n#include <stdio.h>\n"

SIZES = {
    "struct stat": rows_files.STAT,
    "struct statfs": rows_files.STATFS,
    "struct statx": rows_files.STATX,
    "struct flock": rows_control.FLOCK,
    "struct timespec": rows_files.TIMESPEC,
    "struct timeval": rows_files.TIMEVAL,
    "struct utimbuf": rows_files.UTIMBUF,
    "struct pollfd": rows_files.POLLFD,
    "struct epoll_event": rows_files.EPOLL_EVENT,
    "struct iovec": 2 * LONG,
    "struct msghdr": Size(*(header.size for header in nested.HEADERS.values())),
    "struct mmsghdr": Size(*(header.with_count for header in nested.HEADERS.values())),
    "struct sockaddr_storage": rows_network.SOCKADDR_MAX,
    "struct sock_fprog": 2 * LONG,
    "struct sock_filter": 8,
    "struct rusage": rows_process.RUSAGE,
    "struct rlimit": rows_process.RLIMIT,
    "siginfo_t": rows_process.SIGINFO,
    "stack_t": rows_process.STACK,
    "struct sigevent": rows_process.SIGEVENT,
    "struct itimerspec": rows_process.ITIMERSPEC,
    "struct itimerval": rows_process.ITIMERVAL,
    "struct timezone": rows_process.TIMEZONE,
    "struct timex": rows_process.TIMEX,
    "struct tms": rows_process.TMS,
    "struct robust_list_head": rows_process.ROBUST_LIST_HEAD,
    "struct __user_cap_header_struct": 8,
    "struct __user_cap_data_struct [2]": 24,
    "struct utsname": rows_system.UTSNAME,
    "struct sysinfo": rows_system.SYSINFO,
    "struct semid_ds": rows_ipc.SEMID_DS,
    "struct msqid_ds": rows_ipc.MSGID_DS,
    "struct shmid_ds": rows_ipc.SHMID_DS,
    "struct seminfo": rows_ipc.SEMINFO,
    "struct msginfo": rows_ipc.MSGINFO,
    "struct shminfo": rows_ipc.SHMINFO,
    "struct shm_info": rows_ipc.SHM_INFO,
    "struct sembuf": rows_ipc.SEMBUF,
    "struct mq_attr": rows_ipc.MQ_ATTR,
    "struct dqblk": Size(72, 68),
    "struct dqinfo": 24,
    "struct fs_disk_quota": rows_files.FS_DISK_QUOTA,
    "struct fs_quota_stat": rows_files.FS_QUOTA_STAT,
    "struct fs_quota_statv": rows_files.FS_QUOTA_STATV,
    "struct ifreq": rows_ioctl.IFREQ,
    "struct ifconf": 2 * LONG,
    "struct arpreq": rows_ioctl.ARPREQ,
    "struct fiemap": rows_ioctl.FIEMAP,
    "struct fiemap_extent": rows_ioctl.FIEMAP_EXTENT,
    "struct file_dedupe_range": 24,
    "struct file_dedupe_range_info": 32,
    "struct hd_geometry": rows_ioctl.HD_GEOMETRY,
    "struct loop_info64": rows_ioctl.LOOP_INFO64,
    "struct serial_struct": rows_ioctl.SERIAL_STRUCT,
    "struct serial_rs485": rows_ioctl.SERIAL_RS485,
    "struct serial_icounter_struct": rows_ioctl.SERIAL_ICOUNTER,
}

KERNEL_SIZES = {
    "struct termios": rows_ioctl.TERMIOS,
    "struct termio": rows_ioctl.TERMIO,
    "struct winsize": rows_ioctl.WINSIZE,
}

OFFSETS = {
    "offsetof(struct msghdr, msg_name)": 0,
    "offsetof(struct msghdr, msg_namelen)": 8,
    "offsetof(struct msghdr, msg_iov)": 16,
    "offsetof(struct msghdr, msg_iovlen)": 24,
    "offsetof(struct msghdr, msg_control)": 32,
    "offsetof(struct msghdr, msg_controllen)": 40,
    "offsetof(struct mmsghdr, msg_len)": 56,
    "offsetof(struct sock_fprog, filter)": 8,
    "offsetof(struct ifconf, ifc_ifcu)": 8,
    "offsetof(struct fiemap, fm_extent_count)": 24,
    "offsetof(struct file_dedupe_range, dest_count)": 16,
    "offsetof(struct sigevent, sigev_notify)": 12,
    "offsetof(struct dqinfo, dqi_flags)": 16,
}


KERNEL_STAT = "#include <asm/stat.h>\n#include <stdio.h>\n"

I386_OFFSETS = {
    "offsetof(struct msghdr, msg_name)": nested.HEADERS[4].name,
    "offsetof(struct msghdr, msg_namelen)": nested.HEADERS[4].namelen,
    "offsetof(struct msghdr, msg_iov)": nested.HEADERS[4].iov,
    "offsetof(struct msghdr, msg_control)": nested.HEADERS[4].control,
    "offsetof(struct msghdr, msg_controllen)": nested.HEADERS[4].controllen,
    "offsetof(struct sock_fprog, filter)": 4,
    "offsetof(struct ifconf, ifc_ifcu)": 4,
    "offsetof(struct sigevent, sigev_notify)": 8,
    "sizeof(struct flock64)": rows_i386.FLOCK64,
    "sizeof(struct statfs64)": rows_i386.STATFS64,
    "sizeof(stack_t)": I386.stack.size,
    "sizeof(struct robust_list_head)": I386.robust_list.size,
}


def run_c(tmp_path: Path, source: str, *options: str) -> list[int]:
    (tmp_path / "print.c").write_text(source)
    subprocess.run(
        ["gcc", *options, "-o", "print", "print.c"], cwd=tmp_path, check=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    out = subprocess.run(["./print"], cwd=tmp_path, check=True, capture_output=True, timeout=10)
    return [int(line) for line in out.stdout.split()]


def program(headers: str, expressions: list[str]) -> str:
    lines = [f'  printf("%d\\n", (int)({text}));' for text in expressions]
    return headers + "int main(void) {\n" + "\n".join(lines) + "\n  return 0;\n}\n"


@pytest.mark.parametrize(
    ("arch", "header", "without"),
    [(X86_64, "asm/unistd_64.h", {335, 336}), (I386, "asm/unistd_32.h", set())],
    ids=lambda value: getattr(value, "name", ""),
)
def test_numbers(tmp_path: Path, arch: Arch, header: str, without: set[int]) -> None:
    macros = subprocess.run(
        ["gcc", "-E", "-dM", "-"], input=f"#include <{header}>\n".encode(), check=True,
        capture_output=True, cwd=tmp_path, timeout=60,
    ).stdout.decode()
    headers = {
        words[1].removeprefix("__NR_"): int(words[2])
        for words in (line.split() for line in macros.splitlines())
        if len(words) == 3 and words[1].startswith("__NR_")
    }
    assert len(headers) > 350
    assert {name: arch.numbers.get(name) for name in headers} == headers
    # Beyond the headers of this machine there are newer calls, and only such.
    newest = max(headers.values())
    assert {number for number, name in arch.names.items() if name not in headers} <= {
        *without, *range(newest + 1, newest + 100),
    }


def test_sizes(tmp_path: Path) -> None:
    expressions = [f"sizeof({name})" for name in SIZES] + list(OFFSETS)
    sizes = run_c(tmp_path, program(HEADERS, expressions))
    expected = {**SIZES, **OFFSETS}
    assert dict(zip(expected, sizes, strict=True)) == expected


def test_sizes_of_i386(tmp_path: Path) -> None:
    """By the compiler's 32-bit layouts, or the kernel's own where libc's differ."""
    sizes = {
        f"sizeof({name})": getattr(size, "narrow", size)
        for name, size in SIZES.items() if name != "struct stat"
    } | I386_OFFSETS  # fmt: skip
    found = run_c(tmp_path, program(HEADERS, list(sizes)), "-m32")
    assert dict(zip(sizes, found, strict=True)) == sizes
    stats = run_c(
        tmp_path, program(KERNEL_STAT, ["sizeof(struct stat)", "sizeof(struct stat64)"]), "-m32"
    )
    assert stats == [rows_files.STAT.narrow, rows_i386.STAT64]
    assert rows_process.SIGACTION.narrow == I386.action.size


def test_sizes_of_terminals(tmp_path: Path) -> None:
    sizes = run_c(tmp_path, program(KERNEL_TERMIOS, [f"sizeof({name})" for name in KERNEL_SIZES]))
    assert dict(zip(KERNEL_SIZES, sizes, strict=True)) == KERNEL_SIZES


REQUESTS = """
TCGETS TCSETS TCSETSW TCSETSF TCGETA TCSETA TCSETAW TCSETAF TCSBRK TCXONC TCFLSH TIOCEXCL
TIOCNXCL TIOCSCTTY TIOCGPGRP TIOCSPGRP TIOCOUTQ TIOCSTI TIOCGWINSZ TIOCSWINSZ TIOCMGET
TIOCMBIS TIOCMBIC TIOCMSET TIOCGSOFTCAR TIOCSSOFTCAR FIONREAD TIOCCONS TIOCGSERIAL
TIOCSSERIAL TIOCPKT FIONBIO TIOCNOTTY TIOCSETD TIOCGETD TCSBRKP TIOCSBRK TIOCCBRK TIOCGSID
TIOCGRS485 TIOCSRS485 TIOCVHANGUP TIOCGPTPEER FIONCLEX FIOCLEX FIOASYNC TIOCGLCKTRMIOS
TIOCSLCKTRMIOS TIOCSERGETLSR TIOCMIWAIT TIOCGICOUNT FIOQSIZE TUNSETIFF TUNSETPERSIST
TUNSETOWNER TUNSETGROUP TUNSETOFFLOAD TUNGETIFF FIOSETOWN SIOCSPGRP FIOGETOWN SIOCGPGRP
SIOCATMARK SIOCGSTAMP_OLD SIOCGSTAMPNS_OLD SIOCGIFCONF SIOCGIFNAME SIOCGIFFLAGS SIOCSIFFLAGS
SIOCGIFADDR SIOCGIFINDEX SIOCGIFHWADDR SIOCGIFMTU SIOCGARP FIBMAP FIGETBSZ FS_IOC_GETFLAGS
FS_IOC_SETFLAGS FS_IOC_GETVERSION FS_IOC_SETVERSION FICLONE FS_IOC_FIEMAP FIDEDUPERANGE
RNDGETENTCNT RNDADDENTROPY NS_GET_OWNER_UID HDIO_GETGEO BLKROSET BLKROGET BLKRRPART
BLKGETSIZE BLKFLSBUF BLKRASET BLKRAGET BLKSECTGET BLKSSZGET BLKDISCARD BLKIOMIN BLKIOOPT
BLKALIGNOFF BLKPBSZGET BLKDISCARDZEROES BLKSECDISCARD BLKROTATIONAL BLKZEROOUT BLKBSZGET
BLKBSZSET LOOP_SET_FD LOOP_CLR_FD LOOP_SET_STATUS64 LOOP_GET_STATUS64 LOOP_CTL_GET_FREE
"""

REQUEST_HEADERS = """
#include <stdio.h>
#include <asm/termbits.h>
#include <asm/ioctls.h>
#include <asm/sockios.h>
#include <linux/sockios.h>
#include <linux/fs.h>
#include <linux/fiemap.h>
#include <linux/random.h>
#include <linux/nsfs.h>
#include <linux/hdreg.h>
#include <linux/loop.h>
#include <linux/if_tun.h>
#include <linux/blkzoned.h>
"""


def test_ioctl_requests_are_in_the_table(tmp_path: Path) -> None:
    names = REQUESTS.split()
    numbers = run_c(tmp_path, program(REQUEST_HEADERS, names))
    missing = {
        name: hex(number & 0xFFFFFFFF)
        for name, number in zip(names, numbers, strict=True)
        if (number & 0xFFFFFFFF) not in rows_ioctl.TABLE
    }
    assert missing == {}
