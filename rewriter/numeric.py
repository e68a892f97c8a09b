# SPDX-License-Identifier: GPL-2.0-or-later
"""numpy as `np`, loaded when something of it is first used, and without threads of its own.

Loading it takes as long as several hundred page faults, and most runs never use it. Its
OpenBLAS starts threads at import, with no signal blocked: one of them would take the
SIGCHLD that a supervisor's event loop reads from its signal descriptor.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

__all__ = ["load", "np", "ready"]

_THREADS: Final = "OPENBLAS_NUM_THREADS"
_TURN_S: Final = 0.0001
"""How long an event loop waits, at each of its system calls, for the thread that loads."""
_LOAD_S_MAX: Final = 10.0
"""How long a fork waits for that thread, which takes a tenth of a second."""
_loading: list[threading.Thread] = []
_loaded = "numpy" in sys.modules


def load() -> None:
    """Import numpy now, where it has not been.

    The environment, which may be a program's, stays as it was given.
    """
    given = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        if given is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = given


def ready() -> bool:
    """Is it loaded? If not, a thread does so, for those who can do without and must not wait."""
    if not _loaded and not _loading:
        thread = threading.Thread(target=_load_aside)  # an exit waits for it
        _loading.append(thread)
        # Without a thread they go on doing without.
        with contextlib.suppress(RuntimeError):
            thread.start()
            # In the child nobody would end what the thread has begun to import.
            os.register_at_fork(before=partial(thread.join, _LOAD_S_MAX))
    return _loaded


def _load_aside() -> None:
    global _loaded
    turn_s = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        load()
        _loaded = True
    finally:
        sys.setswitchinterval(turn_s)


if TYPE_CHECKING:
    import numpy as np
else:

    class _Numpy:
        """Each name of numpy's is looked up there once."""

        def __getattr__(self, name: str) -> Any:
            load()
            import numpy

            value = getattr(numpy, name)
            setattr(self, name, value)
            return value

    np = _Numpy()
