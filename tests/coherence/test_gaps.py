# SPDX-License-Identifier: GPL-2.0-or-later
"""Where multiple-writer pages differ from x86-TSO, and that `single-writer` does not.

The gap has two faces, both shown rather than merely told of (a test that stopped
finding one would mean that the documentation is out of date), and one model, the
same for both: that nothing beyond it happens is checked by `test_schedules.py`.
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
def test_the_model_of_the_gap_allows_what_is_seen(case: Case) -> None:
    assert case.hosts is not None
    allowed = outcomes(case.program, "hosts", case.hosts)
    for seed in range(ROUNDS // 10):
        assert run_program(seed, case, "adaptive") in allowed


def test_with_pages_alone_the_two_programs_look_the_same() -> None:
    """Why no protocol of twins can close it: the merge that the first program needs is
    forbidden in the second, whose stores leave the same bytes behind the same faults."""
    plain = program([store(1, 1)], [store(0, 2)])
    silent = program([store(1, 1), store(0, 0)], [store(0, 2), store(1, 0)])
    merged = {outcome.memory for outcome in outcomes(plain, "tso")}
    assert merged == {(2, 1)}
    assert (2, 1) not in {outcome.memory for outcome in outcomes(silent, "tso")}
    assert (2, 1) in {outcome.memory for outcome in outcomes(silent, "hosts", (0, 1))}


@pytest.mark.parametrize("case", [EARLY, SILENT], ids=["early", "silent"])
def test_single_writer_closes_the_gap(case: Case) -> None:
    allowed = outcomes(case.program, "sc")
    for seed in range(ROUNDS // 10):
        assert run_program(seed, case, "single-writer") in allowed
