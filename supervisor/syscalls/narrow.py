# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of x86-64 made into i386's: the same calls on smaller words.

Only what is marked differs: a `Size`, and an `Either`. Where a row stands for an
i386 call with 64-bit times, its `TimeSize`s stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from supervisor.arch import I386
from supervisor.syscalls.spec import Either, Kind, Row, Size, TimeSize, varied

_made: dict[tuple[Row, bool], Row] = {}
_fields: dict[type, tuple[str, ...]] = {}


def narrow(row: Row, name: str = "", *, wide_times: bool = False) -> Row:
    """i386's row for one of x86-64, under its own name or another."""
    found = _made.get((row, wide_times))
    if found is None:
        choose = row.choose
        pick = _of_i386_with_wide_times if wide_times else _of_i386
        found = _made[row, wide_times] = varied(
            row,
            arch=I386,
            wide_times=wide_times,
            args=tuple(_kind(kind, pick) for kind in row.args),
            choose=None if choose is None else lambda args: narrow(choose(args)),
        )
    return varied(found, name=name) if name else found


def wide(kind: Kind) -> Kind:
    """An argument's kind with the sizes of x86-64 alone (no change to one of i386)."""
    return _kind(kind, _of_x86_64)


def _of_x86_64(value: Size | Either) -> Any:
    return value.wide if isinstance(value, Either) else int(value)


def _of_i386(value: Size | Either) -> Any:
    return value.narrow


def _of_i386_with_wide_times(value: Size | Either) -> Any:
    return int(value) if isinstance(value, TimeSize) else value.narrow


def _kind(kind: Kind, pick: Callable[[Size | Either], Any]) -> Kind:
    changed = {}
    for name in _names(kind):
        value = getattr(kind, name)
        picked = _value(value, pick)
        if picked is not value:
            changed[name] = picked
    return replace(kind, **changed) if changed else kind


def _names(kind: Kind) -> tuple[str, ...]:
    known = _fields.get(type(kind))
    if known is None:
        known = _fields[type(kind)] = tuple(field.name for field in fields(kind))
    return known


def _value(value: Any, pick: Callable[[Size | Either], Any]) -> Any:
    if isinstance(value, Size | Either):
        return pick(value)
    if isinstance(value, tuple):
        parts = [_value(part, pick) for part in value]
        if all(part is whole for part, whole in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
