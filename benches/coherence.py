# SPDX-License-Identifier: GPL-2.0-or-later
"""What the coherence policies make of false sharing, and how fast data streams.

- Two threads, one a host, each increment a counter of their own in one page for
  two seconds: their rates, against the same program's natively.
- Jacobi whose rows share pages, under each policy.
- 256 MiB written on one host and read on the other, against a bare Python socket that
  moves as much from memory to memory (and, beside it, one MiB again and again).

Everything is measured by turns in one run, and of each the best turn counts: on a
machine that others use too, it is the one that was disturbed the least.

    python benches/coherence.py [--turns N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
POLICIES = ("adaptive", "single-writer", "paper")
COUNT_MS = 2000
JACOBI = ("jacobi", "2", "66", "64", "60", "1000")
STREAM_MIB = 256
PIECE = 1 << 20
RUN_LIMIT_S = 300


def compiled(folder: Path, source: Path) -> Path:
    target = folder / source.stem
    subprocess.run(
        ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", "-o", str(target), str(source)],
        check=True,
    )
    return target


def output(policy: str | None, *argv: str | Path) -> list[str]:
    """A program's lines, natively or on two hosts."""
    exec_ = [sys.executable, "-m", "supervisor.cli", "exec", "-n", "2", "--no-migrate"]
    command = [*([*exec_, "--policy", policy] if policy else []), *map(str, argv)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=RUN_LIMIT_S, env=environment
    )
    return done.stdout.splitlines()


def rates(policy: str | None, program: Path) -> list[float]:
    """Increments a second of the slower and of the faster of the two threads."""
    lines = output(policy, program, "own", "2", str(COUNT_MS))
    return sorted(int(line.split()[1]) * 1e3 / COUNT_MS for line in lines)


def seconds(policy: str | None, program: Path, *argv: str) -> float:
    return float(output(policy, program, *argv)[-1])


def socket_s(mib: int, same: bool) -> float:
    """How long a Python process needs to take in so much from another by loopback TCP.

    As the program moves it: from memory that the one has written into memory that the other
    has not touched yet. With `same`, one MiB from the cache again and again into one MiB.
    """
    size = mib << 20
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    pid = os.fork()
    if pid == 0:
        signal.alarm(RUN_LIMIT_S)
        piece = bytes(range(256)) * (1 << 12)
        written = memoryview(piece if same else piece * mib)
        far.recv(1)
        for at in range(0, size, PIECE):
            far.sendall(written if same else written[at : at + PIECE])
        os._exit(0)
    far.close()
    room = memoryview(mmap.mmap(-1, PIECE if same else size))
    near.sendall(b"!")
    near.recv(1, socket.MSG_PEEK)  # the other has made its memory
    began = time.perf_counter()
    left = size
    while left:
        at = 0 if same else size - left
        left -= near.recv_into(room[at : at + PIECE])
    took = time.perf_counter() - began
    near.close()
    os.waitpid(pid, 0)
    return took


def measure(turns: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        contend = compiled(Path(name), ROOT / "testprogs" / "contend.c")
        program = compiled(Path(name), ROOT / "benches" / "coherence.c")
        counted: dict[str, list[list[float]]] = {}
        relaxed: dict[str, list[float]] = {}
        streamed: dict[str, list[float]] = {}
        for turn in range(turns):
            print(f"turn {turn + 1} of {turns}", file=sys.stderr)
            for policy in (None, "adaptive", "single-writer"):
                counted.setdefault(policy or "native", []).append(rates(policy, contend))
            for policy in (None, *POLICIES):
                relaxed.setdefault(policy or "native", []).append(
                    seconds(policy, program, *JACOBI)
                )
            streamed.setdefault("socket", []).append(socket_s(STREAM_MIB, False))
            streamed.setdefault("socket, 1 MiB", []).append(socket_s(STREAM_MIB, True))
            streamed.setdefault("adaptive", []).append(
                seconds("adaptive", program, "stream", str(STREAM_MIB))
            )
    best = {kind: [max(column) for column in zip(*rows, strict=True)]
            for kind, rows in counted.items()}  # fmt: skip
    return {
        "counters_of_native": {
            kind: [mine / native for mine, native in zip(got, best["native"], strict=True)]
            for kind, got in best.items()
        },
        "jacobi_s": {kind: min(got) for kind, got in relaxed.items()},
        "stream_mib_per_s": {kind: STREAM_MIB / min(got) for kind, got in streamed.items()},
        "stream_of_socket": min(streamed["socket"]) / min(streamed["adaptive"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(arguments.turns)
    for kind, shares in figures["counters_of_native"].items():
        print(f"counters  {kind:14} " + " ".join(f"{share:6.1%}" for share in shares)
              + " of native (slower, faster thread)")  # fmt: skip
    for kind, took in figures["jacobi_s"].items():
        print(f"jacobi    {kind:14} {took:.3f} s")
    for kind, rate in figures["stream_mib_per_s"].items():
        print(f"stream    {kind:14} {rate:.0f} MiB/s")
    print(f"stream    {figures['stream_of_socket']:.0%} of the socket")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
