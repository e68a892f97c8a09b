# SPDX-License-Identifier: GPL-2.0-or-later
"""The command loads without a process that looks for the C library."""

from __future__ import annotations

import subprocess
import sys

LOADS = """
import ctypes.util, sys

def tell(event, arguments):
    if event == "subprocess.Popen":
        print(arguments[1])

sys.addaudithook(tell)
find = ctypes.util.find_library
from supervisor.quick_lookup import quick_lookup
with {}:
    import supervisor.run
assert ctypes.util.find_library is find
"""


def loads(within: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", LOADS.format(within)], stdout=subprocess.PIPE, text=True,
        check=True, timeout=60,
    ).stdout  # fmt: skip


def test_nothing_is_run_to_find_the_c_library() -> None:
    assert "ldconfig" in loads("__import__('contextlib').nullcontext()")
    assert loads("quick_lookup()") == ""


def test_nothing_is_loaded_that_most_runs_never_use() -> None:
    code = """
import sys
from supervisor.quick_lookup import quick_lookup
with quick_lookup():
    from supervisor.cluster import launch, virtual
    import supervisor.run
print([name for name in ("numpy", "importlib.metadata", "keystone") if name in sys.modules])
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout
    assert loaded == "[]\n"
