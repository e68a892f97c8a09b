# SPDX-License-Identifier: GPL-2.0-or-later
"""What a faulting instruction wants: addresses, sizes and directions of its operands."""

from __future__ import annotations

import pytest
from assembler import assembled

from supervisor.arch import I386, X86_64
from supervisor.coherence.messages import Access
from supervisor.tracee.access import AccessDecoder, Touch, needs_of_fault
from supervisor.tracee.ptrace import Registers

IP = 0x400000
READ, WRITE = Access.READ, Access.WRITE


def _registers() -> Registers:
    registers = Registers()
    registers.cs = X86_64.code_selector
    registers.rip, registers.rsp = IP, 0x7000
    registers.rdi, registers.rsi = 0x2000, 0x3000
    registers.rax, registers.rcx, registers.fs_base = 5, 9, 0x100000
    return registers


def _touches(text: str) -> tuple[AccessDecoder, list[Touch]]:
    decoder = AccessDecoder()
    return decoder, decoder.touches(assembled(text, IP), _registers())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("push rax", [(0x6FF8, 8, WRITE)]),
        ("ret", [(0x7000, 8, READ)]),
        ("mov eax, fs:[0x28]", [(0x100028, 4, READ)]),
        ("lock cmpxchg [rdi+rax*4+8], rcx", [(0x201C, 8, WRITE)]),
        ("lock cmpxchg16b [rdi]", [(0x2000, 16, WRITE)]),
        ("movups [rsp-24], xmm0", [(0x6FE8, 16, WRITE)]),
        ("vmovdqu ymm0, [rsi]", [(0x3000, 32, READ)]),
        ("stosq", [(0x2000, 8, WRITE)]),
        ("rep movsb", [(0x2000, 0, WRITE), (0x3000, 0, READ)]),
        ("lea rax, [rdi]", []),
        ("mov eax, [esi]", [(0x3000, 4, READ)]),
        ("mov eax, [rip+0x10]", [(IP + 0x16, 4, READ)]),
    ],
)
def test_operands(text: str, expected: list[tuple[int, int, Access]]) -> None:
    assert [tuple(touch) for touch in _touches(text)[1]] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("push eax", [(0x6FFC, 4, WRITE)]),
        ("mov eax, gs:[0x14]", [(0xF7C0_0014, 4, READ)]),
        ("mov gs:[0xfffffff4], eax", [(0xF7BF_FFF4, 4, WRITE)]),  # thread-local: below the base
        ("mov eax, [edi+eax*4-0x3000]", [(0xFFFF_F014, 4, READ)]),
        ("mov al, [bx+si]", [(0x3001, 1, READ)]),
        ("lock cmpxchg8b [edi]", [(0x2000, 8, WRITE)]),
    ],
)
def test_operands_of_i386_code(text: str, expected: list[tuple[int, int, Access]]) -> None:
    registers = _registers()
    registers.cs, registers.rbx, registers.gs_base = I386.code_selector, 0x1, 0xF7C0_0000
    touched = AccessDecoder().touches(assembled(text, IP, 32), registers)
    assert [tuple(touch) for touch in touched] == expected


@pytest.mark.parametrize(
    ("text", "locked"),
    [
        ("lock inc dword ptr [rdi]", True),
        ("xchg [rdi], eax", True),
        ("xchg ecx, eax", False),
        ("mov [rdi], eax", False),
    ],
)
def test_bus_locked(text: str, locked: bool) -> None:
    decoder, _ = _touches(text)
    assert decoder.is_locked(IP) is locked


def test_a_repeated_string_instruction_needs_both_its_sides() -> None:
    _, touched = _touches("rep movsb")
    needs = needs_of_fault(touched, 0x2000)
    assert Touch(0x2000, 1, WRITE) in needs
    assert Touch(0x3000, 1, READ) in needs


def test_an_address_that_no_operand_covers_is_a_read() -> None:
    _, touched = _touches("mov [rdi], eax")
    assert Touch(IP, 1, READ) in needs_of_fault(touched, IP)


def test_state_saved_past_the_known_extent_is_a_write() -> None:
    _, touched = _touches("xsave [rdi]")
    assert Touch(0x2800, 1, WRITE) in needs_of_fault(touched, 0x2800)


def test_an_instruction_that_was_changed_is_decoded_anew() -> None:
    decoder, touched = _touches("lock add [rdi], eax")
    load = assembled("mov eax, [rdi]", IP)
    assert touched == decoder.touches(load, _registers()) == [(0x2000, 4, WRITE)]
    assert decoder.is_locked(IP)
    assert decoder.forget_at(IP) and not decoder.forget_at(IP)
    assert decoder.touches(load, _registers()) == [(0x2000, 4, READ)]
    assert not decoder.is_locked(IP)


def test_an_instruction_cut_short_is_decoded_again_when_the_rest_is_there() -> None:
    decoder = AccessDecoder()
    code = assembled("lock cmpxchg [rdi+rax*4+8], rcx", IP)
    assert decoder.touches(code[:3], _registers()) == []
    assert not decoder.cached(IP)
    assert decoder.touches(code, _registers())[0].length == 8


@pytest.mark.parametrize(
    ("text", "bare"), [("mfence", True), ("cpuid", True), ("lock inc qword ptr [rdi]", False)]
)
def test_instructions_that_touch_no_memory(text: str, bare: bool) -> None:
    decoder = AccessDecoder()
    assert not decoder.is_bare(IP)  # not known yet
    decoder.touches(assembled(text, IP), _registers())
    assert decoder.is_bare(IP) == bare
    decoder.forget()
    assert not decoder.is_bare(IP)


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("lock btc [rdi], rcx", 3 * 8 * 4096 + 65, (0x5008, 8, WRITE)),
        ("bt [rdi], rcx", -1, (0x1FF8, 8, READ)),
        ("lock bts dword ptr [rdi+8], ecx", 0x1_FFFF_FFFF, (0x2004, 4, WRITE)),
        ("btr word ptr [rdi], cx", 0x8000, (0x1000, 2, WRITE)),
        ("bts dword ptr [rdi], 35", 0, (0x2000, 4, WRITE)),
    ],
)
def test_bit_strings_are_counted_from_their_base(
    text: str, count: int, expected: tuple[int, int, Access]
) -> None:
    registers = _registers()
    registers.rcx = count & 0xFFFF_FFFF_FFFF_FFFF
    decoder = AccessDecoder()
    assert decoder.touches(assembled(text, IP), registers) == [Touch(*expected)]
    assert decoder.is_locked(IP) == text.startswith("lock")


@pytest.mark.parametrize(("text", "pushes"), [("pushfq", True), ("pushf", True), ("popfq", False)])
def test_instructions_that_push_the_flags(text: str, pushes: bool) -> None:
    decoder = AccessDecoder()
    decoder.touches(assembled(text, IP), _registers())
    assert decoder.pushes_flags(IP) == pushes
