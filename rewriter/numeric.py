# SPDX-License-Identifier: GPL-2.0-or-later
"""numpy as `np`, loaded when something of it is first used, and without threads of its own.

Loading it takes a tenth of a program's start, and most runs on one host never use it. Its
OpenBLAS starts threads at import, with no signal blocked: one of them would take the
SIGCHLD that a supervisor's event loop reads from its signal descriptor.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

__all__ = ["load", "np"]

_THREADS: Final = "OPENBLAS_NUM_THREADS"


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
