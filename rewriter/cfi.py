# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information: the unwinder's state at an address, and its encoding.

Source: DWARF 5 section 6.4.2; the GNU opcodes as in gcc `unwind-dw2.c`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rewriter.frames import Cie, Fde, Reader

Rule = tuple[str, int | bytes]
"""("offset", bytes from CFA) | ("register", n) | ("expression", block) | ..."""

_OPERANDS: Final = {
    0x05: ("offset", "uf"),
    0x11: ("offset", "sf"),
    0x14: ("val_offset", "uf"),
    0x15: ("val_offset", "sf"),
    0x2F: ("offset", "nf"),
    0x09: ("register", "u"),
    0x10: ("expression", "block"),
    0x16: ("val_expression", "block"),
    0x07: ("undefined", ""),
    0x08: ("same_value", ""),
}
_OPCODES: Final = {
    "offset": 0x11, "val_offset": 0x15, "register": 0x09, "expression": 0x10,
    "val_expression": 0x16, "undefined": 0x07, "same_value": 0x08,
}  # fmt: skip
_INSTRUCTIONS_MAX: Final = 100_000


class State(NamedTuple):
    """A row of the unwind table: how to find the caller's frame.

    `cfa` is (register, offset in bytes) or a DWARF expression; `rules` where
    each register of the caller is, the return address among them.
    """

    cfa: tuple[int, int] | bytes
    rules: dict[int, Rule]


class Machine:
    """Runs an FDE's instructions; IndexError on those it does not know."""

    def __init__(self, fde: Fde, word: int) -> None:
        self.cie: Cie = fde.cie
        self.word = word
        self.at = fde.start
        self.cfa: tuple[int, int] | bytes = (0, 0)
        self.rules: dict[int, Rule] = {}
        self.initial: dict[int, Rule] = {}
        self.saved: list[State] = []
        self.count = 0

    def run(self, code: bytes, until: int) -> None:
        """Execute instructions as long as they describe addresses up to `until`."""
        r = Reader(code, 0, self.word)
        while r.at < len(code):
            self.count += 1
            if self.count > _INSTRUCTIONS_MAX:
                raise IndexError
            op = r.take(1)
            high, low = op & 0xC0, op & 0x3F
            if high == 0x40 or 0x02 <= op <= 0x04:
                delta = low if high else r.take(1 << (op - 2))
                self.at += delta * self.cie.code_align
                if self.at > until:
                    return
            elif high == 0x80:
                self.rules[low] = ("offset", r.uleb() * self.cie.data_align)
            elif high == 0xC0:
                self._restore(low)
            else:
                self._other(op, r)

    def _restore(self, register: int) -> None:
        if register in self.initial:
            self.rules[register] = self.initial[register]
        else:
            self.rules.pop(register, None)

    def _other(self, op: int, r: Reader) -> None:
        data = self.cie.data_align
        if op in _OPERANDS:
            name, form = _OPERANDS[op]
            register = r.uleb()
            value: int | bytes = 0
            if form == "uf":
                value = r.uleb() * data
            elif form == "nf":
                value = -r.uleb() * data
            elif form == "sf":
                value = r.sleb() * data
            elif form == "u":
                value = r.uleb()
            elif form == "block":
                value = self._block(r)
            self.rules[register] = (name, value)
        elif op == 0x06:
            self._restore(r.uleb())
        elif op == 0x0A:
            self.saved.append(State(self.cfa, dict(self.rules)))
        elif op == 0x0B:
            self.cfa, rules = self.saved.pop()
            self.rules = dict(rules)
        elif op == 0x0C:
            self.cfa = (r.uleb(), r.uleb())
        elif op == 0x12:
            self.cfa = (r.uleb(), r.sleb() * data)
        elif op == 0x0F:
            self.cfa = self._block(r)
        elif op in (0x0D, 0x0E, 0x13):
            if isinstance(self.cfa, bytes):
                raise IndexError
            register, offset = self.cfa
            if op == 0x0D:
                self.cfa = (r.uleb(), offset)
            else:
                self.cfa = (register, r.uleb() if op == 0x0E else r.sleb() * data)
        elif op == 0x2E:
            r.uleb()
        elif op != 0:
            raise IndexError

    @staticmethod
    def _block(r: Reader) -> bytes:
        length = r.uleb()
        block = r.data[r.at : r.at + length]
        if len(block) != length:
            raise IndexError
        r.at += length
        return block


def state_at(fde: Fde, address: int, word: int) -> State:
    """The unwind state at an address of a function; IndexError when it cannot be told."""
    machine = Machine(fde, word)
    machine.run(fde.cie.instructions, 1 << 64)
    machine.at = fde.start
    machine.initial = dict(machine.rules)
    machine.run(fde.instructions, address)
    return State(machine.cfa, machine.rules)


def lowered(state: State, stack_register: int, depth: int) -> State:
    """The state with the stack pointer `depth` bytes lower than the program's."""
    if depth == 0 or isinstance(state.cfa, bytes) or state.cfa[0] != stack_register:
        return state
    return State((stack_register, state.cfa[1] + depth), state.rules)


def uleb(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if not value:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def sleb(value: int) -> bytes:
    """Signed LEB128."""
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if value == (-1 if byte & 0x40 else 0):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def transition(old: State | None, new: State, data_align: int) -> bytes:
    """Instructions that turn one row into the next (the first row when `old` is None)."""
    out = bytearray()
    if old is None or old.cfa != new.cfa:
        if isinstance(new.cfa, bytes):
            out += b"\x0f" + uleb(len(new.cfa)) + new.cfa
        elif new.cfa[1] >= 0:
            out += b"\x0c" + uleb(new.cfa[0]) + uleb(new.cfa[1])
        else:
            out += b"\x12" + uleb(new.cfa[0]) + sleb(new.cfa[1] // data_align)
    before = {} if old is None else old.rules
    for register in sorted(before.keys() - new.rules.keys()):
        out += b"\x06" + uleb(register)
    for register, rule in sorted(new.rules.items()):
        if before.get(register) != rule:
            out += _rule(register, rule, data_align)
    return bytes(out)


def _rule(register: int, rule: Rule, data_align: int) -> bytes:
    name, value = rule
    if isinstance(value, bytes):
        return bytes((_OPCODES[name],)) + uleb(register) + uleb(len(value)) + value
    if name in ("offset", "val_offset"):
        factored = value // data_align
        assert factored * data_align == value
        if name == "offset" and factored >= 0 and register < 64:
            return bytes((0x80 | register,)) + uleb(factored)
        return bytes((_OPCODES[name],)) + uleb(register) + sleb(factored)
    if name == "register":
        return b"\x09" + uleb(register) + uleb(value)
    return bytes((_OPCODES[name],)) + uleb(register)


def advance(delta: int) -> bytes:
    """Move on by `delta` bytes of code (code alignment 1)."""
    if delta < 0x40:
        return bytes((0x40 | delta,))
    if delta < 0x100:
        return bytes((0x02, delta))
    return b"\x04" + delta.to_bytes(4, "little")
