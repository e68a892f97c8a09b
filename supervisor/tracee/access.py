# SPDX-License-Identifier: GPL-2.0-or-later
"""What a faulting instruction wants to touch.

A SIGSEGV tells the address but not whether it was a read or a write, and not
what else the instruction needs at the same time. The instruction at rip is
decoded (once; the result is cached by address) and its operands' addresses
are computed from the registers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import iced_x86
from iced_x86 import OpAccess

from supervisor.arch import of_selector
from supervisor.coherence.messages import Access
from supervisor.tracee.ptrace import Registers

INSTRUCTION_LENGTH_MAX: Final = 15

_WRITES: Final = frozenset(
    (OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
)
_TOUCHES: Final = _WRITES | {OpAccess.READ, OpAccess.COND_READ}

_BIT_STRINGS: Final = frozenset(
    getattr(iced_x86.Mnemonic, name) for name in ("BT", "BTS", "BTR", "BTC")
)

_FLAGS_PUSHED: Final = frozenset(
    getattr(iced_x86.Mnemonic, name) for name in ("PUSHF", "PUSHFD", "PUSHFQ")
)

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_ADDRESS_MASKS: Final = {
    iced_x86.CodeSize.CODE16: 0xFFFF,
    iced_x86.CodeSize.CODE32: 0xFFFF_FFFF,
    iced_x86.CodeSize.CODE64: _MASK,
    iced_x86.CodeSize.UNKNOWN: _MASK,
}


def _register_names() -> dict[int, tuple[str, int]]:
    """iced register -> field of user_regs_struct and mask, for address computation."""
    names: dict[int, tuple[str, int]] = {}
    register = iced_x86.Register
    for name in ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP"):
        field = "r" + name.lower()
        names[getattr(register, "R" + name)] = (field, _MASK)
        names[getattr(register, "E" + name)] = (field, 0xFFFF_FFFF)
        names[getattr(register, name)] = (field, 0xFFFF)
    for number in range(8, 16):
        names[getattr(register, f"R{number}")] = (f"r{number}", _MASK)
        names[getattr(register, f"R{number}D")] = (f"r{number}", 0xFFFF_FFFF)
    return names


_REGISTERS: Final = _register_names()
_SEGMENT_BASES: Final = {iced_x86.Register.FS: "fs_base", iced_x86.Register.GS: "gs_base"}


class Operand(NamedTuple):
    """One memory operand; `size` 0 when the decoder does not know it."""

    base: tuple[str, int] | None
    index: tuple[str, int] | None  # type: ignore[assignment]  # no tuple is searched
    scale: int
    displacement: int
    segment: str | None
    mask: int
    """Of the address within its segment."""
    linear_mask: int
    size: int
    access: Access
    bit: tuple[str, int] | None = None
    """The register of a bit string's instruction (BT, BTS, ...) that counts bits from there,
    signed, in words of `size` bytes."""


class Touch(NamedTuple):
    address: int
    length: int
    access: Access


def _bit_string_offset(operand: Operand, register: int) -> int:
    """Bytes from a bit string's beginning to the word that its instruction touches."""
    assert operand.bit is not None
    mask = operand.bit[1]
    count = register & mask
    if count > mask >> 1:
        count -= mask + 1
    return count // (operand.size * 8) * operand.size


