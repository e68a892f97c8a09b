# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewritten files by content: `rewritten(path)` makes each one once.

    <cache>/<key>/<name>         the rewritten file (absent when nothing changed)
    <cache>/<key>/<name>.sites   its side map, which also holds the file's SHA-256
    <cache>/index/<stat key>     which entry a file on disk has, as long as its stat
                                 is the same, so that a hit reads neither file whole
    <cache>/lock                 byte-range locks, one a key: one process rewrites

The key is over the file's bytes and name, the rewriter's own source and the
options. An entry is made elsewhere and renamed into place, so it is whole or
absent. It is trusted when its hashes are right, or when its stat is the one it
had when they were last found right. A stat is believed only when its times were
two seconds old: a file changed twice within one tick of the file system's clock
keeps its times (the "racy" entries of git's index).

Invariant: a hit imports no decoder, no assembler and no numpy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rewriter.errors import NotElf, RewriteError
from rewriter.kinds import ARMED_ADDRESS, Kind
from rewriter.sidemap import Extra, SideMap, TrapSite, moved_instructions, pack, unpack
from rewriter.source import FILE_BYTES_MAX, check_regular

SUFFIX: Final = ".sites"
_NAME_BYTES_MAX: Final = 200
"""Of an entry's files: with the suffix, and on any file system, less than NAME_MAX."""
_RACY_NS: Final = 2_000_000_000
_VERSION: Final = 1
_Stat = tuple[int, int, int, int, int]


class CacheError(RewriteError):
    """The cache's directory cannot be used."""


@dataclass(frozen=True)
class Rewritten:
    """A file ready to be run in place of the original; addresses are link-time.

    `redirects`: a boundary that a patch overwrote (or an in-place trap) to the
    equivalent instruction in a trampoline. On SIGILL at such an address, and on
    i386 on SIGSEGV, set the instruction pointer there. `traps`: each `8e c8`.
    `moved`: new address of each instruction in a trampoline to its old one: a fault
    of it is told to the program as one of the original instruction.
    `partial`: the file has code that nothing tells how to read (no unwind tables,
    no symbols, no pointer to it), with bytes that could be sites left as they are.
    """

    path: str
    unchanged: bool
    redirects: Mapping[int, int]
    traps: Mapping[int, TrapSite]
    extra: tuple[Extra, ...]
    tactics: Mapping[str, int]
    partial: bool
    heads: Mapping[int, int]
    """see SideMap"""

    def moved(self) -> dict[int, int]:
        return moved_instructions(self.redirects, self.traps, self.heads)


def cache_directory(given: str | os.PathLike[str] | None = None) -> str:
    """`given`, else $DSMSUP_CACHE_DIR, $XDG_CACHE_HOME/dsmsup or ~/.cache/dsmsup.

    An absolute path: the program, which maps files from there, may be in another folder.
    """
    if given is None:
        given = os.environ.get("DSMSUP_CACHE_DIR")
    if not given:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        given = os.path.join(base, "dsmsup")
    with contextlib.suppress(FileNotFoundError):  # the working folder may be gone
        return os.path.abspath(given)
    return os.fspath(given)


@lru_cache(maxsize=1)
def rewriter_version() -> str:
    """A digest of the rewriter's own source: whatever changes its output changes this."""
    digest = hashlib.sha256(str(_VERSION).encode())
    here = os.path.dirname(os.path.abspath(__file__))
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(here)):
            if name.endswith(".py"):
                with open(os.path.join(here, name), "rb") as f:
                    digest.update(name.encode() + b"\0" + f.read())
    return digest.hexdigest()[:16]


def rewritten(
    path: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    armed_address: int = ARMED_ADDRESS,
    always_trap: frozenset[Kind] = frozenset(),
) -> Rewritten:
    """The rewritten form of an ELF file, from the cache or made now.

    Raises RewriteError (NotElf, WrongArchitecture, Corrupt, Unsupported,
    CacheError) with one line that names the file; OSError when it cannot be read.
    """
    name = os.fspath(path)
    options = _options_key(armed_address, always_trap)
    directory = cache_directory(cache_dir)
    known = os.stat(name)
    index = os.path.join(directory, "index", _index_key(name, known, options))
    found = _indexed(directory, index, name)
    if found is not None:
        _check_executable(directory, name)
        return found
    data = _read(name, known)
    base = _base(name)
    key = entry_key(data, base, options)
    try:
        os.makedirs(os.path.join(directory, "index"), mode=0o700, exist_ok=True)
        _check_executable(directory, name)
        with _locked(directory, key):
            side = load_entry(directory, key, base)
            if side is None:
                side = _make(directory, key, base, name, data, armed_address, always_trap)
        _remember(directory, index, key, base, known)
    except OSError as e:
        raise CacheError(name, f"the cache {directory} cannot be used: {e.strerror}") from e
    return _result(directory, key, base, name, side)


