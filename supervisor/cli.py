# SPDX-License-Identifier: GPL-2.0-or-later
"""The `dsmsup` command."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any, NoReturn

import click

from rewriter.entry import let_interrupts_kill
from supervisor import __version__, given_signals
from supervisor.errors import EXIT_FAILURE, DsmsupError
from supervisor.quick_lookup import quick_lookup
from supervisor.standard_streams import say, settle

_CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Rewriting(click.Group):
    """Adds the rewriter's own commands, imported only when asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), "rewrite", "sites", "cache"])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in ("rewrite", "sites", "cache"):
            from rewriter.commands import commands

            if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
                # They have files of their own to remove.
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return next(command for command in commands if command.name == name)
        return super().get_command(context, name)


@click.group(cls=_Rewriting, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="dsmsup")
def cli() -> None:
    """Run one unmodified multithreaded program over several hosts as one SMP machine."""


@cli.command(
    "exec",
    context_settings={**_CONTEXT, "allow_interspersed_args": False},
)
@click.option("-n", "n", metavar="N", help="Run on N virtual hosts of this machine.")
@click.option("--hosts", metavar="N", help="Number of hosts of the cluster.")
@click.option("--rendezvous", metavar="HOST:PORT", help="Where host 0 (home) listens.")
@click.option("--key-file", metavar="FILE", help="The cluster's key (see `dsmsup keygen`).")
@click.option("--host-id", metavar="ID", help="This host's id; 0 is home. Default: by arrival.")
@click.option("--join-timeout", metavar="SECONDS", help="How long to wait for all hosts.")
@click.option(
    "--policy", type=click.Choice(["adaptive", "paper", "single-writer"]), default="adaptive",
    envvar="DSMSUP_POLICY", show_default=True, help="Coherence policy.",
)  # fmt: skip
@click.option(
    "--stats", "stats_path", metavar="FILE", envvar="DSMSUP_STATS",
    type=click.Path(dir_okay=False), help="Write statistics as JSON at exit.",
)  # fmt: skip
@click.option(
    "--migrate/--no-migrate", default=True, show_default=True,
    help="Move a thread home that does little but wait for pages.",
)  # fmt: skip
@click.option(
    "--pager", type=click.Choice(["auto", "userfaultfd", "sigsegv"]), default="auto",
    envvar="DSMSUP_PAGER", show_default=True,
    help="How this host catches page faults; auto: by userfaultfd where it may.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Tell on stderr what happens.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def exec_command(
    n: str | None,
    hosts: str | None,
    rendezvous: str | None,
    key_file: str | None,
    host_id: str | None,
    join_timeout: str | None,
    policy: str,
    stats_path: str | None,
    migrate: bool,
    pager: str,
    verbose: bool,
    program: str,
    arguments: tuple[str, ...],
) -> None:
    """Run PROGRAM with ARGUMENTS, its threads spread over the hosts.

    Give the same command on each host of a cluster, or -n N for N virtual hosts
    of this machine (the default: as many as it has processors, at least 2).
    Each cluster option can be given by an environment variable as well
    (DSMSUP_HOSTS, DSMSUP_RENDEZVOUS, DSMSUP_KEY_FILE, ...), or comes from the
    launcher (mpirun, srun, an indexed job).

    Exit status: the program's own (128 + N if signal N killed it); 125 if
    dsmsup fails, 126 if PROGRAM cannot be executed, 127 if it is not found.
    """
    from supervisor.limits import raise_limits

    raise_limits()  # before much is loaded
    gc.disable()  # what is loaded stays: `run_host` has garbage looked for among what comes after
    with quick_lookup():
        from supervisor.cluster import launch, virtual
        from supervisor.cluster.plan import VirtualPlan
        from supervisor.run import Job, Preparations, check_host, run_host

    options = launch.LaunchOptions(n, hosts, rendezvous, key_file, host_id, join_timeout)
    processors = tuple(sorted(os.sched_getaffinity(0)))
    plan = launch.plan(options, os.environ, processors)
    is_virtual = isinstance(plan, VirtualPlan)
    job = Job(
        program, list(arguments), policy, stats_path, verbose, is_virtual, len(processors), migrate,
        pager,
    )
    preparations = Preparations(job)
    if isinstance(plan, VirtualPlan):
        check_host(plan.hosts)
        preparations.make()
        group = virtual.spawn(plan, lambda child_plan: run_host(child_plan, job, preparations))
        try:
            status = run_host(group.plan, job, preparations, group.host_of)
        finally:
            group.reap()
    else:
        status = run_host(plan, job, preparations)
    sys.stdout.flush()
    sys.exit(status)


@cli.command("count", context_settings={**_CONTEXT, "allow_interspersed_args": False})
@click.option(
    "--limit", type=click.IntRange(min=1), default=1 << 62, metavar="N",
    help="Count at most N instructions; the program then goes on at full speed.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
    help="List the N busiest sites and functions.",
)  # fmt: skip
@click.option("--json", "machine", is_flag=True, help="Machine-readable, one object, all sites.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False),
    help="Where to report (default: stderr, since stdout is the program's).",
)  # fmt: skip
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def count_command(
    limit: int, top: int, machine: bool, output: str | None, program: str,
    arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """Count the synchronization instructions that PROGRAM executes, by site and function.

    It runs on this machine alone, one instruction at a time (some hundred
    thousand in a second), its threads and child processes counted with it. The
    exit status is the program's own.
    """
    from supervisor.observe.count import count

    sys.exit(count(program, list(arguments), limit, top, output, machine))


@cli.command()
@click.argument("file", type=click.Path(dir_okay=False))
def keygen(file: str) -> None:
    """Make a key for a cluster in FILE, which all its hosts must have."""
    from supervisor.cluster.auth import keygen as make_key

    make_key(file)


def _fail(line: str, status: int) -> NoReturn:
    say(line)
    sys.exit(status)


def main() -> Any:
    """Entry point: every failure is one line on stderr and a documented status."""
    let_interrupts_kill()
    given_signals.take_over()
    try:
        settle()
        sys.exit(cli.main(prog_name="dsmsup", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(EXIT_FAILURE)
    except click.ClickException as error:
        usage = " (see dsmsup --help)" if isinstance(error, click.UsageError) else ""
        _fail(error.format_message().rstrip(".") + usage, EXIT_FAILURE)
    except click.exceptions.Abort:
        sys.exit(130)
    except DsmsupError as error:
        _fail(str(error), error.exit_status)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}", EXIT_FAILURE)


if __name__ == "__main__":
    main()
