# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets the tests import the simulator as `tests.coherence`, however pytest is started."""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
