# SPDX-License-Identifier: GPL-2.0-or-later
"""Each test that asks for a machine runs natively first, then marshalled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machines import Machine, Marshalled, Native


@pytest.fixture(params=[Native, Marshalled], ids=["native", "marshalled"])
def machine(request: pytest.FixtureRequest) -> Machine:
    made: Machine = request.param()
    return made


@pytest.fixture
def marshalled() -> Marshalled:
    return Marshalled()


@pytest.fixture
def pair() -> Iterator[tuple[Native, Marshalled]]:
    yield Native(), Marshalled()
