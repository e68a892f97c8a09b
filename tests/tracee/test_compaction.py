# SPDX-License-Identifier: GPL-2.0-or-later
"""A supervisor's memory, gathered on large pages, is the same memory."""

from __future__ import annotations

import subprocess
import sys
import threading

import iced_x86
from assembler import assembled

from supervisor.tracee import compaction
from supervisor.tracee.compaction import Piece, compact

MOVED = """
import gc, hashlib, json, re
from supervisor.tracee import compaction
from supervisor.tracee.compaction import _has_large_pages, compact

compaction.FILL_S_MAX = -1
assert compact() == 0  # the kernel has none at hand
compaction.FILL_S_MAX = 60
kept = [{index: str(index) * 9} for index in range(50_000)]
before = hashlib.sha256(repr(kept).encode()).hexdigest()
maps = open("/proc/self/maps").read()
moved = compact()
code = [line for line in open("/proc/self/maps") if "r-xp" in line]
gc.collect()
more = [[index] for index in range(50_000)]
assert hashlib.sha256(repr(kept).encode()).hexdigest() == before
assert re.sub("a", "b", json.dumps({"a": [1.5, None]})) == '{"b": [1.5, null]}'
assert sum(map(sum, more)) == sum(range(50_000))
import fractions, subprocess, threading
thread = threading.Thread(target=more.clear)
thread.start()
thread.join()
assert not more and subprocess.run(["true"]).returncode == 0
again = compact()
assert hashlib.sha256(repr(kept).encode()).hexdigest() == before
print(_has_large_pages(), moved, again)
"""


def test_code_is_its_source() -> None:
    assert assembled(compaction.SOURCE, 0) == compaction.CODE
    decoded = list(iced_x86.Decoder(64, compaction.CODE))
    starts = {instruction.ip for instruction in decoded}
    assert not any(instruction.is_invalid for instruction in decoded)
    assert starts.issuperset(i.near_branch_target for i in decoded if i.is_jmp_short_or_near
                             or i.is_jcc_short_or_near)  # fmt: skip


def test_it_is_the_same_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MOVED], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    large, moved, again = done.stdout.split()
    if large == "True":
        assert int(moved) > 8 << 20 and int(again) > 8 << 20
    else:
        assert moved == again == "0"


def test_nothing_moves_under_another_thread() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait, args=(60,))
    other.start()
    try:
        assert compact() == 0
    finally:
        over.set()
        other.join()


def test_pieces_have_memory_and_are_no_stack() -> None:
    done = subprocess.run(
        [sys.executable, "-c",
         "from supervisor.tracee.compaction import _pieces; print(list(map(tuple, _pieces())));"
         "print(open('/proc/self/maps').read())"],
        stdout=subprocess.PIPE, text=True, check=True, timeout=60,
    )  # fmt: skip
    first, *maps = done.stdout.splitlines()
    pieces = [Piece(*each) for each in eval(first)]
    assert sum(piece.length for piece in pieces) > 4 << 20
    stack = next(line for line in maps if line.endswith("[stack]")).split()[0]
    low, high = (int(address, 16) for address in stack.split("-"))
    assert not any(low <= piece.start < high for piece in pieces)
    assert all(piece.protection & 1 and piece.length % 4096 == 0 for piece in pieces)


def test_runs_of_pages_with_memory() -> None:
    present = bytes([0x80, 0x81, 0, 0, 0x80])
    assert list(compaction._present(present)) == [(0, 2), (4, 1)]
    assert list(compaction._present(bytes(3))) == []
