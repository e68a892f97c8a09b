# SPDX-License-Identifier: GPL-2.0-or-later
"""ptrace(2) as the supervisor uses it: SEIZE-era requests, whole register sets.

Constants and the register structure are python-ptrace's; requests it does not
have, and the hot ones, go to the C library directly, because its checked
wrapper costs more than the system call. Requests on a tracee that has died
meanwhile raise `TraceeGone`: a SIGKILL may take a stopped tracee at any time
(ptrace(2), "Death under ptrace"), and its exit arrives by waitpid.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final, NoReturn, TypeAlias

from ptrace.binding import func as _binding
from ptrace.binding.linux_struct import user_regs_struct

from supervisor.errors import DsmsupError, PeerError

Registers: TypeAlias = user_regs_struct
"""user_regs_struct of <sys/user.h>: 27 words; one read and one write a stop."""

REGISTERS_SIZE: Final = ctypes.sizeof(Registers)

PTRACE_GET_THREAD_AREA: Final = 25
PTRACE_SET_THREAD_AREA: Final = 26
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B

PTRACE_EVENT_SECCOMP: Final = 7
PTRACE_EVENT_STOP: Final = 128

OPTIONS: Final = (
    _binding.PTRACE_O_TRACESYSGOOD
    | _binding.PTRACE_O_TRACEFORK
    | _binding.PTRACE_O_TRACEVFORK
    | _binding.PTRACE_O_TRACECLONE
    | _binding.PTRACE_O_TRACEEXEC
    | 0x00000080  # PTRACE_O_TRACESECCOMP
    | 0x00100000  # PTRACE_O_EXITKILL: a dying supervisor leaves no orphan
)

SI_KERNEL: Final = 0x80
"""si_code of a signal that the processor's exception raised, or a timer of the kernel's."""

NT_X86_XSTATE: Final = 0x202
XSTATE_SIZE_MAX: Final = 16384

_EMPTY_SEGMENT: Final = 0x28
"""read_exec_only and seg_not_present of struct user_desc: LDT_empty (asm/desc.h)."""

WALL: Final = 0x40000000

# The hottest requests.
_CONT: Final[int] = _binding.PTRACE_CONT
_PEEKUSER: Final[int] = _binding.PTRACE_PEEKUSER
_POKEUSER: Final[int] = _binding.PTRACE_POKEUSER
_GETREGS: Final[int] = _binding.PTRACE_GETREGS
_SETREGS: Final[int] = _binding.PTRACE_SETREGS

_libc = ctypes.CDLL(None, use_errno=True)
# No ptrace request blocks, so none needs to let other Python threads run. Arguments have no
# declared types, for to convert by them takes as long as all else that a call takes: what is
# no object of ctypes passes as a C int.
_ptrace = ctypes.PyDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_word = ctypes.c_ulong()


class TraceeGone(Exception):
    """The tracee is dead or dying; waitpid tells how it ended."""


def _request(request: int, pid: int, address: int = 0, data: Any = 0) -> None:
    """`data`: a C int, or what ctypes.byref makes."""
    if _ptrace(request, pid, address, data) == -1:
        _fail(request, pid)


def _fail(request: int, pid: int) -> NoReturn:
    code = ctypes.get_errno()
    if code == errno.ESRCH:
        raise TraceeGone(pid)
    raise OSError(code, f"ptrace request {request:#x} on {pid}: {os.strerror(code)}")


def seize(pid: int) -> None:
    _request(PTRACE_SEIZE, pid, 0, OPTIONS)


def interrupt(pid: int) -> None:
    _request(PTRACE_INTERRUPT, pid)


def listen(pid: int) -> None:
    _request(PTRACE_LISTEN, pid)


def cont(pid: int, signal: int = 0) -> None:
    if _ptrace(_CONT, pid, 0, signal) == -1:
        _fail(_CONT, pid)


def cont_to_syscall(pid: int, signal: int = 0) -> None:
    """Resume until the next system call entry or exit (from a seccomp stop: the exit)."""
    _request(_binding.PTRACE_SYSCALL, pid, 0, signal)


def single_step(pid: int, signal: int = 0) -> None:
    _request(_binding.PTRACE_SINGLESTEP, pid, 0, signal)


def detach(pid: int) -> None:
    _request(_binding.PTRACE_DETACH, pid)


def get_registers(pid: int, into: Registers | None = None) -> Registers:
    registers = Registers() if into is None else into
    if _ptrace(_GETREGS, pid, 0, ctypes.byref(registers)) == -1:
        _fail(_GETREGS, pid)
    return registers


def set_registers(pid: int, registers: Registers) -> None:
    if _ptrace(_SETREGS, pid, 0, ctypes.byref(registers)) == -1:
        _fail(_SETREGS, pid)


_RIP: Final = Registers.rip.offset


def get_instruction_pointer(pid: int) -> int:
    """Where nothing else of the registers is asked for: cheaper than all."""
    address: int = _ptrace(_PEEKUSER, pid, _RIP, 0)
    if address == -1:
        _fail(_PEEKUSER, pid)
    return address


def set_instruction_pointer(pid: int, address: int) -> None:
    """At a signal's delivery, where nothing else of the registers changes: cheaper than all."""
    _word.value = address
    if _ptrace(_POKEUSER, pid, _RIP, _word) == -1:
        _fail(_POKEUSER, pid)


