# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as /proc and /sys show it: the processors of all hosts, a socket each host.

Home's kernel shows its own processors. What differs is made from its files at the
moment that they are opened; a folder of a processor that it does not have is
another's. The cpuset of the program's control group lists processors as well, and those
that it does not name are taken (by hwloc, say) for forbidden ones.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from typing import Final

from supervisor.driver import nodes
from supervisor.driver.nodes import Nodes

ROOT: Final = "/sys/devices/system/cpu"
_LISTS: Final = frozenset(
    f"{ROOT}/{name}" for name in ("online", "possible", "present", "enabled")
)
_FOLDER: Final = re.compile(rf"{ROOT}/cpu(\d+)(?:/(.+))?")
_OF_NODE: Final = re.compile(rf"{nodes.ONLY}/cpu(\d+)(?:/(.+))?")
_CPUSET: Final = re.compile(
    r"/sys/fs/cgroup/(?:.+/)?cpuset\.(?:cpus|effective_cpus|cpus\.effective)"
)
"""Of control groups, version 1 and 2 (cpuset(7), Documentation/admin-guide/cgroup-v2.rst)."""
_LOCAL: Final = re.compile(r"/sys/(?:bus|devices)/.+/local_cpu(?:s|list)")
_NO_CLUSTER: Final = "65535"
"""What kernels show where there are no clusters in a package."""
_SELF: Final = frozenset(("thread_siblings", "core_cpus", "cluster_cpus"))
_SHARED: Final = ("shared_cpu_list", "shared_cpu_map")
_SOCKET: Final = frozenset(("core_siblings", "package_cpus", "die_cpus"))
PROCESS: Final = re.compile(r"/proc/(self|thread-self|\d+)(?:/task/(\d+))?/(\w+)")
"""Files of a process: which, which thread's, the name."""
AT_FDCWD: Final = 0xFFFF_FF9C

_MEMFD_NAME_MAX: Final = 249
_DELETED: Final = " (deleted)"
_ADD_SEALS: Final = 1033
_GET_SEALS: Final = 1034
_SEAL: Final = 0x01
"""F_SEAL_SEAL: there is no other (fcntl(2))."""
PATHS: Final = {
    **dict.fromkeys(
        ("open", "stat", "lstat", "stat64", "lstat64", "access", "readlink", "chdir", "getxattr",
         "lgetxattr", "listxattr", "llistxattr"), (None, 0)
    ),
    **dict.fromkeys(
        ("openat", "openat2", "newfstatat", "fstatat64", "statx", "faccessat", "faccessat2",
         "readlinkat"), (0, 1),
    ),
}  # fmt: skip
"""Calls by which a program looks at a file: which arguments are the folder and the path."""
FLAGS: Final = {"open": 1, "openat": 2}
_RELATIVE: Final = (
    b"cpu", b"stat", b"map", b"cmdline", b"environ", b"auxv", b"online", b"possible", b"present",
    b"enabled", b"offline", b"active", b"sibling", b"_id", b"node", b"has_", b"mem", b"limits",
    b"distance",
)  # fmt: skip
"""What is in the names of files that may be shown otherwise, when they are named from the
folder that a process is in."""
_ENTRY_HEADER: Final = 19
"""Bytes of struct linux_dirent64 before the name: inode, offset, length (at 16), type."""


