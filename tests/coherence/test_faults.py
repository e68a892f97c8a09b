# SPDX-License-Identifier: GPL-2.0-or-later
"""Every planted fault is noticed within some thousand schedules."""

from __future__ import annotations

import pytest

from tests.coherence.faults import FAULTS, PlantedFault
from tests.coherence.sim import check_case, check_seeds

SEEDS_MAX = 4000


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_planted_fault_is_caught(fault: PlantedFault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    with pytest.raises(AssertionError) as caught:
        if fault.case:
            check_case(fault.case, 0, SEEDS_MAX, fault.policy)
        check_seeds(0, SEEDS_MAX, fault.policy)
    assert "repeat with" in str(caught.value)
