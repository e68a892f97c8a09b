# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own threaded tools on a large text: output identical to a native run."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import NamedTuple

import harness
import pytest
from harness import Place

MIB = 1 << 20
SEED = 20


class Tool(NamedTuple):
    """`argv` reads the text named at its end and writes to standard output.

    `quick_mib` is the text's size in the quick run: less where threads share what
    they change all the time (sort's, all of one array of lines).
    """

    argv: tuple[str, ...]
    threads: int
    quick_mib: int = 8

    @property
    def id(self) -> str:
        return "-".join(self.argv)


TOOLS = [
    Tool(("pigz", "-p4", "-n", "-c"), 4),
    Tool(("pigz", "-p4", "-1", "-n", "-c", "-b", "1024"), 4),
    Tool(("xz", "-T4", "-1", "--block-size=1MiB", "-c"), 4),
    Tool(("sort", "--parallel=4"), 0, 2),  # it makes as many as its input is worth
]


def write_text(path: Path, bytes_wanted: int) -> None:
    """Lines of a word, a number and filling; the same text on every machine."""
    numbers = random.Random(SEED)
    words = ["".join(numbers.choices("abcdefghij", k=numbers.randint(3, 9))) for _ in range(997)]
    written = 0
    with path.open("w") as file:
        while written < bytes_wanted:
            lines = "".join(
                f"{words[numbers.randrange(997)]} {numbers.randrange(10**9)} "
                f"{words[numbers.randrange(997)] * (numbers.randrange(5) + 1)}\n"
                for _ in range(5000)
            )
            written += file.write(lines)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Texts by their size in MiB, made when first asked for."""
    folder = tmp_path_factory.mktemp("texts")

    class Texts(dict[int, Path]):
        def __missing__(self, size_mib: int) -> Path:
            self[size_mib] = folder / f"{size_mib}MiB.txt"
            write_text(self[size_mib], size_mib * MIB)
            return self[size_mib]

    return Texts()


def compare(place: Place, tool: Tool, text: Path, hosts: int, limit_s: float) -> None:
    argv = [*tool.argv, str(text)]
    env = {"LC_ALL": "C"}  # strcoll's tables are not what is tested
    native = place.run(argv, env=env, limit_s=limit_s)
    assert native.status == 0
    stats = place.scratch / "stats.json"
    run = place.dsmsup(
        "exec", "-n", str(hosts), "--stats", stats, *argv, env=env, limit_s=limit_s
    )
    assert (run.status, run.own_lines()) == (0, []), run.stderr.decode(errors="replace")
    assert run.stderr == native.stderr
    assert len(run.stdout) == len(native.stdout)
    assert hashlib.sha256(run.stdout).digest() == hashlib.sha256(native.stdout).digest()
    harness.read_stats(stats, hosts=hosts, status=0, threads=tool.threads)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.id)
def test_tool(
    tool: Tool, hosts: int, repetition: int, place: Place, texts: dict[int, Path]
) -> None:
    harness.need(tool.argv[0])
    compare(place, tool, texts[tool.quick_mib], hosts, limit_s=120)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.id)
def test_tool_on_50_mib(
    tool: Tool, hosts: int, repetition: int, place: Place, texts: dict[int, Path]
) -> None:
    harness.need(tool.argv[0])
    compare(place, tool, texts[50], hosts, limit_s=400)


def test_round_trip_through_a_pipe(place: Place, texts: dict[int, Path]) -> None:
    """Compressed on two hosts, decompressed natively: the text again."""
    harness.need("pigz", "xz", "sh")
    command = " ".join([*harness.dsmsup_command(), "exec", "-n", "2"])
    for pack, unpack in (("pigz -p4", "pigz -d"), ("xz -T4 -1 --block-size=1MiB", "xz -d")):
        run = place.run(
            ["sh", "-c", f"cat {texts[8]} | {command} {pack} | {unpack}"], limit_s=120
        )
        assert run.status == 0
        assert run.stdout == texts[8].read_bytes()
