# SPDX-License-Identifier: GPL-2.0-or-later
"""Unwinding and debugging from inside trampolines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rewriter.cache import rewritten
from tests.rewriter import native
from tests.rewriter.conftest import PROGRAMS, Compile


def test_every_instruction_of_a_trampoline_unwinds(compile_program: Compile, cache: Path) -> None:
    """Stepped one by one, and cancelled asynchronously: as natively."""
    program = compile_program("unwind.c", "-g", "-pthread")
    new = rewritten(program, cache).path
    seen = []
    for path in (str(program), new):
        done = subprocess.run([path], capture_output=True, text=True, timeout=60)
        counts = re.search(r"steps (\d+) trampoline (\d+) lost (\d+)", done.stderr)
        assert counts is not None
        seen.append((done.returncode, done.stdout, *(int(g) for g in counts.groups())))
    (status, out, _, none, lost), (new_status, new_out, _, inside, new_lost) = seen
    assert (new_status, new_out) == (status, out) == (0, "sum 100\ncancelled 1 cleaned 1\n")
    assert none == 0 and inside > 100
    assert new_lost == lost


def test_binutils_show_trampolines(compile_program: Compile, cache: Path) -> None:
    new = rewritten(compile_program("unwind.c", "-g", "-pthread"), cache).path

    def said(*command: str) -> str:
        done = subprocess.run([*command, new], capture_output=True, text=True, check=True)
        assert "arning" not in done.stderr, done.stderr
        return done.stdout

    names = re.findall(r"^[0-9a-f]+ \w (\S+\.dsm\.[0-9a-f]+)$", said("nm"), re.MULTILINE)
    assert any(n.startswith("inner") for n in names) and len(names) >= 6
    listing = said("objdump", "-d", "-j", ".dsm.text")
    assert listing.count("mov    %eax,%cs") == 10
    assert "lock xadd" in listing and names[0] in listing
    assert "FDE" in said("readelf", "--debug-dump=frames")
    notes = said("readelf", "-n")
    assert "Build ID" in notes


def test_gdb_backtrace(compile_program: Compile, cache: Path, tmp_path: Path) -> None:
    """gdb stops in the middle of a check and sees the callers."""
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    r = rewritten(compile_program("unwind.c", "-g", "-pthread", "-no-pie"), cache)
    # One with the check that keeps flags; the armed byte is clear, and the last
    # instruction before the native one is a lea of 8 bytes.
    trap, site = next(
        (at, t) for at, t in r.traps.items() if "leaf" in t.function and t.native - t.checked > 8
    )
    # The byte is clear: we say that it was not, to see where the trap stands as well.
    outlying = [
        ["set $rcx = 1", f"break *{at:#x}", "continue", "bt"] for at in (trap - 9, trap)
    ]
    for commands in (
        [f"break *{site.native - 8:#x}", "run unstepped", "bt"],
        *([f"break *{site.checked:#x}", "run unstepped", *there] for there in outlying),
    ):
        said = gdb(r.path, commands, tmp_path)
        frames = re.findall(r"^#(\d+) .*?(\w[\w.]*) \(", said, re.MULTILINE)
        names = [name for _, name in frames]
        assert any("dsm" in n for n in names[:1]), said
        assert "outer" in names and "main" in names, said


def gdb(program: str, commands: list[str], folder: Path) -> str:
    arguments = [x for c in ["set confirm off", *commands, "kill"] for x in ("-ex", c)]
    done = subprocess.run(
        ["gdb", "-batch", "-nx", *arguments, program], capture_output=True, text=True, timeout=60,
        cwd=folder,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("flags", [(), ("-no-pie",), ("-static",)])
def test_exception_from_inside_a_trampoline(
    flags: tuple[str, ...], cache: Path, tmp_path: Path
) -> None:
    """A locked instruction faults, the signal's handler throws, the function catches."""
    text, source, program = tmp_path / "f.s", PROGRAMS / "faults.cc", tmp_path / "faults"
    compiler = ["g++", "-O2", "-fnon-call-exceptions", *flags]
    subprocess.run([*compiler, "-S", "-o", str(text), str(source)], check=True)
    new, count = re.subn(r"movl\t\$12345,", "lock addl $12345,", text.read_text())
    assert count == 1
    text.write_text(new)
    subprocess.run([*compiler, "-o", str(program), str(text)], check=True)
    expected = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert expected.stdout == "0 3 102 0 12350\n"
    prepared = native.prepare(str(program), tmp_path, cache)
    command = [rewritten(program, cache).path] if "-static" not in flags else None
    launcher = native.build_launcher(tmp_path)
    if command is not None:
        seen = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (seen.returncode, seen.stdout) == (0, expected.stdout)
    if "-static" in flags:
        for armed in (False, True):
            done = native.run(launcher, prepared, [], armed=armed)
            assert (done.status, done.stdout.decode()) == (0, expected.stdout)
