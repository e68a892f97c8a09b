# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import processes
import programs
import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`hosts` runs over --hosts, `repetition` over --repeat."""
    if "hosts" in metafunc.fixturenames:
        counts = [int(word) for word in metafunc.config.getoption("--hosts").split(",")]
        metafunc.parametrize("hosts", counts, ids=[f"{count}hosts" for count in counts])
    if "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(metafunc.config.getoption("--repeat")))


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On 2 hosts always, by turns on 1 or on 3, on all numbers when time allows (the same
    program linked otherwise: on others than 2 only then)."""
    turns = {program: (1, 3)[at % 2] for at, program in enumerate(programs.ALL)}
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(
            item, "callspec") else {}
        program, hosts = parameters.get("program"), parameters.get("hosts", 2)
        if program not in turns or hosts == 2:
            continue
        if program in programs.VARIANTS or hosts != turns[program]:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def surroundings() -> None:
    """Orphans come to us, crashes leave no core file, the programs are built."""
    processes.become_subreaper()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    harness.need("make", "gcc", "g++", "taskset")
    subprocess.run(
        ["make", "-s", "-C", str(harness.ROOT / "testprogs")],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300,
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rewriter's cache, shared by the session's tests and by nobody else."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, cache: Path
) -> Iterator[harness.Place]:
    place = harness.Place(
        tmp_path, cache, request.config.getoption("--pin"), request.config.getoption("--pager")
    )
    yield place
    try:
        if not any(run.popen.poll() is None for run in place.running):
            place.check_clean()
    finally:
        place.finish()
