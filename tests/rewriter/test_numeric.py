# SPDX-License-Identifier: GPL-2.0-or-later
"""numpy is loaded late, and starts no thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from rewriter.numeric import np
assert "numpy" not in sys.modules
assert np.arange(3).sum() == 3 and np.arange(4).sum() == 6
import numpy
assert np.zeros is numpy.zeros
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"))
"""


@pytest.mark.parametrize("given", [None, "3"])
def test_it_is_loaded_when_it_is_used_and_the_environment_stays(given: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if "OPENBLAS" not in key}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    told = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, stdout=subprocess.PIPE, text=True,
        check=True, timeout=60,
    ).stdout  # fmt: skip
    assert told.split() == ["1", str(given)]