class AccessDecoder:
    """Decodes faulting instructions, once each."""

    def __init__(self) -> None:
        self._factory = iced_x86.InstructionInfoFactory()
        self._cache: dict[int, tuple[Operand, ...]] = {}
        self._locked: set[int] = set()
        self._flags_pushed: set[int] = set()

    def forget(self) -> None:
        """Code may have changed: decode anew."""
        self._cache.clear()
        self._locked.clear()
        self._flags_pushed.clear()

    def forget_at(self, ip: int) -> bool:
        """The instruction here may be another one by now; False if none was decoded."""
        self._locked.discard(ip)
        self._flags_pushed.discard(ip)
        return self._cache.pop(ip, None) is not None

    def touches(self, code: bytes, registers: Registers) -> list[Touch]:
        """Every memory access of the instruction at rip, whose bytes are `code`."""
        ip = registers.rip
        operands = self._cache.get(ip)
        if operands is None:
            decoded = self._decode(code, ip, of_selector(registers.cs).bits)
            if decoded is None:
                return []  # cut short at a page that is not here: what faults is its fetch
            operands = self._cache[ip] = decoded
        touched = []
        for operand in operands:
            address = operand.displacement
            if operand.base is not None:
                address += getattr(registers, operand.base[0]) & operand.base[1]
            if operand.index is not None:
                address += (getattr(registers, operand.index[0]) & operand.index[1]) * operand.scale
            if operand.bit is not None:
                address += _bit_string_offset(operand, getattr(registers, operand.bit[0]))
            address &= operand.mask
            if operand.segment is not None:
                address = address + getattr(registers, operand.segment) & operand.linear_mask
            touched.append(Touch(address, operand.size, operand.access))
        return touched

    def is_locked(self, ip: int) -> bool:
        """Is the instruction here, decoded before, bus-locked (LOCK prefix, XCHG with memory)?"""
        return ip in self._locked

    def pushes_flags(self, ip: int) -> bool:
        """Does the instruction here, decoded before, store the flags (PUSHF)?"""
        return ip in self._flags_pushed

    def only_writes(self, code: bytes, ip: int, bits: int) -> bool:
        """Does the instruction at ip, whose bytes are `code`, write all memory it touches?"""
        operands = self._cache.get(ip)
        if operands is None:
            operands = self._decode(code, ip, bits)
            if operands is None:
                return False
            self._cache[ip] = operands
        return bool(operands) and all(operand.access is Access.WRITE for operand in operands)

    def is_bare(self, ip: int) -> bool:
        """Has the instruction here been decoded, and touches no memory?"""
        return self._cache.get(ip) == ()

    def cached(self, ip: int) -> bool:
        return ip in self._cache

    def _decode(self, code: bytes, ip: int, bits: int) -> tuple[Operand, ...] | None:
        instruction = iced_x86.Decoder(bits, code, ip=ip).decode()
        if instruction.is_invalid:
            return None
        info = self._factory.info(instruction)
        if instruction.has_lock_prefix or (
            instruction.mnemonic == iced_x86.Mnemonic.XCHG and info.used_memory()
        ):
            self._locked.add(ip)
        if instruction.mnemonic in _FLAGS_PUSHED:
            self._flags_pushed.add(ip)
        operands = []
        bit = None
        if instruction.mnemonic in _BIT_STRINGS:  # by a constant too, but that stays in the word
            bit = _REGISTERS.get(instruction.op1_register)
        for used in info.used_memory():
            if used.access not in _TOUCHES or used.vsib_size:
                continue
            base = None
            displacement = used.displacement
            if used.base not in (iced_x86.Register.NONE, iced_x86.Register.RIP):
                base = _REGISTERS.get(used.base)
                if base is None:
                    continue
            index = None
            if used.index != iced_x86.Register.NONE:
                index = _REGISTERS.get(used.index)
                if index is None:
                    continue
            operands.append(
                Operand(
                    base, index, used.scale, displacement, _SEGMENT_BASES.get(used.segment),
                    _ADDRESS_MASKS[used.address_size], (1 << bits) - 1,
                    iced_x86.MemorySizeExt.size(used.memory_size),
                    Access.WRITE if used.access in _WRITES else Access.READ, bit,
                )
            )  # fmt: skip
        return tuple(operands)


_UNKNOWN_EXTENT_MAX: Final = 16384
"""No instruction touches more than this from one operand (XSAVE with all state)."""


def needs_of_fault(touched: list[Touch], address: int) -> list[Touch]:
    """The accesses to satisfy for a fault at `address`: all operands', and the address itself.

    An operand of unknown size (a repeated string instruction, XSAVE) counts
    with its first byte. Where no operand covers the address, the nearest one
    of unknown size says the access; else (an instruction fetch, a gather) it
    is a read.
    """
    needs = [touch if touch.length else touch._replace(length=1) for touch in touched]
    if not any(touch.address <= address < touch.address + touch.length for touch in needs):
        near = [
            touch
            for touch in touched
            if not touch.length and abs(address - touch.address) < _UNKNOWN_EXTENT_MAX
        ]
        access = max((touch.access for touch in near), default=Access.READ)
        needs.append(Touch(address, 1, access))
    return needs
