# SPDX-License-Identifier: GPL-2.0-or-later
"""The check: assembled by keystone once a process, verified by the decoder.

Between the trampoline's entry and the native instruction stands the check:

- the armed byte is 0: go on to the native instruction, without a stop;
- else `8e c8` raises #UD with every register as the program had it, stack
  pointer included, so that an instruction whose operand is on the stack can be
  looked at by whoever handles the trap. Skipping the two bytes goes on to the
  native instruction as well.

A jump taken costs the front end a cycle that nothing hides between a lock and an
unlock. So the trap is outlying: it stands behind the trampoline, with a jump to the
native instruction, and the clear path runs straight on.

Where flags must survive, nothing in the check writes them: `lea` moves the
stack pointer past the red zone, another takes 1 from the armed byte, and `jrcxz`
tests. (`pushf` and `popf` would cost 3 ns more.) Its reach is 127 bytes; where the
trap stands further away, it is in line, and the clear path jumps over it. Where the
instruction itself, or one soon after it, overwrites all flags unread, as most locked
ones do, a plain compare is enough and needs neither register nor stack: the light form.

keystone 0.9.2 takes an absolute address for a rip-relative one without a word
(`(,%riz,1)` says absolute), and a number without `0x` for a hexadecimal one.
Hence the verification.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from rewriter.kinds import TRAP

RED_ZONE: Final = 128


class _Form(Enum):
    LIGHT = "flags may be overwritten"
    HEAVY = "flags survive"
    IN_LINE = "flags survive, and the trap is in line"


class _Text(NamedTuple):
    """Assembly that keystone takes, how the decoder shows it, and how far below the
    program's stack pointer ours is before each of its instructions."""

    source: tuple[str, ...]
    shown: tuple[str, ...]
    depths: tuple[int, ...]


_AWAY: Final = {_Form.LIGHT: 0x10000, _Form.HEAVY: 0x40}
"""Stands for where the outlying trap is; the first needs 4 bytes, as a true one does."""

_NOTHING: Final = _Text((), (), ())
_BARE_TRAP: Final = _Text((".byte 0x8e, 0xc8",), ("xchg %ax,%ax",), (0,))
_COMPARE: Final = {
    64: ("cmpb $0x0, {armed:#x}(,%riz,1)", "jne {away:#x}"),
    32: ("cmpb $0x0, {armed:#x}", "jne {away:#x}"),
}
_COMPARE_SHOWN: Final = ("cmpb $0x0,{armed:#x}", "jne {away:#x}")

_TEXTS: Final = {
    # (before the native instruction, outlying)
    (64, _Form.LIGHT): (_Text(_COMPARE[64], _COMPARE_SHOWN, (0, 0)), _BARE_TRAP),
    (32, _Form.LIGHT): (_Text(_COMPARE[32], _COMPARE_SHOWN, (0, 0)), _BARE_TRAP),
    (64, _Form.HEAVY): (
        _Text(
            ("lea -0x80(%rsp), %rsp", "push %rcx", "movzbl {armed:#x}(,%riz,1), %ecx",
             "lea -0x1(%rcx), %ecx", "jrcxz {away:#x}", "pop %rcx", "lea 0x80(%rsp), %rsp"),
            ("lea -0x80(%rsp),%rsp", "push %rcx", "movzbl {armed:#x},%ecx",
             "lea -0x1(%rcx),%ecx", "jrcxz {away:#x}", "pop %rcx", "lea 0x80(%rsp),%rsp"),
            (0, 128, 136, 136, 136, 136, 128),
        ),
        _Text(
            ("pop %rcx", "lea 0x80(%rsp), %rsp", ".byte 0x8e, 0xc8"),
            ("pop %rcx", "lea 0x80(%rsp),%rsp", "xchg %ax,%ax"),
            (136, 128, 0),
        ),
    ),
    # No red zone: push suffices.
    (32, _Form.HEAVY): (
        _Text(
            ("push %ecx", "movzbl {armed:#x}, %ecx", "lea -0x1(%ecx), %ecx", "jecxz {away:#x}",
             "pop %ecx"),
            ("push %ecx", "movzbl {armed:#x},%ecx", "lea -0x1(%ecx),%ecx", "jecxz {away:#x}",
             "pop %ecx"),
            (0, 4, 4, 4, 4),
        ),
        _Text(
            ("pop %ecx", ".byte 0x8e, 0xc8"),
            ("pop %ecx", "xchg %ax,%ax"),
            (4, 0),
        ),
    ),
    (64, _Form.IN_LINE): (
        _Text(
            ("lea -0x80(%rsp), %rsp", "push %rcx", "movzbl {armed:#x}(,%riz,1), %ecx",
             "jrcxz clear", "pop %rcx", "lea 0x80(%rsp), %rsp", ".byte 0x8e, 0xc8", "jmp native",
             "clear: pop %rcx", "lea 0x80(%rsp), %rsp", "native:"),
            ("lea -0x80(%rsp),%rsp", "push %rcx", "movzbl {armed:#x},%ecx", "jrcxz {clear:#x}",
             "pop %rcx", "lea 0x80(%rsp),%rsp", "xchg %ax,%ax", "jmp {native:#x}", "pop %rcx",
             "lea 0x80(%rsp),%rsp"),
            (0, 128, 136, 136, 136, 128, 0, 0, 136, 128),
        ),
        _NOTHING,
    ),
    (32, _Form.IN_LINE): (
        _Text(
            ("push %ecx", "movzbl {armed:#x}, %ecx", "jecxz clear", "pop %ecx",
             ".byte 0x8e, 0xc8", "jmp native", "clear: pop %ecx", "native:"),
            ("push %ecx", "movzbl {armed:#x},%ecx", "jecxz {clear:#x}", "pop %ecx",
             "xchg %ax,%ax", "jmp {native:#x}", "pop %ecx"),
            (0, 4, 4, 4, 0, 0, 4),
        ),
        _NOTHING,
    ),
}  # fmt: skip


