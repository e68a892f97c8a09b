# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's programs run as natively, on each number of hosts."""

from __future__ import annotations

import harness
import others
import pytest
from harness import Place
from others_rows import ROWS


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.id, marks=() if row.quick else pytest.mark.slow) for row in ROWS],
)
def test_program(row: others.Row, hosts: int, repetition: int, place: Place) -> None:
    if name := others.missing(row):
        harness.need(name)
    native, _ = others.run_native(row, place)
    fault, _ = others.try_under_dsmsup(row, place, hosts, native)
    assert fault == ""
