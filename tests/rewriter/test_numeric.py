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


FORK = """
import os
from rewriter import numeric
numeric.ready()
child = os.fork()
if child == 0:
    os._exit(int(not numeric.ready() or numeric.np.arange(4).sum() != 6))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_can_use_what_a_thread_was_loading() -> None:
    told = subprocess.run(
        [sys.executable, "-c", FORK], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout
    assert told == "0\n"


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
