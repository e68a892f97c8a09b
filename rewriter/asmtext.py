# SPDX-License-Identifier: GPL-2.0-or-later
"""GNU assembler text: `.byte 0x8e,0xc8` before each synchronization instruction.

What the author of the original system did to the compiler's output by hand. The
trap stands before the first prefix of an instruction, also when prefixes are
statements of their own (`lock; incl x`), and a label between prefix and
instruction still skips both.

Source: GNU as manual, "Syntax" and "80386 Dependent Features".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from rewriter.kinds import Kind

TRAP_TEXT: Final = ".byte 0x8e,0xc8"
_PREFIXES: Final = frozenset(
    ("xacquire", "xrelease", "rep", "repe", "repz", "repne", "repnz", "bnd", "notrack",
     "data16", "data32", "addr16", "addr32", "cs", "ds", "es", "fs", "gs", "ss", "rex", "rex64")
)  # fmt: skip
_FENCES: Final = {k.value: k for k in Kind if k not in (Kind.LOCK, Kind.XCHG)}
_XCHG: Final = frozenset({"xchg", "xchgb", "xchgw", "xchgl", "xchgq"})
_LABEL: Final = re.compile(r'\s*(?:[A-Za-z_.$][\w.$@]*|"[^"\n]*"|\d+)\s*:')
_WORD: Final = re.compile(r"[\s/]*([A-Za-z.][\w.]*)")
_PSEUDO: Final = re.compile(r"\s*(\{[\w ]+\})")
"""`{disp32}` and the like, which choose an encoding"""
_REGISTER: Final = re.compile(
    r"%?(?:[er]?(?:ax|bx|cx|dx|si|di|bp|sp)|[abcd][lh]|(?:si|di|bp|sp)l|r\d+[bwdl]?)\Z", re.I
)


class Insertion(NamedTuple):
    """A place in the text for a trap, as an offset in characters."""

    offset: int
    line: int
    kind: Kind


class _Statement(NamedTuple):
    start: int
    text: str


def rewrite_text(text: str) -> tuple[str, list[Insertion]]:
    """The text with its traps, and where they were put (offsets in the original)."""
    found = list(insertions(text))
    out: list[str] = []
    at = 0
    for i in found:
        out.append(text[at : i.offset])
        line_start = text.rfind("\n", 0, i.offset) + 1
        indent = text[line_start : i.offset]
        alone = not indent.strip()
        out.append(f"{TRAP_TEXT}\n{indent}" if alone else f"{TRAP_TEXT}; ")
        at = i.offset
    out.append(text[at:])
    return "".join(out), found


def insertions(text: str) -> Iterator[Insertion]:
    """Each synchronization instruction of AT&T or Intel text, in order."""
    first = -1
    locked = False
    for statement in _statements(text):
        at = statement.start
        rest = statement.text
        while label := _LABEL.match(rest):
            at += label.end()
            rest = rest[label.end() :]
        while True:
            if pseudo := _PSEUDO.match(rest):
                first = at + pseudo.start(1) if first < 0 else first
                at += pseudo.end()
                rest = rest[pseudo.end() :]
                continue
            word = _WORD.match(rest)
            if word is None:
                break
            name = word.group(1).lower()
            here = at + word.start(1)
            operands = rest[word.end() :]
            if operands.lstrip().startswith("="):
                break
            hand_made = name == ".byte" and operands.strip().lower() in ("0xf0", "240")
            if name == "lock" or name in _PREFIXES or hand_made:
                first = here if first < 0 else first
                locked |= name == "lock" or hand_made
                at += word.end()
                rest = operands
                if hand_made:
                    break
                continue
            kind = Kind.LOCK if locked else _kind(name, operands)
            if kind is not None:
                offset = here if first < 0 else first
                yield Insertion(offset, text.count("\n", 0, offset) + 1, kind)
            if not name.startswith(".") or locked:
                first, locked = -1, False
            break


def _kind(name: str, operands: str) -> Kind | None:
    if name in _XCHG:
        parts = [p.strip() for p in operands.split(",")]
        memory = not all(_REGISTER.match(p) for p in parts)
        return Kind.XCHG if memory else None
    return _FENCES.get(name)


def _statements(text: str) -> Iterator[_Statement]:
    """Statements with their offsets; comments and characters are blanked, strings kept whole."""
    blank = _without_comments(text)
    start = 0
    quoted = False
    for i, c in enumerate(blank):
        if c == '"' and (not quoted or not _escaped(blank, i)):
            quoted = not quoted
        elif c == "\n" or (c == ";" and not quoted):
            quoted = False
            if blank[start:i].strip():
                yield _Statement(start, blank[start:i])
            start = i + 1
    if blank[start:].strip():
        yield _Statement(start, blank[start:])


def _escaped(text: str, at: int) -> bool:
    slashes = 0
    while at - slashes > 0 and text[at - slashes - 1] == "\\":
        slashes += 1
    return slashes % 2 == 1


_COMMENT: Final = re.compile(
    r'''"(?:\\.|[^"\\\n])*"|/\*.*?(?:\*/|\Z)|#[^\n]*'''
    r'''|(?m:^[ \t]*/)(?!\*)[^\n]*|'(?:\\.|[^\\\n])''',
    re.S,
)


def _without_comments(text: str) -> str:
    """The text with every comment character a space; offsets and lines are kept."""

    def blank(m: re.Match[str]) -> str:
        found = m.group()
        return found if found[0] == '"' else re.sub(r"[^\n]", " ", found)

    return _COMMENT.sub(blank, text)
