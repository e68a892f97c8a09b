# SPDX-License-Identifier: GPL-2.0-or-later
"""Where multiple-writer pages differ from x86-TSO, and that `single-writer` does not.

Both gaps are shown rather than merely told of: a test that stopped finding one
would mean that the documentation is out of date.
"""

from __future__ import annotations

import pytest

from tests.coherence.programs import FENCE, load, outcomes, program, store
from tests.coherence.sim import Case, run_program

ROUNDS = 3000

# Two threads of one host: the second sees the first one's store before others do.
EARLY = Case(
    program([store(0, 1)], [load(0), load(1)], [store(1, 1), FENCE, load(0)]),
    ((5, 0), (9, 0)),
    (1, 1, 2),
)
EARLY_READS = ((), (1, 0), (0,))

# A store of the value that is there already leaves no trace in a diff, so it never
# overwrites what another host stored meanwhile, though a store before it came later.
SILENT = Case(
    program(
        [store(0, 1), FENCE, store(1, 1), store(0, 1)],
        [store(0, 2), FENCE, load(1)],
    ),
    ((5, 0), (9, 0)),
    (1, 2),
)


def test_threads_of_one_host_see_each_others_stores_early() -> None:
    assert not any(outcome.reads == EARLY_READS for outcome in outcomes(EARLY.program, "tso"))
    assert any(run_program(seed, EARLY, "adaptive").reads == EARLY_READS for seed in range(ROUNDS))


def test_silent_stores_leave_no_trace() -> None:
    allowed = outcomes(SILENT.program, "tso")
    found = (run_program(seed, SILENT, "adaptive") for seed in range(ROUNDS))
    strange = next((outcome for outcome in found if outcome not in allowed), None)
    assert strange is not None and strange.memory[0] == 2


@pytest.mark.parametrize("case", [EARLY, SILENT], ids=["early", "silent"])
def test_single_writer_closes_the_gap(case: Case) -> None:
    allowed = outcomes(case.program, "sc")
    for seed in range(ROUNDS // 10):
        assert run_program(seed, case, "single-writer") in allowed
