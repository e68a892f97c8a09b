# SPDX-License-Identifier: GPL-2.0-or-later
"""Each tactic on a function made for it: chosen, sound on every path, right when run."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from rewriter.cache import rewritten
from rewriter.elf import Elf
from rewriter.kinds import TRAP
from rewriter.placement import FILL, Arena
from rewriter.plan import Options, make_plan
from rewriter.templates import always, check
from tests.rewriter import native
from tests.rewriter.paths import Checker

# Each body may use rdi (address of a word that holds 5) and leaves its result in eax.
CASES = {
    "direct": "lock addl $7, 8(%rdi)\n mov 8(%rdi), %eax",
    "following": "mov $7, %eax\n lock xadd %eax, (%rdi)\n add $1, %eax",
    "following-branch": "mov $7, %eax\n xchg %eax, (%rdi)\n jnz 1f\n mov $9, %eax\n 1: inc %eax",
    "following-loop": "mov $3, %eax\n 1: lock decl (%rdi)\n dec %eax\n jnz 1b\n mov (%rdi), %eax",
    "following-relative": "mov $7, %eax\n xchg %eax, (%rdi)\n lea value(%rip), %rcx\n"
    " add (%rcx), %eax",
    "preceding": "mov $7, %eax\n xchg %eax, (%rdi)\n call 2f",
    "preceding-push": "push %rbx\n mov $7, %eax\n nop\n push %rax\n xchg %eax, (%rdi)\n"
    " call 2f\n pop %rbx\n pop %rbx",
    "lock-group": "mov $7, %ecx\n mov $5, %eax\n cmp %ecx, %eax\n je 1f\n lock\n"
    " 1: cmpxchg %ecx, (%rdi)\n mov (%rdi), %eax",
    "lock-group-taken": "mov $7, %ecx\n mov $5, %eax\n cmp %eax, %eax\n je 1f\n lock\n"
    " 1: cmpxchg %ecx, (%rdi)\n mov (%rdi), %eax",
    "split": "mov $7, %ecx\n mov $5, %eax\n cmp %eax, %eax\n je 1f\n nop\n lock\n"
    " 1: cmpxchg %ecx, value2(%rip)\n mov $8, %eax",
    "padding": "mov $2, %ecx\n mov $7, %eax\n jmp 1f\n .balign 16\n 1: xchg %eax, (%rdi)\n"
    " 3: dec %ecx\n jz 1f\n jmp 3b\n .nops 11\n 1: nop",
    "neighbour": "mov $2, %ecx\n mov $7, %eax\n jmp 1f\n 1: xchg %eax, (%rdi)\n"
    " 3: dec %ecx\n jnz 3b\n lea 1(%rax), %eax\n lea value(%rip), %rdx\n lea -1(%rax), %eax",
    "in-place": "mov $2, %ecx\n mov $7, %eax\n jmp 1f\n 1: xchg %eax, (%rdi)\n"
    " 3: dec %ecx\n jnz 3b\n call 2f\n call 2f",
    "stack": "push $4\n mov $7, %eax\n lock xadd %eax, (%rsp)\n pop %rcx\n add %ecx, %eax",
    "red-zone": "movl $4, -8(%rsp)\n mov $7, %eax\n lock xadd %eax, -8(%rsp)\n add -8(%rsp), %eax",
    "flags": "xor %eax, %eax\n stc\n mov $1, %ecx\n xchg %ecx, (%rdi)\n adc $0, %eax\n"
    " std\n mfence\n pushfq\n pop %rdx\n cld\n shr $10, %edx\n and $1, %edx\n add %edx, %eax",
    "flags-kept-by-inc": "stc\n lock incl (%rdi)\n mov $0, %eax\n adc (%rdi), %eax",
    "flags-read-by-adc": "stc\n lock adcl $3, (%rdi)\n mov (%rdi), %eax",
    "flags-kept-by-xchg": "stc\n mov $3, %eax\n xchg %eax, (%rdi)\n mov $0, %ecx\n"
    " mov (%rdi), %edx\n adc %edx, %eax",
    "flags-kept-by-shift": "stc\n mov $3, %eax\n mov $0, %ecx\n xchg %eax, (%rdi)\n"
    " shl %cl, %edx\n adc $0, %eax",
    "flags-bit-test": "xor %eax, %eax\n lock btsl $0, (%rdi)\n adc $4, %eax\n"
    " lock btrl $1, (%rdi)\n adc (%rdi), %eax",
    "fences": "mfence\n lfence\n sfence\n mov (%rdi), %eax",
    "cpuid": "push %rbx\n xor %eax, %eax\n cpuid\n pop %rbx\n mov $6, %eax",
    "byte-operands": "mov $7, %al\n mov $9, %ah\n lock xadd %ah, 1(%rdi)\n xchg %al, (%rdi)\n"
    " movzbl %al, %eax",
    "relative-operand": "mov $3, %eax\n lock xadd %eax, value2(%rip)",
    "rcx-operand": "mov $3, %ecx\n lock xadd %ecx, (%rdi)\n mov %ecx, %eax\n"
    " xchg %rcx, 8(%rdi,%rcx,1)",
}
TACTIC_OF = {
    "following-branch": "following", "following-loop": "following", "stack": "direct",
    "following-relative": "following", "preceding-push": "preceding",
    "lock-group-taken": "lock-group", "red-zone": "direct",
}  # fmt: skip

FRAME = """
        .globl main
        .type main, @function
