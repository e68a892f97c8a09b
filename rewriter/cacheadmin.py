# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking after the cache: what is in it, what is damaged, what is old.

The last use of an entry is its side map's access or modification time,
whichever is later (`relatime` mounts update the former once a day).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import Final, NamedTuple

from rewriter.cache import SUFFIX, load_entry

_KEY: Final = re.compile(r"[0-9a-f]{40}\Z")
_LEFTOVER_AGE_S: Final = 3600.0
_DAY_S: Final = 86400.0


class Entry(NamedTuple):
    """One entry of the cache; `used` is a time in seconds since the epoch."""

    key: str
    name: str
    bytes: int
    sites: int
    unchanged: bool
    damaged: bool
    used: float


def entries(directory: str) -> list[Entry]:
    """All entries, their hashes checked; an absent cache has none."""
    if not os.path.isdir(directory):
        return []
    return [_entry(directory, k) for k in sorted(os.listdir(directory)) if _KEY.match(k)]


def _entry(directory: str, key: str) -> Entry:
    place = os.path.join(directory, key)
    names: list[str] = []
    size, used = 0, 0.0
    try:
        names = os.listdir(place)
        for name in names:
            s = os.lstat(os.path.join(place, name))
            size += s.st_blocks * 512
            used = max(used, s.st_atime, s.st_mtime)
    except OSError:  # no folder, or another process is removing it
        return Entry(key, "?", size, 0, False, True, used)
    base = next((n[: -len(SUFFIX)] for n in names if n.endswith(SUFFIX)), "")
    side = load_entry(directory, key, base) if base else None
    if side is None:
        return Entry(key, base or "?", size, 0, False, True, used)
    name = str(side.header.get("name", base))
    return Entry(key, name, size, len(side.traps), bool(side.header["unchanged"]), False, used)


def prune(directory: str, days: float) -> int:
    """Remove entries unused for `days` days, damaged ones and leftovers; entries removed."""
    if not os.path.isdir(directory):
        return 0
    now = time.time()
    removed = 0
    for e in entries(directory):
        if e.damaged or now - e.used >= days * _DAY_S:
            _remove(os.path.join(directory, e.key))
            removed += 1
    index = os.path.join(directory, "index")
    for place in (directory, index):
        if not os.path.isdir(place):
            continue
        for name in os.listdir(place):
            path = os.path.join(place, name)
            age = now - os.lstat(path).st_mtime
            is_leftover = name.startswith("tmp-")
            age_max = _LEFTOVER_AGE_S if is_leftover else days * _DAY_S
            if (is_leftover or place == index) and (age > age_max or days == 0):
                _remove(path)
    return removed


def _remove(path: str) -> None:
    """A folder or a file."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        os.unlink(path)