def peek_user(pid: int, offset: int) -> int:
    """One word of the user area (<sys/user.h>), unsigned; cheaper than all registers."""
    ctypes.set_errno(0)
    word: int = _ptrace(_PEEKUSER, pid, offset, 0)
    if word == -1 and ctypes.get_errno():
        raise TraceeGone(pid)
    return word & 0xFFFF_FFFF_FFFF_FFFF


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def get_xstate(pid: int) -> bytes:
    """The XSAVE area (NT_X86_XSTATE) of a stopped thread."""
    buffer = ctypes.create_string_buffer(XSTATE_SIZE_MAX)
    vector = _IoVector(ctypes.addressof(buffer), XSTATE_SIZE_MAX)
    _request(_binding.PTRACE_GETREGSET, pid, NT_X86_XSTATE, ctypes.byref(vector))
    return buffer.raw[: vector.length]


def set_xstate(pid: int, state: bytes) -> None:
    """Raises DsmsupError where this host's XSAVE area is another than that of `state`."""
    buffer = ctypes.create_string_buffer(state, len(state))
    vector = _IoVector(ctypes.addressof(buffer), len(state))
    try:
        _request(_binding.PTRACE_SETREGSET, pid, NT_X86_XSTATE, ctypes.byref(vector))
    except OSError:
        raise DsmsupError(
            f"a thread's registers do not fit this host's processor: an XSAVE area of"
            f" {len(state)} bytes where it has {len(get_xstate(pid))}"
        ) from None


GDT_TLS_FIRST: Final = 12
GDT_TLS_COUNT: Final = 3
USER_DESC_SIZE: Final = 16


def get_thread_areas(pid: int) -> list[bytes]:
    """A thread's own entries of the descriptor table that are in use (struct user_desc)."""
    buffer = ctypes.create_string_buffer(USER_DESC_SIZE)
    areas = []
    for entry in range(GDT_TLS_FIRST, GDT_TLS_FIRST + GDT_TLS_COUNT):
        try:
            _request(PTRACE_GET_THREAD_AREA, pid, entry, ctypes.byref(buffer))
        except OSError:
            return []  # a kernel without i386 emulation
        if buffer.raw[12] & _EMPTY_SEGMENT != _EMPTY_SEGMENT:
            areas.append(buffer.raw)
    return areas