class Machine:
    """What the program, and the processes that it makes, see in place of home's files."""

    def __init__(self, cpus: list[int], features: frozenset[str] | None = None) -> None:
        self.hosts = cpus
        """Processors of each host."""
        self.features = features
        """What /proc/cpuinfo has of home's flags; None for all."""
        self.cpus = sum(cpus)
        self._where = [
            (host, number - sum(cpus[:host]), range(sum(cpus[:host]), sum(cpus[: host + 1])))
            for host, count in enumerate(cpus)
            for number in range(sum(cpus[:host]), sum(cpus[:host]) + count)
        ]
        """Of each virtual processor: its host, its number there, and the host's."""
        self._real = os.sysconf("SC_NPROCESSORS_CONF")
        self.nodes = Nodes()

    @property
    def all(self) -> int:
        """The mask of all virtual processors, bit N for processor N."""
        return (1 << self.cpus) - 1

    def nodes_allowed(self, name: str, value: str) -> str:
        """Mems_allowed or Mems_allowed_list of a status file: the one node that is shown."""
        if len(self.hosts) == 1 or len(self.nodes.numbers) <= 1:
            return value
        return "0" if name.endswith("list") else re.sub(r"[0-9a-f]", "0", value)[:-1] + "1"

    def mask_size(self, word: int) -> int:
        """Bytes of a mask of processors, in words of so many bytes."""
        return (self.cpus + word * 8 - 1) // (word * 8) * word

    # Files --------------------------------------------------------------------------

    def contents(self, path: str) -> bytes | None:
        """What a file shows, by its absolute path; None where it is as the kernel's."""
        text: str | None = None
        if path == "/proc/cpuinfo":
            text = self._cpuinfo()
        elif path == "/proc/stat":
            text = self._stat()
        elif path in _LISTS or _CPUSET.fullmatch(path):
            text = as_list(range(self.cpus)) if _has_value(path) else None
        elif path == f"{ROOT}/offline":
            text = ""
        elif path == f"{ROOT}/smt/active" and len(self.hosts) > 1:
            text = "0" if _has_value(path) else None
        elif path.startswith(nodes.ROOT) and len(self.hosts) > 1:
            mask = as_mask(self.all, self.cpus)
            text = self.nodes.contents(path, as_list(range(self.cpus)), mask)
        elif len(self.hosts) > 1 and _LOCAL.fullmatch(path):
            home = as_mask((1 << self.hosts[0]) - 1, self.cpus)  # the devices are home's
            text = as_list(range(self.hosts[0])) if path.endswith("list") else home
            text = text if _has_value(path) else None
        elif path.startswith(ROOT) and len(self.hosts) > 1:
            found = _FOLDER.fullmatch(path)
            if found is not None and found[2] and int(found[1]) < self.cpus:
                text = self._of_processor(int(found[1]), found[2])
        return None if text is None else (text.removesuffix("\n") + "\n").encode()

    def elsewhere(self, path: str) -> str | None:
        """The path of what stands for a processor that home's kernel does not have.

        So it does for what is on home only, and not shown.
        """
        if len(self.hosts) == 1:
            return None
        hidden = self.nodes.elsewhere(path)
        if hidden is not None:
            return hidden
        found = _FOLDER.fullmatch(path) or _OF_NODE.fullmatch(path)
        if found is None or int(found[1]) >= self.cpus:
            return None
        number, rest = int(found[1]), found[2] or ""
        if number < self._real and len(self.nodes.numbers) <= 1:
            return None
        instead = f"{ROOT}/cpu{number % self._real}"
        if path.startswith(nodes.ONLY):
            instead = f"{nodes.ONLY}/cpu0" if number >= self._real else instead
        elif rest.startswith("node"):
            instead = f"{ROOT}/cpu0"  # which is in the one node that is shown
        elif number < self._real:
            return None
        return instead + (f"/{rest}" if rest else "")

    def _of_processor(self, number: int, name: str) -> str | None:
        if not os.path.exists(f"{ROOT}/cpu{number % self._real}/{name}"):
            return None  # a kernel of another version
        host, index, neighbours = self._where[number]
        folder, _, file = name.rpartition("/")
        what = file.removesuffix("_list")
        if folder == "topology" and what in _SELF:
            shown = range(number, number + 1)
        elif folder == "topology" and what in _SOCKET:
            shown = neighbours
        elif folder == "topology":
            ids = {"physical_package_id": str(host), "core_id": str(index), "die_id": "0",
                   "cluster_id": _NO_CLUSTER}  # fmt: skip
            return ids.get(file)
        elif folder.startswith("cache/index") and file in (*_SHARED, "id"):
            try:
                theirs = _read(f"{ROOT}/cpu{number % self._real}/{folder}/shared_cpu_list")
            except OSError:
                return None
            shown = neighbours if re.search("[-,]", theirs) else range(number, number + 1)
        else:
            return None
        if file == "id":
            return str(shown[0])
        if file.endswith("_list"):
            return as_list(shown)
        return as_mask(sum(1 << each for each in shown), self.cpus)

    def _cpuinfo(self) -> str:
        blocks = [block for block in _read("/proc/cpuinfo").split("\n\n") if block.strip()]
        shown = []
        for number, (host, index, neighbours) in enumerate(self._where):
            instead = {"processor": number}
            if len(self.hosts) > 1:
                instead |= {"physical id": host, "siblings": len(neighbours), "core id": index,
                            "cpu cores": len(neighbours), "apicid": number,
                            "initial apicid": number}  # fmt: skip
            lines = []
            for line in blocks[number % len(blocks)].splitlines():
                name = line.partition("\t")[0]
                before, colon, _ = line.partition(": ")
                if name == "flags" and self.features is not None:
                    kept = [flag for flag in line.split()[2:] if flag in self.features]
                    line = f"{before}{colon}{' '.join(kept)}"
                lines.append(f"{before}{colon}{instead[name]}" if name in instead else line)
            shown.append("\n".join(lines) + "\n\n")
        return "".join(shown)

    def _stat(self) -> str:
        lines = _read("/proc/stat").splitlines()
        real = [line for line in lines if re.match(r"cpu\d", line)]
        shown = [
            re.sub(r"^cpu\d+", f"cpu{number}", real[number % len(real)])
            for number in range(self.cpus)
        ]
        rest = [line for line in lines[1:] if line not in real]
        return "\n".join([lines[0], *shown, *rest])

    # The folder -----------------------------------------------------------------------

    def amends(self, folder: str) -> bool:
        """Are not all of a folder's entries as the kernel lists them?"""
        if folder in (nodes.ROOT, nodes.ONLY) or _FOLDER.fullmatch(folder):
            return len(self.hosts) > 1
        return folder == ROOT and self.cpus != self._real

    def room(self, folder: str, size: int) -> int:
        """How much of a buffer the kernel may fill with a folder's entries: see `entries`."""
        if folder not in (ROOT, nodes.ONLY) or self.cpus <= self._real:
            return size
        more = sum(_length(f"cpu{number}") for number in range(self._real, self.cpus))
        return size - more if size >= more + 1024 else size

    def entries(self, folder: str, listed: bytes, size: int) -> bytes:
        """A folder's entries (struct linux_dirent64), with one for each processor.

        Those to add come with that of cpu0, at its place in the folder (d_off).
        """
        if not self.amends(folder):
            return listed
        kept, at = b"", 0
        while at < len(listed):
            length = int.from_bytes(listed[at + 16 : at + 18], "little")
            entry = listed[at : at + length]
            name = entry[_ENTRY_HEADER:].partition(b"\0")[0]
            at += length
            number = int(name[3:]) if re.fullmatch(rb"cpu\d+", name) else 0
            if number < self.cpus and not (len(self.hosts) > 1 and self.nodes.is_hidden(name)):
                kept += entry
            if name == b"cpu0" and self.room(folder, size) < size:
                kept += b"".join(
                    _entry(entry, f"cpu{new}") for new in range(self._real, self.cpus)
                )
        return kept


