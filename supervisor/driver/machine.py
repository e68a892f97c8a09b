# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as /proc and /sys show it: the processors of all hosts, a socket each host.

Home's kernel shows its own processors. What differs is made from its files at the
moment that they are opened; a folder of a processor that it does not have is
another's.
"""

from __future__ import annotations

import os
import re
from typing import Final

ROOT: Final = "/sys/devices/system/cpu"
_LISTS: Final = frozenset(f"{ROOT}/{name}" for name in ("online", "possible", "present"))
_FOLDER: Final = re.compile(rf"{ROOT}/cpu(\d+)(?:/(.+))?")
_NODE: Final = "/sys/devices/system/node/node0/cpu"
_SELF: Final = frozenset(("thread_siblings", "core_cpus", "cluster_cpus"))
_SOCKET: Final = frozenset(("core_siblings", "package_cpus", "die_cpus"))
AT_FDCWD: Final = 0xFFFF_FF9C
PATHS: Final = {
    **dict.fromkeys(
        ("open", "stat", "lstat", "stat64", "lstat64", "access", "readlink", "chdir"), (None, 0)
    ),
    **dict.fromkeys(
        ("openat", "openat2", "newfstatat", "fstatat64", "statx", "faccessat", "faccessat2",
         "readlinkat"), (0, 1),
    ),
}  # fmt: skip
"""Calls by which a program looks at a file: which arguments are the folder and the path."""
FLAGS: Final = {"open": 1, "openat": 2}
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

    @property
    def all(self) -> int:
        """The mask of all virtual processors, bit N for processor N."""
        return (1 << self.cpus) - 1

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
        elif path in _LISTS:
            text = as_list(range(self.cpus))
        elif path == f"{ROOT}/offline":
            text = ""
        elif path.startswith(_NODE) and len(self.hosts) > 1 and _is_one_node():
            mask = as_mask(self.all, self.cpus)
            text = {f"{_NODE}list": as_list(range(self.cpus)), f"{_NODE}map": mask}.get(path)
        elif path.startswith(ROOT) and len(self.hosts) > 1:
            found = _FOLDER.fullmatch(path)
            if found is not None and found[2] and int(found[1]) < self.cpus:
                text = self._of_processor(int(found[1]), found[2])
        return None if text is None else (text.removesuffix("\n") + "\n").encode()

    def elsewhere(self, path: str) -> str | None:
        """The path of what stands for a processor that home's kernel does not have."""
        found = _FOLDER.fullmatch(path)
        if found is None or not self._real <= int(found[1]) < self.cpus:
            return None
        return f"{ROOT}/cpu{int(found[1]) % self._real}" + (f"/{found[2]}" if found[2] else "")

    def _of_processor(self, number: int, name: str) -> str | None:
        host, index, neighbours = self._where[number]
        folder, _, file = name.rpartition("/")
        what = file.removesuffix("_list")
        if folder == "topology" and what in _SELF:
            shown = range(number, number + 1)
        elif folder == "topology" and what in _SOCKET:
            shown = neighbours
        elif folder == "topology":
            return {"physical_package_id": str(host), "core_id": str(index)}.get(file)
        elif folder.startswith("cache/index") and file in ("shared_cpu_list", "shared_cpu_map"):
            try:
                theirs = _read(f"{ROOT}/cpu{number % self._real}/{folder}/shared_cpu_list")
            except OSError:
                return None
            shown = neighbours if re.search("[-,]", theirs) else range(number, number + 1)
        else:
            return None
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

    def room(self, folder: str, size: int) -> int:
        """How much of a buffer the kernel may fill with a folder's entries: see `entries`."""
        if folder != ROOT or self.cpus <= self._real:
            return size
        more = sum(_length(f"cpu{number}") for number in range(self._real, self.cpus))
        return size - more if size >= more + 1024 else size

    def entries(self, folder: str, listed: bytes, size: int) -> bytes:
        """A folder's entries (struct linux_dirent64), with one for each processor.

        Those to add come with that of cpu0, at its place in the folder (d_off).
        """
        if folder != ROOT or self.cpus == self._real:
            return listed
        kept, at = b"", 0
        while at < len(listed):
            length = int.from_bytes(listed[at + 16 : at + 18], "little")
            entry = listed[at : at + length]
            name = entry[_ENTRY_HEADER:].partition(b"\0")[0]
            at += length
            number = int(name[3:]) if re.fullmatch(rb"cpu\d+", name) else 0
            if number < self.cpus:
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


def as_mask(mask: int, bits: int) -> str:
    """As the kernel prints a bitmap: in groups of 32 bits."""
    digits = f"{mask:0{(bits + 3) // 4}x}"
    groups = [digits[max(end - 8, 0) : end] for end in range(len(digits), 0, -8)]
    return ",".join(reversed(groups))


def may_be_shown(directory: int, path: bytes) -> bool:
    """Is it worth a look what file a path names?"""
    if path.startswith(b"/"):
        return path.startswith((b"/proc/", b"/sys/devices/system/"))
    if directory & 0xFFFF_FFFF != AT_FDCWD:
        return bool(path)
    return any(part in path for part in (b"cpu", b"stat", b"map", b"cmdline", b"environ"))


def in_memory(path: str, contents: bytes) -> int:
    """A descriptor of a memory file in place of a file."""
    descriptor = os.memfd_create(os.path.basename(path), os.MFD_CLOEXEC)
    os.pwrite(descriptor, contents, 0)
    return descriptor


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


def _is_one_node() -> bool:
    try:
        return _read("/sys/devices/system/node/online").strip() == "0"
    except OSError:
        return False


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
