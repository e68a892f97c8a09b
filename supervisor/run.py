# SPDX-License-Identifier: GPL-2.0-or-later
"""One host's part in a run, from its plan to its exit status."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TextIO

import trio

from supervisor.cluster import processors
from supervisor.cluster.membership import Membership, assemble
from supervisor.cluster.plan import ClusterPlan
from supervisor.cluster.processors import Shown
from supervisor.cluster.transport import keep_freed_memory
from supervisor.driver import events
from supervisor.driver.core import Supervisor
from supervisor.driver.home import Home
from supervisor.driver.lender import Lender
from supervisor.errors import EXIT_FAILURE, DsmsupError
from supervisor.limits import check_limits
from supervisor.program import check_proc, find_program
from supervisor.standard_streams import say
from supervisor.tasks import NO_MORE, is_no_thread
from supervisor.tracee import ptrace
from supervisor.tracee.compaction import compact
from supervisor.tracee.priority import bound_urgency, put_first
from supervisor.units import HOME, HostId

STATISTICS_WAIT_S: Final = 5.0
CHILDREN_WAIT_S: Final = 2.0
"""How long children that the program leaves behind have to end: they are traced, and die
with their tracer."""

REAP_S: Final = 3.0
_EXHAUSTED: Final = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "this machine is at its limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "this machine, or the limit set here (ulimit -v), has no more memory",
    errno.ENOSPC: "the memory of this machine's shared files (or a disk) is full",
}
"""What is missing, for which nobody is to look for a fault in dsmsup."""
_FORBIDDEN: Final = (errno.EPERM, errno.EACCES, errno.ENOSYS)
VIRTUAL_SILENCE_S_MAX: Final = 60.0
"""How long a virtual host may say nothing: the kernel tells of its end, and this machine
may be busy, or somebody may have stopped the host for a look (kill -STOP)."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, and what to tell about it."""

    program: str
    arguments: list[str]
    policy: str = "adaptive"
    stats_path: str | None = None
    verbose: bool = False
    virtual: bool = False
    """All hosts are of this machine and share one stderr: home speaks for them."""
    processors: int = 0
    """How many processors virtual hosts share out."""
    migrate: bool = True
    """Threads that do little but wait for pages go home."""
    pager: str = "auto"
    """How this host keeps its guest from pages: auto, userfaultfd or sigsegv."""

    def tell(self, line: str) -> None:
        if self.verbose:
            say(line)


@dataclass(slots=True)
class Preparations:
    """What home has looked at before anybody is kept waiting."""

    job: Job
    program: str = ""
    """Its path, once it is found."""
    report: TextIO | None = None
    """Where the statistics go."""

    def make(self) -> None:
        """Once, however often it is called. Raises DsmsupError."""
        if self.program:
            return
        program = find_program(self.job.program)
        if self.job.stats_path is not None:
            self.report = _open_report(self.job.stats_path)
        self.program = program


def check_host(hosts: int) -> None:
    """Raise DsmsupError where this host cannot be one of a run."""
    check_proc()
    check_limits(hosts)


def run_host(
    plan: ClusterPlan,
    job: Job,
    preparations: Preparations,
    child_of: Callable[[int], HostId | None] = lambda pid: None,
) -> int:
    """Be one host of a run; the exit status. Errors are told on stderr here."""
    try:
        return trio.run(_run_host, plan, job, preparations, child_of)
    except DsmsupError as error:
        if not error.told:
            say(str(error))
        return error.exit_status
    except Exception as error:
        # The guest dies with its tracer (EXITKILL).
        say(_internal_error(error, job))
        return EXIT_FAILURE


def _internal_error(error: BaseException, job: Job) -> str:
    """How the user is told of a fault of dsmsup's own."""
    if job.verbose:
        traceback.print_exception(error)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if is_no_thread(error):
        return NO_MORE
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return f"{error.strerror}: {_EXHAUSTED[error.errno]}"
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return (
            f"{error.strerror}: this system forbids a call that dsmsup needs (the container's "
            "seccomp profile? -v shows which)"
        )
    return f"internal error: {type(error).__name__}: {error} (-v shows where)"


async def _run_host(
    plan: ClusterPlan, job: Job, preparations: Preparations,
    child_of: Callable[[int], HostId | None],
) -> int:  # fmt: skip
    membership = await assemble(
        plan, log=job.tell, prepare=preparations.make,
        check=(lambda: None) if job.virtual else partial(check_host, plan.hosts),
    )  # fmt: skip
    events.block_signals()
    keep_freed_memory()
    job.tell(f"host {membership.host_id}: scheduling: {put_first()}")
    names = [info.hostname for info in membership.infos]
    shown = processors.shown([info.processor for info in membership.infos])
    try:
        if membership.host_id == HOME:
            return await _run_home(plan, job, preparations, membership, names, shown, child_of)
        return await _run_lender(plan, job, membership, names, shown)
    finally:
        membership.close()