class Distance(NamedTuple):
    """Where in a check the distance to its outlying part is, from the instruction behind it."""

    at: int
    size: int
    """Bytes: 1 or 4."""
    behind: int


@dataclass(frozen=True)
class Check:
    """The bytes of a check; offsets in bytes from its start.

    `checked` is the offset of the instruction behind the read of the armed byte
    (0: none is read), `trap` that of the `8e c8`: in `outlying`, from the start of
    that, where there is such a part, to which `distance` is to be filled in.
    `depths` are (offset, bytes the stack pointer is lower than the program's), for
    the unwind table; `outlying_depths` those of `outlying`. `in_line` is the same
    check without an outlying part, for where that is out of reach.
    """

    code: bytes
    checked: int
    trap: int
    depths: tuple[tuple[int, int], ...]
    outlying: bytes = b""
    outlying_depths: tuple[tuple[int, int], ...] = ()
    distance: Distance | None = None
    in_line: Check | None = None


@lru_cache(maxsize=8)
def check(bits: int, armed_address: int, light: bool) -> Check:
    """Assemble the check for an armed byte at `armed_address` (below 2 GiB).

    `light`: flags may be overwritten.
    """
    if not 0 <= armed_address < 1 << 31:
        raise ValueError(f"the armed byte's address {armed_address:#x} needs more than 31 bits")
    if light:
        return _outlying(bits, _Form.LIGHT, armed_address, None)
    form = _Form.IN_LINE
    text, _ = _TEXTS[bits, form]
    code, offsets = _assembled(bits, form, text, armed_address)
    in_line = Check(code, offsets[_behind_read(text)], code.index(TRAP), _depths(text, offsets))
    return _outlying(bits, _Form.HEAVY, armed_address, in_line)


def _outlying(bits: int, form: _Form, armed: int, in_line: Check | None) -> Check:
    text, away_text = _TEXTS[bits, form]
    code, offsets = _assembled(bits, form, text, armed)
    away, away_offsets = _assembled(bits, form, away_text, armed)
    branch = next(i for i, shown in enumerate(text.shown) if shown.startswith("j"))
    behind = offsets[branch + 1] if branch + 1 < len(offsets) else len(code)
    size = 1 if form is _Form.HEAVY else 4
    return Check(
        code, offsets[_behind_read(text)], away.index(TRAP), _depths(text, offsets), away,
        _depths(away_text, away_offsets), Distance(behind - size, size, behind), in_line,
    )  # fmt: skip


def _behind_read(text: _Text) -> int:
    """Index of the instruction behind the one that reads the armed byte."""
    return next(i for i, shown in enumerate(text.shown) if "{armed" in shown) + 1


def _depths(text: _Text, offsets: list[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(offsets, text.depths, strict=True))


@lru_cache(maxsize=2)
def always(bits: int) -> Check:
    """The check of a kind that traps whatever the armed byte says: the trap alone."""
    return Check(TRAP, 0, 0, ((0, 0),))


def _assembled(bits: int, form: _Form, text: _Text, armed: int) -> tuple[bytes, list[int]]:
    """The bytes, and the offsets of the instructions."""
    away = _AWAY.get(form, 0)
    code = _assemble(bits, "\n".join(text.source).format(armed=armed, away=away))
    return code, _verify(bits, text, code, armed, away)


def _assemble(bits: int, text: str) -> bytes:
    from keystone import (
        KS_ARCH_X86,
        KS_MODE_32,
        KS_MODE_64,
        KS_OPT_SYNTAX_ATT,
        Ks,
    )

    engine = Ks(KS_ARCH_X86, KS_MODE_64 if bits == 64 else KS_MODE_32)
    engine.syntax = KS_OPT_SYNTAX_ATT
    code, _ = engine.asm(text, 0)
    return bytes(code)


def _verify(bits: int, text: _Text, code: bytes, armed: int, away: int) -> list[int]:
    """Offsets of the instructions; AssertionError when the bytes are not the text's."""
    from iced_x86 import Decoder, Formatter, FormatterSyntax

    formatter = Formatter(FormatterSyntax.GAS)
    formatter.hex_prefix, formatter.hex_suffix = "0x", ""
    formatter.branch_leading_zeros = False
    formatter.show_branch_size = False
    formatter.rip_relative_addresses = True
    formatter.uppercase_hex = False
    formatter.small_hex_numbers_in_decimal = False
    # The decoder rightly knows no `mov %eax,%cs`: a nop as long stands for it.
    assert code.count(TRAP) == sum("0x8e" in line for line in text.source)
    instructions = list(Decoder(bits, code.replace(TRAP, b"\x66\x90")))
    offsets = [i.ip for i in instructions]
    pops = [i.ip for i, shown in zip(instructions, text.shown, strict=True) if "pop" in shown]
    clear = pops[-1] if pops else 0
    values = {"armed": armed, "clear": clear, "native": len(code), "away": away}
    for i, shown in zip(instructions, text.shown, strict=True):
        seen = formatter.format(i)
        wanted = shown.format(**values)
        assert seen == wanted, f"the assembler made {seen!r} of {wanted!r}"
    assert instructions[-1].next_ip == len(code)
    return offsets
