# SPDX-License-Identifier: GPL-2.0-or-later
"""Over the ELF files of this machine: coverage, soundness of each path, loading."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
from iced_x86 import Decoder, Instruction

from rewriter.cache import Rewritten, rewritten
from rewriter.errors import RewriteError
from rewriter.plan import Options
from rewriter.rewrite import plan_bytes
from tests.rewriter.machine import sample
from tests.rewriter.native import interpreter_of
from tests.rewriter.paths import Checker
from tests.rewriter.whole import COVERED_MIN, EXPECTED_REFUSALS, print_totals, sitting, wrongs

SAMPLE = 420
SAMPLE_BYTES_MAX = 600_000
def _rewrite_all(paths: Iterable[str], cache: Path) -> tuple[dict[str, Rewritten], Counter[str]]:
    """Rewrite and check each file; results of those that changed, and counts of tactics."""
    results: dict[str, Rewritten] = {}
    tactics: Counter[str] = Counter()
    for path in paths:
        try:
            r = rewritten(path, cache)
        except RewriteError as e:
            assert EXPECTED_REFUSALS.search(e.reason), str(e)
            assert "\n" not in str(e) and path in str(e)
            tactics["refused"] += 1
            continue
        tactics["files"] += 1
        if not r.unchanged:
            report = Checker(Path(path).read_bytes(), r).check()
            # In the text a group of sites may share a patch; each has its own trap.
            assert report.sites == len(r.traps) > 0
            results[path] = r
            tactics.update(r.tactics)
    return results, tactics


def _print_coverage(tactics: Counter[str]) -> None:
    counts = {k: n for k, n in tactics.items() if k not in ("files", "refused")}
    total = sum(counts.values())
    print(f"\n{tactics['files']} files rewritten, {tactics['refused']} refused, {total} sites")
    for name, n in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"  {name:12} {n:8}  {100 * n / total:6.2f} %")


def _loads_alike(results: dict[str, Rewritten], work: Path) -> list[str]:
    """Libraries that open when original but not when rewritten."""
    loader = work / "loader"
    source = Path(__file__).parent / "loader.c"
    subprocess.run(["gcc", "-O2", "-o", str(loader), str(source)], check=True)
    pairs = [
        (path, r.path) for path, r in results.items()
        if re.search(r"\.so[.\d]*$", path) and "/ld-linux" not in path and "32" not in path
    ]  # fmt: skip
    outcomes = []
    for which in (0, 1):
        names = "\n".join(pair[which] for pair in pairs) + "\n"
        done = subprocess.run([str(loader)], input=names, capture_output=True, text=True, cwd=work)
        lines = done.stdout.splitlines()
        outcomes.append({line.split(" ")[0]: line.split(" ")[1] for line in lines if " " in line})
    return [a for a, b in pairs if outcomes[0].get(a) == "ok" != outcomes[1].get(b)]


def _mapped_alike(results: dict[str, Rewritten]) -> list[str]:
    """Dynamic executables whose original the dynamic linker lists, but not the rewritten file."""
    wrong = []
    for path, r in results.items():
        try:
            linker = interpreter_of(path)
        except RewriteError:
            continue
        if linker is None or not Path(linker).exists():
            continue
        old, new = (
            subprocess.run([linker, "--list", p], capture_output=True).returncode
            for p in (path, r.path)
        )
        if old == 0 != new:
            wrong.append(path)
    return wrong


def test_sample(cache: Path, tmp_path: Path) -> None:
    """At least 400 files: covered, sound, loading."""
    paths = sample(SAMPLE, seed=3, bytes_max=SAMPLE_BYTES_MAX)
    if len(paths) < 400:
        pytest.skip(f"this machine has only {len(paths)} ELF files of that size")
    results, tactics = _rewrite_all(paths, cache)
    _print_coverage(tactics)
    sites = sum(len(r.traps) for r in results.values())
    assert sites > 500
    assert tactics["in-place"] <= sites * (1 - COVERED_MIN)
    assert _loads_alike(results, tmp_path) == []
    assert _mapped_alike(results) == []


@pytest.mark.parametrize("name", ["libc.so.6", "libstdc++.so.6"])
def test_library(name: str, cache: Path) -> None:
    path = next((p for p in (f"/lib/x86_64-linux-gnu/{name}", f"/lib64/{name}", f"/lib/{name}")
                 if Path(p).exists()), None)  # fmt: skip
    if path is None:
        pytest.skip(f"no {name}")
    _, tactics = _rewrite_all([path], cache)
    assert tactics["in-place"] == 0
    assert tactics["files"] == 1


def test_filter_loses_no_site() -> None:
    """Sweeping only functions with candidate bytes finds what sweeping all finds."""
    from rewriter.elf import Elf
    from rewriter.sites import find_code

    for path in sample(25, seed=11, bytes_max=300_000):
        try:
            elf = Elf(Path(path).read_bytes(), path)
        except RewriteError:
            continue
        assert find_code(elf).sites == find_code(elf, everything=True).sites, path


def least_s(work: Callable[[], object]) -> float:
    """Processor time: the best of three, for the machine is busy."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def decode(data: bytes) -> None:
    """What no rewriter in Python does without."""
    decoder, instruction = Decoder(64, data), Instruction()
    while decoder.can_decode:
        decoder.decode_out(instruction)


def test_libc_within_a_second() -> None:
    """The issue's bound; on a slow machine, five times what it takes to decode it."""
    path = Path("/lib/x86_64-linux-gnu/libc.so.6")
    if not path.exists():
        pytest.skip("no libc there")
    data = path.read_bytes()
    limit_s = max(1.0, 5 * least_s(partial(decode, data)))
    assert least_s(partial(plan_bytes, data, str(path), Options())) <= limit_s


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_all(tmp_path: Path) -> None:
    """Every ELF file of the machine (in several sittings: python -m tests.rewriter.whole)."""
    done, left = sitting(tmp_path / "state", 1e9, len(os.sched_getaffinity(0)))
    print_totals(list(done.values()))
    assert wrongs(done.values()) == []
    assert left == 0
