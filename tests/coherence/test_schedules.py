# SPDX-License-Identifier: GPL-2.0-or-later
"""Random programs under random schedules: every outcome is one the model allows."""

from __future__ import annotations

import pytest

from tests.coherence.sim import POLICIES, check_seeds

BLOCK = 400


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("policy", POLICIES)
def test_quick(policy: str, block: int) -> None:
    check_seeds(block * BLOCK, BLOCK, policy)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(20))
@pytest.mark.parametrize("policy", POLICIES)
def test_long(policy: str, block: int) -> None:
    check_seeds(100_000 + block * 5_000, 5_000, policy)
