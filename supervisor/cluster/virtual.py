# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual hosts: `-n N` as N processes of this machine.

The front process becomes home and forks the others before any event loop runs, so that
they start with everything imported. Everything after the fork, joining included, is the
same code as on a real cluster; the key is made for the run and lives in memory only,
and home listens on loopback only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from supervisor import tasks
from supervisor.cluster.auth import new_key
from supervisor.cluster.plan import ClusterPlan, Rendezvous, VirtualPlan
from supervisor.cluster.rendezvous import check_loopback, listen_on_loopback
from supervisor.errors import EXIT_FAILURE, DsmsupError
from supervisor.standard_streams import open_null, say
from supervisor.units import HOME, HostId

HostMain = Callable[[ClusterPlan], int]
"""Runs one host to its end and returns its exit status."""

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Child:
    """One virtual host's process. The descriptor names it even after its id is reused."""

    host: HostId
    pid: int
    pidfd: int


@dataclass(slots=True)
class VirtualHosts:
    """Home's plan, and the processes of the other hosts, which home must outlive."""

    plan: ClusterPlan
    children: list[Child]

    def host_of(self, pid: int) -> HostId | None:
        """Which host a process id that waitpid returned belongs to."""
        for child in self.children:
            if child.pid == pid:
                return child.host
        return None

    def reap(self, grace_s: float = 2.0) -> None:
        """Wait for the children, `grace_s` seconds in all, then kill those left.

        They end by themselves when home closes their links. Children that somebody
        else has waited for are fine too. Afterwards there are none. After a failure there
        is nothing to wait for: `reap(0)`.
        """
        deadline = time.monotonic() + grace_s
        for child in self.children:
            if not _ends_by(child, deadline):
                _kill(child)
            with contextlib.suppress(ChildProcessError):  # The driver may have waited for it.
                os.waitpid(child.pid, 0)
            os.close(child.pidfd)
        self.children.clear()


def _ends_by(child: Child, deadline: float) -> bool:
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _kill(child: Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def spawn(
    plan: VirtualPlan, host_main: HostMain, *, keep: Iterable[int] = (), pin: bool = True
) -> VirtualHosts:
    """Fork hosts 1 to N-1, each of which runs `host_main` and exits with what it returns.

    Returns in home only, which then runs its own part with the returned plan. A child
    leads a session of its own (a terminal's Ctrl-C is home's to handle), is killed with
    home, reads /dev/null, writes its messages to stderr and nothing to stdout, and
    keeps of home's other descriptors only those in `keep`: a pipe that the program
    closes must not stay open in a supervisor. With `pin`, every host, home included, is
    bound to its share of the processors.

    Call it before any event loop or thread is started.
    """
    key = new_key()
    if plan.hosts == 1:
        home = ClusterPlan(1, HOME, Rendezvous(("127.0.0.1",), 0), key, plan.cpu_sets[0])
        _bind(home, pin)
        return VirtualHosts(home, [])
    try:
        check_loopback()
        listener = listen_on_loopback()
    except OSError as error:
        raise DsmsupError(f"cannot listen at 127.0.0.1: {error.strerror}") from None
    null = open_null()
    rendezvous = Rendezvous(("127.0.0.1",), listener.getsockname()[1])
    plans = [
        ClusterPlan(
            plan.hosts, HostId(host), rendezvous, key, cpus, plan.join_timeout_s, home_listens=True
        )
        for host, cpus in enumerate(plan.cpu_sets)
    ]
    home = replace(plans[HOME], listener=listener)
    # Or the children would write out again what stands in these buffers.
    sys.stdout.flush()
    sys.stderr.flush()
    front = os.getpid()
    hosts = VirtualHosts(home, [])
    try:
        for child_plan in plans[1:]:
            pid = tasks.fork()
            if pid == 0:
                _run_child(child_plan, host_main, front, tuple(keep), pin, null)
            assert child_plan.host_id is not None
            hosts.children.append(Child(child_plan.host_id, pid, _descriptor_of(pid)))
    except (OSError, DsmsupError) as error:
        for child in hosts.children:
            _kill(child)
        hosts.reap()
        listener.close()
        os.close(null)
        why = error.strerror if isinstance(error, OSError) else error
        raise DsmsupError(f"cannot start {plan.hosts} virtual hosts: {why}") from None
    os.close(null)
    _bind(home, pin)
    processes = tuple((child.host, child.pidfd) for child in hosts.children)
    hosts.plan = replace(home, processes=processes)
    return hosts


def _descriptor_of(pid: int) -> int:
    """Of a child just forked, which ends where it can have none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _bind(plan: ClusterPlan, pin: bool) -> None:
    if pin:
        try:
            os.sched_setaffinity(0, plan.cpus)
        except OSError as error:
            raise DsmsupError(f"cannot use the processors {plan.cpus}: {error.strerror}") from None


def _run_child(
    plan: ClusterPlan, host_main: HostMain, front: int, keep: tuple[int, ...], pin: bool,
    null: int,
) -> NoReturn:  # fmt: skip
    """A child's whole life. Never returns, whatever happens: home's stack is below us."""
    status = EXIT_FAILURE
    try:
        _settle_child(front, keep, null)
        _bind(plan, pin)
        status = host_main(plan)
    except DsmsupError as error:
        say(str(error))
        status = error.exit_status
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else EXIT_FAILURE
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)


def _settle_child(front: int, keep: tuple[int, ...], null: int) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise DsmsupError(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != front:  # Home died before the kernel knew that we want to follow.
        os._exit(EXIT_FAILURE)
    os.setsid()
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # Home was started without a stderr.
        os.dup2(null, 1)
        os.dup2(null, 2)
    low = 3
    for descriptor in (*sorted(fd for fd in keep if fd >= 3), 1 << 20):
        os.closerange(low, descriptor)
        low = descriptor + 1
