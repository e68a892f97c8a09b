# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile files: refused by name or rewritten, never a traceback, a hang, or much memory."""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest

from rewriter.elf import Elf
from rewriter.emit import emit
from rewriter.errors import RewriteError
from rewriter.plan import Options, make_plan
from rewriter.rewrite import rewrite_bytes
from tests.rewriter.conftest import Compile

SECTIONS = (".eh_frame", ".eh_frame_hdr", ".dynamic", ".symtab", ".strtab", ".rela.dyn",
            ".gcc_except_table", ".text", ".init_array", ".note.gnu.build-id")  # fmt: skip
SECONDS_MAX = 20.0
OUTPUT_MAX = 200 << 20


def _hot_ranges(elf: Elf) -> list[tuple[int, int]]:
    hot = [(0, 64), (elf.phoff, elf.phoff + elf.phnum * elf.phentsize)]
    hot.append((elf.shoff, elf.shoff + elf.shnum * elf.shentsize))
    found = (elf.section(n) for n in SECTIONS)
    return hot + [(s.offset, s.offset + s.size) for s in found if s is not None and s.size]


def _mutated(base: bytes, hot: list[tuple[int, int]], rnd: random.Random) -> bytes:
    out = bytearray(base)
    if rnd.random() < 0.1:
        return bytes(out[: rnd.randrange(len(out))])
    for _ in range(rnd.choice((1, 1, 2, 4, 16))):
        at = rnd.randrange(*rnd.choice(hot))
        width = rnd.choice((1, 2, 4, 8))
        value = rnd.choice(
            (0, 1, 0x7F, 0x80, 0xFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, rnd.getrandbits(64),
             rnd.randrange(len(base)))
        )  # fmt: skip
        raw = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        out[at : at + width] = raw
    return bytes(out[: len(base)])


def _attack(base: bytes, seed: int, number: int) -> dict[str, int]:
    """Feed mutants to the rewriter, past its own net for unforeseen numbers."""
    hot = _hot_ranges(Elf(base, "base"))
    counts = {"rewritten": 0, "refused": 0}
    for i in range(number):
        rnd = random.Random(f"{seed}/{i}")
        data = _mutated(base, hot, rnd)
        start = time.monotonic()
        try:
            plan = make_plan(Elf(data, "mutant"), Options())
            if plan.placed:
                out, _ = emit(plan)
                assert len(out) < OUTPUT_MAX
            counts["rewritten"] += 1
        except RewriteError as e:
            assert "\n" not in str(e) and str(e).startswith("mutant: ")
            counts["refused"] += 1
        except Exception as e:
            raise AssertionError(f"mutant {seed}/{i}: {e!r}") from e
        assert time.monotonic() - start < SECONDS_MAX, f"mutant {seed}/{i} takes too long"
    return counts


@pytest.fixture(params=["pie", "static", "i386", "c++"])
def base(request: pytest.FixtureRequest, compile_program: Compile) -> bytes:
    flags = {
        "pie": ("unwind.c", "-pthread", "-g"),
        "static": ("threads.c", "-pthread", "-static"),
        "i386": ("threads.c", "-pthread", "-m32", "-latomic"),
        "c++": ("cxx.cc", "-pthread"),
    }
    return compile_program(*flags[request.param]).read_bytes()


def test_mutants(base: bytes) -> None:
    seed = int(os.environ.get("DSMSUP_TEST_SEED", "7"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = _attack(base, seed, 300 if len(base) < 100_000 else 25)
    assert counts["refused"] > 0 and counts["rewritten"] > 0
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 400 << 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutants(base: bytes) -> None:
    seed = random.randrange(1 << 30)
    print(f"DSMSUP_TEST_SEED={seed}")
    _attack(base, seed, 5000 if len(base) < 100_000 else 300)


def test_every_truncation_of_the_headers(compile_program: Compile) -> None:
    data = compile_program("unwind.c", "-pthread", "-g").read_bytes()
    for length in [*range(0, 1000, 7), len(data) // 2, len(data) - 1]:
        try:
            rewrite_bytes(data[:length], "cut")
        except RewriteError as e:
            assert str(e).startswith("cut: ")
        else:
            # Only the section headers, which nothing depends on, may be missing.
            assert length > len(data) // 2 - 1


def test_refusals_by_name(tmp_path: Path, compile_program: Compile) -> None:
    data = bytearray(compile_program("plugin.c", "-shared", "-fPIC").read_bytes())

    def refusal(at: int, new: bytes) -> str:
        changed = bytes(data[:at]) + new + bytes(data[at + len(new) :])
        with pytest.raises(RewriteError) as e:
            rewrite_bytes(changed, "f")
        return f"{type(e.value).__name__} {e.value}"

    assert refusal(0, b"#!/b") == "NotElf f: not an ELF file"
    assert refusal(18, b"\xb7\0") == (
        "WrongArchitecture f: an ELF file for AArch64, not for x86-64 or i386"
    )
    assert refusal(5, b"\2").startswith("WrongArchitecture f: a big-endian ELF file")
    assert refusal(16, b"\1\0").startswith("Unsupported f: a relocatable object")
    assert refusal(16, b"\4\0").startswith("Unsupported f: a core dump")
    assert refusal(4, b"\1").startswith("Unsupported f: an x32")
    assert refusal(54, b"\1\0").startswith("Corrupt f: the program header table")
    assert refusal(56, b"\0\0").startswith("Unsupported f: no program headers")
