# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls by which the program's children look at the machine: they see that of the program.

The children run at home, and the kernel serves them. Only what tells of processors
or of the trace is put right, at the stops that the inherited filter makes anyway: files
are opened from memory or under another path, the folder of processors is listed whole, and
affinity is a mask of virtual processors, which binds a child to nothing but what it is
told of its own processor.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

from supervisor.arch import ALL, Arch
from supervisor.arch.base import NO_CALL
from supervisor.driver import machine, process_files
from supervisor.driver.machine import PROCESS, Machine
from supervisor.driver.placement import Placement
from supervisor.syscalls.handlers import new_tasks
from supervisor.tracee import foreign, handing, ptrace
from supervisor.units import HOME

_ARCHES: Final = {arch.bits: arch for arch in ALL}
_RED_ZONE: Final = 128
_MASK_MAX: Final = 1024


class _Amended:
    """A call that runs with other arguments until its exit stop."""

    __slots__ = ("arguments", "descriptor", "finish")

    def __init__(
        self, arguments: list[int], descriptor: int = -1, finish: Callable[[int], int] | None = None
    ) -> None:
        self.arguments = arguments
        """The child's own, which it finds in its registers again."""
        self.descriptor = descriptor
        """Open until then."""
        self.finish = finish
        """Makes the call's result from the kernel's."""