def set_thread_areas(pid: int, areas: list[bytes]) -> None:
    """Set entries of a thread's descriptor table; each names its own."""
    for area in areas:
        if len(area) != USER_DESC_SIZE:
            raise PeerError("a segment descriptor of the wrong size")
        buffer = ctypes.create_string_buffer(area, USER_DESC_SIZE)
        entry = int.from_bytes(area[:4], "little")
        _request(PTRACE_SET_THREAD_AREA, pid, entry, ctypes.byref(buffer))


def get_signal_mask(pid: int) -> int:
    """Blocked signals, bit N-1 for signal N."""
    mask = ctypes.c_uint64()
    _request(PTRACE_GETSIGMASK, pid, 8, ctypes.byref(mask))
    return int(mask.value)


def set_signal_mask(pid: int, mask: int) -> None:
    value = ctypes.c_uint64(mask)
    _request(PTRACE_SETSIGMASK, pid, 8, ctypes.byref(value))


_siginfo = (ctypes.c_int * 32)()
_siginfo_pointer = ctypes.byref(_siginfo)


def get_siginfo(pid: int) -> tuple[int, int, int]:
    """(si_signo, si_code, si_addr) of a signal-delivery stop; the address is 0 where none is."""
    _request(_binding.PTRACE_GETSIGINFO, pid, 0, _siginfo_pointer)
    address = (_siginfo[4] & 0xFFFFFFFF) | (_siginfo[5] & 0xFFFFFFFF) << 32
    return _siginfo[0], _siginfo[2], address


def get_siginfo_bytes(pid: int) -> bytes:
    """The whole siginfo_t (128 bytes) of a signal-delivery stop."""
    _request(_binding.PTRACE_GETSIGINFO, pid, 0, _siginfo_pointer)
    return bytes(_siginfo)


def set_siginfo_bytes(pid: int, info: bytes) -> None:
    buffer = ctypes.create_string_buffer(info, 128)
    _request(_binding.PTRACE_SETSIGINFO, pid, 0, ctypes.byref(buffer))


def get_event_message(pid: int) -> int:
    message = ctypes.c_ulong()
    _request(_binding.PTRACE_GETEVENTMSG, pid, 0, ctypes.byref(message))
    return int(message.value)


# pidfd_getfd and friends have no wrapper in Python 3.11.

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def raw_syscall(number: int, *args: int) -> int:
    """A system call of the supervisor itself; raises OSError."""
    result: int = _syscall(
        ctypes.c_long(number), *(ctypes.c_long(argument) for argument in args)
    )
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


_RT_SIGQUEUEINFO: Final = 129
_RT_TGSIGQUEUEINFO: Final = 297


def queue_signal(pid: int, tid: int, number: int, info: bytes) -> None:
    """Queue a signal with this siginfo_t for a thread, or, where `tid` is 0, for its process.

    The kernel lets nobody pretend to be it (a positive si_code). Raises OSError.
    """
    buffer = ctypes.create_string_buffer(info, 128)
    address = ctypes.addressof(buffer)
    if tid:
        raw_syscall(_RT_TGSIGQUEUEINFO, pid, tid, number, address)
    else:
        raw_syscall(_RT_SIGQUEUEINFO, pid, number, address)


def borrow_descriptor(pidfd: int, descriptor: int) -> int:
    """A duplicate, in the supervisor, of a guest's descriptor (pidfd_getfd(2))."""
    return raw_syscall(438, pidfd, descriptor, 0)


_PIDFD_OPEN: Final = 434
_PIDFD_THREAD: Final = os.O_EXCL


def borrow_from_task(task: int, descriptor: int, pidfd: int) -> int:
    """The same of one task, which may have a table of its own (unshare(2)), or live on in a
    process whose main task, and its table, is gone.

    `pidfd` is the process's, for kernels before 6.9, which have none of single tasks.
    """
    try:
        own = raw_syscall(_PIDFD_OPEN, task, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return borrow_descriptor(pidfd, descriptor)
    try:
        return borrow_descriptor(own, descriptor)
    finally:
        os.close(own)
