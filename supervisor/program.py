# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the program, and refusing what cannot be run before anything is started."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from typing import Final

from supervisor.arch import ALL, of_elf
from supervisor.errors import CannotExecute, DsmsupError, NotFound

_MACHINES: Final = {
    3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM", 62: "x86-64",
    183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
_I386: Final = 3
_X86_64: Final = 62
_HEADER_SIZE: Final = 52
"""Bytes of the smaller ELF header, that of 32-bit files."""
_ET_EXEC: Final = 2
_ET_DYN: Final = 3


def find_program(name: str) -> str:
    """The path that execve is to get, as execvp(3) and the shell find it.

    Raises NotFound and CannotExecute with a line that names the mend.
    """
    if "/" in name:
        path = name
    else:
        found = shutil.which(name)
        if found is None:
            if os.path.exists(name):
                raise NotFound(f"cannot find '{name}' in PATH; for the one here, say ./{name}")
            raise NotFound(f"cannot find '{name}' in PATH")
        path = found
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise NotFound(f"cannot find '{path}'") from None
    except OSError as error:
        raise CannotExecute(f"cannot execute '{path}': {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise CannotExecute(f"cannot execute '{path}': it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise CannotExecute(f"cannot execute '{path}': it is not a regular file")
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise CannotExecute(f"cannot execute '{path}': its file system is mounted noexec")
    if not os.access(path, os.X_OK):
        raise CannotExecute(f"cannot execute '{path}': no execute permission (chmod +x {path})")
    check_header(path)
    return path


def check_proc() -> None:
    """Raise DsmsupError unless /proc is that of this process's own pid namespace."""
    try:
        ours = os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        ours = False
    if not ours:
        raise DsmsupError(
            "/proc is not mounted, or is that of another pid namespace: mount -t proc proc /proc"
            " (unshare --mount-proc)"
        )


def check_header(path: str) -> None:
    """Raise CannotExecute unless the file is an ELF program for x86, or a script."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
    except OSError as error:
        raise CannotExecute(f"cannot read '{path}': {error.strerror}") from None
    if header.startswith(b"#!"):
        return
    if not header.startswith(b"\x7fELF"):
        raise CannotExecute(f"cannot execute '{path}': it is neither an ELF program nor a script")
    if len(header) < _HEADER_SIZE:
        raise CannotExecute(f"cannot execute '{path}': the ELF file is cut short")
    kind, machine = struct.unpack_from("<HH" if header[5] == 1 else ">HH", header, 16)
    if of_elf(header) is None or header[5] != 1:
        name = _MACHINES.get(machine, f"machine {machine}")
        if machine == _X86_64 and header[4] == 1:
            name = "x32"
        elif int.from_bytes(header[18:20], "little") in (_I386, _X86_64):
            raise CannotExecute(f"cannot execute '{path}': its ELF header is damaged")
        raise CannotExecute(
            f"cannot execute '{path}': it is built for {name}, and dsmsup runs "
            f"{' and '.join(arch.name for arch in ALL)} programs"
        )
    if kind not in (_ET_EXEC, _ET_DYN):
        raise CannotExecute(f"cannot execute '{path}': it is an ELF file, but not a program")
