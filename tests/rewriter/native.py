# SPDX-License-Identifier: GPL-2.0-or-later
"""Running rewritten programs on this machine, without the supervisor.

The program, its libraries and its dynamic linker are rewritten; the linker is
run on the program with the rewritten libraries first on its path; a small
ptrace launcher maps the armed byte and handles traps and redirects.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rewriter.cache import Rewritten, rewritten
from rewriter.elf import PT_INTERP, Elf
from rewriter.kinds import ARMED_ADDRESS, Kind

HERE = Path(__file__).parent


def build_launcher(directory: Path) -> Path:
    """Compile the launcher."""
    out = directory / "launcher"
    source = str(HERE / "launcher.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", str(out), source], check=True)
    return out


@dataclass(frozen=True)
class Prepared:
    """A command line prefix that runs the rewritten program, and its map file."""

    command: list[str]
    map_file: Path
    files: list[Rewritten]


@dataclass(frozen=True)
class Outcome:
    """What a run gave."""

    status: int
    stdout: bytes
    stderr: bytes
    traps: int = 0
    redirects: int = 0


def interpreter_of(program: str) -> str | None:
    """The dynamic linker a program names, None for a static one."""
    elf = Elf(Path(program).read_bytes(), program)
    segment = elf.segment(PT_INTERP)
    if segment is None:
        return None
    raw = elf.data[segment.offset : segment.offset + segment.filesz]
    return raw.rstrip(b"\0").decode()


def libraries_of(program: str, interpreter: str) -> dict[str, str]:
    """Names under which the program's libraries are looked for, to their paths."""
    done = subprocess.run(
        [interpreter, "--list", program], capture_output=True, text=True, check=True
    )
    pairs = re.findall(r"^\s*(\S+) => (/\S+)", done.stdout, re.MULTILINE)
    return {os.path.basename(name): path for name, path in pairs}


def prepare(
    program: str,
    directory: Path,
    cache: Path,
    always_trap: frozenset[Kind] = frozenset(),
    extra: Sequence[str] = (),
) -> Prepared:
    """Rewrite a program, all it links to and `extra`; `directory` takes map and links."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []

    def one(path: str) -> str:
        r = rewritten(path, cache, always_trap=always_trap)
        if not r.unchanged:
            files.append(r)
        return r.path

    main = one(program)
    for path in extra:
        one(path)
    linker = interpreter_of(program)
    command = [main]
    if linker is not None:
        libraries = directory / "lib"
        libraries.mkdir(exist_ok=True)
        for name, path in libraries_of(program, linker).items():
            link = libraries / name
            if os.path.realpath(path) != os.path.realpath(linker):
                link.unlink(missing_ok=True)
                link.symlink_to(one(os.path.realpath(path)))
        new = one(os.path.realpath(linker))
        command = [new, "--library-path", str(libraries), "--argv0", program, main]
    return Prepared(command, _write_map(directory / "map", files), files)


def _write_map(path: Path, files: list[Rewritten]) -> Path:
    lines = [f"armed {ARMED_ADDRESS:x}"]
    for r in files:
        lines.append(f"file {os.path.realpath(r.path)}")
        elf = Elf(Path(r.path).read_bytes(), r.path)
        lines += [f"load {s.vaddr:x} {s.offset:x} {s.filesz:x}" for s in elf.loads]
        lines += [f"trap {at:x} {t.native:x}" for at, t in r.traps.items()]
        lines += [f"redirect {at:x} {to:x}" for at, to in r.redirects.items()]
        lines += [f"moved {to:x} {at:x}" for to, at in r.moved().items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(
    launcher: Path,
    prepared: Prepared,
    arguments: list[str],
    *,
    armed: bool,
    stdin: bytes = b"",
    timeout: float = 60,
) -> Outcome:
    """Run the rewritten program with the armed byte clear or set."""
    counts = prepared.map_file.with_suffix(".counts")
    command = [str(launcher), str(int(armed)), str(prepared.map_file), str(counts)]
    done = subprocess.run(
        [*command, *prepared.command, *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout,
    )
    found = re.match(r"traps (\d+) redirects (\d+)", counts.read_text())
    assert found is not None
    traps, redirects = (int(g) for g in found.groups())
    return Outcome(done.returncode, done.stdout, done.stderr, traps, redirects)


def run_natively(program: str, arguments: list[str], stdin: bytes = b"") -> Outcome:
    """The original, for comparison."""
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=60)
    return Outcome(done.returncode, done.stdout, done.stderr)
