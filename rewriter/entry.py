# SPDX-License-Identifier: GPL-2.0-or-later
"""The `dsmsup` command's entry point.

It lives here, in a package no other distribution has, to tell the user in one
line when the `supervisor` that Python imports is an unrelated one (a process
control system of that name is on the package index).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

EXIT_FAILURE = 125


def let_interrupts_kill() -> None:
    """Ctrl-C ends the command as it ends any other, not with Python's traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    let_interrupts_kill()  # before what takes time to import
    try:
        import supervisor

        if not getattr(supervisor, "IS_DSMSUP", False):
            raise ImportError(supervisor.__file__)
    except ImportError as error:
        line = (
            f"dsmsup: another package named 'supervisor' is installed here ({error}): "
            "install dsmsup into an environment of its own (pipx install dsmsup, or a venv)\n"
        )
        with contextlib.suppress(OSError):
            os.write(2, line.encode(errors="replace"))
        sys.exit(EXIT_FAILURE)
    from supervisor.cli import main as run

    run()
