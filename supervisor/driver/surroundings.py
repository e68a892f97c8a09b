# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of /proc and /sys that are to show the program and its machine of many hosts.

What the kernel would show is one host's: its processors, a process that is
traced and filtered, a thread more (the agent), mappings of guest memory with
what coherence lets this host touch at the moment. Where the program opens one
of these files to read, it gets a memory file with the contents that it would
have natively, made at that moment from the kernel's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from supervisor.areas import EXEC, READ, WRITE, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver import machine, process_files
from supervisor.driver.joint import ANONYMOUS
from supervisor.driver.made_files import MemoryFile
from supervisor.driver.memory_limits import use_of
from supervisor.driver.operations import Steps
from supervisor.driver.signals import FORCED, mask_of
from supervisor.syscalls.call import Acquire, Call, Result, Segment
from supervisor.syscalls.spec import Row
from supervisor.tracee import handing
from supervisor.tracee.image import amend_auxiliary
from supervisor.tracee.maps import Mapping, read_maps
from supervisor.tracee.memory import data_extents
from supervisor.units import PAGE_SHIFT

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

_PATH_COLUMN: Final = 73
_DESCRIPTOR: Final = re.compile(r"/proc/(self|thread-self|\d+)(?:/task/\d+)?/fd/(\d+)")
_CONTENTS_MAX: Final = 1 << 20
_ZERO_IN_SMAPS: Final = (
    "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Referenced", "Anonymous",
    "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb",
    "Private_Hugetlb", "Swap", "SwapPss", "Locked",
)  # fmt: skip

_OF_MEMORY: Final = frozenset(
    ("auxv", "cmdline", "environ", "maps", "smaps", "statm")
)  # fmt: skip


