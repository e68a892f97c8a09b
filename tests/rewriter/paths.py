# SPDX-License-Identifier: GPL-2.0-or-later
"""An independent check that a rewritten file executes what the original does.

Shares nothing with the rewriter but its result: its own reading of headers, the
frame table by pyelftools, instructions compared as the disassembler prints
them. From every overwritten boundary it follows the patched code and the
original side by side until both are at the same unpatched address.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field

import numpy as np
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from iced_x86 import (
    Decoder,
    FlowControl,
    Formatter,
    FormatterSyntax,
    Instruction,
    Mnemonic,
    OpKind,
)

from rewriter.cache import Rewritten

CHECKS = {
    # (before the instruction, where the branch leads; () where that is in line)
    (64, "light"): (("cmpb $0x0,0xe2000", "jne"), ("TRAP", "jmp")),
    (32, "light"): (("cmpb $0x0,0xe2000", "jne"), ("TRAP", "jmp")),
    (64, "heavy"): (
        ("lea -0x80(%rsp),%rsp", "push %rcx", "movzbl 0xe2000,%ecx", "lea -0x1(%rcx),%ecx",
         "jrcxz", "pop %rcx", "lea 0x80(%rsp),%rsp"),
        ("pop %rcx", "lea 0x80(%rsp),%rsp", "TRAP", "jmp"),
    ),
    (32, "heavy"): (
        ("push %ecx", "movzbl 0xe2000,%ecx", "lea -0x1(%ecx),%ecx", "jecxz", "pop %ecx"),
        ("pop %ecx", "TRAP", "jmp"),
    ),
    (64, "in line"): (
        ("lea -0x80(%rsp),%rsp", "push %rcx", "movzbl 0xe2000,%ecx", "jrcxz", "pop %rcx",
         "lea 0x80(%rsp),%rsp", "TRAP", "jmp", "pop %rcx", "lea 0x80(%rsp),%rsp"),
        (),
    ),
    (32, "in line"): (
        ("push %ecx", "movzbl 0xe2000,%ecx", "jecxz", "pop %ecx", "TRAP", "jmp", "pop %ecx"),
        (),
    ),
}  # fmt: skip
TRAP = b"\x8e\xc8"
MARKS = re.compile(rb"[\xf0\x86\x87]|\x0f(?:[\xa2\xae]|\x01\xe8)")
LONGEST = 15
FLAGS_LIFE = 200


class Mismatch(AssertionError):
    """Original and rewritten file would do different things."""


class Image:
    """An ELF file as it is mapped; link-time addresses."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bits = 64 if data[4] == 2 else 32
        if self.bits == 64:
            (phoff,) = struct.unpack_from("<Q", data, 32)
            size, number = struct.unpack_from("<HH", data, 54)
        else:
            (phoff,) = struct.unpack_from("<I", data, 28)
            size, number = struct.unpack_from("<HH", data, 42)
        self.headers = (phoff, size * number)
        self.loads = []
        for i in range(number):
            at = phoff + i * size
            if self.bits == 64:
                kind, flags, offset, vaddr, _, filesz = struct.unpack_from("<IIQQQQ", data, at)
            else:
                kind, offset, vaddr, _, filesz, _, flags = struct.unpack_from("<IIIIIII", data, at)
            if kind == 1:
                self.loads.append((vaddr, offset, filesz, flags))

    def read(self, address: int, length: int) -> bytes:
        for vaddr, offset, filesz, _ in self.loads:
            if vaddr <= address < vaddr + filesz:
                start = offset + address - vaddr
                return self.data[start : min(start + length, offset + filesz)]
        return b""


@dataclass
class Report:
    """What was looked at."""

    patches: int = 0
    sites: int = 0
    redirects: int = 0
    elsewhere: int = 0
    instructions: int = 0
    seen: set[tuple[int, int]] = field(default_factory=set)


