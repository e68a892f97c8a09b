# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewritten programs give native results, the armed byte clear and every site trapping."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rewriter.cache import rewritten
from rewriter.kinds import Kind
from tests.rewriter import native
from tests.rewriter.conftest import Compile

PROGRAMS = {
    "pie": ("threads.c", "-pthread"),
    "no-pie": ("threads.c", "-pthread", "-no-pie"),
    "static": ("threads.c", "-pthread", "-static"),
    "static-pie": ("threads.c", "-pthread", "-static-pie"),
    "i386": ("threads.c", "-pthread", "-m32", "-latomic"),
    "i386-no-pie": ("threads.c", "-pthread", "-m32", "-no-pie", "-latomic"),
    "i386-static": ("threads.c", "-pthread", "-m32", "-static", "-latomic"),
    "c++": ("cxx.cc", "-pthread"),
    "c++-static": ("cxx.cc", "-pthread", "-static"),
    "openmp": ("openmp.c", "-fopenmp"),
    "i386-openmp": ("openmp.c", "-fopenmp", "-m32"),
}
TOOLS = {
    "xz": (["-T2", "-1", "-c", "INPUT"],),
    "zstd": (["-T2", "-q", "-c", "INPUT"],),
    "pigz": (["-p2", "-c", "INPUT"],),
    "sort": (["--parallel=2", "INPUT"],),
    "7z": (["a", "-an", "-txz", "-so", "-mmt=2", "INPUT"],),
    "openssl": (["dgst", "-sha256", "INPUT"],),
    "python3": (
        ["-c", "import threading as t\nn=[]\nx=[t.Thread(target=n.append,args=(i,)) for i in "
         "range(20)]\n[y.start() for y in x]\n[y.join() for y in x]\nprint(sorted(n))"],
    ),
    "perl": (["-e", "print join(',', sort map { $_ * 2 } 1..10)"],),
}  # fmt: skip

OWN_TEST = {
    "endless", "echo", "orderly_end",  # they end when told to, or with their input
    "contend",  # it prints what it measures
    "visible", "posix_machine", "mmap_hints",  # they see the launcher: a tracer, a linker's name
    "forced_waits", "forced_waits_m32", "new_tasks", "new_tasks_m32",  # and its SIGILL
    "wait_masks", "wait_masks_m32",
    "interrupted_waits", "interrupted_waits_m32",  # and its stops
    "untraced",  # whose tasks it does not trace
    "gives_up_user",  # who may not read the folders of tests
}  # fmt: skip
"""Test programs whose output tells more than what they compute."""


def _installed(name: str) -> str | None:
    """The path of an installed program, wrapper scripts passed over."""
    for place in (shutil.which(name), f"/usr/bin/{name}", f"/usr/lib/p7zip/{name}"):
        if place and os.path.exists(place):
            with open(place, "rb") as f:
                if f.read(4) == b"\x7fELF":
                    return os.path.realpath(place)
    return None


def _both_ways(
    launcher: Path, program: str, arguments: list[str], directory: Path, cache: Path
) -> tuple[native.Outcome, native.Outcome]:
    """Run natively and rewritten, clear and trapping; outputs must be equal."""
    expected = native.run_natively(program, arguments)
    prepared = native.prepare(program, directory, cache)
    clear = native.run(launcher, prepared, arguments, armed=False)
    armed = native.run(launcher, prepared, arguments, armed=True)
    for seen in (clear, armed):
        assert (seen.status, seen.stdout) == (expected.status, expected.stdout), seen.stderr
    return clear, armed


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(
    name: str, compile_program: Compile, launcher: Path, cache: Path, tmp_path: Path
) -> None:
    program = compile_program(*PROGRAMS[name])
    clear, armed = _both_ways(launcher, str(program), [], tmp_path, cache)
    # i386 keeps a few sites that trap in place, whatever the armed byte says.
    assert clear.traps <= armed.traps // 10
    assert armed.traps > 100
    assert clear.redirects == armed.redirects == 0


def test_data_among_code(
    compile_program: Compile, launcher: Path, cache: Path, tmp_path: Path
) -> None:
    program = compile_program("tangled.c")
    _both_ways(launcher, str(program), [], tmp_path, cache)


