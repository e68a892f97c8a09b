# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of error, and the exit status each one ends a run with.

Statuses follow env(1) and timeout(1): 125 when dsmsup itself fails, 126 when
the program cannot be executed, 127 when it is not found, 128 + N when the
program dies of signal N.
"""

from __future__ import annotations

from typing import Final

EXIT_FAILURE: Final = 125
EXIT_CANNOT_EXECUTE: Final = 126
EXIT_NOT_FOUND: Final = 127
EXIT_SIGNAL_BASE: Final = 128


class DsmsupError(Exception):
    """Something the user can be told in one line; `exit_status` ends the run."""

    exit_status = EXIT_FAILURE
    told = False
    """The user has seen the line already."""

    def __str__(self) -> str:
        """Text, of which other hosts can be told, whatever bytes a file's name is."""
        return super().__str__().encode(errors="replace").decode()


class UsageError(DsmsupError):
    """The command line or the environment asks for what cannot be."""


class CannotExecute(DsmsupError):
    """The program exists but cannot be run."""

    exit_status = EXIT_CANNOT_EXECUTE


class NotFound(DsmsupError):
    """There is no such program."""

    exit_status = EXIT_NOT_FOUND


class PeerError(DsmsupError):
    """A peer sent bytes that break the protocol."""


class PeerLost(DsmsupError):
    """A peer died or its connection was cut."""


class AuthenticationFailed(DsmsupError):
    """A peer could not prove that it holds the key."""


class UnsupportedError(DsmsupError):
    """The program asked for something that dsmsup refuses by name."""


class GuestDied(DsmsupError):
    """A guest process ended when it should not have."""
