# SPDX-License-Identifier: GPL-2.0-or-later
"""Markers and options of the whole test suite."""

from __future__ import annotations

import os
import signal

import pytest

MARKERS = {
    "slow": "takes many seconds; left out of `make test`, run by `make test-slow`",
    "root": "needs root (network namespaces); skipped for other users",
}


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with these ignored, nohup with the last, and what is
    # started from here would inherit it: programs would rightly not end of Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dsmsup", "running programs under dsmsup (tests/e2e)")
    group.addoption(
        "--hosts",
        default="1,2,3",
        metavar="N,N...",
        help="numbers of virtual hosts that each program runs on (default: 1,2,3)",
    )
    group.addoption(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="run each program N times on each number of hosts (default: 1)",
    )
    group.addoption(
        "--pin",
        type=int,
        default=None,
        metavar="CORE",
        help="pin every run, all its hosts with it, to this one processor",
    )
    group.addoption(
        "--pager",
        choices=("auto", "userfaultfd", "sigsegv"),
        default=None,
        help="run every program with this pager (default: as dsmsup chooses)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root when the user is not; a strict run fails instead (harness.need)."""
    if os.geteuid() == 0 or os.environ.get("DSMSUP_TEST_STRICT") == "1":
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
