# SPDX-License-Identifier: GPL-2.0-or-later
"""The table: a row for every system call number, and what is read off it.

`python -m supervisor.syscalls.table` prints it as markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from supervisor.arch import I386, X86_64, Arch
from supervisor.errors import UnsupportedError
from supervisor.syscalls import (
    rows_control,
    rows_files,
    rows_i386,
    rows_ioctl,
    rows_ipc,
    rows_memory,
    rows_network,
    rows_process,
    rows_system,
)
from supervisor.syscalls.spec import Row, Value, Where, varied

_ROOMS: Final = (
    ("Files, directories, descriptors", rows_files.ROWS),
    ("Control calls", rows_ioctl.ROWS + rows_control.ROWS),
    ("Sockets", rows_network.ROWS),
    ("Address space", rows_memory.ROWS),
    ("Threads, processes, signals, time", rows_process.ROWS),
    ("System V and POSIX queues, semaphores, shared memory", rows_ipc.ROWS),
    ("The machine, and what is refused", rows_system.ROWS),
)


def assemble(rows: Iterable[Row], numbers: Mapping[str, int]) -> dict[int, Row]:
    """Rows by number. KeyError for a name without a number, ValueError for a second row."""
    table: dict[int, Row] = {}
    for row in rows:
        number = numbers[row.name]
        if number in table:
            raise ValueError(f"two rows for {row.name}")
        table[number] = varied(row, number=number)
    return table


class Table:
    """One architecture's rows by number, and which calls need no stop."""

    def __init__(self, rows: dict[int, Row]) -> None:
        self.rows = rows
        self.native_everywhere = self._of(Where.NATIVE)
        """Calls that need no stop on any host."""
        self.native_at_home = self.native_everywhere | self._of(Where.HOME_NATIVE)
        """Calls that need no stop for a thread at home."""

    def _of(self, where: Where) -> frozenset[int]:
        return frozenset(number for number, row in self.rows.items() if row.where is where)


_WIDE: Final = [row for _, rows in _ROOMS for row in rows]

TABLES: Final[dict[Arch, Table]] = {
    X86_64: Table(assemble(_WIDE, X86_64.numbers)),
    I386: Table(assemble(rows_i386.derive(_WIDE), I386.numbers)),
}
"""Every number that the kernel has."""

rows_i386.fill(TABLES[I386].rows)

ROWS: Final = TABLES[X86_64].rows


def row_of(number: int) -> Row:
    """The row of a call; UnsupportedError, naming the number, if there is none."""
    row = ROWS.get(number)
    if row is None:
        raise UnsupportedError(f"system call {number} is in no table of this version")
    return row


def is_plain(row: Row) -> bool:
    """Whether home's kernel may run it as the program made it, once it has stopped."""
    return (
        row.where in (Where.HOME, Where.HOME_NATIVE, Where.NATIVE)
        and row.choose is None
        and row.unwrap is None
        and not row.runs_as
        and all(isinstance(kind, Value) for kind in row.args)
    )


def _markdown() -> Iterable[str]:
    yield "# System calls"
    yield ""
    yield (
        "Made by `python -m supervisor.syscalls.table`: x86-64, then what i386 has besides or "
        "otherwise."
    )
    yield ""
    counts = {where: sum(row.where is where for row in ROWS.values()) for where in Where}
    yield "| where | calls | meaning |"
    yield "|---|---|---|"
    meanings = {
        Where.HOME: "marshalled, run on the thread's own task at home",
        Where.NATIVE: "by the kernel of the thread's host, without a stop",
        Where.HOME_NATIVE: "without a stop at home, sent home from elsewhere",
        Where.SPACE: "a change of the address space, made for all hosts in one order",
        Where.HANDLER: "by code of its own",
        Where.ANSWER: "not run, answered as by a kernel without it",
        Where.REFUSE: "not run, named in a message",
    }
    for where, meaning in meanings.items():
        yield f"| {where.value} | {counts[where]} | {meaning} |"
    for title, rows in _ROOMS:
        yield ""
        yield f"## {title}"
        yield ""
        yield "| number | call | where | pointers | remarks |"
        yield "|---|---|---|---|---|"
        numbered = (ROWS[X86_64.numbers[row.name]] for row in rows)
        for row in sorted(numbered, key=lambda row: row.number):
            yield _line(row)
    yield ""
    yield "## i386"
    yield ""
    yield "Every call that is not here is as x86-64's of the same name, on smaller words."
    yield ""
    yield "| number | call | where | pointers | remarks |"
    yield "|---|---|---|---|---|"
    own = {row.name for row in rows_i386.OWN} | (set(I386.numbers) - set(X86_64.numbers))
    for row in sorted(TABLES[I386].rows.values(), key=lambda row: row.number):
        if row.name in own:
            yield _line(row)


def _line(row: Row) -> str:
    pointers = ", ".join(
        f"{position + 1}: {kind_name}"
        for position, kind in enumerate(row.args)
        if not isinstance(kind, Value)
        for kind_name in [type(kind).__name__.lower()]
    )
    where = row.where.value
    remarks = [row.why] if row.why else []
    if row.unwrap is not None:
        where, pointers = "as the call that it stands for", ""
    if row.choose is not None:
        where, pointers = "by argument", "by argument"
    if row.handler and row.handler != row.name:
        where += f" ({row.handler})"
    if row.answer is not None:
        remarks.insert(0, f"returns {row.answer}")
    if row.runs_as:
        remarks.append(f"runs as {row.runs_as}")
    return f"| {row.number} | {row.name} | {where} | {pointers} | {'; '.join(remarks)} |"


if __name__ == "__main__":
    print("\n".join(_markdown()))