class BystanderCalls:
    """What bystanders are told of the machine."""

    def __init__(
        self, seen: Machine, of_program: Callable[[int, str], bytes | None] = lambda tid, name: None
    ) -> None:
        self.machine = seen
        self._of_program = of_program
        """What a child reads in a file of a thread of the program's."""
        self._placement = Placement(seen.hosts)
        self.masks: dict[int, int] = {}
        """Virtual processors that a task may use, where those are not all."""
        self._amended: dict[int, tuple[Arch, _Amended]] = {}
        self._handlers: Final[dict[str, Callable[..., _Amended | int | None]]] = {
            **dict.fromkeys(machine.PATHS, self._path),
            "getdents64": self._entries,
            "sched_getaffinity": self._get_affinity,
            "sched_setaffinity": self._set_affinity,
            "getcpu": self._get_processor,
            "rseq": self._no_restartable_sequences,
            "clone": self._traced,
            "clone3": self._traced_3,
        }

    def born(self, parent: int, child: int) -> None:
        if parent in self.masks:
            self.masks[child] = self.masks[parent]

    def gone(self, task: int) -> None:
        self.masks.pop(task, None)
        self._close(task)

    def entered(self, task: int, others: set[int]) -> bool:
        """A task has stopped before a call; True where its exit is to be seen too."""
        arch = _ARCHES.get(ptrace.get_event_message(task))
        if arch is None:
            return False  # a filter of the child's own has stopped it
        registers = ptrace.get_registers(task)
        name = arch.names.get(registers.orig_rax, "")
        handler = self._handlers.get(name)
        if handler is None:
            return False
        arguments = arch.arguments_of(registers)
        changed = list(arguments)
        try:
            answer = handler(task, arch, name, changed, registers, others)
        except OSError:
            return False  # its memory cannot be read: the kernel says what that means
        if isinstance(answer, int):
            registers.orig_rax = NO_CALL
            registers.rax = answer & NO_CALL
            ptrace.set_registers(task, registers)
        elif answer is not None:
            arch.set_arguments(registers, changed)
            self._amended[task] = (arch, answer)
            ptrace.set_registers(task, registers)
            return True
        return False

    def left(self, task: int) -> None:
        """The exit stop of a call that was amended."""
        arch, call = self._amended[task]
        self._close(task)
        registers = ptrace.get_registers(task)
        arch.set_arguments(registers, call.arguments)
        result = arch.result_of(registers.rax)
        if call.finish is not None and result > 0:
            with contextlib.suppress(OSError):
                result = call.finish(result)
            registers.rax = result
        ptrace.set_registers(task, registers)

    def amended(self, task: int) -> bool:
        return task in self._amended

    def _close(self, task: int) -> None:
        _, call = self._amended.pop(task, (None, None))
        if call is not None and call.descriptor >= 0:
            os.close(call.descriptor)

    # The calls ------------------------------------------------------------------------

    def _path(
        self, task: int, _arch: Arch, name: str, arguments: list[int],
        registers: ptrace.Registers, others: set[int],
    ) -> _Amended | None:  # fmt: skip
        own = list(arguments)
        folder, at = machine.PATHS[name]
        directory = machine.AT_FDCWD if folder is None else arguments[folder]
        named = foreign.read_text(task, arguments[at])
        if not machine.may_be_shown(directory, named):
            return None
        path = machine.in_folder(task, directory, named)
        flags = machine.FLAGS.get(name)
        contents = None
        if flags is not None and arguments[flags] & os.O_ACCMODE == os.O_RDONLY:
            contents = self.machine.contents(path) or self._of_process(task, path, others)
        descriptor, instead = -1, self.machine.elsewhere(path)
        if contents is not None and flags is not None:
            descriptor = machine.in_memory(path, contents)
            way = handing.path_of(descriptor, task)
            if way is None:
                os.close(descriptor)
                descriptor = -1
            else:
                instead = way
                arguments[flags] &= ~os.O_NOFOLLOW
        if instead is None:
            return None
        text = os.fsencode(instead) + b"\0"
        arguments[at] = (registers.rsp - _RED_ZONE - len(text)) & ~15
        try:
            foreign.write(task, arguments[at], text)
        except OSError:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return _Amended(own, descriptor)

    def file(self, process: int, task: int, name: str, others: set[int]) -> bytes | None:
        """A file of a task of these, of /proc/PROCESS; None where it is as the kernel's."""
        if process not in others or name not in ("status", "stat"):
            return None
        mask = self.masks.get(task, self.machine.all)
        which = f"{process}/task/{task}" if task != process else str(process)
        return process_files.of_bystander(which, self.machine, mask, name)

    def _of_process(self, task: int, path: str, others: set[int]) -> bytes | None:
        """What a task reads in a file of /proc/PID, its own or another's."""
        found = PROCESS.fullmatch(path)
        if found is None or found[3] not in ("status", "stat"):
            return None
        process, thread, name = found.groups()
        if process in ("self", "thread-self"):
            own = foreign.process_of(task)
            return self.file(own, task if process == "thread-self" else int(thread or own), name,
                             others | {own})
        number = int(thread or process)
        if number in others:
            return self.file(int(process), number, name, others)
        return self._of_program(number, name)

    def _get_processor(
        self, task: int, _arch: Arch, _name: str, arguments: list[int],
        _registers: ptrace.Registers, _others: set[int],
    ) -> int:  # fmt: skip
        number = self._placement.processor_of(HOME, self.masks.get(task), task)
        try:
            for address, value in ((arguments[0], number), (arguments[1], 0)):
                if address:
                    foreign.write(task, address, value.to_bytes(4, "little"))
        except OSError:
            return -errno.EFAULT
        return 0

    @staticmethod
    def _no_restartable_sequences(*_: object) -> int:
        """The kernel would tell the task, in its memory, of a processor of this host."""
        return -errno.ENOSYS

    @staticmethod
    def _traced(
        _task: int, _arch: Arch, _name: str, arguments: list[int],
        _registers: ptrace.Registers, _others: set[int],
    ) -> _Amended | None:  # fmt: skip
        """A task that the filter stops needs the tracer (LeakSanitizer makes one without)."""
        own = list(arguments)
        arguments[0] &= ~new_tasks.CLONE_UNTRACED
        return _Amended(own) if arguments[0] != own[0] else None

    @staticmethod
    def _traced_3(
        task: int, _arch: Arch, _name: str, arguments: list[int],
        registers: ptrace.Registers, _others: set[int],
    ) -> _Amended | None:  # fmt: skip
        own, size = list(arguments), arguments[1]
        if not new_tasks.ARGS_LEAST <= size <= new_tasks.ARGS_MOST:
            return None
        wanted = foreign.read(task, arguments[0], size)
        flags = int.from_bytes(wanted[:8], "little")
        if not flags & new_tasks.CLONE_UNTRACED:
            return None
        arguments[0] = (registers.rsp - _RED_ZONE - size) & ~15
        traced = (flags & ~new_tasks.CLONE_UNTRACED).to_bytes(8, "little")
        foreign.write(task, arguments[0], traced + wanted[8:])
        return _Amended(own)

    def _entries(
        self, task: int, _arch: Arch, _name: str, arguments: list[int],
        _registers: ptrace.Registers, _others: set[int],
    ) -> _Amended | None:  # fmt: skip
        own, size = list(arguments), arguments[2] & 0xFFFF_FFFF
        folder = os.readlink(f"/proc/{task}/fd/{arguments[0] & 0xFFFF_FFFF}")
        if not self.machine.amends(folder):
            return None
        arguments[2] = self.machine.room(folder, size)

        def finish(length: int) -> int:
            listed = foreign.read(task, own[1], length)
            shown = self.machine.entries(folder, listed, size)
            foreign.write(task, own[1], shown)
            return len(shown)

        return _Amended(own, finish=finish)

    def _get_affinity(
        self, task: int, arch: Arch, _name: str, arguments: list[int],
        _registers: ptrace.Registers, others: set[int],
    ) -> int | None:  # fmt: skip
        target = arguments[0] & 0xFFFF_FFFF or task
        if target not in others:
            return None
        size, length = arguments[1] & 0xFFFF_FFFF, self.machine.mask_size(arch.word)
        if size < length or size % arch.word:
            return -errno.EINVAL
        mask = self.masks.get(target, self.machine.all)
        try:
            foreign.write(task, arguments[2], mask.to_bytes(length, "little"))
        except OSError:
            return -errno.EFAULT
        return length

    def _set_affinity(
        self, task: int, _arch: Arch, _name: str, arguments: list[int],
        _registers: ptrace.Registers, others: set[int],
    ) -> int | None:  # fmt: skip
        target = arguments[0] & 0xFFFF_FFFF or task
        if target not in others:
            return None
        length = min(arguments[1] & 0xFFFF_FFFF, _MASK_MAX)
        try:
            wanted = int.from_bytes(foreign.read(task, arguments[2], length), "little")
        except OSError:
            return -errno.EFAULT
        wanted &= self.machine.all
        if not wanted:
            return -errno.EINVAL
        self.masks[target] = wanted
        return 0
