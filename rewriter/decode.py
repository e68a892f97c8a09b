# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding with iced: sweeps of function ranges, and single instructions in detail.

A sweep asks little of each instruction, for it sees many: `decode_out` into
one reused object costs half a microsecond, each attribute read another tenth.
Detail (operands, fields to relocate) is asked only near sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from iced_x86 import Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind

from rewriter.kinds import Kind, Site

_FENCES: Final = {
    int(code): kind
    for name, code in vars(Code).items()
    for kind in Kind
    if name.split("_")[0] == kind.name and kind not in (Kind.LOCK, Kind.XCHG)
    for code in [code]
}
_XCHG: Final = frozenset(
    {Code.XCHG_RM8_R8, Code.XCHG_RM16_R16, Code.XCHG_RM32_R32, Code.XCHG_RM64_R64}
)
_MEMORY: Final = OpKind.MEMORY
NEAR: Final = frozenset({OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64})
_NEXT: Final = FlowControl.NEXT
ENDS: Final = frozenset(
    {FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN,
     FlowControl.EXCEPTION}
)  # fmt: skip
STOPS: Final = frozenset(
    {Mnemonic.HLT, Mnemonic.UD2, Mnemonic.INT3, Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ}
)


class Sweep(NamedTuple):
    """What a linear decoding of [start, end) met.

    `starts` are instruction addresses, ascending; `end` is where decoding
    stopped, short of the range's end at an invalid instruction; `targets` the
    direct branch targets; `falls` whether control can run past `end`; `ends` where the
    instructions end that control does not run past.
    """

    start: int
    end: int
    starts: list[int]
    sites: list[Site]
    targets: set[int]
    falls: bool
    ends: list[int]


def kind_of(ins: Instruction) -> Kind | None:
    """The kind of site an instruction is, None for any other instruction."""
    if ins.has_lock_prefix:
        return Kind.LOCK
    code = ins.code
    if code in _XCHG:
        return Kind.XCHG if ins.op0_kind == _MEMORY or ins.op1_kind == _MEMORY else None
    return _FENCES.get(code)


def sweep(bits: int, data: bytes, start: int) -> Sweep:
    """Decode `data`, whose first byte is at `start`, one instruction after the other."""
    decoder = Decoder(bits, data, ip=start)
    ins = Instruction()
    starts: list[int] = []
    sites: list[Site] = []
    targets: set[int] = set()
    ends: list[int] = []
    size = len(data)
    decode, append = decoder.decode_out, starts.append
    fences, xchg = _FENCES, _XCHG
    last = _NEXT
    at = 0
    while at < size:
        decode(ins)
        code = ins.code
        if code == 0:
            break
        append(start + at)
        if code in fences or code in xchg or ins.has_lock_prefix:
            kind = kind_of(ins)
            if kind is not None:
                sites.append(Site(start + at, ins.len, kind))
        last = ins.flow_control
        at = decoder.position
        if last:
            if ins.op0_kind in NEAR:
                targets.add(ins.near_branch_target)
            if last in ENDS:
                ends.append(start + at)
    return Sweep(start, start + at, starts, sites, targets, last not in ENDS, ends)


def follow(bits: int, data: bytes, start: int, known: set[int]) -> tuple[Sweep, bool]:
    """Decode from `start` as control flows, until it cannot go on or reaches `known`.

    The sweep's targets include those of calls. The second result tells whether
    decoding ended at an invalid instruction.
    """
    decoder = Decoder(bits, data, ip=start)
    ins = Instruction()
    starts: list[int] = []
    sites: list[Site] = []
    targets: set[int] = set()
    size = len(data)
    at = 0
    falls, broken = True, False
    while at < size and start + at not in known:
        decoder.decode_out(ins)
        if ins.code == 0:
            broken = True
            break
        starts.append(start + at)
        kind = kind_of(ins)
        if kind is not None:
            sites.append(Site(start + at, ins.len, kind))
        flow = ins.flow_control
        at = decoder.position
        if flow:
            if ins.op_count and ins.op0_kind in NEAR:
                targets.add(ins.near_branch_target)
            if flow in ENDS or ins.mnemonic in STOPS:
                falls = False
                break
    return Sweep(start, start + at, starts, sites, targets, falls, []), broken


