# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the rewriter's tests: a cache of their own, the launcher, compiled programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rewriter import native

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the whole session."""
    return tmp_path_factory.mktemp("rewriter")


@pytest.fixture(scope="session")
def cache(work: Path) -> Path:
    """A cache of rewritten files that the session's tests share."""
    return work / "cache"


@pytest.fixture(scope="session")
def launcher(work: Path) -> Path:
    """The ptrace launcher, compiled."""
    return native.build_launcher(work)


Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compile_program(work: Path) -> Compile:
    """Compiles a source of `programs/` once for each set of flags."""
    made: dict[tuple[str, ...], Path] = {}

    def compile_one(source: str, *flags: str) -> Path:
        key = (source, *flags)
        if key not in made:
            out = work / f"{Path(source).stem}-{len(made)}"
            tool = "g++" if source.endswith(".cc") else "gcc"
            command = [tool, "-O2", "-o", str(out), str(PROGRAMS / source), *flags]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode and "-m32" in flags:
                pytest.skip("no 32-bit compiler and libraries")
            assert done.returncode == 0, done.stderr
            made[key] = out
        return made[key]

    return compile_one
