# SPDX-License-Identifier: GPL-2.0-or-later
"""Single operations, each against its floor in bare C and against native, in the same run."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from benches.measure import Bench, alternate, figure, over
from supervisor.tracee.userfault import unavailable


class Floor(NamedTuple):
    """What the mechanism under an operation costs in C (benches/programs/floors.c)."""

    name: str
    mechanism: str
    count: int
    bytes: int = 64
    batches: int = 11


class Row(NamedTuple):
    """An operation of benches/programs/micro.c: `count` of them in each of `batches`."""

    name: str
    operation: str
    count: int
    floor: Floor | None = None
    batches: int = 11
    hosts: int = 2
    options: tuple[str, ...] = ("--no-migrate",)
    faults: bool = False
    """Worth a look with the other pager."""
    rounds: int = 3
    """How many processes of each are measured."""
    least: bool = False
    """The quickest batch of each process counts, not the median. What takes some cycles takes
    up to half as many again for a while, natively too, on machines that share their cores."""

    @property
    def key(self) -> str:
        """What benches/targets.py calls it."""
        name = "trap" if self.floor is TRAP else self.operation
        name += f"-{self.count}" if name == "stream" else ""
        return name + ("-sigsegv" if "sigsegv" in self.options else "")


TRAP: Final = Floor("ptrace stop", "trap", 3000)
FAULT: Final = Floor("ptrace stop and mprotect", "fault", 1000)
EMPTY: Final = Floor("round trip of 64 B / 64 B", "round-trip", 300)
PAGE: Final = Floor("round trip of 64 B / 4 KiB", "round-trip", 300, 4096)
BUSY: Final = Floor("round trip of 64 B / 4 KiB, busy", "round-trip-busy", 100, 4096)
ADAPTIVE: Final = ("--policy", "adaptive")

ROWS: Final = (
    Row("MFENCE", "fence", 50_000, None, 31, options=ADAPTIVE, rounds=15, least=True),
    Row("LOCK ADD", "locked-add", 200_000, None, 31, options=ADAPTIVE, rounds=15, least=True),
    Row("XCHG", "exchange", 200_000, None, 31, options=ADAPTIVE, rounds=15, least=True),
    Row("uncontended lock and unlock", "uncontended-lock", 1_000_000, options=ADAPTIVE),
    Row("trap (MFENCE, `paper`, 1 host)", "fence", 3000, TRAP, hosts=1,
        options=("--policy", "paper")),
    Row("fault that home settles alone", "local-fault", 500, FAULT, faults=True),
    Row("first touch of new memory, per page", "first-touch", 4096),
    Row("remote read fault, owner asleep", "read-fault", 300, PAGE, faults=True),
    Row("remote read fault, owner computing", "read-fault-busy", 300, BUSY, faults=True),
    Row("remote read fault, owner computing, one each 16 ms", "read-fault-busy-rare", 20, BUSY,
        batches=5),
    Row("remote write fault, owner asleep", "write-fault", 300, PAGE, faults=True),
    Row("remote write fault, owner computing", "write-fault-busy", 300, BUSY, faults=True),
    Row("stream of 256 KiB, per page", "stream", 64,
        Floor("socket stream, per 4 KiB", "stream", 20, 1 << 18), faults=True),
    Row("stream of 64 MiB, per page", "stream", 16384,
        Floor("socket stream, per 4 KiB", "stream", 1, 1 << 26, 3), batches=3, faults=True),
    Row("lock handed over, and an increment", "contended-lock", 1000, EMPTY),
    Row("LOCK ADD on one word", "contended-add", 1000, EMPTY),
    Row("barrier of 2", "barrier", 200, EMPTY),
    Row("futex wake there and back", "semaphore", 200, EMPTY),
    Row("thread create and join", "create-join", 30),
    Row("forwarded system call", "system-call-elsewhere", 300, EMPTY),
)  # fmt: skip

ROW_LIMIT_S: Final = 9.0
QUICK: Final = ("read-fault",)


def rows_of(bench: Bench) -> list[Row]:
    """What is measured; faults with both pagers where userfaultfd is permitted."""
    if bench.quick:
        return [row for row in ROWS if row.operation in QUICK]
    rows = []
    for row in ROWS:
        rows.append(row)
        if row.faults and not unavailable():
            options = (*row.options, "--pager", "sigsegv")
            rows.append(row._replace(name=f"{row.name} (sigsegv)", options=options))
    return rows


def measure(bench: Bench) -> dict[str, Any]:
    """Microseconds an operation takes: under dsmsup, in its floor, natively."""
    rows = []
    for row in rows_of(bench):
        with bench.noting():
            rows.append(_one(bench, row))
            result = rows[-1]
            against = result.get("over_floor") or result["over_native"]
            bench.say(
                f"  {row.name:46} {result['us']['median']:10.3f} us "
                f"{against['median']:9.2f} times {result.get('floor', 'native')}"
            )
    return {"rows": rows}


def batch_us(stdout: str, least: bool = False) -> float:
    """The first of the nanoseconds that the C programs print, or the least."""
    return float(stdout.split()[least]) / 1000


def _one(bench: Bench, row: Row) -> dict[str, Any]:
    program, floors = bench.program("micro"), bench.program("floors")
    arguments = [row.operation, str(bench.count(row.count)), str(bench.rounds(row.batches))]
    cpus = bench.on(2)
    things = {
        "native": lambda: batch_us(bench.native([program, *arguments], cpus).stdout, row.least),
        "dsmsup": lambda: batch_us(
            bench.dsmsup(
                [program, *arguments], bench.on(row.hosts), row.hosts, options=row.options
            ).stdout,
            row.least,
        ),
    }
    if row.floor is not None:
        floor = row.floor
        command = [floors, floor.mechanism, str(bench.count(floor.count)), str(floor.bytes),
                   str(bench.rounds(floor.batches))]  # fmt: skip
        things["floor"] = lambda: batch_us(bench.native(command, cpus).stdout)
    us = alternate(things, bench.rounds(row.rounds), ROW_LIMIT_S)
    result: dict[str, Any] = {
        "key": row.key, "name": row.name, "hosts": row.hosts, "options": list(row.options),
        "us": figure(us["dsmsup"]), "native_us": figure(us["native"]),
        "over_native": over(us["dsmsup"], us["native"]),
    }  # fmt: skip
    if row.floor is not None:
        result |= {"floor": row.floor.name, "floor_us": figure(us["floor"]),
                   "over_floor": over(us["dsmsup"], us["floor"])}  # fmt: skip
    return result
