# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: System V and POSIX queues, semaphores, shared memory segments.

System V control calls are told apart by their command; sizes are of the kernel's
64-bit structures (asm/ipcbuf.h, msgbuf.h, sembuf.h, shmbuf.h).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor.syscalls.spec import (
    LONG,
    RETURNED,
    Arg,
    Args,
    Data,
    Either,
    In,
    Inner,
    InOut,
    Kind,
    Out,
    Row,
    Size,
    Struct,
    Text,
    TimeSize,
    V,
    chosen,
    home,
    uint_arg,
)

SEMID_DS: Final = Size(104, 64)
MSGID_DS: Final = Size(120, 88)
SHMID_DS: Final = Size(112, 84)
SEMINFO: Final = 40
MSGINFO: Final = 32
SHMINFO: Final = Size(72, 36)
SHM_INFO: Final = Size(48, 24)
SEMBUF: Final = 6
MQ_ATTR: Final = Size(64, 32)
SIGEVENT: Final = 64
TIMESPEC: Final = TimeSize(16, 8)

_IPC_SET, _IPC_STAT, _IPC_INFO = 1, 2, 3
_SEM_VALUES_MAX: Final = 32000 * 2
"""Bytes of all values of a set: only the kernel knows how many it has (at most SEMMSL)."""


def _table(name: str, leading: int, kinds: dict[int, Kind]) -> dict[int, Row]:
    return {command: home(name, *(V,) * leading, kind) for command, kind in kinds.items()}


_SEMCTL: Final = _table("semctl", 3, {
    _IPC_SET: In(SEMID_DS),
    _IPC_STAT: Out(SEMID_DS),
    _IPC_INFO: Out(SEMINFO),
    13: InOut(_SEM_VALUES_MAX, prefix=True),  # GETALL
    17: In(_SEM_VALUES_MAX, prefix=True),  # SETALL
    18: Out(SEMID_DS),  # SEM_STAT
    19: Out(SEMINFO),  # SEM_INFO
    20: Out(SEMID_DS),  # SEM_STAT_ANY
})
_MSGCTL: Final = _table("msgctl", 2, {
    _IPC_SET: In(MSGID_DS),
    _IPC_STAT: Out(MSGID_DS),
    _IPC_INFO: Out(MSGINFO),
    11: Out(MSGID_DS),  # MSG_STAT
    12: Out(MSGINFO),  # MSG_INFO
    13: Out(MSGID_DS),  # MSG_STAT_ANY
})
_SHMCTL: Final = _table("shmctl", 2, {
    _IPC_SET: In(SHMID_DS),
    _IPC_STAT: Out(SHMID_DS),
    _IPC_INFO: Out(SHMINFO),
    13: Out(SHMID_DS),  # SHM_STAT
    14: Out(SHM_INFO),  # SHM_INFO
    15: Out(SHMID_DS),  # SHM_STAT_ANY
})
_SEMCTL_VALUE: Final = home("semctl", V, V, V, V)
_MSGCTL_VALUE: Final = home("msgctl", V, V, V)
_SHMCTL_VALUE: Final = home("shmctl", V, V, V)


def _semctl(args: Args) -> Row:
    return _SEMCTL.get(args[2] & 0xFFFFFFFF, _SEMCTL_VALUE)


def _msgctl(args: Args) -> Row:
    return _MSGCTL.get(args[1] & 0xFFFFFFFF, _MSGCTL_VALUE)


def _shmctl(args: Args) -> Row:
    return _SHMCTL.get(args[1] & 0xFFFFFFFF, _SHMCTL_VALUE)


def _cookie_of(notify: int) -> Callable[[bytes], int]:
    """With SIGEV_THREAD (2) the kernel copies 32 bytes from sigev_value.sival_ptr."""
    return lambda event: 32 if int.from_bytes(event[notify : notify + 4], "little") == 2 else -1


_COOKIE: Final = Either(_cookie_of(12), _cookie_of(8))


ROWS: Final = (
    home("semget", V, V, V),
    home("semop", V, In(uint_arg(2, SEMBUF)), V, blocks=True),
    home("semtimedop", V, In(uint_arg(2, SEMBUF)), V, In(TIMESPEC), blocks=True),
    chosen("semctl", _semctl),
    home("msgget", V, V),
    home("msgsnd", V, In(Arg(2, base=LONG)), V, V, blocks=True),
    home("msgrcv", V, Out(Arg(2, base=LONG), RETURNED._replace(base=LONG)), V, V, V, blocks=True),
    chosen("msgctl", _msgctl),
    home("shmget", V, V, V),
    chosen("shmctl", _shmctl),
    home("mq_open", Text(), V, V, In(MQ_ATTR)),
    home("mq_unlink", Text()),
    home("mq_timedsend", V, Data(2, out=False, whole=True), V, V, In(TIMESPEC), blocks=True),
    home("mq_timedreceive", V, Out(Arg(2), RETURNED, clamp=True), V, Out(4), In(TIMESPEC),
         blocks=True),
    home("mq_notify", V, Struct(SIGEVENT, (Inner(0, _COOKIE),))),
    home("mq_getsetattr", V, In(MQ_ATTR), Out(MQ_ATTR)),
)
