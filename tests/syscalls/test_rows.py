# SPDX-License-Identifier: GPL-2.0-or-later
"""The table: complete, consistent, and printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from machines import Marshalled

from supervisor.arch import I386, X86_64
from supervisor.errors import UnsupportedError
from supervisor.syscalls import names
from supervisor.syscalls.compile import compile_row, measure
from supervisor.syscalls.spec import Buffer, In, InOut, Kind, Out, V, Value, Where, home
from supervisor.syscalls.table import ROWS, TABLES, assemble, is_plain, row_of

NAMES, NUMBERS = X86_64.names, X86_64.numbers

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "syscalls.md"


def test_every_number_has_a_row() -> None:
    assert set(ROWS) == set(NAMES) == {*range(337), *range(424, 472)}
    assert all(row.name == NAMES[number] for number, row in ROWS.items())
    assert all(row.number == number for number, row in ROWS.items())


def test_every_number_of_i386_has_a_row() -> None:
    rows = TABLES[I386].rows
    assert set(rows) == set(I386.names)
    assert all(row.name == I386.names[number] for number, row in rows.items())
    assert all(row.arch is I386 for row in rows.values())


def test_rows_of_i386_are_on_smaller_words() -> None:
    def kind(name: str, position: int) -> Kind:
        return TABLES[I386].rows[I386.numbers[name]].args[position]

    assert kind("nanosleep", 0) == In(8)
    assert kind("clock_nanosleep_time64", 2) == In(16)
    assert kind("getrlimit", 1) == Out(8)
    assert kind("prlimit64", 3) == Out(16)
    assert kind("semtimedop_time64", 3) == In(16)
    selected = TABLES[I386].rows[I386.numbers["_newselect"]].args[1]
    assert isinstance(selected, Buffer)
    assert measure(selected.length)([33]) == 8
    chosen = TABLES[I386].rows[I386.numbers["fcntl64"]].choose
    assert chosen is not None
    assert [chosen([0, command, 0x10000]).args[2] for command in (5, 12, 36)] == [
        InOut(16), InOut(24), InOut(24),
    ]


def test_rows_compile() -> None:
    for row in [row for table in TABLES.values() for row in table.rows.values()]:
        pointers = sum(not isinstance(kind, Value) for kind in row.args)
        assert len(compile_row(row)) == pointers
        assert len(row.args) <= 6


def test_calls_without_a_stop_have_no_pointers() -> None:
    for arch, table in TABLES.items():
        assert table.native_everywhere < table.native_at_home
        for number in table.native_at_home:
            assert is_plain(table.rows[number])
            assert table.rows[number].quiet
        assert {arch.names[number] for number in table.native_everywhere} == {
            "sched_yield", "restart_syscall",
        }
    native_everywhere, native_at_home = (
        TABLES[X86_64].native_everywhere, TABLES[X86_64].native_at_home,
    )  # fmt: skip
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
