# SPDX-License-Identifier: GPL-2.0-or-later
"""Assembler text: a trap before each synchronization instruction, and nowhere else."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from rewriter.asmtext import TRAP_TEXT, rewrite_text
from rewriter.kinds import Kind

CASES = [
    ("\tlock incl (%rdi)\n", f"\t{TRAP_TEXT}\n\tlock incl (%rdi)\n"),
    ("\tlock; incl (%rdi)\n", f"\t{TRAP_TEXT}\n\tlock; incl (%rdi)\n"),
    ("\tlock\n\tincl x\n", f"\t{TRAP_TEXT}\n\tlock\n\tincl x\n"),
    ("f:\tlock incl x\n", f"f:\t{TRAP_TEXT}; lock incl x\n"),
    ("1: mfence\n", f"1: {TRAP_TEXT}; mfence\n"),
    ("\tnop; mfence # mfence\n", f"\tnop; {TRAP_TEXT}; mfence # mfence\n"),
    ("\txchgl %eax, (%rdi)\n", f"\t{TRAP_TEXT}\n\txchgl %eax, (%rdi)\n"),
    ("\txchg %rax, x(%rip)\n", f"\t{TRAP_TEXT}\n\txchg %rax, x(%rip)\n"),
    ("\txchg eax, [rdi]\n", f"\t{TRAP_TEXT}\n\txchg eax, [rdi]\n"),
    ("\txchg DWORD PTR x[rip], r9d\n", f"\t{TRAP_TEXT}\n\txchg DWORD PTR x[rip], r9d\n"),
    ("\tlock add DWORD PTR [rdi], 1\n", f"\t{TRAP_TEXT}\n\tlock add DWORD PTR [rdi], 1\n"),
    ("\txacquire lock incl x\n", f"\t{TRAP_TEXT}\n\txacquire lock incl x\n"),
    ("\txacquire; lock; incl x\n", f"\t{TRAP_TEXT}\n\txacquire; lock; incl x\n"),
    ("\tje 1f; lock\n1:\tcmpxchg %eax, x\n", f"\tje 1f; {TRAP_TEXT}; lock\n1:\tcmpxchg %eax, x\n"),
    ("\tLOCK INCL x\n", f"\t{TRAP_TEXT}\n\tLOCK INCL x\n"),
    ("\tlock/incl x\n", f"\t{TRAP_TEXT}\n\tlock/incl x\n"),
    ("\t{disp32} lock incl x\n", f"\t{TRAP_TEXT}\n\t{{disp32}} lock incl x\n"),
    ("\tlock {disp32} incl x\n", f"\t{TRAP_TEXT}\n\tlock {{disp32}} incl x\n"),
    ("\tmovb $'#, %al; mfence\n", f"\tmovb $'#, %al; {TRAP_TEXT}; mfence\n"),
    ("\tmovb $'\", %al; mfence\n", f"\tmovb $'\", %al; {TRAP_TEXT}; mfence\n"),
    ("\tcpuid\n", f"\t{TRAP_TEXT}\n\tcpuid\n"),
    ("\t.byte 0xf0\n\tincl x\n", f"\t{TRAP_TEXT}\n\t.byte 0xf0\n\tincl x\n"),
]
CASES += [
    ("\t.byte 0xf0, 0xff, 0x07\n", f"\t{TRAP_TEXT}\n\t.byte 0xf0, 0xff, 0x07\n"),
    ("\t.byte 0x0f,0xae,0360\n", f"\t{TRAP_TEXT}\n\t.byte 0x0f,0xae,0360\n"),
    ("\trex.W lock incl (%rdi)\n", f"\t{TRAP_TEXT}\n\trex.W lock incl (%rdi)\n"),
    ("\tlock /* a\n b */ incl x\n", f"\t{TRAP_TEXT}\n\tlock /* a\n b */ incl x\n"),
    ("\t.data\n\t.text\n\tmfence\n", f"\t.data\n\t.text\n\t{TRAP_TEXT}\n\tmfence\n"),
    ("\t.pushsection .data,1\n.byte 240\n\t.popsection\n\tmfence\n",
     f"\t.pushsection .data,1\n.byte 240\n\t.popsection\n\t{TRAP_TEXT}\n\tmfence\n"),
    ('\t.section .x, "ax", @progbits\n\tmfence\n',
     f'\t.section .x, "ax", @progbits\n\t{TRAP_TEXT}\n\tmfence\n'),
    ("\t.section .text.hot\n\tmfence\n", f"\t.section .text.hot\n\t{TRAP_TEXT}\n\tmfence\n"),
]  # fmt: skip
UNTOUCHED = [
    # clang writes every byte of a table on a line of its own.
    '\t.section\t.rodata,"a",@progbits\nt:\t.byte\t240\n\t.byte\t1\n\t.size\tt, 2\n',
    "\t.data\n\t.byte 0xf0\n\tincl x\n",
    "\t.byte 0xe0\n\t.byte 0xf0\n\t.byte 1\n",
    "\t.byte 0xf0\n\t.data\n\t.text\n\tnop\n",
    "\t.section .rodata\n\t.byte 0x0f,0xae,0xf0\n",
    "\t.byte 0x0f,0xae\n",
    "\t.byte 089, 'a\n",
    "\txchg %ax, %ax\n",
    "\txchg %rax, %r12\n",
    "\txchg eax, r9d\n",
    '\t.string "lock; incl x"\n',
    '\t.string "a\\"; mfence"\n',
    "\t# lock incl x\n",
    "\t/* lock incl x\n mfence */ nop\n",
    "lock = 5\n",
    " / lock incl x\n",
    "\tmovb $'\\\\, %al\n",
    "\tvaddps %zmm1, %zmm2, %zmm3 {%k1}{z}\n",
    "lock_it:\n\tcall lock_it\n",
    "\tmov mfence, %eax\n",
    "\trep movsb\n\tincl x\n",
]


@pytest.mark.parametrize(("text", "wanted"), CASES)
def test_inserted(text: str, wanted: str) -> None:
    assert rewrite_text(text)[0] == wanted


@pytest.mark.parametrize("text", UNTOUCHED)
def test_untouched(text: str) -> None:
    assert rewrite_text(text) == (text, [])


def test_places() -> None:
    found = rewrite_text("nop\nlock incl x\nxchg %eax, x; sfence\n")[1]
    assert [(i.line, i.kind) for i in found] == [(2, Kind.LOCK), (3, Kind.XCHG), (3, Kind.SFENCE)]


@pytest.mark.parametrize("syntax", ["att", "intel"])
def test_compiler_output(syntax: str, tmp_path: Path) -> None:
    """gcc's own text: as many traps in the object as sites, the rest byte for byte the same."""
    from iced_x86 import Decoder

    from rewriter.decode import kind_of

    source = Path(__file__).parent / "programs" / "threads.c"
    text = tmp_path / "a.s"
    subprocess.run(
        ["gcc", "-O2", "-S", f"-masm={syntax}", "-o", str(text), str(source)], check=True
    )
    new, found = rewrite_text(text.read_text())
    (tmp_path / "b.s").write_text(new)
    code = []
    for name in ("a", "b"):
        obj, raw = tmp_path / f"{name}.o", tmp_path / f"{name}.bin"
        subprocess.run(["gcc", "-c", "-o", str(obj), str(tmp_path / f"{name}.s")], check=True)
        subprocess.run(
            ["objcopy", "-O", "binary", "-j", ".text", str(obj), str(raw)], check=True
        )  # fmt: skip
        code.append(raw.read_bytes())
    sites = sum(kind_of(i) is not None for i in Decoder(64, code[0]))
    assert sites == len(found) > 10
    assert code[1].count(b"\x8e\xc8") == code[0].count(b"\x8e\xc8") + sites


def test_long_texts_take_linear_time() -> None:
    """A hundred thousand sites: counting lines from the start for each took minutes."""
    text = "\tmov %eax,%ebx\n\tlock incl (%rdi)\n" * 30_000
    start = time.process_time()
    found = rewrite_text(text)[1]
    assert (len(found), found[-1].line) == (30_000, 60_000)
    assert time.process_time() - start < 10
