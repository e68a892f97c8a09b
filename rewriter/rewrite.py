# SPDX-License-Identifier: GPL-2.0-or-later
"""One file's bytes in, the rewritten file's bytes and its side map out."""

from __future__ import annotations

import os
import struct
from collections import Counter
from typing import Any, Final

from rewriter.elf import Elf
from rewriter.emit import emit
from rewriter.errors import Corrupt, Unsupported
from rewriter.kinds import ARMED_ADDRESS, Kind
from rewriter.plan import Options, Plan, make_plan
from rewriter.sidemap import SideMap

_SELF_CHECKED: Final = {"fips.so": "OpenSSL's FIPS provider"}
"""By base name: files that read themselves, compare a hash, and refuse to work changed."""


def plan_bytes(data: bytes, name: str, options: Options) -> Plan:
    """The plan for a file; RewriteError, and no other exception, when it cannot be had."""
    checked = _SELF_CHECKED.get(os.path.basename(name))
    if checked is not None:
        raise Unsupported(name, f"{checked} checks a hash of itself")
    try:
        return make_plan(Elf(data, name), options)
    except (ValueError, IndexError, OverflowError, struct.error, MemoryError) as e:
        # Numbers of the file that no check foresaw. Still the file's doing.
        raise Corrupt(name, "its tables contradict themselves") from e


def rewrite_bytes(
    data: bytes,
    name: str,
    *,
    armed_address: int = ARMED_ADDRESS,
    always_trap: frozenset[Kind] = frozenset(),
) -> tuple[bytes | None, SideMap]:
    """The rewritten file (None when it has no site) and its side map; RewriteError."""
    plan = plan_bytes(data, name, Options(armed_address, always_trap))
    header: dict[str, Any] = {"name": name, "unchanged": not plan.placed}
    header["partial"] = plan.code.partial
    if not plan.placed:
        return None, SideMap(header, {}, {}, (), {})
    header["tactics"] = dict(Counter(plan.tactic_of().values()))
    out, extra = emit(plan)
    return out, SideMap(header, plan.redirects, plan.traps, extra, plan.heads)
