# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory models themselves, against the published verdicts of the litmus tests."""

import pytest

from tests.coherence.programs import LITMUS, Litmus, outcomes, shows


@pytest.mark.parametrize("litmus", LITMUS, ids=lambda litmus: litmus.name)
def test_models_give_the_published_verdicts(litmus: Litmus) -> None:
    for model, allowed in (("tso", litmus.tso), ("sc", litmus.sc)):
        found = outcomes(litmus.program, model)
        assert any(shows(litmus, outcome) for outcome in found) == allowed, model


def test_sequential_consistency_is_the_stronger_model() -> None:
    for litmus in LITMUS:
        assert outcomes(litmus.program, "sc") <= outcomes(litmus.program, "tso")
