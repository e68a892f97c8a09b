# SPDX-License-Identifier: GPL-2.0-or-later
"""`dsmsup rewrite`, `dsmsup sites` and `dsmsup cache`.

Exit statuses are those of the whole command: 0, 1 when a check finds damage,
125 for a file that cannot be rewritten or written, 127 for one that is not there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Final

import click

from rewriter.errors import RewriteError, Unsupported
from rewriter.kinds import ARMED_ADDRESS, KINDS, Kind
from rewriter.sidemap import SideMap, moved_instructions
from rewriter.source import read_source

EXIT_FAILURE: Final = 125
EXIT_NOT_FOUND: Final = 127
_PARTIAL: Final = (
    "dsmsup: {}: has code without unwind tables or symbols, in which more sites may lie"
)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Errors as one line on stderr and an exit status."""
    try:
        yield
    except RewriteError as e:
        click.echo(f"dsmsup: {e}", err=True)
        sys.exit(EXIT_FAILURE)
    except FileNotFoundError as e:
        click.echo(f"dsmsup: {e.filename}: {e.strerror}", err=True)
        sys.exit(EXIT_NOT_FOUND)
    except (OSError, UnicodeDecodeError) as e:
        name = getattr(e, "filename", None)
        reason = getattr(e, "strerror", None) or str(e)
        click.echo(f"dsmsup: {name}: {reason}" if name else f"dsmsup: {reason}", err=True)
        sys.exit(EXIT_FAILURE)


def _write(path: str, data: bytes, mode: int) -> None:
    """Whole or not at all: a new file renamed into place, where a link points.

    What is there and is no regular file (a device, a FIFO) is written to and stays.
    """
    try:
        if _is_special(path):
            with open(path, "wb") as f:
                f.write(data)
        else:
            _replace(os.path.realpath(path), data, mode)
    except OSError as e:
        raise RewriteError(path, f"cannot be written: {e.strerror}") from e


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _replace(path: str, data: bytes, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".dsmsup-")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _number(_: click.Context, __: click.Parameter, value: str) -> int:
    try:
        number = int(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number") from None
    if not 0 <= number < 1 << 31:
        raise click.BadParameter("must be below 0x80000000")
    return number


@click.command("rewrite")
@click.argument("file", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="where to write the result")
@click.option(
    "--armed-address",
    default=hex(ARMED_ADDRESS),
    show_default=True,
    callback=_number,
    help="address of the byte that the check reads",
)
@click.option(
    "--always-trap",
    multiple=True,
    type=click.Choice([k.value for k in KINDS]),
    help="a kind of instruction that traps whatever the byte says (repeatable)",
)
@click.option(
    "--map", "map_file", type=click.Path(), help="where to write what a handler of traps needs"
)
def rewrite_command(
    file: str, output: str, armed_address: int, always_trap: tuple[str, ...], map_file: str | None
) -> None:
    """Put a trap before every synchronization instruction of FILE.

    FILE is an x86-64 or i386 executable, library or dynamic linker; or, with a
    name ending in .s, GNU assembler text in AT&T or Intel syntax.

    Whoever runs the result maps the page of the armed byte before the first
    instruction, and handles SIGILL by the map, a JSON object of link-time
    addresses: "traps" (go on at "native"), "redirects" (go on at the value; on
    i386 SIGSEGV too), and "moved": a fault of a moved instruction is to be told
    as one of the original, without which a Go program cannot recover from it.
    """
    with _reported():
        data = read_source(file)
        if file.endswith((".s", ".S")):
            if map_file is not None:
                raise Unsupported(file, "assembler text has no map")
            from rewriter.asmtext import rewrite_text

            text, found = rewrite_text(data.decode("utf-8", "surrogateescape"))
            _write(output, text.encode("utf-8", "surrogateescape"), 0o644)
            click.echo(f"{output}: {len(found)} sites")
            return
        from rewriter.rewrite import rewrite_bytes

        kinds = frozenset(Kind(k) for k in always_trap)
        out, side = rewrite_bytes(data, file, armed_address=armed_address, always_trap=kinds)
        _write(output, data if out is None else out, os.stat(file).st_mode & 0o777)
        if map_file is not None:
            _write(map_file, json.dumps(_map_of(side, armed_address)).encode() + b"\n", 0o644)
        click.echo(f"{output}: {len(side.traps)} sites, {len(side.redirects)} redirects")
        if side.header["partial"]:
            click.echo(_PARTIAL.format(file), err=True)


def _map_of(side: SideMap, armed_address: int) -> dict[str, object]:
    moved = moved_instructions(side.redirects, side.traps, side.heads)
    traps = [
        {"trap": at, "address": t.address, "native": t.native, "length": t.length,
         "kind": t.kind.value, "function": t.function, "checked": t.checked}
        for at, t in sorted(side.traps.items())
    ]  # fmt: skip
    return {
        "armed_address": armed_address,
        "traps": traps,
        "redirects": {str(at): to for at, to in sorted(side.redirects.items())},
        "moved": {str(to): at for to, at in sorted(moved.items())},
    }


@click.command("sites")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="machine-readable, one object")
def sites_command(file: str, as_json: bool) -> None:
    """List the synchronization instructions of FILE and how each is diverted."""
    with _reported():
        data = read_source(file)
        rows, partial = site_rows(data, file)
        if as_json:
            counts = dict(Counter(r["tactic"] for r in rows))
            found = {"file": file, "sites": rows, "tactics": counts, "partial": partial}
            click.echo(json.dumps(found))
            return
        _print_table(file, rows)
        if partial:
            click.echo(_PARTIAL.format(file), err=True)


