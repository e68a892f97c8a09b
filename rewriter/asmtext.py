# SPDX-License-Identifier: GPL-2.0-or-later
"""GNU assembler text: `.byte 0x8e,0xc8` before each synchronization instruction.

What the author of the original system did to the compiler's output by hand. The
trap stands before the first prefix of an instruction, also when prefixes are
statements of their own (`lock; incl x`), and a label between prefix and
instruction still skips both. Instructions written as `.byte` are known where one
statement holds all of one, or a LOCK prefix alone; outside of sections with code
nothing is touched.

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
     "data16", "data32", "addr16", "addr32", "cs", "ds", "es", "fs", "gs", "ss", "rex", "rex64",
     *(f"rex.{bits}" for bits in ("w", "r", "x", "b", "wr", "wx", "wb", "rx", "rb", "xb", "wrx",
                                  "wrb", "wxb", "rxb", "wrxb")))
)  # fmt: skip
_FENCES: Final = {k.value: k for k in Kind if k not in (Kind.LOCK, Kind.XCHG)}
_XCHG: Final = frozenset({"xchg", "xchgb", "xchgw", "xchgl", "xchgq"})
_LABELS: Final = re.compile(r'(?:\s*(?:[A-Za-z_.$][\w.$@]*|"[^"\n]*"|\d+)\s*:)*')
_WORD: Final = re.compile(r"[\s/]*([A-Za-z.][\w.]*)")
_PSEUDO: Final = re.compile(r"\s*(\{[\w ]+\})")
"""`{disp32}` and the like, which choose an encoding"""
_REGISTER: Final = re.compile(
    r"%?(?:[er]?(?:ax|bx|cx|dx|si|di|bp|sp)|[abcd][lh]|(?:si|di|bp|sp)l|r\d+[bwdl]?)\Z", re.I
)


_DATA: Final = frozenset(
    (".byte", ".value", ".short", ".word", ".2byte", ".hword", ".int", ".long", ".4byte", ".quad",
     ".8byte", ".octa", ".ascii", ".asciz", ".string", ".zero", ".skip", ".space", ".fill",
     ".float", ".double", ".single", ".uleb128", ".sleb128")
)  # fmt: skip
_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-f]+|0b[01]+|\d+)\Z", re.I)
_CODE_SECTION: Final = re.compile(r"\.(?:text|init|fini|plt)(?:\.|\Z)")
_SECTION: Final = re.compile(r'\s*("[^"]*"|[^\s,]+)\s*(?:,\s*(?:\d+\s*,\s*)?"([^"]*)")?')
"""name and flags; `.pushsection` may have a subsection's number in between"""


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
    locked = hand_locked = False
    sections = _Sections()
    line, counted = 1, 0
    for statement in _statements(text):
        at = statement.start
        rest = statement.text
        labels = _LABELS.match(rest)
        if labels is not None:
            at += labels.end()
            rest = rest[labels.end() :]
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
            sections.meet(name, operands)
            if not sections.code or (hand_locked and name in _DATA):
                # A byte of a table, not a prefix.
                first, locked, hand_locked = -1, False, False
            values = _bytes(operands) if name == ".byte" and sections.code else b""
            hand_made = values == b"\xf0"
            if name == "lock" or name in _PREFIXES or hand_made:
                first = here if first < 0 else first
                locked |= name == "lock" or hand_made
                hand_locked |= hand_made
                at += word.end()
                rest = operands
                if hand_made:
                    break
                continue
            kind = Kind.LOCK if locked else _kind(name, operands) or _kind_of_bytes(values)
            if kind is not None and sections.code:
                offset = here if first < 0 else first
                line += text.count("\n", counted, offset)
                counted = offset
                yield Insertion(offset, line, kind)
            if not name.startswith(".") or locked:
                first, locked, hand_locked = -1, False, False
            break


class _Sections:
    """Whether statements go to a section with code; as does what no directive speaks of."""

    def __init__(self) -> None:
        self.code = True
        self._previous = True
        self._pushed: list[tuple[bool, bool]] = []

    def meet(self, name: str, operands: str) -> None:
        """A directive that may lead to another section."""
        if name in (".text", ".data", ".bss"):
            self._previous, self.code = self.code, name == ".text"
        elif name in (".section", ".pushsection"):
            found = _SECTION.match(operands)
            if found is None:
                return
            if name == ".pushsection":
                self._pushed.append((self.code, self._previous))
            section, flags = found.group(1).strip('"'), found.group(2)
            code = bool(_CODE_SECTION.match(section)) if flags is None else "x" in flags
            self._previous, self.code = self.code, code
        elif name == ".popsection" and self._pushed:
            self.code, self._previous = self._pushed.pop()
        elif name == ".previous":
            self.code, self._previous = self._previous, self.code


def _bytes(operands: str) -> bytes:
    """The values of a `.byte`, nothing where they are not plain numbers."""
    out = bytearray()
    for text in operands.split(","):
        number = text.strip()
        if not _NUMBER.match(number):
            return b""
        octal = number.lstrip("-").isdigit() and number.lstrip("-").startswith("0")
        try:
            out.append(int(number, 8 if octal else 0) & 0xFF)
        except ValueError:
            return b""
    return bytes(out)


def _kind_of_bytes(values: bytes) -> Kind | None:
    """The kind of site that bytes are, when they are one whole instruction."""
    if not 2 <= len(values) <= 15:
        return None
    from iced_x86 import Decoder

    from rewriter.decode import kind_of

    for bits in (64, 32):
        ins = Decoder(bits, values).decode()
        if not ins.is_invalid and ins.len == len(values):
            return kind_of(ins)
    return None


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
