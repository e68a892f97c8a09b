# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends: of the program's threads, of the program, and of the run for other reasons.

What is sent to dsmsup to end the program is passed on to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from supervisor.driver.messages import Shutdown
from supervisor.errors import EXIT_SIGNAL_BASE, DsmsupError
from supervisor.tracee import ptrace
from supervisor.units import HOME

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.thread import Thread

TERMINATION_S: Final = 5.0
"""How long the program may take to end by a SIGTERM that it neither handles nor blocks."""


def is_awaited(pid: int, number: int) -> bool:
    """Does a process handle or ignore a signal, or have it blocked in all of its threads?"""
    bit = 1 << (number - 1)
    if _masks(f"/proc/{pid}/status", "SigIgn:", "SigCgt:") & bit:
        return True
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(_masks(f"/proc/{pid}/task/{task}/status", "SigBlk:") & bit for task in tasks)


def _masks(path: str, *names: str) -> int:
    """Some masks of a task's, together; all signals, of one that is gone."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return sum(int(line.split()[1], 16) for line in file if line.startswith(names))
    except (FileNotFoundError, ProcessLookupError):
        return -1


class Endings:
    """`status` is the program's exit status as a shell tells it, None while it runs."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.status: int | None = None
        self.terminating = False
        """The user has asked for the end."""

    # A thread's, as it asks for it ------------------------------------------------

    def exit_task(self, thread: Thread, status: int) -> None:
        """Let a thread's kernel task exit."""
        thread.exited = True
        self._run_last_call(thread, "exit", status)
        if thread.task == self._home.pid:
            self.quit_agent_if_last()

    def exit_program(self, thread: Thread, status: int) -> None:
        self._run_last_call(thread, "exit_group", status)

    def _run_last_call(self, thread: Thread, name: str, status: int) -> None:
        try:
            if thread.away != HOME:
                registers = thread.registers
                thread.arch.begin_call(registers, thread.arch.numbers[name], [status])
                ptrace.set_registers(thread.task, registers)
            thread.cont()
        except ptrace.TraceeGone:
            pass

    def quit_agent_if_last(self) -> None:
        """The agent must not keep a program going whose last thread has exited."""
        if all(thread.exited for thread in self._home.threads.values()):
            self._home.agent.quit()

    # The program's ----------------------------------------------------------------

    def program_ended(self, status: int) -> None:
        """Tell the hosts, whose part of the run is over too."""
        home = self._home
        if self.status is None:
            self.status = status
        reason = "" if home.trouble is None else str(home.trouble)
        if not home.finished:
            for host in home.links.by_host:
                home.send(host, Shutdown(self.status, reason))
        home.finished = True

    def fail_in(self, seconds: float, error: DsmsupError) -> None:
        """End the run by an error, unless it ends by then of a cause that says more."""
        self._home.events.at(time.monotonic() + seconds, lambda: self.fail_if_running(error))

    def fail_if_running(self, error: DsmsupError) -> None:
        if not self._home.finished:
            self._home.fail(error)

    def fail(self, error: DsmsupError) -> None:
        """End the program, and the run with it."""
        if self._home.trouble is None:
            self._home.trouble = error
        self.kill_program()
        self.program_ended(error.exit_status)

    # Signals that are sent to dsmsup ----------------------------------------------

    def on_user_signal(self, number: int, from_kernel: bool) -> None:
        """SIGINT, SIGTERM, ... sent to dsmsup: they are meant for the program.

        What the terminal sends, it sends to the program too.
        """
        if number == signal.SIGTSTP:
            self._home.jobs.asked()
        elif self._home.is_prepared_for and not is_awaited(self._home.pid, number):
            # It would be the first that the program sees, after all is rewritten.
            self._end_by(number)
        if from_kernel and number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
            return
        self.pass_on(number)

    def pass_on(self, number: int) -> None:
        """Give the program a signal meant for it; if it has to end, it ends within a time.

        It may well handle one that comes more than once (timeout(1) and service managers
        send it to the group, and to dsmsup as well), and take its time to end.
        """
        home = self._home
        if home.finished:
            return
        self.signal_program(number)
        if number == signal.SIGTERM:
            self.terminating = True
            home.events.at(time.monotonic() + TERMINATION_S, self._terminate)

    def _terminate(self) -> None:
        home = self._home
        if not home.finished and not is_awaited(home.pid, signal.SIGTERM):
            self._end_by(signal.SIGTERM)

    def _end_by(self, number: int) -> None:
        """End the program as a signal does."""
        self.status = EXIT_SIGNAL_BASE + number
        self.kill_program()

    def signal_program(self, number: int) -> None:
        """Send the program a signal; nothing where it has ended."""
        if self._home.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._home.pidfd, number)

    def kill_program(self) -> None:
        self.signal_program(signal.SIGKILL)