def site_rows(data: bytes, name: str) -> tuple[list[dict[str, object]], bool]:
    """One row a site: address, length, kind, instruction, function, line, tactic.

    And whether the file may hold more of them than could be found.
    """
    from iced_x86 import Decoder, Formatter, FormatterSyntax

    from rewriter.lines import lines_of
    from rewriter.plan import Options
    from rewriter.rewrite import plan_bytes

    plan = plan_bytes(data, name, Options())
    tactics = plan.tactic_of()
    lines = lines_of(data, [s.address for s in plan.code.sites])
    formatter = Formatter(FormatterSyntax.GAS)
    rows: list[dict[str, object]] = []
    for s in plan.code.sites:
        raw = plan.elf.read(s.address, s.length)
        instruction = formatter.format(Decoder(plan.elf.bits, raw, ip=s.address).decode())
        rows.append(
            {
                "address": s.address,
                "length": s.length,
                "kind": s.kind.value,
                "instruction": instruction,
                "function": plan.code.function_at(s.address),
                "line": lines.get(s.address, ""),
                "tactic": tactics.get(s.address, "none"),
            }
        )
    return rows, plan.code.partial


def _print_table(file: str, rows: list[dict[str, object]]) -> None:
    click.echo(f"{'address':>12}  {'kind':9}  {'tactic':10}  {'function':32}  instruction")
    for r in rows:
        where = f"  {r['line']}" if r["line"] else ""
        click.echo(
            f"{r['address']:#12x}  {r['kind']:9}  {r['tactic']:10}  {r['function']:32}  "
            f"{r['instruction']}{where}"
        )
    kinds = Counter(str(r["kind"]) for r in rows)
    text = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    click.echo(f"{file}: {len(rows)} sites" + (f" ({text})" if text else ""))


@click.group("cache")
@click.option("--dir", "directory", type=click.Path(), help="the cache (default: the user's)")
@click.pass_context
def cache_command(context: click.Context, directory: str | None) -> None:
    """Show, verify and prune the cache of rewritten files."""
    from rewriter.cache import cache_directory

    context.obj = cache_directory(directory)


@cache_command.command("show")
@click.option("--json", "as_json", is_flag=True, help="machine-readable, one object")
@click.pass_obj
def show_command(directory: str, as_json: bool) -> None:
    """List what is in the cache."""
    from rewriter.cacheadmin import entries

    with _reported():
        found = entries(directory)
        if as_json:
            rows = [e._asdict() for e in found]
            click.echo(json.dumps({"directory": directory, "entries": rows}))
            return
        for e in found:
            state = "damaged" if e.damaged else "unchanged" if e.unchanged else f"{e.sites} sites"
            click.echo(f"{e.key[:12]}  {e.bytes:>12,} bytes  {state:>14}  {e.name}")
        total = sum(e.bytes for e in found)
        click.echo(f"{directory}: {len(found)} entries, {total:,} bytes")


@cache_command.command("verify")
@click.pass_obj
def verify_command(directory: str) -> None:
    """Check every entry's hashes; exit 1 when one is damaged (it will be made anew)."""
    from rewriter.cacheadmin import entries

    with _reported():
        found = entries(directory)
        bad = [e for e in found if e.damaged]
        for e in bad:
            click.echo(f"{e.key}: {e.name}: damaged")
        click.echo(f"{directory}: {len(found)} entries, {len(bad)} damaged")
        if bad:
            sys.exit(1)


@cache_command.command("prune")
@click.option("--days", type=click.FloatRange(min=0), default=30.0, show_default=True)
@click.option("--all", "everything", is_flag=True, help="remove every entry")
@click.pass_obj
def prune_command(directory: str, days: float, everything: bool) -> None:
    """Remove entries not used for DAYS days, damaged ones, and leftovers."""
    from rewriter.cacheadmin import prune

    if math.isnan(days):
        raise click.BadParameter("nan is no number of days", param_hint="'--days'")
    with _reported():
        removed = prune(directory, 0.0 if everything else days)
        click.echo(f"{directory}: {removed} entries removed")


commands: Final = [rewrite_command, sites_command, cache_command]
