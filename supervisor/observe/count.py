# SPDX-License-Identifier: GPL-2.0-or-later
"""`dsmsup count`: which share of a program's instructions synchronize, and where.

The measurement of the paper behind dsmsup: how often a program on an SMP
machine executes what must be seen by all processors. The program runs as it is,
on this machine, one instruction at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from types import FrameType
from typing import Final, NamedTuple, TextIO

from iced_x86 import Decoder, Formatter, FormatterSyntax

from rewriter.decode import kind_of
from rewriter.elf import Elf
from rewriter.errors import RewriteError
from rewriter.frames import read_frames
from rewriter.kinds import Kind
from rewriter.lines import lines_of
from rewriter.sites import Code
from supervisor.driver import exit_status
from supervisor.errors import DsmsupError
from supervisor.given_environment import given_environment
from supervisor.program import check_proc, find_program
from supervisor.standard_streams import say
from supervisor.tracee.spawn import spawn
from supervisor.tracee.stepping import Instruction, Stepper

_FILE_SIZE_MAX: Final = 1 << 30


class CountedSite(NamedTuple):
    """One synchronization instruction that was executed `count` times.

    `address` is the link-time one in a file, the guest's elsewhere; `function`
    is the function's address where no symbol names it, and empty, as `line`,
    where nothing tells.
    """

    count: int  # type: ignore[assignment]  # no tuple is searched
    kind: Kind
    path: str
    address: int
    function: str
    line: str
    instruction: str


class Counted(NamedTuple):
    """What a program executed: all instructions, and its sites, the busiest first."""

    total: int
    complete: bool
    sites: list[CountedSite]


def count(
    program: str, arguments: list[str], limit: int, top: int, output: str | None, machine: bool
) -> int:
    """Run a program and report to a file, or to stderr; its exit status."""
    check_proc()
    path = find_program(program)
    report = contextlib.nullcontext(sys.stderr) if output is None else _open(output)
    words = [os.fsencode(each) for each in (program, *arguments)]
    pid = spawn(path, words, given_environment(), None)
    _leave_signals_to(pid)
    stepper = Stepper(pid, limit)
    status = exit_status.of(stepper.run())
    result = counted(stepper)
    try:
        with report as file:  # closing writes, too
            if machine:
                json.dump(as_json(program, status, result), file, indent=2)
                file.write("\n")
            else:
                file.writelines(f"{line}\n" for line in as_table(program, result, top))
    except OSError as error:
        say(f"cannot write to '{output}': {error.strerror}")
    return status


def _open(output: str) -> TextIO:
    """Before the program runs: what cannot be written should not cost a run."""
    try:
        return open(output, "w", encoding="utf-8")
    except OSError as error:
        raise DsmsupError(f"cannot write to '{output}': {error.strerror}") from None


def _leave_signals_to(pid: int) -> None:
    """What the terminal sends, it sends to the program too; SIGTERM is passed on."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(pid, number)  # our child, not waited for yet: the id is its own

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)


def counted(stepper: Stepper) -> Counted:
    """The sites among what has been stepped."""
    by_path: dict[str, list[tuple[Instruction, Kind, int]]] = {}
    for each, times in zip(stepper.instructions, stepper.counts, strict=True):
        kind = kind_of(Decoder(each.bits, each.code).decode())
        if kind is not None:
            by_path.setdefault(each.path, []).append((each, kind, times))
    sites = [site for path, found in by_path.items() for site in _named(path, found)]
    return Counted(stepper.total, stepper.complete, sorted(sites, reverse=True))


def _named(path: str, found: list[tuple[Instruction, Kind, int]]) -> list[CountedSite]:
    code, data = _code_of(path)
    addresses = {each: _address(code, each.offset) for each, _, _ in found}
    lines = lines_of(data, list(addresses.values())) if data else {}
    formatter = Formatter(FormatterSyntax.GAS)
    return [
        CountedSite(
            count, kind, path or "(memory)", address,
            _function(code, address),
            lines.get(address, ""),
            formatter.format(Decoder(each.bits, each.code, ip=address).decode()),
        )
        for each, kind, count in found
        for address in (addresses[each],)
    ]  # fmt: skip


def _code_of(path: str) -> tuple[Code | None, bytes]:
    """The symbols of a file as it is now; nothing where there are none to be had."""
    try:
        if not path.startswith("/") or os.path.getsize(path) > _FILE_SIZE_MAX:
            return None, b""
        with open(path, "rb") as file:
            data = file.read()
        elf = Elf(data, path)
        return Code(elf, [], read_frames(elf), elf.functions()), data
    except (OSError, RewriteError):
        return None, b""


def _address(code: Code | None, offset: int) -> int:
    """The link-time address of a file offset."""
    if code is not None:
        for segment in code.elf.code:
            if segment.offset <= offset < segment.offset + segment.filesz:
                return offset - segment.offset + segment.vaddr
    return offset


def _function(code: Code | None, address: int) -> str:
    if code is None:
        return ""
    frame = code.frame_at(address)
    return code.function_at(address) or ("" if frame is None else f"{frame.start:#x}")


def as_json(program: str, exit_status: int, result: Counted) -> dict[str, object]:
    """The report for machines."""
    return {
        "program": program,
        "exit_status": exit_status,
        "instructions": result.total,
        "complete": result.complete,
        "kinds": {kind: count for kind, count in _kinds(result)},
        "sites": [site._asdict() for site in result.sites],
    }


def as_table(program: str, result: Counted, top: int) -> list[str]:
    """The report for people: kinds, the `top` functions, the `top` sites."""
    more = "" if result.complete else "; the rest of the run is not counted"
    lines = [f"{program}: {result.total:,} instructions executed, one by one{more}", ""]
    lines.append(f"{'executed':>12}  {'share':>9}  kind")
    for kind, count in [*_kinds(result), ("all", sum(site.count for site in result.sites))]:
        lines.append(f"{count:>12,}  {_share(count, result):>9}  {kind}")
    functions: Counter[tuple[str, str]] = Counter()
    for site in result.sites:
        functions[site.function, site.path] += site.count
    lines += ["", f"{'executed':>12}  {'share':>9}  {'function':32}  file"]
    for (function, path), count in functions.most_common(top):
        lines.append(f"{count:>12,}  {_share(count, result):>9}  {function:32}  {path}")
    lines.append("")
    lines.append(f"{'executed':>12}  {'share':>9}  {'kind':9}  {'address':>12}  {'function':32}  "
                 "instruction")
    for site in result.sites[:top]:
        where = f"  {site.line}" if site.line else ""
        lines.append(
            f"{site.count:>12,}  {_share(site.count, result):>9}  {site.kind:9}  "
            f"{site.address:#12x}  {site.function:32}  {site.instruction}{where}"
        )
    if len(result.sites) > top:
        lines.append(f"... and {len(result.sites) - top} sites more (--top)")
    return lines


def _kinds(result: Counted) -> list[tuple[str, int]]:
    kinds: Counter[str] = Counter()
    for site in result.sites:
        kinds[site.kind.value] += site.count
    return kinds.most_common()


def _share(count: int, result: Counted) -> str:
    return f"{100 * count / max(result.total, 1):.4f} %"
