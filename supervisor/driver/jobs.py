# SPDX-License-Identifier: GPL-2.0-or-later
"""Job control: a program that is stopped (Ctrl-Z) stops on all hosts, and so does dsmsup.

The kernel stops what is at home. The other hosts are told, so that their
threads stand still and nobody takes home's silence for its loss. The shell waits
for dsmsup to stop, not for the program, which is dsmsup's child: the terminal's
SIGTSTP reaches both, and home's supervisor stops itself when the program has
(which may handle or ignore the signal, and then does not).
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from supervisor.driver.messages import Pause

if TYPE_CHECKING:
    from supervisor.driver.home import Home

TOGETHER_S: Final = 2.0
"""A stop of the program within this time of a SIGTSTP for dsmsup comes from the same key."""


class Jobs:
    """Home's part."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._stopped = False
        self._asked_at = -TOGETHER_S

    def asked(self) -> None:
        """dsmsup got a SIGTSTP."""
        self._asked_at = time.monotonic()
        self._stop()

    def stopped(self) -> None:
        """A thread of the program is in a group stop."""
        if not self._stopped:
            self._stopped = True
            self._tell()
            self._stop()

    def continued(self) -> None:
        if self._stopped:
            self._stopped = False
            self._tell()

    def _tell(self) -> None:
        for host in self.home.links.by_host:
            self.home.send(host, Pause(self._stopped))
        self.home.links.flush()

    def _stop(self) -> None:
        if self._stopped and time.monotonic() - self._asked_at < TOGETHER_S:
            self._asked_at = -TOGETHER_S
            os.kill(os.getpid(), signal.SIGSTOP)  # here it goes on after SIGCONT
