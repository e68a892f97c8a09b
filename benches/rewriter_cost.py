# SPDX-License-Identifier: GPL-2.0-or-later
"""What rewriting costs: the check where nothing traps, rewriting itself, a cached start.

All in one run on one processor:

- the ratio of a rewritten instruction, the armed byte clear, to the bare one, and of a
  mutex lock and unlock pair in a rewritten libc (original and rewritten runs alternate,
  the best of each is taken);
- the time to rewrite libc, and what an answer from the cache takes;
- how much longer a dynamic program's files take to be found in the cache, all of them.

    python benches/rewriter_cost.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from rewriter.cache import rewritten  # noqa: E402
from tests.rewriter import native  # noqa: E402

LIMITS = {"lock xadd": 1.1, "xchg": 1.1, "lock cmpxchg": 1.1, "mfence": 1.1, "mutex pair": 1.1}
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


def parse(text: str) -> dict[str, float]:
    """ "NAME<tab>NS" lines."""
    return {name: float(ns) for name, ns in (line.split("\t") for line in text.splitlines())}


def best(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """The lesser of two runs, figure by figure."""
    return {k: min(v, b[k]) for k, v in a.items()}


def ratios(work: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Bare and rewritten ns of each kernel, and their ratio."""
    program = work / "cost"
    source = str(HERE / "rewriter_cost.c")
    subprocess.run(["gcc", "-O2", "-o", str(program), source, "-pthread"], check=True)
    launcher = native.build_launcher(work)
    prepared = native.prepare(str(program), work / "run", work / "cache")
    bare = new = None
    for _ in range(rounds):
        done = subprocess.run([str(program), "15"], capture_output=True, text=True, check=True)
        seen = native.run(launcher, prepared, ["15"], armed=False)
        assert seen.status == 0 and seen.traps == seen.redirects == 0
        one, other = parse(done.stdout), parse(seen.stdout.decode())
        bare = best(one, bare) if bare else one
        new = best(other, new) if new else other
    assert bare and new
    return {
        k: {"bare_ns": bare[k], "rewritten_ns": new[k], "ratio": new[k] / bare[k]} for k in bare
    }


def timed(run: list[str]) -> float:
    """Seconds a Python line takes, imports included, in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *run], check=True, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def rewriting(work: Path) -> dict[str, float]:
    """Seconds to rewrite libc in a fresh process, and per answer from the cache."""
    cache = str(work / "times")
    line = "import sys; from rewriter.cache import rewritten; rewritten(*sys.argv[1:])"
    first = timed(["-c", line, LIBC, cache])
    nothing = timed(["-c", "pass"])
    # A file younger than two seconds is read and hashed each time.
    time.sleep(2.1)
    hit = timed(["-c", line, LIBC, cache])
    rewritten(LIBC, cache)
    start = time.perf_counter()
    for _ in range(100):
        rewritten(LIBC, cache)
    return {
        "libc_first_s": first - nothing,
        "libc_cached_process_s": hit - nothing,
        "libc_cached_s": (time.perf_counter() - start) / 100,
    }


def start_cost(work: Path) -> dict[str, float]:
    """Seconds that finding all files of a dynamic program in the cache takes."""
    program = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "/bin/ls"
    program = os.path.realpath(program)
    linker = native.interpreter_of(program)
    assert linker is not None
    files = [program, linker, *native.libraries_of(program, linker).values()]
    files = [os.path.realpath(f) for f in files]
    cache = work / "start"
    for f in files:
        rewritten(f, cache)
    time.sleep(2.1)
    for f in files:
        rewritten(f, cache)
    start = time.perf_counter()
    for f in files:
        rewritten(f, cache)
    return {"files": len(files), "cached_start_s": time.perf_counter() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        figures = {
            "ratios": ratios(work, options.rounds),
            "rewriting": rewriting(work),
            "start": start_cost(work),
        }
    for name, row in figures["ratios"].items():
        limit = LIMITS.get(name)
        verdict = "" if limit is None else " ok" if row["ratio"] <= limit else f" ABOVE {limit}"
        print(
            f"{name:16} {row['bare_ns']:8.2f} ns bare {row['rewritten_ns']:8.2f} ns rewritten "
            f"{row['ratio']:6.3f}{verdict}"
        )
    for part in ("rewriting", "start"):
        for name, value in figures[part].items():
            shown = f"{value * 1e3:10.2f} ms" if name.endswith("_s") else f"{value:10}"
            print(f"{name:28} {shown}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    over = [n for n, limit in LIMITS.items() if figures["ratios"][n]["ratio"] > limit]
    return 1 if over or figures["rewriting"]["libc_first_s"] > 1.0 else 0


if __name__ == "__main__":
    sys.exit(main())