main:   .cfi_startproc
        sub $8, %rsp
        .cfi_adjust_cfa_offset 8
        lea word(%rip), %rdi
        call body
        add $8, %rsp
        .cfi_adjust_cfa_offset -8
        ret
        .cfi_endproc
        .size main, . - main
        .type body, @function
        .balign 16
body:   .cfi_startproc
        BODY
        ret
2:      ret
        .cfi_endproc
        .size body, . - body
        .data
        .balign 8
word:   .quad 5, 0, 0
value:  .quad 30
value2: .quad 5
        .section .note.GNU-stack,"",@progbits
"""


def _build(body: str, directory: Path) -> str:
    source = directory / "case.s"
    source.write_text(FRAME.replace("BODY", body))
    program = directory / "case"
    subprocess.run(["gcc", "-o", str(program), str(source)], check=True)
    return str(program)


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, launcher: Path, cache: Path, tmp_path: Path) -> None:
    program = _build(CASES[name], tmp_path)
    expected = native.run_natively(program, [])
    result = rewritten(program, cache)
    Checker(Path(program).read_bytes(), result).check()
    wanted = TACTIC_OF.get(name, name)
    if wanted in ("split", "direct", "following", "preceding", "lock-group", "padding",
                  "neighbour", "in-place"):  # fmt: skip
        assert wanted in result.tactics
    prepared = native.prepare(program, tmp_path / "run", cache)
    for armed in (False, True):
        seen = native.run(launcher, prepared, [], armed=armed)
        assert seen.status == expected.status
        assert seen.redirects == (1 if name == "split" else 0)


def test_always_is_a_bare_trap() -> None:
    assert always(64).code == TRAP
    assert always(64).depths == ((0, 0),)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("armed", [0x1000, 0x102000, 0x7FFFFFFF])
def test_check_is_what_it_says(bits: int, light: bool, armed: int) -> None:
    made = check(bits, armed, light)
    assert TRAP not in made.code and made.outlying.count(TRAP) == 1
    assert made.outlying[made.trap : made.trap + 2] == TRAP
    assert made.outlying_depths[-1] == (made.trap, 0)
    assert (made.in_line is None) == light
    for form in (made, made.in_line or made):
        assert form.code.count(armed.to_bytes(4, "little")) == 1
        assert form.depths[0] == (0, 0)
    if made.in_line:
        assert made.in_line.code[made.in_line.trap :][:2] == TRAP and not made.in_line.outlying


def test_check_refuses_an_address_out_of_reach() -> None:
    with pytest.raises(ValueError, match="31 bits"):
        check(64, 1 << 31, False)


@pytest.mark.parametrize("held", [{1}, {2}, {3}, {4}, {1, 2}, {2, 3, 4}, {1, 2, 3, 4}])
def test_placement_makes_boundaries_trap(held: set[int]) -> None:
    """Each constrained byte of the jump is an opcode that the processor refuses."""
    from iced_x86 import Decoder

    arena = Arena(64, 0x1000, 0x200000)
    seen = []
    for start in range(0x1234, 0x90000, 0x3333):
        at = arena.place(start, tuple(start + b for b in held), 60)
        rel = (at - start - 5).to_bytes(4, "little")
        code = b"\xe9" + rel + bytes([FILL[64]]) * 8
        for b in held:
            assert Decoder(64, code[b:]).decode().is_invalid, (hex(start), b)
        seen.append((at, at + 60))
    seen.sort()
    assert all(a[1] <= b[0] for a, b in pairwise(seen))
    lo, hi = arena.span()
    assert lo <= seen[0][0] and seen[-1][1] <= hi


def test_patches_are_disjoint_and_cover_each_site() -> None:
    path = "/lib/x86_64-linux-gnu/libc.so.6"
    if not Path(path).exists():
        pytest.skip("no libc there")
    plan = make_plan(Elf(Path(path).read_bytes(), path), Options())
    ranges = [(p.patch.start, p.patch.end) for p in plan.placed]
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))
    served = [t.address for t in plan.traps.values()]
    assert set(served) >= {s.address for s in plan.code.sites}
    code = sorted((p.address, p.address + len(p.code)) for p in plan.placed)
    assert all(a[1] <= b[0] for a, b in pairwise(code))
