# SPDX-License-Identifier: GPL-2.0-or-later
"""Share a short text among the processes that one launcher started.

With it the first process tells the others where it listens and the run's one-time key,
so that `mpirun -n 2 dsmsup exec ./a.out` needs no option. Three ways, by what the
launcher offers:

- `pmix`: the job's PMIx server (`pmix.py`).
- `pmi1`: PMI version 1, lines of `cmd=NAME key=value ...` over the descriptor PMI_FD
  (Hydra of MPICH and Intel MPI, `srun --mpi=pmi2`). The launcher's own connections carry
  it between nodes.
- `local`: for jobs of one node, a socket in the kernel's abstract name space, where the
  kernel itself tells whether the other end belongs to the same user.

In each, only processes of the job, or of the user who started it, can read the text.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final

from supervisor.cluster import pmix
from supervisor.errors import DsmsupError

_LINE_BYTES_MAX: Final = 4096
_PMI_KEY: Final = "dsmsup-rendezvous"
_RETRY_S: Final = 0.02
_NAME_YOUR_HOSTS: Final = "name the hosts with --hosts, --rendezvous and --key-file"


def share(
    way: str, job: str, rank: int, size: int, text: str, environ: Mapping[str, str], wait_s: float
) -> str:
    """Give rank 0's `text` (printable, no white space) to every rank; all call it once.

    `way` is one of `pmix`, `pmi1`, `local`, `job` names the job uniquely on this machine.
    Raises DsmsupError when the others do not come within `wait_s` seconds.
    """
    assert text.isprintable() and " " not in text
    if way == "pmix":
        return pmix.share(rank, text, wait_s)
    if way == "pmi1":
        return _share_by_pmi1(int(environ["PMI_FD"]), rank, text, wait_s)
    assert way == "local", way
    return _share_locally(job, rank, size, text, wait_s)


# PMI version 1 -----------------------------------------------------------------------


def _share_by_pmi1(descriptor: int, rank: int, text: str, wait_s: float) -> str:
    """Speak PMI-1 to the launcher's proxy, then close the descriptor."""
    deadline = time.monotonic() + wait_s
    try:
        _ask(descriptor, "cmd=init pmi_version=1 pmi_subversion=1", "response_to_init", deadline)
        space = _ask(descriptor, "cmd=get_my_kvsname", "my_kvsname", deadline)["kvsname"]
        if rank == 0:
            put = f"cmd=put kvsname={space} key={_PMI_KEY} value={text}"
            _ask(descriptor, put, "put_result", deadline)
        _ask(descriptor, "cmd=barrier_in", "barrier_out", deadline)
        get = f"cmd=get kvsname={space} key={_PMI_KEY}"
        found = _ask(descriptor, get, "get_result", deadline)["value"]
        _ask(descriptor, "cmd=finalize", "finalize_ack", deadline)
        return found
    except (OSError, KeyError) as error:
        raise DsmsupError(
            f"the launcher's PMI connection does not work ({error}): {_NAME_YOUR_HOSTS}"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # If it was never open, the error above tells.
            os.close(descriptor)


def _ask(descriptor: int, request: str, expected: str, deadline: float) -> dict[str, str]:
    """Send one line, and return the fields of the line that answers it."""
    os.write(descriptor, request.encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer to {request.split()[0]}")
        piece = os.read(descriptor, _LINE_BYTES_MAX)
        line += piece
        if not piece or len(line) > _LINE_BYTES_MAX:
            raise ConnectionError(f"no answer to {request.split()[0]}")
    fields = dict(
        word.split("=", 1) for word in line.decode("ascii", "replace").split() if "=" in word
    )
    if fields.get("cmd") != expected or fields.get("rc", "0") != "0":
        raise ConnectionError(f"{request.split()[0]} answered by {line[:80]!r}")
    return fields


# One node ----------------------------------------------------------------------------

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_RANK: Final = struct.Struct("<I")


def _address_of(job: str) -> bytes:
    """An abstract name for the job and user, different in each network namespace."""
    return b"\0dsmsup-" + hashlib.sha256(f"{job} {os.geteuid()}".encode()).hexdigest().encode()


def _same_user(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return bool(uid == os.geteuid())


def _share_locally(job: str, rank: int, size: int, text: str, wait_s: float) -> str:
    deadline = time.monotonic() + wait_s
    if rank == 0:
        _serve_locally(job, size, text, deadline, wait_s)
        return text
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(max(_RETRY_S, deadline - time.monotonic()))
            try:
                sock.connect(_address_of(job))
                if not _same_user(sock):
                    raise DsmsupError(
                        f"another user pretends to be this job's first process: {_NAME_YOUR_HOSTS}"
                    )
                sock.sendall(_RANK.pack(rank))
                answer = b""
                while piece := sock.recv(_LINE_BYTES_MAX):
                    answer += piece
                if answer.endswith(b"\n"):
                    return answer[:-1].decode()
            except OSError:
                pass  # It does not listen yet, or left us for one of our kind: again.
        if time.monotonic() >= deadline:
            raise DsmsupError(
                f"the job's first process did not show itself within {wait_s:g} s:"
                f" {_NAME_YOUR_HOSTS}"
            )
        time.sleep(_RETRY_S)


def _serve_locally(job: str, size: int, text: str, deadline: float, wait_s: float) -> None:
    """Rank 0: hand the text to every other rank, to processes of our user only."""
    waiting = set(range(1, size))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.bind(_address_of(job))
        except OSError as error:
            raise DsmsupError(
                f"cannot meet this job's other processes ({error.strerror}): {_NAME_YOUR_HOSTS}"
            ) from None
        server.listen(128)
        while waiting:
            server.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                client, _ = server.accept()
            except TimeoutError:
                missing = ", ".join(map(str, sorted(waiting)))
                raise DsmsupError(
                    f"processes {missing} of {size} did not come within {wait_s:g} s"
                    " (--join-timeout sets the wait)"
                ) from None
            with client:
                client.settimeout(1)
                try:
                    if _same_user(client):
                        (rank,) = _RANK.unpack(client.recv(_RANK.size, socket.MSG_WAITALL))
                        client.sendall(text.encode() + b"\n")
                        waiting.discard(rank)
                except (OSError, struct.error):
                    continue
