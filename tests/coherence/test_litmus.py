# SPDX-License-Identifier: GPL-2.0-or-later
"""The classic litmus tests on simulated hosts: nothing forbidden, and what is allowed is seen."""

from __future__ import annotations

import pytest

from tests.coherence.programs import LITMUS, Litmus, shows
from tests.coherence.sim import CASES, POLICIES, check_case

ROUNDS = 60
BY_NAME = {litmus.name: litmus for litmus in LITMUS}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_forbidden(policy: str, name: str) -> None:
    assert check_case(name, 0, ROUNDS, policy)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_forbidden_long(policy: str, name: str) -> None:
    assert check_case(name, 10_000, 5_000, policy)


@pytest.mark.parametrize("litmus", [BY_NAME["SB"], BY_NAME["n6"]], ids=lambda each: each.name)
def test_the_store_buffer_shows(litmus: Litmus) -> None:
    """What only a store buffer can do is seen where pages are multiple-writer."""
    for first in range(0, 4000, 200):
        seen = check_case(litmus.name, first, 200, "adaptive")
        if any(shows(litmus, outcome) for outcome in seen):
            return
    pytest.fail("not seen in 4000 rounds")
