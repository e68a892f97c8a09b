# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver: stops and packets -> coherence step -> effects, in order."""

from __future__ import annotations

import os


def _import_numpy_without_threads() -> None:
    """numpy's OpenBLAS starts threads at import, with no signal blocked: one of them
    would take the SIGCHLD that the event loop reads from its signal descriptor.

    The program's environment stays as the user gave it.
    """
    given = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        if given is None:
            del os.environ["OPENBLAS_NUM_THREADS"]
        else:
            os.environ["OPENBLAS_NUM_THREADS"] = given


_import_numpy_without_threads()
