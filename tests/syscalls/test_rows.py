# SPDX-License-Identifier: GPL-2.0-or-later
"""The table: complete, consistent, and printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from machines import Marshalled

from supervisor.arch.syscalls_x86_64 import NAMES, NUMBERS
from supervisor.errors import UnsupportedError
from supervisor.syscalls import names
from supervisor.syscalls.compile import compile_row
from supervisor.syscalls.spec import V, Value, Where, home
from supervisor.syscalls.table import (
    ROWS,
    assemble,
    is_plain,
    native_at_home,
    native_everywhere,
    row_of,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "syscalls.md"


def test_every_number_has_a_row() -> None:
    assert set(ROWS) == set(NAMES) == {*range(337), *range(424, 472)}
    assert all(row.name == NAMES[number] for number, row in ROWS.items())
    assert all(row.number == number for number, row in ROWS.items())


def test_rows_compile() -> None:
    for row in ROWS.values():
        pointers = sum(not isinstance(kind, Value) for kind in row.args)
        assert len(compile_row(row)) == pointers
        assert len(row.args) <= 6


def test_calls_without_a_stop_have_no_pointers() -> None:
    assert native_everywhere < native_at_home
    for number in native_at_home:
        assert is_plain(ROWS[number])
        assert ROWS[number].quiet
    assert {names.name_of(number) for number in native_everywhere} == {
        "sched_yield", "restart_syscall",
    }
    for name in ("getpid", "gettid", "getuid", "getppid"):
        assert NUMBERS[name] in native_at_home - native_everywhere
    for name in ("read", "futex", "ioctl", "prctl", "close", "kill"):
        assert NUMBERS[name] not in native_at_home


def test_plain_rows() -> None:
    plain = {row.name for row in ROWS.values() if is_plain(row)}
    assert {"close", "dup", "lseek", "kill", "fsync"} <= plain
    assert not plain & {"read", "ioctl", "fcntl", "vmsplice", "mmap", "clone", "rseq", "ptrace"}


def test_refusals_have_a_reason(marshalled: Marshalled) -> None:
    for row in ROWS.values():
        if row.where is Where.REFUSE:
            assert row.why
        if row.where in (Where.REFUSE, Where.ANSWER) and row.answer is not None:
            assert marshalled.call(row.name) == row.answer


def test_unknown_numbers_are_named() -> None:
    with pytest.raises(UnsupportedError, match="system call 400 "):
        row_of(400)
    with pytest.raises(UnsupportedError, match="system call 512 "):
        row_of(512)  # The first of x32.
    assert names.name_of(400) == "syscall_400"
    assert names.name_of(names.number_of("write")) == "write"


def test_assembly_notices_mistakes() -> None:
    row = home("read", V)
    with pytest.raises(ValueError, match="two rows for read"):
        assemble([row, row], NUMBERS)
    with pytest.raises(KeyError):
        assemble([home("raed", V)], NUMBERS)


def test_document_is_current() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "supervisor.syscalls.table"], check=True, capture_output=True,
        timeout=60, cwd=DOCUMENT.parents[1],
    ).stdout.decode()  # fmt: skip
    for number, name in NAMES.items():
        assert f"| {number} | {name} |" in printed
    assert DOCUMENT.read_text() == printed, "make it again: python -m supervisor.syscalls.table"
