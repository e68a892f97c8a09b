# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that nobody here wrote: how each is run, and what of it must be as natively.

A row is a shell script in which `$RUN` stands before the program that is tried:
nothing in the native run, `dsmsup exec -n N` in the other. Both runs begin in a
folder of their own, with what `prepare` makes there, and must end with the same
status, output, messages, and contents of the files in `results`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import harness
from harness import Finished, Place

LIMIT_S = 120.0
SHOWN_MAX = 100
HERE = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games", "LC_ALL": "C",
        "HOME": "/dev/null", "GIT_CONFIG_COUNT": "3",
        "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "nobody",
        "GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "nobody@example.org",
        "GIT_CONFIG_KEY_2": "gc.auto", "GIT_CONFIG_VALUE_2": "0",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00Z"}
"""Debian's own programs, the same words everywhere, nobody's configuration (and a home where
even root can make none)."""

TEXT = "python3 -c 'import random; r = random.Random(1); print(chr(10).join(" \
       "str(r.randrange(10**9)) + chr(32) + chr(97 + r.randrange(26)) * r.randrange(60) " \
       "for _ in range({lines})))' > text"


def text(kib: int) -> str:
    """Make `text`: lines of a number and filling, about so much."""
    return TEXT.format(lines=kib * 1024 // 40)


C_FILES = """
for n in 1 2 3 4 5 6; do
	echo "int f$n(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * $n; return s; }" > f$n.c
done
printf '#include <stdio.h>\\n%s\\nint main(void) { printf("%%d\\\\n", %s); return 3; }\\n' \
	"int f1(int), f2(int), f3(int), f4(int), f5(int), f6(int);" \
	"f1(9) + f2(8) + f3(7) + f4(6) + f5(5) + f6(4)" > main.c
printf 'main: main.o f1.o f2.o f3.o f4.o f5.o f6.o\\n\\t$(CC) -o $@ $^\\n' > Makefile
"""

REPOSITORY = """
git init -q repo && cd repo
for n in $(seq 60); do
	seq $n 7 4000 > file$((n % 9)); git add . ; git commit -q -m "change $n"
done
cd ..
"""


class Row(NamedTuple):
    """One program, tried in one way."""

    package: str
    script: str
    prepare: str = ""
    results: tuple[str, ...] = ()
    threads: int = 0
    """Threads besides main that it has at once: with as many as hosts, each host runs one."""
    varies: str = ""
    """A pattern of what differs between two native runs: it is not compared."""
    quick: bool = False
    refusal: tuple[str, str] | None = None
    """A pattern of what it says where dsmsup refuses what it needs, and the reason."""
    runs: int = 1
    """How often the table's command runs it on 2 hosts."""

    @property
    def shown(self) -> str:
        """The command as a user would type it."""
        lines = [line.strip() for line in self.script.strip().splitlines()]
        first = next(line for line in lines if "$RUN" in line).replace("$RUN ", "")
        return first if len(first) <= SHOWN_MAX else first[: SHOWN_MAX - 3].rstrip() + "..."

    @property
    def key(self) -> str:
        """A name of its own in the table's file."""
        return f"{self.package}: {self.script.strip()}"

    @property
    def id(self) -> str:
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.shown)[:50].strip("-")

    @property
    def program(self) -> str:
        return self.script.split("$RUN ", 1)[1].split()[0]


class Outcome(NamedTuple):
    """What of a run is compared."""

    status: int
    stdout: bytes
    stderr: bytes
    results: dict[str, str]


def _outcome(row: Row, done: Finished, folder: Path) -> Outcome:
    def kept(data: bytes) -> bytes:
        data = data.replace(bytes(folder), b".")
        return re.sub(row.varies.encode(), b"", data) if row.varies else data

    results = {}
    for name in row.results:
        path = folder / name
        found = path.exists()
        results[name] = hashlib.sha256(path.read_bytes()).hexdigest() if found else "missing"
    return Outcome(done.status, kept(done.stdout), kept(done.stderr), results)


def _run(row: Row, place: Place, run: str) -> tuple[Finished, Path]:
    folder = place.scratch / f"run{len(place.running)}"
    folder.mkdir()
    if row.prepare:
        made = place.run(["bash", "-ec", row.prepare], env=HERE, cwd=folder, limit_s=LIMIT_S)
        assert made.status == 0, made.stderr.decode(errors="replace")
    script = f'run() {{ {run} "$@"; }}\n' + row.script.replace("$RUN", "run")
    done = place.run(["bash", "-c", script], env=HERE, cwd=folder, limit_s=LIMIT_S)
    return done, folder


def difference(native: Outcome, other: Outcome, own: list[str]) -> str:
    """In words; empty where there is none."""
    if own:
        return own[0]
    if native.status != other.status:
        last = other.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"status {other.status}, natively {native.status} {' '.join(last)}".strip()
    for stream in ("stdout", "stderr"):
        ours, theirs = getattr(other, stream), getattr(native, stream)
        if ours != theirs:
            lines = zip(ours.splitlines(), theirs.splitlines(), strict=False)
            told = next((pair for pair in lines if pair[0] != pair[1]), (ours[-80:], theirs[-80:]))
            return f"{stream} differs: {told[0][:80]!r}, natively {told[1][:80]!r}"
    wrong = [name for name in native.results if native.results[name] != other.results[name]]
    return f"{wrong[0]} differs" if wrong else ""


def run_native(row: Row, place: Place) -> tuple[Outcome, float]:
    done, folder = _run(row, place, "")
    return _outcome(row, done, folder), done.wall_s


def try_under_dsmsup(row: Row, place: Place, hosts: int, native: Outcome) -> tuple[str, float]:
    """What is wrong with a run on so many hosts (empty: nothing), and its wall time in s."""
    stats = place.scratch / f"stats{len(place.running)}.json"
    command = [*harness.dsmsup_command(), "exec", "-n", str(hosts), "--stats", str(stats)]
    done, folder = _run(row, place, shlex.join(command))
    if row.refusal:
        said = re.search(row.refusal[0].encode(), done.stderr)
        return "" if said else f"did not say {row.refusal[0]!r}", done.wall_s
    fault = difference(native, _outcome(row, done, folder), done.own_lines())
    if not fault and row.threads >= hosts > 1:
        started = [host["threads_started"] for host in _hosts(stats)]
        if min(started) < 1:
            fault = f"threads started on each host: {started}"
    return fault, done.wall_s


def _hosts(stats: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stats.read_text())["hosts"]
    return found


def missing(row: Row) -> str:
    """The program that is not installed; empty when all are."""
    wanted = [row.program, *re.findall(r"^# needs (\S+)", row.prepare, re.MULTILINE)]
    for name in wanted:
        if not name.startswith("./") and shutil.which(name, path=HERE["PATH"]) is None:
            return name
    return ""
