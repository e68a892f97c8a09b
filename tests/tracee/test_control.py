# SPDX-License-Identifier: GPL-2.0-or-later
"""The control block's pasted bytes are what its text assembles to."""

from __future__ import annotations

import iced_x86
import keystone

from rewriter.kinds import ARMED_ADDRESS
from supervisor.tracee import control
from supervisor.tracee.control import ControlBlock


def _assemble(text: str, address: int) -> bytes:
    engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    code, _ = engine.asm(text, address)
    return bytes(code)


def test_code_is_its_source() -> None:
    gadget, stub = control.SOURCE.split(".org 0x10")
    expected = _assemble(gadget, control.GADGET).ljust(control.STUB - control.CODE, b"\x90")
    expected += _assemble(stub, control.STUB)
    assert expected == control.CODE_BYTES


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