def _check_executable(directory: str, name: str) -> None:
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        raise CacheError(name, f"the cache {directory} cannot be used: it is mounted noexec")


def entry_key(data: bytes, base: str, options: str) -> str:
    """The name of an entry's directory."""
    digest = hashlib.sha256(data)
    digest.update(os.fsencode(f"\0{base}\0{options}\0{rewriter_version()}"))
    return digest.hexdigest()[:40]


def is_cache(directory: str) -> bool:
    """Has this folder been used as a cache?"""
    return os.path.isfile(os.path.join(directory, "lock")) and os.path.isdir(
        os.path.join(directory, "index")
    )


def load_entry(directory: str, key: str, base: str) -> SideMap | None:
    """An entry whose hashes are right, None when it is absent or damaged."""
    try:
        with open(os.path.join(directory, key, base + SUFFIX), "rb") as f:
            side = unpack(f.read())
        if not side.header["unchanged"]:
            with open(os.path.join(directory, key, base), "rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != side.header["sha256"]:
                    return None
    except (OSError, ValueError, KeyError):
        return None
    return side


def _options_key(armed: int, always: frozenset[Kind]) -> str:
    return f"armed={armed:#x} always={','.join(sorted(always))}"


def _stat_of(s: os.stat_result) -> _Stat:
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def _index_key(name: str, known: os.stat_result, options: str) -> str:
    text = f"{_base(name)}\0{_stat_of(known)}\0{options}\0{rewriter_version()}"
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:40]


def _base(name: str) -> str:
    """How the files of its entry are called: by its own name, which is any bytes but `/`."""
    return os.fsdecode(os.fsencode(os.path.basename(name))[:_NAME_BYTES_MAX])


def _indexed(directory: str, index: str, name: str) -> Rewritten | None:
    """A hit by stat alone; None when either file's stat is not what was noted."""
    base = _base(name)
    try:
        with open(index, "rb") as f:
            note = json.loads(f.read())
        key, noted = note["key"], note["stat"]
        with open(os.path.join(directory, key, base + SUFFIX), "rb") as f:
            side = unpack(f.read())
        if not side.header["unchanged"]:
            now = _stat_of(os.stat(os.path.join(directory, key, base)))
            if noted is None or tuple(noted) != now:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _result(directory, key, base, name, side)


def _remember(directory: str, index: str, key: str, base: str, known: os.stat_result) -> None:
    """Note which entry a file has, if the stats involved are old enough to be believed."""
    now = time.time_ns()
    stats = [known]
    made = os.path.join(directory, key, base)
    with contextlib.suppress(FileNotFoundError):
        stats.append(os.stat(made))
    if any(now - max(s.st_mtime_ns, s.st_ctime_ns) < _RACY_NS for s in stats):
        return
    note = {"key": key, "stat": _stat_of(stats[1]) if len(stats) > 1 else None}
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(index), prefix="tmp-")
    with os.fdopen(handle, "w") as f:
        json.dump(note, f)
    os.replace(temporary, index)


def _result(directory: str, key: str, base: str, name: str, side: SideMap) -> Rewritten:
    unchanged = bool(side.header["unchanged"])
    path = name if unchanged else os.path.join(directory, key, base)
    tactics = side.header.get("tactics", {})
    partial = bool(side.header["partial"])
    return Rewritten(
        path, unchanged, side.redirects, side.traps, side.extra, tactics, partial, side.heads
    )


def _read(name: str, known: os.stat_result) -> bytes:
    check_regular(name, known)
    with open(name, "rb") as f:
        head = f.read(4)
        if head != b"\x7fELF":
            raise NotElf(name, "not an ELF file")
        return head + f.read(FILE_BYTES_MAX)


def _make(
    directory: str, key: str, base: str, name: str, data: bytes, armed: int, always: frozenset[Kind]
) -> SideMap:
    """Rewrite, and put the entry into place by one rename."""
    from rewriter.rewrite import rewrite_bytes

    out, side = rewrite_bytes(data, name, armed_address=armed, always_trap=always)
    if out is not None:
        side.header["sha256"] = hashlib.sha256(out).hexdigest()
    temporary = tempfile.mkdtemp(dir=directory, prefix="tmp-")
    try:
        if out is not None:
            made = os.path.join(temporary, base)
            with open(made, "wb") as f:
                f.write(out)
            os.chmod(made, 0o755)
        with open(os.path.join(temporary, base + SUFFIX), "wb") as f:
            f.write(pack(side))
        entry = os.path.join(directory, key)
        if os.path.lexists(entry):
            # What stands there was found damaged: out of the way first.
            damaged = tempfile.mkdtemp(dir=directory, prefix="tmp-")
            os.rename(entry, os.path.join(damaged, key))
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return side


@contextlib.contextmanager
def _locked(directory: str, key: str) -> Iterator[None]:
    """One process at a time for a key; a dying process lets go by itself."""
    handle = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX, 1, int(key[:12], 16))
        yield
    finally:
        os.close(handle)