@pytest.mark.parametrize("name", TOOLS)
def test_tool(name: str, launcher: Path, cache: Path, tmp_path: Path) -> None:
    program = _installed(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    source = tmp_path / "input"
    # Text that compresses, and more than one block of each tool.
    source.write_text("".join(f"{i * i % 9973} line {i}\n" for i in range(60000)))
    arguments = [str(source) if a == "INPUT" else a for a in TOOLS[name][0]]
    _, armed = _both_ways(launcher, program, arguments, tmp_path / "run", cache)
    assert armed.traps > 0


def test_openssl_speed(launcher: Path, cache: Path, tmp_path: Path) -> None:
    """It measures the same algorithms; the figures are of no interest."""
    program = _installed("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    arguments = ["speed", "-seconds", "1", "-bytes", "1024", "-mr", "sha256", "rand"]
    expected = native.run_natively(program, arguments)
    prepared = native.prepare(program, tmp_path, cache)

    def rows(stdout: bytes) -> list[bytes]:
        return [line.rpartition(b":")[0] for line in stdout.splitlines()]

    assert expected.status == 0 and len(rows(expected.stdout)) >= 3
    for armed in (False, True):
        seen = native.run(launcher, prepared, arguments, armed=armed)
        assert (seen.status, rows(seen.stdout)) == (0, rows(expected.stdout)), seen.stderr
        assert (seen.traps > 0) is armed


def test_plugin(compile_program: Compile, launcher: Path, cache: Path, tmp_path: Path) -> None:
    plugin = compile_program("plugin.c", "-shared", "-fPIC")
    opener = str(compile_program("opener.c", "-ldl"))
    expected = native.run_natively(opener, [str(plugin)])
    new = rewritten(plugin, cache)
    assert not new.unchanged
    assert Path(new.path).name == plugin.name
    prepared = native.prepare(opener, tmp_path, cache, extra=[str(plugin)])
    for armed in (False, True):
        seen = native.run(launcher, prepared, [new.path], armed=armed)
        assert (seen.status, seen.stdout) == (expected.status, expected.stdout)


@pytest.mark.parametrize("flags", [(), ("-m32",)])
def test_faults_of_moved_instructions(
    flags: tuple[str, ...], compile_program: Compile, launcher: Path, cache: Path, tmp_path: Path
) -> None:
    """The map leads back to where each stood, the first of a patch too."""
    program = compile_program("moved.c", "-no-pie", *flags)
    assert rewritten(program, cache).tactics["preceding"] == 2
    _both_ways(launcher, str(program), [], tmp_path, cache)


def test_always_trap(compile_program: Compile, launcher: Path, tmp_path: Path) -> None:
    """CPUID as a kind that always traps: ld.so's run with the armed byte clear."""
    program = str(compile_program("threads.c", "-pthread"))
    kinds = frozenset({Kind.CPUID})
    prepared = native.prepare(program, tmp_path, tmp_path / "cache", kinds)
    seen = native.run(launcher, prepared, [], armed=False)
    expected = native.run_natively(program, [])
    assert (seen.status, seen.stdout) == (expected.status, expected.stdout)
    assert seen.traps > 5


def test_redirect(launcher: Path, cache: Path, tmp_path: Path) -> None:
    """A computed jump into the middle of a patch, which no analysis sees, is put right."""
    source = tmp_path / "hidden.s"
    source.write_text(
        """
        .globl main
        .type main, @function
main:   .cfi_startproc
        mov $20, %eax
        mov $hidden_less - main - 7, %ecx
        lea main(%rip), %rdx
        lea 7(%rcx,%rdx), %rdx
        xor %ecx, %ecx
        lea word(%rip), %rsi
        jmp *%rdx
site:   xchg %ecx, (%rsi)
hidden: add $22, %eax
        ret
        .set hidden_less, hidden
        .cfi_endproc
        .size main, . - main
        .data
word:   .long 5
        .section .note.GNU-stack,"",@progbits
"""
    )
    program = tmp_path / "hidden"
    subprocess.run(["gcc", "-o", str(program), str(source)], check=True)
    assert native.run_natively(str(program), []).status == 42
    prepared = native.prepare(str(program), tmp_path / "run", cache)
    for armed in (False, True):
        seen = native.run(launcher, prepared, [], armed=armed)
        assert seen.status == 42
        assert seen.redirects == 1


@pytest.mark.slow
def test_every_test_program(launcher: Path, cache: Path, tmp_path: Path) -> None:
    """The whole project's test programs, lines sorted where threads race for order."""
    root = Path(__file__).parents[2] / "testprogs"
    subprocess.run(["make", "-C", str(root)], check=True, capture_output=True)
    failed: list[tuple[str, bool, object]] = []
    for program in sorted((root / "bin").iterdir()):
        if program.name in OWN_TEST or not os.access(program, os.X_OK):
            continue
        expected = native.run_natively(str(program), [])
        prepared = native.prepare(str(program), tmp_path / program.name, cache)
        for armed in (False, True):
            try:
                seen = native.run(launcher, prepared, [], armed=armed)
            except subprocess.TimeoutExpired as e:
                failed.append((program.name, armed, e))
                continue
            status = expected.status if expected.status >= 0 else 128 - expected.status
            same = sorted(seen.stdout.splitlines()) == sorted(expected.stdout.splitlines())
            if seen.status != status or not same:
                failed.append((program.name, armed, seen))
    assert not failed
