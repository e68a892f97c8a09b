# SPDX-License-Identifier: GPL-2.0-or-later
"""Share a short text among the processes of one job through PMIx.

PMIx (https://pmix.github.io) is how Open MPI's mpirun, prterun and `srun --mpi=pmix` let
the processes of a job exchange what they need to find each other. Its library comes with
those launchers, and its functions used here have been the same since version 2.

The library starts threads of its own and trusts its caller's structures, so all of it
happens in a short-lived forked child; what becomes of that child harms nobody.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Mapping
from typing import Final

from supervisor.errors import DsmsupError

_LIBRARIES: Final = ("libpmix.so.2", "libpmix.so")
_FOLDERS: Final = ("lib", "lib64", "lib/openmpi")
_KEY: Final = b"dsmsup.rendezvous"
_SUCCESS: Final = 0
_GLOBAL: Final = 3  # pmix_scope_t PMIX_GLOBAL
_STRING: Final = 3  # pmix_data_type_t PMIX_STRING
_TEXT_BYTES_MAX: Final = 4096


class _Proc(ctypes.Structure):
    """pmix_proc_t."""

    _fields_ = (("nspace", ctypes.c_char * 256), ("rank", ctypes.c_uint32))


class _Value(ctypes.Structure):
    """pmix_value_t holding a string; the union's other members are at most 24 bytes."""

    _fields_ = (
        ("type", ctypes.c_uint16),
        ("string", ctypes.c_char_p),
        ("rest_of_union", ctypes.c_uint64 * 6),
    )


def available(environ: Mapping[str, str]) -> bool:
    """Whether this process belongs to a PMIx job and the library can be loaded."""
    return "PMIX_NAMESPACE" in environ and "PMIX_RANK" in environ and _load() is not None


def _load() -> ctypes.CDLL | None:
    """The launcher's own library where it tells of it, else the system's."""
    prefix = os.environ.get("PMIX_PREFIX")
    own = [os.path.join(prefix, folder, _LIBRARIES[0]) for folder in _FOLDERS] if prefix else []
    for name in (*own, *_LIBRARIES):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def share(rank: int, text: str, timeout_s: float) -> str:
    """Rank 0 gives its text to all; every rank returns it. All ranks must call this.

    Raises DsmsupError when the job's PMIx server does not play along in time.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(receive)
            os.write(send, _exchange(rank, text.encode()))
            status = 0
        except BaseException as error:
            os.write(2, f"dsmsup: PMIx: {error}\n".encode())
        finally:
            os._exit(status)
    os.close(send)
    deadline = time.monotonic() + timeout_s
    answer = b""
    try:
        while select.select([receive], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = os.read(receive, _TEXT_BYTES_MAX)
            if not piece:
                break
            answer += piece
        else:
            os.kill(pid, signal.SIGKILL)
            answer = b""
    finally:
        os.close(receive)
        _, status = os.waitpid(pid, 0)
    if status or not answer:
        raise DsmsupError(
            f"the launcher's PMIx server did not connect the hosts within {timeout_s:g} s:"
            " name them with --hosts, --rendezvous and --key-file"
        )
    return answer.decode()


def _exchange(rank: int, text: bytes) -> bytes:
    """The calls themselves, in the child."""
    library = _load()
    assert library is not None
    me = _Proc()
    _check("Init", library.PMIx_Init(ctypes.byref(me), None, ctypes.c_size_t(0)))
    if rank == 0:
        value = _Value(_STRING, text)
        _check("Put", library.PMIx_Put(ctypes.c_uint8(_GLOBAL), _KEY, ctypes.byref(value)))
        _check("Commit", library.PMIx_Commit())
    no_infos = (None, ctypes.c_size_t(0))
    _check("Fence", library.PMIx_Fence(None, ctypes.c_size_t(0), *no_infos))
    if rank != 0:
        source = _Proc(me.nspace, 0)
        found = ctypes.POINTER(_Value)()
        _check(
            "Get",
            library.PMIx_Get(ctypes.byref(source), _KEY, *no_infos, ctypes.byref(found)),
        )
        if found.contents.type != _STRING:
            raise DsmsupError(f"the rendezvous came as type {found.contents.type}")
        text = found.contents.string
    _check("Finalize", library.PMIx_Finalize(*no_infos))
    return text


def _check(what: str, status: int) -> None:
    if status != _SUCCESS:
        raise DsmsupError(f"PMIx_{what} failed with status {status}")