class Flow(IntEnum):
    """How an instruction passes control on, as far as moving it is concerned."""

    NEXT = 0
    JCC = 1
    JMP = 2
    END = 3
    """ret, or an indirect jmp: position-independent, nothing follows"""
    PINNED = 4
    """must stay where it is: calls (return addresses), system calls, loops, ..."""


_FLOWS: Final = {
    FlowControl.NEXT: Flow.NEXT,
    FlowControl.CONDITIONAL_BRANCH: Flow.JCC,
    FlowControl.UNCONDITIONAL_BRANCH: Flow.JMP,
    FlowControl.RETURN: Flow.END,
    FlowControl.INDIRECT_BRANCH: Flow.END,
}
_PINNED: Final = frozenset(
    {Mnemonic.ENDBR32, Mnemonic.ENDBR64, Mnemonic.HLT, Mnemonic.IRET, Mnemonic.IRETD,
     Mnemonic.IRETQ, Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT, Mnemonic.INT1,
     Mnemonic.INT3, Mnemonic.XBEGIN}
)  # fmt: skip
_FILLERS: Final = frozenset({Mnemonic.NOP, Mnemonic.INT3})


_FLAG_WRITERS: Final = frozenset(
    {Mnemonic.ADD, Mnemonic.SUB, Mnemonic.AND, Mnemonic.OR, Mnemonic.XOR, Mnemonic.CMP,
     Mnemonic.TEST, Mnemonic.NEG, Mnemonic.XADD, Mnemonic.CMPXCHG}
)  # fmt: skip
"""They write every arithmetic flag whatever their operands; shifts may write none."""


class Insn(NamedTuple):
    """One instruction in detail. Addresses are link-time.

    `displacement` is the offset inside `raw` of a rip-relative displacement (4
    bytes), 0 for none; `target` the destination of a direct branch or of the
    rip-relative operand.
    """

    address: int
    raw: bytes
    flow: Flow
    target: int
    displacement: int
    kind: Kind | None
    filler: bool
    stops: bool
    """control never runs past it: hlt, ud2, int3, iret"""
    reads_flags: bool
    writes_flags: bool
    """all of them, always"""

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.raw)

    @property
    def end(self) -> int:
        """Address of the byte after it."""
        return self.address + len(self.raw)


def details(bits: int, data: bytes, start: int) -> Iterator[Insn]:
    """Instructions of `data` from `start` on, until its end or an invalid one."""
    decoder = Decoder(bits, data, ip=start)
    ins = Instruction()
    while decoder.can_decode:
        at = decoder.position
        decoder.decode_out(ins)
        if ins.is_invalid:
            return
        raw = data[at : decoder.position]
        flow = _FLOWS.get(ins.flow_control, Flow.PINNED)
        target = displacement = 0
        if flow in (Flow.JCC, Flow.JMP):
            # loop, jrcxz and 16-bit branches have no 32-bit form to move to.
            if ins.op0_kind in NEAR and ins.op0_kind != OpKind.NEAR_BRANCH16:
                target = ins.near_branch_target
            if not target or ins.is_jcx_short or ins.is_loop or ins.is_loopcc:
                flow = Flow.PINNED
            if raw[0] in (0x66, 0x67):
                flow = Flow.PINNED
        elif ins.is_ip_rel_memory_operand:
            offsets = decoder.get_constant_offsets(ins)
            target, displacement = ins.ip_rel_memory_address, offsets.displacement_offset
            if offsets.displacement_size != 4 or ins.memory_displ_size != 8:
                flow = Flow.PINNED
        if ins.mnemonic in _PINNED:
            flow = Flow.PINNED
        yield Insn(
            start + at, raw, flow, target, displacement, kind_of(ins),
            ins.mnemonic in _FILLERS, ins.mnemonic in STOPS,
            ins.rflags_read != 0, ins.mnemonic in _FLAG_WRITERS,
        )  # fmt: skip
