# SPDX-License-Identifier: GPL-2.0-or-later
"""Every ELF file of the machine, one after the other, in as many sittings as it takes.

    python -m tests.rewriter.whole --state FILE [--seconds N] [--jobs N]

Each file is rewritten, each path through it is checked against the original
(paths.py), and both are loaded: libraries by `dlopen`, executables by `execve`,
and by their dynamic linker's `--list`. One line a file goes to FILE; a later
sitting goes on behind it, and repeats what another version of the rewriter did.
Exit status: 0 when all is done and right, 1 when something is wrong, 3 when
files are left for another sitting.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from rewriter.cache import rewriter_version, rewritten
from rewriter.elf import PT_INTERP, Elf
from rewriter.errors import RewriteError
from tests.rewriter.machine import elf_files
from tests.rewriter.paths import Checker

COVERED_MIN = 0.998
EXPECTED_REFUSALS = re.compile(
    "relocatable object|x32|big-endian|not for x86-64|no program headers|no loadable segment"
    "|no program header to spare|reaches past the file's end|checks a hash of itself"
)
IN_PLACE = ("in-place",)
Row = dict[str, Any]


def build_loaders(directory: Path) -> dict[int, str]:
    """The loader for each word size that this machine can compile for."""
    source = str(Path(__file__).parent / "loader.c")
    out = {}
    for bits in (64, 32):
        loader = directory / f"loader{bits}"
        command = ["gcc", f"-m{bits}", "-O2", "-o", str(loader), source]
        if subprocess.run(command, capture_output=True).returncode == 0:
            out[bits] = str(loader)
    assert 64 in out
    return out


def examine(path: str, loaders: dict[int, str]) -> Row:
    """What became of one file; `wrong` says what is not as it should be, '' for nothing."""
    start = time.monotonic()
    row: Row = {"path": path, "version": rewriter_version(), "wrong": ""}
    with tempfile.TemporaryDirectory(prefix="dsmsup-whole-") as directory:
        try:
            _examine(path, Path(directory), loaders, row)
        except AssertionError as e:
            row["wrong"] = str(e) or repr(e)
        except Exception as e:
            row["wrong"] = f"{path}: {e!r}"
    row["seconds"] = round(time.monotonic() - start, 2)
    return row


def _examine(path: str, directory: Path, loaders: dict[int, str], row: Row) -> None:
    try:
        r = rewritten(path, directory)
    except RewriteError as e:
        row["refused"] = e.reason
        assert EXPECTED_REFUSALS.search(e.reason), str(e)
        assert "\n" not in str(e) and path in str(e)
        return
    if r.unchanged:
        return
    report = Checker(Path(path).read_bytes(), r).check()
    # In the text a group of sites may share a patch; each has its own trap.
    assert report.sites == len(r.traps) > 0
    row.update(tactics=dict(r.tactics), sites=report.sites, instructions=report.instructions)
    elf = Elf(Path(path).read_bytes(), path)
    row["loads"] = {}
    if elf.segment(PT_INTERP) is None and re.search(r"\.so[.\d]*$", path):
        if elf.bits in loaders and "/ld-linux" not in path:
            outcome = [opens(loaders[elf.bits], p) for p in (path, r.path)]
            row["loads"]["dlopen"] = outcome[1]
            assert outcome[0] != "ok" or outcome[1] == "ok", f"{path}: dlopen: {outcome}"
        return
    outcome = [_executes(loaders[64], p) for p in (path, r.path)]
    row["loads"]["execve"] = outcome[1]
    # A library of mode 644 is not to be executed; the rewritten file could be.
    assert outcome[0] in ("no: Permission denied", outcome[1]), f"{path}: execve: {outcome}"
    linker = elf.segment(PT_INTERP)
    if linker is not None:
        name = elf.data[linker.offset : linker.offset + linker.filesz].rstrip(b"\0").decode()
        if Path(name).exists():
            listed = [
                subprocess.run([name, "--list", p], capture_output=True, timeout=60).returncode
                for p in (path, r.path)
            ]
            row["loads"]["list"] = listed[1]
            assert listed[0] == listed[1], f"{path}: --list: {listed}"


def opens(loader: str, path: str) -> str:
    """What the loader says of a library: "ok", "no: ..." or "died ..."."""
    done = subprocess.run(
        [loader], input=path + "\n", capture_output=True, text=True, cwd="/", timeout=60
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(path + " ")]
    return lines[-1].removeprefix(path + " ") if lines else "nothing"


def _executes(loader: str, path: str) -> str:
    """Whether the kernel takes an executable: it is killed before its first instruction."""
    done = subprocess.run([loader, path], capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def totals(rows: Iterable[Row]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Counts of tactics, of refusals by reason, and of files by what became of them."""
    tactics: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for row in rows:
        tactics.update(row.get("tactics", {}))
        if "refused" in row:
            refusals[re.sub("0x[0-9a-f]+", "ADDRESS", row["refused"])] += 1
            files["refused"] += 1
        else:
            files["rewritten" if "sites" in row else "without sites"] += 1
        for how, result in row.get("loads", {}).items():
            files[f"{how}: {'loads' if result in ('ok', 0, 'exec') else 'as little'}"] += 1
    return tactics, refusals, files