class Checker:
    """One original and its rewritten form."""

    def __init__(self, original: bytes, result: Rewritten) -> None:
        self.old = Image(original)
        with open(result.path, "rb") as f:
            self.new = Image(f.read())
        self.result = result
        self.bits = self.old.bits
        self.report = Report()
        self.changed = self._changed()
        self.tails: set[int] = set()
        self.pads: set[int] = set()
        self.formatter = Formatter(FormatterSyntax.GAS)
        self.formatter.rip_relative_addresses = False
        self.formatter.branch_leading_zeros = False
        self.formatter.show_branch_size = False
        self.formatter.uppercase_hex = False
        self.formatter.small_hex_numbers_in_decimal = False

    def check(self) -> Report:
        """Raise Mismatch unless the two do the same."""
        self._same_outside_code()
        sites: set[int] = set()
        functions = self._functions()
        for lo, hi in functions:
            self._function(lo, hi, sites)
        self._elsewhere(functions)
        for at, site in self.result.traps.items():
            self._need(self.new.read(at, 2) == TRAP, at, "no trap where the map has one")
            self.report.sites += 1
            self._same(site.native, site.address, single=True)
        for at, to in self.result.redirects.items():
            self.report.redirects += 1
            ins = self._decode(self.old, at)
            if ins.mnemonic == Mnemonic.NOP and at < to <= at + 64:
                # Covered padding: straight on to behind it, over nothing but nops.
                while at < to:
                    ins = self._decode(self.old, at)
                    self._need(ins.mnemonic == Mnemonic.NOP, at, "padding led astray")
                    at = ins.next_ip
                self._need(at == to, at, "padding led astray")
                continue
            self._same(to, at)
        missing = sites - {t.address for t in self.result.traps.values()}
        self._need(not missing, min(missing, default=0), "a site without a trap")
        return self.report

    # -- the parts -----------------------------------------------------------

    def _need(self, condition: bool, address: int, what: str) -> None:
        if not condition:
            raise Mismatch(f"{self.result.path}: {address:#x}: {what}")

    def _changed(self) -> dict[int, np.ndarray]:
        out = {}
        for vaddr, offset, filesz, flags in self.old.loads:
            a = np.frombuffer(self.old.data, np.uint8, filesz, offset)
            b = np.frombuffer(self.new.data, np.uint8, filesz, offset)
            if flags & 1:
                out[vaddr] = a != b
        return out

    def is_changed(self, lo: int, hi: int) -> bool:
        for vaddr, mask in self.changed.items():
            if vaddr <= lo < vaddr + len(mask):
                return bool(mask[lo - vaddr : hi - vaddr].any())
        return False

    def _same_outside_code(self) -> None:
        """Bytes outside executable segments and header tables are the original's."""
        a = np.frombuffer(self.old.data, np.uint8)
        b = np.frombuffer(self.new.data, np.uint8, len(a))
        free = np.zeros(len(a), bool)
        for _, offset, filesz, flags in self.old.loads:
            if flags & 1:
                free[offset : offset + filesz] = True
        phoff, size = self.old.headers
        free[phoff : phoff + size] = True
        free[32:64] = True  # the ELF header's section table fields
        wrong = np.flatnonzero((a != b) & ~free)
        self._need(not len(wrong), int(wrong[0]) if len(wrong) else 0, "file offset changed")

    def _functions(self) -> list[tuple[int, int]]:
        """Ranges of frame descriptions that hold a changed byte or a trap's address."""
        elf = ELFFile(io.BytesIO(self.old.data))
        out = self._searched(elf)
        if not out and elf.get_section_by_name(".eh_frame") is not None:
            for entry in elf.get_dwarf_info(relocate_dwarf_sections=False).EH_CFI_entries():
                if isinstance(entry, FDE):
                    lo = entry["initial_location"]
                    hi = lo + entry["address_range"]
                    out.append((lo, hi))
        # Ranges may overlap (folded code): the check takes each once, the longest.
        best: dict[int, int] = {}
        for lo, hi in out:
            best[lo] = max(hi, best.get(lo, 0))
        return sorted(best.items())

    def _searched(self, elf: ELFFile) -> list[tuple[int, int]]:
        """The same by the binary search table, where it is in the usual form; else []."""
        header = next((s for s in elf.iter_segments() if s["p_type"] == "PT_GNU_EH_FRAME"), None)
        if header is None:
            return []
        base = header["p_vaddr"]
        raw = self.old.read(base, header["p_filesz"])
        if raw[:4] != b"\x01\x1b\x03\x3b":
            return []
        (count,) = struct.unpack_from("<I", raw, 8)
        out = []
        for start, fde in struct.iter_unpack("<ii", raw[12 : 12 + 8 * count]):
            _, _, begin, span = struct.unpack("<IIiI", self.old.read(base + fde, 16))
            if base + fde + 8 + begin != base + start:
                return []
            out.append((base + start, base + start + span))
        return out

    def _function(self, lo: int, hi: int, sites: set[int]) -> None:
        data = self.old.read(lo, hi - lo)
        touched = self.is_changed(lo, hi)
        marks = [m.start() + lo for m in MARKS.finditer(data)]
        if not touched and not marks:
            return
        marks.append(hi)
        mark = 0
        inside = 0
        for ins in Decoder(self.bits, data, ip=lo):
            if ins.is_invalid:
                break
            self.report.instructions += 1
            at, end = ins.ip, ins.next_ip
            if marks[mark] < end:
                while marks[mark] < end and marks[mark] < hi:
                    mark += 1
                if is_site(ins):
                    sites.add(at)
            if not touched or not self.is_changed(at, end):
                # Unchanged bytes may still be covered by a jump that equals them.
                if at < inside and at not in self.result.redirects:
                    self._need(self.new.read(at, 1) == self.old.read(at, 1), at, "half covered")
                continue
            if at in self.result.redirects and self.new.read(at, 2) != TRAP:
                self._must_fault(at)
                continue
            self.report.patches += 1
            first = self.new.read(at, 2)
            self._need(first[0] in (0xE9, 0xEB) or first == TRAP, at, "overwritten, no patch")
            inside = at + (5 if first[0] == 0xE9 else 2)
            self._note_pad(at)
            self._same(at, at, single=False)
        # The last patch may reach into the padding behind the function.
        self.tails.update(range(hi, inside))

    def _elsewhere(self, functions: list[tuple[int, int]]) -> None:
        """Changed bytes outside frame descriptions: each begins a patch that does the same."""
        fill = 0x06 if self.bits == 64 else 0xF4
        lows = np.array([lo for lo, _ in functions], np.int64)
        highs = np.array([hi for _, hi in functions], np.int64)
        for vaddr, mask in self.changed.items():
            places = np.flatnonzero(mask & ~self._headers(vaddr, len(mask))).astype(np.int64)
            places += vaddr
            if len(lows):
                i = np.searchsorted(lows, places, side="right") - 1
                places = places[(i < 0) | (places >= highs[np.maximum(i, 0)])]
            inside = 0
            starts = []
            for at in places.tolist():
                first = self.new.read(at, 2)
                if at < inside or first[0] == fill or at in self.tails:
                    continue
                self._need(first[0] in (0xE9, 0xEB) or first == TRAP, at, "changed, no patch")
                inside = at + (5 if first[0] == 0xE9 else 2)
                starts.append(at)
                self._note_pad(at)
            for at in starts:
                self.report.elsewhere += 1
                if at not in self.pads:
                    self._same(at, at)

    def _note_pad(self, at: int) -> None:
        """Where a short jump leads is no place of the original's."""
        raw = self.new.read(at, 2)
        if raw[0] == 0xEB:
            self.pads.add(at + 2 + struct.unpack("b", raw[1:])[0])

    def _headers(self, vaddr: int, size: int) -> np.ndarray:
        """Which bytes of a segment are the file's headers, which the new file changes."""
        out = np.zeros(size, bool)
        offset = next(o for v, o, _, _ in self.old.loads if v == vaddr)
        for lo, hi in ((32, 64), (self.old.headers[0], sum(self.old.headers))):
            out[max(lo - offset, 0) : max(hi - offset, 0)] = True
        return out

    def _must_fault(self, at: int) -> None:
        """An overwritten boundary raises a fault at once (not promised at i386's last byte)."""
        if self.bits == 64:
            ins = Decoder(64, self.new.read(at, LONGEST) + bytes(LONGEST), ip=at).decode()
            self._need(ins.is_invalid, at, "an overwritten boundary does not trap")

    def _same(self, new: int, old: int, *, single: bool = False) -> None:
        """Follow patched code from `new` and the original from `old` until they meet."""
        work = [(new, old)]
        while work:
            new, old = work.pop()
            while (new, old) not in self.report.seen:
                self.report.seen.add((new, old))
                at = self._skip(new, old)
                if at == old and not self.is_changed(old, old + self._decode(self.old, old).len):
                    break
                a, b = self._decode(self.old, old), self._decode(self.new, at)
                self._compare(a, b, work)
                if a.flow_control in (
                    FlowControl.UNCONDITIONAL_BRANCH,
                    FlowControl.RETURN,
                    FlowControl.INDIRECT_BRANCH,
                ):
                    break
                new, old = b.next_ip, a.next_ip
                if single:
                    break

    def _skip(self, new: int, old: int) -> int:
        """Past jumps of ours and the check, to the instruction that stands for `old`'s."""
        for _ in range(8):
            if self.new.read(new, 2) == TRAP and new in self.result.traps:
                site = self.result.traps[new]
                self._need(site.address == old, new, "the trap's address is not the site's")
                self._need(site.after == site.native + site.length, new, "wrong length")
                new = site.native
                continue
            ins = self._decode(self.new, new)
            if ins.flow_control == FlowControl.UNCONDITIONAL_BRANCH:
                theirs = self._decode(self.old, old)
                if theirs.flow_control == FlowControl.UNCONDITIONAL_BRANCH and (
                    theirs.near_branch_target == ins.near_branch_target
                    # A moved jump, not the jump back to one that stayed.
                    or (not self.old.read(new, 1) and ins.near_branch_target != old)
                ):
                    return new
                new = ins.near_branch_target
                if new == old and not self.is_changed(new, new + theirs.len):
                    return new
                continue
            end = self._check_end(new, old)
            if not end:
                return new
            new = end
        raise Mismatch(f"{self.result.path}: {new:#x}: jumps without end")

    def _check_end(self, new: int, old: int) -> int:
        """The address past a whole check that stands at `new`, 0 when none does."""
        raw = self.new.read(new, 64)
        light = raw.startswith((b"\x80\x3c\x25\0\x20\x0e\0\0", b"\x80\x3d\0\x20\x0e\0\0"))
        if not light and not raw.startswith((b"\x48\x8d\x64\x24\x80\x51", b"\x51\x0f\xb6\x0d")):
            return 0
        if light:
            self._need(self._flags_are_dead(old), new, "a check overwrites flags")
        form = "light" if light else self._form(new)
        texts, away = CHECKS[self.bits, form]
        at, trap, read, branches = self._expect(new, texts)
        if away:
            # The trap stands elsewhere, and leads to behind the check.
            _, trap, _, back = self._expect(branches[0], away)
            branches = back
            wanted = [at]
        else:
            last = len(texts) - texts[::-1].index("jmp")
            wanted = [at - sum(1 if t.startswith("pop") else 8 for t in texts[last:]), at]
        site = self.result.traps.get(trap)
        self._need(site is not None and site.address == old, trap, "not in the map")
        assert site is not None
        self._need(site.checked == read, trap, "the read of the armed byte is elsewhere")
        self._need(branches == wanted, new, "a branch of the check goes astray")
        return at

    def _form(self, at: int) -> str:
        """Of a check that keeps flags: what stands behind its read of the armed byte."""
        while True:
            ins = self._decode(self.new, at)
            at = ins.next_ip
            if ins.mnemonic == Mnemonic.MOVZX:
                behind = self._decode(self.new, at)
                return "heavy" if behind.mnemonic == Mnemonic.LEA else "in line"

    def _expect(self, at: int, texts: tuple[str, ...]) -> tuple[int, int, int, list[int]]:
        """Instructions of ours: (end, the trap, past the read of the armed byte, branches)."""
        trap = read = 0
        branches = []
        for text in texts:
            if text == "TRAP":
                self._need(self.new.read(at, 2) == TRAP, at, "no trap in the check")
                trap, at = at, at + 2
                continue
            ins = self._decode(self.new, at)
            seen = self.formatter.format(ins)
            self._need(not ins.is_ip_rel_memory_operand, at, "the armed byte is not absolute")
            self._need(seen.startswith(text), at, f"{seen!r} in a check, not {text!r}")
            if "0xe2000" in text:
                read = ins.next_ip
            if text.startswith("j"):
                branches.append(ins.near_branch_target)
            at = ins.next_ip
        return at, trap, read, branches

    def _flags_are_dead(self, at: int) -> bool:
        """Whether from `at` on every arithmetic flag is written before any is read."""
        alive = 0x3F
        for _ in range(FLAGS_LIFE):
            ins = self._decode(self.old, at)
            if ins.rflags_read & alive:
                return False
            alive &= ~ins.rflags_modified
            if not alive:
                return True
            if ins.flow_control != FlowControl.NEXT:
                return False
            at = ins.next_ip
        return False

    def _decode(self, image: Image, at: int) -> Instruction:
        raw = image.read(at, LONGEST)
        ins = Decoder(self.bits, raw, ip=at).decode()
        self._need(not ins.is_invalid, at, "no instruction")
        return ins

    def _compare(self, a: Instruction, b: Instruction, work: list[tuple[int, int]]) -> None:
        if a.flow_control in (FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH):
            self._need(a.condition_code == b.condition_code, b.ip, "another condition")
            self._need(a.is_jcx_short == b.is_jcx_short, b.ip, "another branch")
            if a.near_branch_target != b.near_branch_target:
                work.append((b.near_branch_target, a.near_branch_target))
            return
        x, y = self.formatter.format(a), self.formatter.format(b)
        self._need(x == y, b.ip, f"{y!r} where the original has {x!r}")


def is_site(ins: Instruction) -> bool:
    """Whether an instruction synchronizes, told by its text."""
    words = f"{ins:g}".split()
    if "lock" in words[:-1]:
        return True
    name = next(w for w in words if w not in ("xacquire", "xrelease", "notrack", "bnd"))
    if name.startswith("xchg"):
        return OpKind.MEMORY in (ins.op0_kind, ins.op1_kind)
    return name in ("mfence", "sfence", "lfence", "cpuid", "serialize")