async def _run_home(
    plan: ClusterPlan,
    job: Job,
    preparations: Preparations,
    membership: Membership,
    names: list[str],
    shown: Shown,
    child_of: Callable[[int], HostId | None],
) -> int:
    started = time.monotonic()
    cpus = [info.cpus for info in membership.infos]
    if shown.hidden:
        job.tell(f"not all hosts have {', '.join(sorted(shown.hidden))}: CPUID hides it")
    home = Home(
        membership.hosts, membership.links, names, cpus, job.policy, job.tell, membership.paths,
        shown,
    )  # fmt: skip
    home.on_child_exit = child_of
    home.child_hosts = frozenset(host for host, _ in plan.processes)
    home.pager_choice = job.pager
    home.may_spin = _own_processors(job, membership)
    if job.virtual:
        home.links.silence_s_max = VIRTUAL_SILENCE_S_MAX
    try:
        async with trio.open_nursery() as nursery:
            home.background = _background(nursery, home)
            try:
                home.start(preparations.program, [job.program, *job.arguments], plan.cpus)
            except DsmsupError as error:
                home.fail(error)
            bound_urgency()
            _settle_in(home, job)
            try:
                await home.run()
            except Exception as error:
                home.fail(DsmsupError(_internal_error(error, job)))
            with trio.move_on_after(STATISTICS_WAIT_S):
                await home.wait_for_statistics()
            with trio.move_on_after(CHILDREN_WAIT_S):
                await home.wait_for_children()
            nursery.cancel_scope.cancel()
    finally:
        home.endings.kill_program()
        home.bystanders.kill()
        membership.close()  # the other hosts wait for it: children of this process among them
        home.files.close()
        _reap()
        home.events.close()
    if home.trouble is not None:
        say(str(home.trouble))
    assert home.endings.status is not None
    if preparations.report is not None:
        _write_statistics(preparations.report, job, home, cpus, time.monotonic() - started)
    return home.endings.status


async def _run_lender(
    plan: ClusterPlan, job: Job, membership: Membership, names: list[str], shown: Shown
) -> int:
    lender = Lender(
        membership.host_id, membership.hosts, membership.links, names, job.policy, job.tell,
        membership.paths, shown,
    )  # fmt: skip
    lender.migrate = job.migrate
    lender.pager_choice = job.pager
    lender.may_spin = _own_processors(job, membership)
    if job.virtual:
        lender.links.silence_s_max = VIRTUAL_SILENCE_S_MAX
    try:
        try:
            lender.start(plan.cpus)
        except DsmsupError as error:
            lender.fail(error)
        bound_urgency()
        _settle_in(lender, job)
        await lender.run()
    except Exception as error:
        lender.fail(DsmsupError(_internal_error(error, job)))
    finally:
        lender.kill_guest()
        _reap()
        lender.take_leave()
        lender.events.close()
    if lender.trouble is not None and not job.virtual:
        say(str(lender.trouble))
    return lender.exit_status


def _settle_in(supervisor: Supervisor, job: Job) -> None:
    """All that a run needs is loaded, and its guest process has been forked (before that,
    what is written to would be copied again).

    Garbage is looked for among what is made from now on: all else stays, and to go through
    it takes as long as a hundred page faults. Where hosts share processors, what they wait
    for is each other, and all would begin the later.
    """
    gc.freeze()
    if supervisor.may_spin:
        moved = compact()
        job.tell(f"host {supervisor.host}: {moved >> 20} MiB of its memory are on large pages")
    gc.enable()


def _own_processors(job: Job, membership: Membership) -> bool:
    """Are there others, and do none of them share this one's processors?

    Virtual hosts each get processors of their own unless there are too few;
    hosts of a cluster that are on one machine may share any.
    """
    if membership.hosts == 1:
        return False
    if job.virtual:
        return job.processors >= membership.hosts
    names = [info.hostname for info in membership.infos]
    return names.count(names[membership.host_id]) == 1


def _background(
    nursery: trio.Nursery, home: Home
) -> Callable[[Callable[[], Any], Callable[[Any], None]], None]:
    """Runs work in a worker thread, then goes on with its result in the event loop's."""

    async def work_and_go_on(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        try:
            value = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        finally:
            home.events.background -= 1
        home.events.soon(partial(done, value))

    def start(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        home.events.background += 1  # from now on: it begins when trio has its turn
        nursery.start_soon(work_and_go_on, work, done)

    return start


def _reap() -> None:
    """Wait, a bounded time, until every child and tracee of this process is gone."""
    deadline = time.monotonic() + REAP_S
    while time.monotonic() < deadline:
        try:
            pid, status = os.waitpid(-1, ptrace.WALL | os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.001)
        elif os.WIFSTOPPED(status):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _open_report(path: str) -> TextIO:
    """Before the program runs: what cannot be written should not cost a run."""
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise DsmsupError(f"cannot write statistics to '{path}': {error.strerror}") from None


def _write_statistics(file: TextIO, job: Job, home: Home, cpus: list[int], wall_s: float) -> None:
    rows = {0: home.statistics(), **home.host_statistics}
    report = {
        "program": job.program,
        "exit_status": home.endings.status,
        "wall_s": round(wall_s, 6),
        "policy": job.policy,
        "hosts": [
            {"id": host, "name": home.names[host], "cpus": cpus[host], **rows.get(host, {})}
            for host in range(home.hosts)
        ],
    }
    try:
        with file:  # closing writes, too
            json.dump(report, file, indent=2)
            file.write("\n")
    except OSError as error:
        say(f"cannot write statistics to '{job.stats_path}': {error.strerror}")
