# SPDX-License-Identifier: GPL-2.0-or-later
"""The check: assembled by keystone once a process, verified by the decoder.

Between the trampoline's entry and the native instruction stands the check:

- the armed byte is 0: go on to the native instruction, without a stop;
- else `8e c8` raises #UD with every register as the program had it, stack
  pointer included, so that an instruction whose operand is on the stack can be
  looked at by whoever handles the trap. Skipping the two bytes goes on to the
  native instruction as well.

A jump taken costs the front end a cycle that nothing hides between a lock and an
unlock. So the light form's trap is outlying: it stands behind the trampoline, with
a jump to the native instruction, and the clear path runs straight on.

Where flags must survive, nothing in the check writes them: `lea` moves the
stack pointer past the red zone, `jrcxz` tests. (`pushf` and `popf` would cost 3
ns more.) Where the instruction itself, or one soon after it, overwrites all of
them unread, as most locked ones do, a plain compare is enough and needs neither
register nor stack: the light form.

keystone 0.9.2 takes an absolute address for a rip-relative one without a word
(`(,%riz,1)` says absolute), and a number without `0x` for a hexadecimal one.
Hence the verification.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rewriter.kinds import TRAP

RED_ZONE: Final = 128
_AWAY: Final = 0x10000

_SOURCE: Final = {
    # A distance that needs 4 bytes stands for the one to the outlying trap.
    (64, True): ("cmpb $0x0, {armed:#x}(,%riz,1)", "jne {away:#x}"),
    (32, True): ("cmpb $0x0, {armed:#x}", "jne {away:#x}"),
    (64, False): (
        "lea -0x80(%rsp), %rsp",
        "push %rcx",
        "movzbl {armed:#x}(,%riz,1), %ecx",
        "jrcxz clear",
        "pop %rcx",
        "lea 0x80(%rsp), %rsp",
        ".byte 0x8e, 0xc8",
        "jmp native",
        "clear: pop %rcx",
        "lea 0x80(%rsp), %rsp",
        "native:",
    ),
    # No red zone: push suffices.
    (32, False): (
        "push %ecx",
        "movzbl {armed:#x}, %ecx",
        "jecxz clear",
        "pop %ecx",
        ".byte 0x8e, 0xc8",
        "jmp native",
        "clear: pop %ecx",
        "native:",
    ),
}
_DEPTHS: Final = {
    (64, True): (0, 0),
    (32, True): (0, 0),
    (64, False): (0, 128, 136, 136, 136, 128, 0, 0, 136, 128),
    (32, False): (0, 4, 4, 4, 0, 0, 4),
}
"""How far below the program's stack pointer ours is, before each instruction."""

_EXPECTED: Final = {
    (64, True): ("cmpb $0x0,{armed:#x}", "jne {away:#x}"),
    (32, True): ("cmpb $0x0,{armed:#x}", "jne {away:#x}"),
    (64, False): (
        "lea -0x80(%rsp),%rsp", "push %rcx", "movzbl {armed:#x},%ecx", "jrcxz {clear:#x}",
        "pop %rcx", "lea 0x80(%rsp),%rsp", "xchg %ax,%ax", "jmp {native:#x}", "pop %rcx",
        "lea 0x80(%rsp),%rsp",
    ),
    (32, False): (
        "push %ecx", "movzbl {armed:#x},%ecx", "jecxz {clear:#x}", "pop %ecx", "xchg %ax,%ax",
        "jmp {native:#x}", "pop %ecx",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """The bytes of a check; offsets in bytes from its start.

    `checked` is the offset of the instruction behind the read of the armed byte
    (0: none is read), `trap` that of the `8e c8`, -1 where it is outlying; the
    last 4 bytes of `code` are then the distance to it, to be filled in. `depths`
    are (offset, bytes the stack pointer is lower than the program's), for the
    unwind table.
    """

    code: bytes
    checked: int
    trap: int
    depths: tuple[tuple[int, int], ...]

    @property
    def outlying(self) -> bool:
        """Whether the trap stands behind the trampoline."""
        return self.trap < 0


@lru_cache(maxsize=8)
def check(bits: int, armed_address: int, light: bool) -> Check:
    """Assemble the check for an armed byte at `armed_address` (below 2 GiB).

    `light`: flags may be overwritten.
    """
    if not 0 <= armed_address < 1 << 31:
        raise ValueError(f"the armed byte's address {armed_address:#x} needs more than 31 bits")
    form = (bits, light)
    code = _assemble(bits, "\n".join(_SOURCE[form]).format(armed=armed_address, away=_AWAY))
    offsets = _verify(form, code, armed_address)
    # Behind the read stands the conditional branch, in every form.
    branch = next(i for i, text in enumerate(_EXPECTED[form]) if text.startswith("j"))
    return Check(
        code, offsets[branch], code.find(TRAP), tuple(zip(offsets, _DEPTHS[form], strict=True))
    )


@lru_cache(maxsize=2)
def always(bits: int) -> Check:
    """The check of a kind that traps whatever the armed byte says: the trap alone."""
    return Check(TRAP, 0, 0, ((0, 0),))


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


def _verify(form: tuple[int, bool], code: bytes, armed: int) -> list[int]:
    """Offsets of the check's instructions; AssertionError when the bytes are not the check."""
    from iced_x86 import Decoder, Formatter, FormatterSyntax

    formatter = Formatter(FormatterSyntax.GAS)
    formatter.hex_prefix, formatter.hex_suffix = "0x", ""
    formatter.branch_leading_zeros = False
    formatter.show_branch_size = False
    formatter.rip_relative_addresses = True
    formatter.uppercase_hex = False
    formatter.small_hex_numbers_in_decimal = False
    # The decoder rightly knows no `mov %eax,%cs`: a nop as long stands for it.
    assert code.count(TRAP) == (0 if form[1] else 1)
    instructions = list(Decoder(form[0], code.replace(TRAP, b"\x66\x90")))
    offsets = [i.ip for i in instructions]
    pops = [i.ip for i, text in zip(instructions, _EXPECTED[form], strict=True) if "pop" in text]
    clear = pops[-1] if pops else 0
    values = {"armed": armed, "clear": clear, "native": len(code), "away": _AWAY}
    for i, text in zip(instructions, _EXPECTED[form], strict=True):
        seen = formatter.format(i)
        wanted = text.format(**values)
        assert seen == wanted, f"the assembler made {seen!r} of {wanted!r}"
    assert instructions[-1].next_ip == len(code)
    return offsets