def _length(name: str) -> int:
    return _ENTRY_HEADER + len(name) + 1 + 7 & ~7


def _entry(like: bytes, name: str) -> bytes:
    """A directory entry as another is, but for its name (and an inode of its own)."""
    length = _length(name)
    inode = int.from_bytes(like[:8], "little") + (int(name[3:]) << 32)
    head = inode.to_bytes(8, "little") + like[8:16] + length.to_bytes(2, "little") + like[18:19]
    return (head + name.encode()).ljust(length, b"\0")


def as_list(numbers: range) -> str:
    """As the kernel prints a list of processors that follow each other."""
    first, last = numbers[0], numbers[-1]
    return str(first) if first == last else f"{first}-{last}"


def as_ranges(mask: int) -> str:
    """As the kernel prints the list of a mask of any processors."""
    parts, first = [], 0
    while mask >> first:
        first += (mask >> first & -(mask >> first)).bit_length() - 1
        length = (~(mask >> first) & (mask >> first) + 1).bit_length() - 1
        parts.append(as_list(range(first, first + length)))
        first += length
    return ",".join(parts)


def as_mask(mask: int, bits: int) -> str:
    """As the kernel prints a bitmap: in groups of 32 bits."""
    digits = f"{mask:0{(bits + 3) // 4}x}"
    groups = [digits[max(end - 8, 0) : end] for end in range(len(digits), 0, -8)]
    return ",".join(reversed(groups))


def may_be_shown(directory: int, path: bytes) -> bool:
    """Is it worth a look what file a path names?"""
    if path.startswith(b"/"):
        return path.startswith((b"/proc/", b"/sys/devices/", b"/sys/fs/cgroup/", b"/sys/bus/"))
    if directory & 0xFFFF_FFFF != AT_FDCWD:
        return bool(path)
    return any(part in path for part in _RELATIVE)


def in_memory(path: str, contents: bytes) -> int:
    """A descriptor of a memory file in place of a file, which `why_unmappable` knows again."""
    name = os.fsdecode(os.fsencode(path)[:_MEMFD_NAME_MAX])
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.pwrite(descriptor, contents, 0)
    os.fchmod(descriptor, 0o444)
    fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL)
    return descriptor


def why_unmappable(descriptor: int) -> int:
    """The errno of an mmap(2) of the file that a memory file stands for; 0 for all others.

    Most files of /proc and /sys cannot be mapped, and tell so in two ways (proc_reg_mmap).
    """
    try:
        if fcntl.fcntl(descriptor, _GET_SEALS) != _SEAL:
            return 0
    except OSError:
        return 0  # no memory file
    name = os.readlink(f"/proc/self/fd/{descriptor}").removeprefix("/memfd:")
    if not name.startswith(("/proc/", "/sys/")):
        return 0
    of_machine = name.startswith("/proc/") and not PROCESS.fullmatch(name.removesuffix(_DELETED))
    return errno.EIO if of_machine else errno.ENODEV


def in_folder(process: int, directory: int, path: bytes) -> str:
    """The absolute path of a path, as far as names tell (symbolic links are not followed).

    `directory` is a descriptor of the process, or AT_FDCWD. Empty where that is none.
    """
    if not path.startswith(b"/"):
        number = directory & 0xFFFF_FFFF
        place = "cwd" if number == AT_FDCWD else f"fd/{number}"
        try:
            path = os.path.join(os.readlink(f"/proc/{process}/{place}".encode()), path)
        except OSError:
            return ""
    return os.path.normpath(os.fsdecode(path))


def _has_value(path: str) -> bool:
    """Is it there, and not empty? (As cpuset.cpus of a group that has its parent's.)"""
    try:
        return bool(_read(path).strip())
    except OSError:
        return False


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
