# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache: made once, shared by processes, never believed when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewriter import cache as module
from rewriter.cache import CacheError, Rewritten, cache_directory, rewritten
from rewriter.cacheadmin import entries, prune
from rewriter.errors import NotElf
from rewriter.kinds import KINDS
from rewriter.sidemap import pack, unpack
from tests.rewriter.conftest import Compile

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def program(compile_program: Compile) -> Path:
    return compile_program("plugin.c", "-shared", "-fPIC")


def _same(a: Rewritten, b: Rewritten) -> bool:
    return (
        a.path == b.path
        and dict(a.redirects) == dict(b.redirects)
        and dict(a.traps) == dict(b.traps)
        and a.extra == b.extra
        and a.tactics == b.tactics
    )


def test_made_once(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rewritten(program, tmp_path)
    assert Path(first.path).name == program.name
    assert Path(first.path).parent.parent == tmp_path
    monkeypatch.setattr(module, "_make", None)
    assert _same(rewritten(program, tmp_path), first)


def test_hit_by_stat_reads_no_file(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rewritten(program, tmp_path)
    monkeypatch.setattr(module, "_RACY_NS", -(10**18))
    rewritten(program, tmp_path)
    monkeypatch.setattr(module, "_read", None)
    assert _same(rewritten(program, tmp_path), first)


def test_young_files_are_hashed(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RACY_NS", 10**18)
    rewritten(program, tmp_path)
    rewritten(program, tmp_path)
    assert list((tmp_path / "index").iterdir()) == []


def test_every_damage_is_found(program: Path, tmp_path: Path) -> None:
    good = rewritten(program, tmp_path)
    content = Path(good.path).read_bytes()
    for victim in (Path(good.path), Path(good.path + module.SUFFIX)):
        whole = victim.read_bytes()
        for damage in (b"", whole[:100], whole[:-1], whole[:70] + b"\xff" + whole[71:], None):
            if damage is None:
                victim.unlink()
            else:
                victim.write_bytes(damage)
            again = rewritten(program, tmp_path)
            assert _same(again, good)
            assert Path(again.path).read_bytes() == content
    assert [e.damaged for e in entries(str(tmp_path))] == [False]
    assert not [n for n in os.listdir(tmp_path) if n.startswith("tmp-")]


def test_damage_after_a_hit_by_stat(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RACY_NS", -(10**18))
    good = rewritten(program, tmp_path)
    content = Path(good.path).read_bytes()
    Path(good.path).write_bytes(content[:-8] + b"damaged!")
    assert Path(rewritten(program, tmp_path).path).read_bytes() == content


def test_changed_original(compile_program: Compile, tmp_path: Path) -> None:
    copy = tmp_path / "plugin.so"
    copy.write_bytes(compile_program("plugin.c", "-shared", "-fPIC").read_bytes())
    first = rewritten(copy, tmp_path / "cache")
    copy.write_bytes(compile_program("plugin.c", "-shared", "-fPIC", "-O0").read_bytes())
    second = rewritten(copy, tmp_path / "cache")
    assert first.path != second.path


def test_options_and_names_are_part_of_the_key(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(program.read_bytes())
    cache = tmp_path / "cache"
    paths = {
        rewritten(program, cache).path,
        rewritten(program, cache, armed_address=0x103000).path,
        rewritten(program, cache, always_trap=frozenset(KINDS)).path,
        rewritten(other, cache).path,
    }
    assert len(paths) == 4


def test_no_site_no_copy(tmp_path: Path) -> None:
    source = tmp_path / "plain.c"
    source.write_text("int plain(int x) { return x + 1; }\n")
    library = tmp_path / "plain.so"
    subprocess.run(["gcc", "-shared", "-o", str(library), str(source)], check=True)
    r = rewritten(library, tmp_path / "cache")
    assert r.unchanged and r.path == str(library)
    assert not r.traps and not r.redirects and not r.extra
    (entry,) = entries(str(tmp_path / "cache"))
    assert entry.unchanged and not entry.damaged


def test_processes_at_once(program: Path, tmp_path: Path) -> None:
    """Six processes want one file of an empty cache: all get it, one entry is left."""
    code = (
        "import sys; from rewriter.cache import rewritten; "
        "r = rewritten(sys.argv[1], sys.argv[2]); print(r.path, len(r.traps))"
    )
    command = [sys.executable, "-c", code, str(program), str(tmp_path / "cache")]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(6)
    ]
    said = {p.communicate(timeout=60)[0] for p in running}
    assert len(said) == 1 and all(p.returncode == 0 for p in running)
    assert len(entries(str(tmp_path / "cache"))) == 1


def test_unusable_directory(program: Path, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(CacheError, match="cannot be used"):
        rewritten(program, place)


def test_refusals(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    with pytest.raises(NotElf, match="text: not an ELF file"):
        rewritten(text, tmp_path / "cache")
    with pytest.raises(NotElf, match="not a regular file"):
        rewritten(tmp_path, tmp_path / "cache")
    with pytest.raises(FileNotFoundError):
        rewritten(tmp_path / "absent", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DSMSUP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    assert cache_directory() == "/home/u/.cache/dsmsup"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_directory() == "/x/dsmsup"
    monkeypatch.setenv("DSMSUP_CACHE_DIR", "/d")
    assert cache_directory() == "/d"
    assert cache_directory("/given") == "/given"
    monkeypatch.chdir("/usr")
    assert cache_directory("given") == "/usr/given"


def test_prune(program: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    r = rewritten(program, cache)
    leftover = Path(cache) / "tmp-left"
    leftover.mkdir()
    os.utime(leftover, (time.time() - 7200,) * 2)
    assert prune(cache, days=1) == 0
    assert not leftover.exists()
    Path(r.path).write_bytes(b"")
    assert [e.damaged for e in entries(cache)] == [True]
    assert prune(cache, days=1) == 1
    rewritten(program, cache)
    for days, removed in ((3, 0), (1, 1)):
        # Looking at an entry reads it, and so renews its time of access.
        for f in Path(r.path).parent.iterdir():
            os.utime(f, (time.time() - 2 * 86400,) * 2)
        assert prune(cache, days=days) == removed
    assert entries(cache) == []


def test_side_map_round_trip(program: Path, tmp_path: Path) -> None:
    r = rewritten(program, tmp_path)
    raw = Path(r.path + module.SUFFIX).read_bytes()
    side = unpack(raw)
    assert unpack(pack(side)) == side._replace(traps=unpack(pack(side)).traps)
    assert dict(unpack(pack(side)).traps) == dict(side.traps)
    for at in range(0, len(raw), 7):
        broken = bytearray(raw)
        broken[at] ^= 0x40
        with pytest.raises(ValueError):
            unpack(bytes(broken))


def test_a_hit_imports_nothing_heavy(program: Path, tmp_path: Path) -> None:
    rewritten(program, tmp_path)
    code = (
        "import sys; from rewriter.cache import rewritten; rewritten(sys.argv[1], sys.argv[2]); "
        "print(sorted({'iced_x86', 'keystone', 'numpy', 'elftools'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(program), str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