def print_totals(rows: list[Row]) -> None:
    """The coverage table."""
    tactics, refusals, files = totals(rows)
    total = sum(tactics.values())
    print(f"\n{len(rows)} ELF files: " + ", ".join(f"{n} {what}" for what, n in files.items()))
    for reason, n in refusals.most_common():
        print(f"  refused {n:6}  {reason}")
    print(f"{total} sites, {sum(r.get('instructions', 0) for r in rows):,} instructions compared")
    for name, n in tactics.most_common():
        print(f"  {name:12} {n:8}  {100 * n / total:7.3f} %")


def wrongs(rows: Iterable[Row]) -> list[str]:
    """What is wrong, file by file, and the coverage where it is too little."""
    rows = list(rows)
    out = [row["wrong"] for row in rows if row["wrong"]]
    tactics, _, _ = totals(rows)
    trapping = sum(tactics[t] for t in IN_PLACE)
    if trapping > sum(tactics.values()) * (1 - COVERED_MIN):
        out.append(f"{trapping} of {sum(tactics.values())} sites trap in place")
    return out


def read_state(path: Path) -> dict[str, Row]:
    """Rows of earlier sittings by this version of the rewriter; a torn last line is dropped."""
    done = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["version"] == rewriter_version():
            done[row["path"]] = row
    return done


def sitting(state: Path, seconds: float, jobs: int) -> tuple[dict[str, Row], int]:
    """Go on for some seconds; all rows so far, and how many files are left."""
    done = read_state(state)
    # The largest first: what takes minutes does not begin at the end of a sitting.
    todo = sorted(((s, p) for p, s in elf_files() if p not in done))
    left = len(todo)
    end = time.monotonic() + seconds
    directory = Path(tempfile.mkdtemp(prefix="dsmsup-whole-"))
    try:
        loaders = build_loaders(directory)
        with state.open("a") as f, ProcessPoolExecutor(jobs) as pool:
            running: set[Future[Row]] = set()
            while todo or running:
                while todo and len(running) < jobs and time.monotonic() < end:
                    running.add(pool.submit(examine, todo.pop()[1], loaders))
                if not running:
                    break
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    row = future.result()
                    done[row["path"]] = row
                    left -= 1
                    f.write(json.dumps(row) + "\n")
                    f.flush()
                    if row["wrong"]:
                        print(f"WRONG {row['wrong']}", flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return done, left


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    done, left = sitting(options.state, options.seconds, options.jobs)
    print_totals(list(done.values()))
    wrong = wrongs(done.values())
    for what in wrong:
        print(f"WRONG {what}")
    if wrong:
        return 1
    print(f"{left} files left" if left else "all files done")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
