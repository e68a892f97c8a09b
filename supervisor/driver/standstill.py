# SPDX-License-Identifier: GPL-2.0-or-later
"""No thread of a host executes the program's code for a while (see Thread.still)."""

from __future__ import annotations

import contextlib

from supervisor.driver.stop_queue import StopQueue
from supervisor.driver.thread import Thread
from supervisor.tracee import ptrace
from supervisor.tracee.userfault import waits_for_page


class Standstill:
    """`threads` are those of the host by task, as they come and go."""

    def __init__(self, threads: dict[int, Thread], stops: StopQueue) -> None:
        self._threads = threads
        self._stops = stops
        self.on = False

    def begin(self) -> None:
        self.on = True
        for thread in list(self._threads.values()):
            thread.still = True
            # One in a call of its own kernel task does not execute; what it does with
            # the result comes after its stop. One that exits need not be waited for.
            if thread.stopped or thread.native is not None or thread.exited:
                continue
            if self._stops.has(thread.task):
                continue
            # Nor does one that waits for a page: nobody wakes it meanwhile. (Interrupted, it
            # would ask anew, and where others lock the bus all the time never get it.)
            if thread.paging and waits_for_page(thread.task):
                continue
            with contextlib.suppress(ptrace.TraceeGone):
                thread.interrupt()
                # It goes on later as from any.
                self._stops.put(self._stops.next_of(thread.task))

    def end(self) -> None:
        self.on = False
        for thread in list(self._threads.values()):
            with contextlib.suppress(ptrace.TraceeGone):
                thread.go_on()