class Surroundings:
    """Home's part: what the program sees of its process and of the machine."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.memory_opened = False
        """Has the program opened a /proc/PID/mem, perhaps its own?"""
        self._mapped_max = 0
        self._of_process: dict[str, Callable[[int], str]] = {
            "status": self._status,
            "maps": self._maps,
            "smaps": self._smaps,
            "limits": self._limits,
            "statm": self._statm,
        }

    def redirect(self, thread: Thread, row: Row, call: Call) -> Steps:
        """Have an open of one of these files open a memory file instead, which it returns.

        The outcome of a call that need not run; None where one is to run on the file itself.
        The caller closes the memory file here.
        """
        folder, at = machine.PATHS[row.name]
        segment = next((call.segments[n] for argument, n in call.pointers if argument == at), None)
        if segment is None:
            return None
        named = segment.data.partition(b"\0")[0]
        directory = machine.AT_FDCWD if folder is None else call.args[folder]
        if not named:
            shown = self.home.made_files.path_of(thread, directory & 0xFFFF_FFFF)
            if shown is not None:
                _rename(segment, self.home.machine.elsewhere(shown) or shown)
            return None
        if not machine.may_be_shown(directory, named):
            return None
        path = machine.in_folder(thread.task, directory, named)
        if row.name in ("readlink", "readlinkat"):
            link = _DESCRIPTOR.fullmatch(path)
            if link is not None and link[1] in ("self", "thread-self", str(self.home.pid)):
                return _named(call, at + 1, self.home.made_files.path_of(thread, int(link[2])))
        if path.startswith("/proc/") and path.endswith("/mem"):
            self.memory_opened = True
        flags = machine.FLAGS.get(row.name)
        if flags is not None and call.args[flags] & os.O_ACCMODE == os.O_RDONLY:
            contents = yield from self.contents(thread, path)
            if contents is not None:
                descriptor = machine.in_memory(path, contents)
                way = handing.path_of(descriptor, thread.task)
                if way is not None:
                    _rename(segment, way)
                    call.args[flags] &= ~os.O_NOFOLLOW
                    return MemoryFile(descriptor, path)
                os.close(descriptor)
        elsewhere = self.home.machine.elsewhere(path)
        if elsewhere is not None:
            _rename(segment, elsewhere)
        return None

    def contents(self, thread: Thread, path: str) -> Steps:
        contents = self.home.machine.contents(path)
        if contents is not None:
            return contents
        found = machine.PROCESS.fullmatch(path)
        if found is None:
            return None
        process, task, name = found.groups()
        if process not in ("self", "thread-self", str(self.home.pid)):
            return self.home.bystanders.file(int(process), int(task or process), name)
        tid = int(task) if task else thread.tid if process == "thread-self" else self.home.pid
        thread_of_file = self.home.by_tid.get(tid)
        if name in _OF_MEMORY and thread_of_file is not None and thread_of_file.exited:
            return None  # a main thread that has ended before others: it has no memory
        if name in ("cmdline", "environ"):
            return (yield from self._strings(name))
        if name == "auxv":
            return self._auxiliary_vector()
        if name == "stat" and tid in self.home.by_tid:
            whose = self.home.by_tid[tid] if task or process == "thread-self" else None
            return (yield from self._stat(whose))
        make = self._of_process.get(name)
        if make is None or tid not in self.home.by_tid:
            return None
        try:
            return make(tid).encode("utf-8", "surrogateescape")
        except OSError:
            return None

    def told_to_child(self, tid: int, name: str) -> bytes | None:
        """A file of a thread of the program's, as its children read it. (Its times are home's.)"""
        try:
            if name == "status" and tid in self.home.by_tid:
                return self._status(tid).encode("utf-8", "surrogateescape")
            if name == "stat" and tid in self.home.by_tid:
                text = _read(f"/proc/{self.home.pid}/task/{tid}/stat")
                return process_files.stat(text, ours=1).encode("utf-8", "surrogateescape")
        except OSError:
            pass  # it has ended
        return None

    # The process --------------------------------------------------------------------

    def _status(self, tid: int) -> str:
        thread = self.home.by_tid[tid]
        seen = self.home.machine
        mask = seen.all if thread.affinity is None else thread.affinity
        text = _read(f"/proc/{self.home.pid}/task/{tid}/status")
        ignored = mask_of(number for number in FORCED if thread.actions.ignored(number))
        return process_files.status(
            text, seen, mask, blocked=thread.virtual_mask, ignored=ignored, ours=1,
            use=self._use(),
        )  # fmt: skip

    def _use(self) -> dict[str, int]:
        """Of memory, in bytes, by the fields of `status`."""
        use = use_of(self.home)
        self._mapped_max = max(self._mapped_max, use.mapped)
        return {
            "VmPeak": self._mapped_max, "VmSize": use.mapped, "VmData": use.data,
            "VmStk": use.stack,
        }  # fmt: skip

    def _statm(self, tid: int) -> str:
        """In pages: size, resident, shared, text, none, data and stack, none."""
        fields = _read(f"/proc/{self.home.pid}/task/{tid}/statm").split()
        use = use_of(self.home)
        fields[0] = str(use.mapped >> PAGE_SHIFT)
        fields[5] = str((use.data + use.stack) >> PAGE_SHIFT)
        return " ".join(fields) + "\n"

    def _limits(self, tid: int) -> str:
        return self.home.limits.shown(_read(f"/proc/{self.home.pid}/task/{tid}/limits"))

    def _stat(self, thread: Thread | None) -> Steps:
        """Of a thread, or of the process."""
        place = "" if thread is None else f"/task/{thread.tid}"
        text = _read(f"/proc/{self.home.pid}{place}/stat")
        text = process_files.stat(text, ours=1, mapped=use_of(self.home).mapped)
        before, _, after = text.rpartition(")")
        fields = after.split()
        ticks = (int(fields[11]), int(fields[12]))
        fields[11:13] = map(str, (yield from self.home.processor_time.of_ticks(*ticks, thread)))
        return f"{before}) {' '.join(fields)}\n".encode()

    def _strings(self, name: str) -> Steps:
        """Arguments or environment: where they lie is in stat's fields 48 to 51 (proc(5))."""
        text = _read(f"/proc/{self.home.agent.tid}/stat")  # main may have ended
        fields = text.rpartition(")")[2].split()
        at = 45 if name == "cmdline" else 47
        start, end = int(fields[at]), int(fields[at + 1])
        length = min(end - start, _CONTENTS_MAX)
        if length <= 0 or not self.home.check(start, length, Access.READ):
            return None
        yield Acquire(((start, length, Access.READ),))
        return self.home.read(start, length)

    def _auxiliary_vector(self) -> bytes:
        with open(f"/proc/{self.home.agent.tid}/auxv", "rb") as file:
            vector = bytearray(file.read())
        amend_auxiliary(vector, 0, self.home.scratch.arch, self.home.shown)
        return bytes(vector)

    def _lines(self) -> list[tuple[Area, str]]:
        """Each area with its line of /proc/PID/maps."""
        home = self.home
        native = {mapping.start: mapping for mapping in read_maps(home.agent.tid)}
        lines = []
        for area in home.space:
            if area.kind is Kind.RESERVED:
                continue
            name = home.code.sources.get(area.name, area.name)
            file = home.layout.copies.file_at(area.start)
            shared = file is None and (area.kind in (Kind.FILE, Kind.JOINT) or name == ANONYMOUS)
            rights = "".join(
                letter if area.protection & right else "-"
                for letter, right in (("r", READ), ("w", WRITE), ("x", EXEC))
            )
            mapping = native.get(area.start) if area.kind is not Kind.GUEST else None
            offset = _offset(mapping) if file is None else file.offset_of(area.start)
            line = (
                f"{area.start:08x}-{area.end:08x} {rights}{'s' if shared else 'p'} "
                f"{offset:08x} {_identity(name)}"
            )
            shown = name.replace("\n", "\\012")
            lines.append((area, f"{line:<{_PATH_COLUMN}}{shown}" if shown else f"{line} "))
        return lines

    def _maps(self, _tid: int) -> str:
        return "".join(f"{line}\n" for _, line in self._lines())

    def _smaps(self, _tid: int) -> str:
        text = []
        for area, line in self._lines():
            size = area.end - area.start
            there = size
            if area.kind is Kind.GUEST:
                extents = data_extents(self.home.memory.descriptor, area.start, area.end)
                there = sum(high - low for low, high in extents)
            sizes = {"Size": size, "KernelPageSize": 4096, "MMUPageSize": 4096, "Rss": there,
                     "Pss": there, **dict.fromkeys(_ZERO_IN_SMAPS, 0)}  # fmt: skip
            text.append(f"{line}\n")
            text += [f"{f'{name}:':<16}{value >> 10:>8} kB\n" for name, value in sizes.items()]
        return "".join(text)


def _named(call: Call, argument: int, name: str | None) -> Result | None:
    """The outcome of a readlink(2) that is to tell this name."""
    number = dict(call.pointers).get(argument)
    if name is None or number is None:
        return None
    text = os.fsencode(name)[: call.segments[number].length]
    return Result(len(text), [(number, 0, text)])


def _rename(segment: Segment, path: str) -> None:
    """Put another path in a call's place for one."""
    segment.data = os.fsencode(path) + b"\0"
    segment.length = len(segment.data)


def _offset(mapping: Mapping | None) -> int:
    return 0 if mapping is None else mapping.offset


def _identity(name: str) -> str:
    """Device and inode as maps shows them."""
    with contextlib.suppress(OSError, ValueError):
        if name.startswith("/"):
            status = os.stat(name)
            device = status.st_dev
            return f"{os.major(device):02x}:{os.minor(device):02x} {status.st_ino}"
    return "00:00 0"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return file.read()
