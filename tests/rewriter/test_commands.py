# SPDX-License-Identifier: GPL-2.0-or-later
"""`dsmsup rewrite`, `sites` and `cache`, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from rewriter.cache import rewritten
from rewriter.commands import commands
from tests.rewriter.conftest import Compile


@pytest.fixture
def plugin(compile_program: Compile) -> Path:
    return compile_program("plugin.c", "-shared", "-fPIC", "-g")


def _run(*arguments: str) -> Result:
    group = click.Group(commands={c.name or "": c for c in commands})
    return CliRunner().invoke(group, list(arguments))


def test_rewrite(plugin: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out.so"
    done = _run("rewrite", str(plugin), "-o", str(out))
    assert done.exit_code == 0
    assert done.output.startswith(f"{out}: 2 sites, ")
    assert out.read_bytes() == Path(rewritten(plugin, cache).path).read_bytes()
    assert out.stat().st_mode & 0o777 == plugin.stat().st_mode & 0o777


def test_map(plugin: Path, tmp_path: Path) -> None:
    """What the cache's side map says."""
    out, map_file = tmp_path / "out.so", tmp_path / "map"
    assert _run("rewrite", str(plugin), "-o", str(out), "--map", str(map_file)).exit_code == 0
    found = json.loads(map_file.read_text())
    r = rewritten(plugin, tmp_path / "cache")
    assert {t["trap"]: t["native"] for t in found["traps"]} == {
        at: t.native for at, t in r.traps.items()
    }
    assert {int(at): to for at, to in found["redirects"].items()} == dict(r.redirects)
    assert {int(to): at for to, at in found["moved"].items()} == r.moved()
    source = tmp_path / "a.s"
    source.write_text("mfence\n")
    done = _run("rewrite", str(source), "-o", str(out), "--map", str(map_file))
    assert (done.exit_code, done.output) == (125, f"dsmsup: {source}: assembler text has no map\n")


def test_rewrite_options(plugin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.so"
    assert (
        _run("rewrite", str(plugin), "-o", str(out), "--armed-address", "0x105000").exit_code == 0
    )
    assert (0x105000).to_bytes(4, "little") in out.read_bytes()
    done = _run("rewrite", str(plugin), "-o", str(out), "--armed-address", "0x100000000")
    assert done.exit_code == 2
    assert _run("rewrite", str(plugin), "-o", str(out), "--always-trap", "xchg").exit_code == 0


def test_rewrite_text(tmp_path: Path) -> None:
    source, out = tmp_path / "a.s", tmp_path / "b.s"
    source.write_text("\tlock incl x\n")
    done = _run("rewrite", str(source), "-o", str(out))
    assert (done.exit_code, done.output) == (0, f"{out}: 1 sites\n")
    assert out.read_text() == "\t.byte 0x8e,0xc8\n\tlock incl x\n"


def test_sites(plugin: Path) -> None:
    done = _run("sites", str(plugin))
    assert done.exit_code == 0
    assert "lock" in done.output and "bump" in done.output and "plugin.c:7" in done.output
    rows = json.loads(_run("sites", str(plugin), "--json").output)
    assert {r["kind"] for r in rows["sites"]} == {"lock", "xchg"}
    assert all(r["function"] == "bump" and r["line"].startswith("plugin.c:") for r in rows["sites"])
    assert sum(rows["tactics"].values()) == len(rows["sites"])


def test_refusals(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n")
    out = tmp_path / "out"
    for command in (["rewrite", str(text), "-o", str(out)], ["sites", str(text)]):
        done = _run(*command)
        assert (done.exit_code, done.output) == (125, f"dsmsup: {text}: not an ELF file\n")
    absent = str(tmp_path / "absent")
    done = _run("sites", absent)
    assert (done.exit_code, done.output) == (127, f"dsmsup: {absent}: No such file or directory\n")
    assert not out.exists()


def test_unwritable_output(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for out in (tmp_path / "no" / "out", tmp_path):
        done = _run("rewrite", str(plugin), "-o", str(out))
        assert done.exit_code == 125
        assert done.output.startswith(f"dsmsup: {out}: cannot be written: ")
        assert len(done.output.splitlines()) == 1
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = _run("rewrite", str(plugin), "-o", "x")
    line = "dsmsup: x: cannot be written: No such file or directory\n"
    assert (done.exit_code, done.output) == (125, line)


def test_output_through_a_link(plugin: Path, tmp_path: Path) -> None:
    out, link, absent = tmp_path / "out", tmp_path / "link", tmp_path / "absent"
    out.write_bytes(b"old")
    for target in (out, absent):
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        assert _run("rewrite", str(plugin), "-o", str(link)).exit_code == 0
        assert link.is_symlink()
        assert target.read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize("option", ["-o", "--map"])
def test_output_that_is_no_regular_file_stays(option: str, plugin: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    others = [] if option == "-o" else ["-o", str(tmp_path / "out")]
    try:
        assert _run("rewrite", str(plugin), option, str(fifo), *others).exit_code == 0
        assert fifo.is_fifo()
        assert reader.communicate(timeout=20)[0].startswith(b"\x7fELF" if not others else b"{")
    finally:
        reader.kill()
        reader.wait()


def test_cache(plugin: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "cache")
    assert _run("cache", "--dir", place, "show").output == f"{place}: 0 entries, 0 bytes\n"
    r = rewritten(plugin, place)
    shown = json.loads(_run("cache", "--dir", place, "show", "--json").output)
    assert [e["name"] for e in shown["entries"]] == [str(plugin)]
    assert _run("cache", "--dir", place, "verify").exit_code == 0
    Path(r.path).write_bytes(b"")
    done = _run("cache", "--dir", place, "verify")
    assert done.exit_code == 1 and "damaged" in done.output
    assert _run("cache", "--dir", place, "prune", "--days", "nan").exit_code == 2
    assert "1 entries removed" in _run("cache", "--dir", place, "prune").output
    rewritten(plugin, place)
    assert "1 entries removed" in _run("cache", "--dir", place, "prune", "--all").output
    assert _run("cache", "--dir", place, "show").output == f"{place}: 0 entries, 0 bytes\n"


def test_cache_entry_that_is_no_folder(tmp_path: Path) -> None:
    place, entry = str(tmp_path), tmp_path / ("0" * 40)
    entry.write_bytes(b"")
    done = _run("cache", "--dir", place, "show")
    assert done.exit_code == 0 and "damaged" in done.output
    assert _run("cache", "--dir", place, "verify").exit_code == 1
    done = _run("cache", "--dir", place, "prune")
    assert (done.exit_code, done.output) == (0, f"{place}: 1 entries removed\n")
    assert not entry.exists()


@pytest.mark.parametrize("command", ["rewrite", "sites"])
def test_only_regular_files_are_read(command: str, tmp_path: Path) -> None:
    """A fifo has no writer, a device no end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    options = ["-o", str(tmp_path / "out")] if command == "rewrite" else []
    for name in (str(fifo), "/dev/zero", str(tmp_path)):
        done = _run(command, name, *options)
        assert (done.exit_code, done.output) == (125, f"dsmsup: {name}: not a regular file\n")
    assert not (tmp_path / "out").exists()


def test_partial_is_told(compile_program: Compile, tmp_path: Path) -> None:
    flags = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-s")
    program = str(compile_program("threads.c", "-pthread", *flags))
    for command in (["sites", program], ["rewrite", program, "-o", str(tmp_path / "out")]):
        done = _run(*command)
        assert done.exit_code == 0 and "in which more sites may lie" in done.output
    assert json.loads(_run("sites", program, "--json").output)["partial"] is True
