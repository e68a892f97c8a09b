# SPDX-License-Identifier: GPL-2.0-or-later
"""The control block's pasted bytes are what its text assembles to."""

from __future__ import annotations

import re

import iced_x86
from assembler import assembled

from rewriter.kinds import ARMED_ADDRESS
from supervisor.arch import I386
from supervisor.tracee import control
from supervisor.tracee.control import ControlBlock


def _laid_out(source: str, start: int, bits: int) -> bytes:
    """Assembles text whose .org lines (keystone has none) count from `start`."""
    first, *others = re.split(r"\.org (0x[0-9a-f]+)", source)
    code = assembled(first, start, bits)
    for at, text in zip(others[::2], others[1::2], strict=True):
        code = code.ljust(int(at, 16), b"\x90")
        code += assembled(text, start + int(at, 16), bits)
    return code


def test_code_is_its_source() -> None:
    expected = _laid_out(control.SOURCE, control.CODE, 64)
    assert expected == control.CODE_BYTES
    assert expected[I386.gadget - control.CODE :].startswith(
        assembled("int 0x80; int3", I386.gadget, 32)
    )


def test_restorers_are_what_unwinders_look_for() -> None:
    start = I386.restorers[0] - 1
    assert _laid_out(control.RESTORER_SOURCE, start, 32) == control.RESTORER_BYTES
    assert control.RESTORER_BYTES[I386.restorers[1] - start :].startswith(b"\xb8\xad\0\0\0\xcd\x80")
    assert start > control.CALLS_PASS_END  # these calls must stop


def test_the_decoder_agrees() -> None:
    stub = control.CODE_BYTES[control.STUB - control.CODE :]
    instructions = list(iced_x86.Decoder(64, stub, ip=control.STUB))
    assert not any(instruction.is_invalid for instruction in instructions)
    branches = [i.near_branch_target for i in instructions if i.is_jmp_short or i.is_jcc_short]
    starts = {instruction.ip for instruction in instructions}
    assert branches == [control.STUB, instructions[2].ip]
    assert starts.issuperset(branches)


def test_the_armed_byte_is_where_rewritten_code_looks() -> None:
    assert control.ARMED == ARMED_ADDRESS


def test_results_of_calls_come_back_signed() -> None:
    block = ControlBlock()
    try:
        block.write_calls([(1, 2, 3), (4,)])
        offset = control.CALLS - control.BASE + 56
        block._view[offset : offset + 8] = (-14).to_bytes(8, "little", signed=True)
        block._view[offset + 64 : offset + 72] = (7).to_bytes(8, "little")
        assert block.results(2) == [-14, 7]
    finally:
        block.close()
