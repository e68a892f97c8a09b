# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding sites: every kind, gaps by strong roots, Go's function table, no unwind table."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from rewriter.elf import Elf
from rewriter.errors import Unsupported
from rewriter.frames import frame_section
from rewriter.kinds import Kind
from rewriter.plan import Options, make_plan
from rewriter.rewrite import plan_bytes
from rewriter.sites import find_code
from tests.rewriter.conftest import Compile

KINDS = {
    Kind.LOCK: [
        "lock addl $1, (%rdi)", "lock xadd %eax, (%rdi)", "lock cmpxchg16b (%rdi)",
        "lock btsl $1, (%rdi)", "lock notq (%rdi)", "lock xchg %eax, (%rdi)",
        "xacquire lock decl (%rdi)", "lock orq $0, (%rsp)", "lock incl %fs:0x10",
    ],
    Kind.XCHG: ["xchg %al, (%rdi)", "xchg %ax, (%rdi)", "xchg %r12, word(%rip)"],
    Kind.MFENCE: ["mfence"],
    Kind.SFENCE: ["sfence"],
    Kind.LFENCE: ["lfence"],
    Kind.CPUID: ["cpuid"],
    Kind.SERIALIZE: [".byte 0x0f, 0x01, 0xe8"],
}  # fmt: skip
NOT_SITES = ["xchg %eax, %ebx", "nop", "pause", "clflush (%rdi)", "mov %eax, (%rdi)", "rdtsc"]


def _assemble(text: str, directory: Path, *flags: str) -> Elf:
    source, out = directory / "a.s", directory / "a.so"
    source.write_text(text + '\n .section .note.GNU-stack,"",@progbits\n')
    command = ["gcc", "-shared", "-nostdlib", *flags, "-o", str(out), str(source)]
    subprocess.run(command, check=True)
    return Elf(out.read_bytes(), "a.so")


def _function(name: str, body: str, cfi: bool = True) -> str:
    begin, end = (".cfi_startproc", ".cfi_endproc") if cfi else ("", "")
    return (
        f".text\n.globl {name}\n.type {name}, @function\n{name}: {begin}\n{body}\nret\n"
        f"{end}\n.size {name}, . - {name}\n"
    )


def test_file_that_its_entry_point_reaches_whole(tmp_path: Path) -> None:
    """No unwind table, no sized symbol: all is gap, and all of the gap is followed."""
    source, out = tmp_path / "tiny.s", tmp_path / "tiny"
    source.write_text(".globl _start\n_start: lock addl $1,-8(%rsp); mov $60,%eax; syscall\n")
    subprocess.run(["gcc", "-nostdlib", "-static", "-o", str(out), str(source)], check=True)
    code = find_code(Elf(out.read_bytes(), "tiny"))
    assert [site.kind for site in code.sites] == [Kind.LOCK]
    assert not code.partial


def test_damaged_unwind_table(compile_program: Compile) -> None:
    """What the kernel does not read is no reason not to run a file."""
    data = bytearray(compile_program("plugin.c", "-shared", "-fPIC").read_bytes())
    elf = Elf(bytes(data), "f")
    where = frame_section(elf)
    assert where is not None
    segment = elf.segment_at(where[0])
    assert segment is not None
    struct.pack_into("<I", data, where[0] - segment.vaddr + segment.offset, 0x7FFF_FFF0)
    with pytest.raises(Unsupported, match="unwind table is damaged"):
        plan_bytes(bytes(data), "f", Options())


def test_kinds(tmp_path: Path) -> None:
    lines = [(kind, line) for kind, many in KINDS.items() for line in many]
    body = "\n".join([line for _, line in lines] + NOT_SITES)
    elf = _assemble(_function("f", body) + ".data\nword: .quad 0\n", tmp_path)
    code = find_code(elf)
    assert [s.kind for s in code.sites] == [kind for kind, _ in lines]
    assert {code.function_at(s.address) for s in code.sites} == {"f"}
    assert all(s.length == 3 for s in code.sites if s.kind is Kind.SERIALIZE)


def test_gap_reached_by_a_call_only(tmp_path: Path) -> None:
    """Code without frame or symbol is followed from a call; data beside it is left alone."""
    text = (
        _function("f", "call .Lhidden\n lea .Ltable(%rip), %rax")
        + ".balign 16\n.Lhidden: jmp 1f\n .byte 0xf0, 0xff, 0x07\n 1: lock incl (%rdi)\n ret\n"
        + ".Ltable: .byte 0xf0, 0xff, 0x07, 0xc3, 0x0f, 0xae, 0xf0, 0xc3\n"
    )
    elf = _assemble(text, tmp_path, "-s")
    sites = find_code(elf).sites
    assert [s.kind for s in sites] == [Kind.LOCK]
    assert elf.read(sites[0].address - 3, 3) == b"\xf0\xff\x07"


def test_symbols_alone(tmp_path: Path) -> None:
    """No unwind table at all: symbols with a size are ranges."""
    elf = _assemble(_function("f", "mfence", cfi=False), tmp_path)
    assert [s.kind for s in find_code(elf).sites] == [Kind.MFENCE]


def test_stripped_without_frames_is_not_guessed(tmp_path: Path) -> None:
    text = ".text\n nop\n ret\n lock incl (%rdi)\n ret\n"
    assert find_code(_assemble(text, tmp_path, "-s")).sites == []


@pytest.mark.parametrize("version", ["1.2", "1.16", "1.18", "1.20"])
def test_go_function_table(version: str, tmp_path: Path) -> None:
    """The function table of each Go release gives the ranges."""
    body = ".Lfirst: lock incl (%rdi)\n ret\n .balign 16, 0xcc\n.Lsecond: mfence\n ret\n.Lend:\n"
    quad = {"f": ".Lfirst", "s": ".Lsecond", "e": ".Lend"}
    head = {
        "1.2": "0xfffffffb", "1.16": "0xfffffffa", "1.18": "0xfffffff0", "1.20": "0xfffffff1",
    }[version]  # fmt: skip
    table = f'.section .gopclntab,"aw"\n.Ltab: .long {head}\n .byte 0, 0, 1, 8\n .quad 2\n'
    if version == "1.2":
        table += f" .quad {quad['f']}, 0, {quad['s']}, 0, {quad['e']}\n"
    elif version == "1.16":
        table += " .quad 0, 0, 0, 0, 0, .Lfunc - .Ltab\n"
        table += f".Lfunc: .quad {quad['f']}, 0, {quad['s']}, 0, {quad['e']}\n"
    else:
        table += " .quad 0, .Lfirst, 0, 0, 0, 0, .Lfunc - .Ltab\n"
        table += ".Lfunc: .long 0, 0, .Lsecond - .Lfirst, 0, .Lend - .Lfirst\n"
    source = tmp_path / "go.s"
    source.write_text(".text\n.globl _start\n_start: nop\n ret\n.balign 16, 0xcc\n" + body + table)
    out = tmp_path / "go"
    subprocess.run(
        ["gcc", "-nostdlib", "-static", "-no-pie", "-s", "-o", str(out), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    code = find_code(Elf(out.read_bytes(), "go"))
    assert code.is_go
    assert [s.kind for s in code.sites] == [Kind.LOCK, Kind.MFENCE]


def test_no_header_to_spare_is_refused(tmp_path: Path) -> None:
    elf = _assemble(_function("f", "mfence"), tmp_path, "-Wl,--build-id=none,-z,noseparate-code")
    data = bytearray(elf.data)
    for i, s in enumerate(elf.segments):
        if s.type in (0, 4, 0x6474E552, 0x6474E553):
            # A type nobody knows, which might matter to somebody.
            struct.pack_into("<I", data, elf.phoff + i * elf.phentsize, 0x6FFFFFFF)
    from rewriter.rewrite import rewrite_bytes

    with pytest.raises(Unsupported, match="no program header to spare"):
        rewrite_bytes(bytes(data), "f")


def test_wide_code_is_refused(tmp_path: Path) -> None:
    """Two code segments a gigabyte apart: no trampoline is in safe reach of the first."""
    far = _function("g", "lock addl $1, (%rdi)\nmov %eax, %ebx").replace(
        ".text", '.section .far,"ax"'
    )
    text = _function("f", "lock addl $1, (%rdi)\nmov %eax, %ebx") + far
    elf = _assemble(text, tmp_path, "-Wl,--section-start=.far=0x50000000")
    with pytest.raises(Unsupported, match="no room for trampolines within reach of 0x1000"):
        make_plan(elf, Options())


def test_a_file_that_checks_itself_is_refused(tmp_path: Path) -> None:
    elf = _assemble(_function("f", "mfence"), tmp_path)
    with pytest.raises(Unsupported, match=r"/x/fips\.so: .* checks a hash of itself"):
        plan_bytes(elf.data, "/x/fips.so", Options())


def test_a_go_program_without_its_table_is_refused(tmp_path: Path) -> None:
    """Nothing else describes Go's code."""
    text = _function("f", "lock incl (%rdi)") + '.section .go.buildinfo,"aw"\n.quad 0\n'
    with pytest.raises(Unsupported, match="a Go program whose function table cannot be read"):
        find_code(_assemble(text, tmp_path))


def _without_sections(data: bytes) -> bytes:
    out = bytearray(data)
    out[40:48], out[58:64] = bytes(8), bytes(6)
    return bytes(out)


@pytest.mark.parametrize("flags", [(), ("-static",)])
def test_no_section_headers(flags: tuple[str, ...], compile_program: Compile) -> None:
    """The frame table is found, and its end, by the program headers."""
    data = compile_program("threads.c", "-pthread", *flags).read_bytes()
    if flags:
        # Static programs have no header of the frame table: what is found are no ranges.
        assert find_code(Elf(_without_sections(data), "f")).partial
        return
    sites = find_code(Elf(data, "f")).sites
    assert len(sites) > 5
    assert find_code(Elf(_without_sections(data), "f")).sites == sites


def test_partial(compile_program: Compile, tmp_path: Path) -> None:
    """Code that nothing describes is said to be there; the same with symbols is found.

    So it is in a static program, most of which is the C library, whose code is described.
    """
    bare = ("-pthread", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    for flags in (bare, (*bare, "-static")):
        whole = compile_program("threads.c", *flags)
        stripped = compile_program("threads.c", *flags, "-s")
        found = [find_code(Elf(p.read_bytes(), "f")) for p in (whole, stripped)]
        assert [c.partial for c in found] == [False, True]
        assert len(found[0].sites) > len(found[1].sites)


@pytest.mark.parametrize(
    ("hidden", "partial"),
    [
        ("lock addl $1, (%rdi)\n ret", True),
        (".byte 0x06\n lock addl $1, (%rdi)\n ret", False),
        ("taken: lock addl $1, (%rdi)\n ret\n .byte 0x06", True),
        (".byte 0x06\n taken: lock addl $1, (%rdi)\n ret", True),
        ("taken: .quad 0x01f006, 0x3b9af006", False),
    ],
    ids=["code", "data", "code before data", "code behind data", "table"],
)
def test_what_nothing_describes(hidden: str, partial: bool, tmp_path: Path) -> None:
    """Between described functions: what reads as code may be some, reached by a pointer."""
    body = ".rept 50\n mov %eax, %ecx\n .endr\n lea taken(%rip), %rax"
    text = _function("f", body) + hidden + "\n" + _function("g", "nop")
    if "taken:" not in hidden:
        text += ".data\n taken: .quad 0\n"
    assert find_code(_assemble(text, tmp_path, "-s")).partial is partial


def test_relro_makes_way_last(tmp_path: Path) -> None:
    """A file linked without notes, as musl's are."""
    elf = _assemble(_function("f", "mfence"), tmp_path, "-Wl,--build-id=none,-z,noseparate-code")
    data = bytearray(elf.data)
    for i, s in enumerate(elf.segments):
        if s.type in (0, 4, 0x6474E553):
            struct.pack_into("<I", data, elf.phoff + i * elf.phentsize, 0x6FFFFFFF)
    from rewriter.rewrite import rewrite_bytes

    out, _ = rewrite_bytes(bytes(data), "f")
    assert out is not None
    old, new = ([s.type for s in Elf(d, "f").segments] for d in (bytes(data), out))
    assert old.count(0x6474E552) == 1 and 0x6474E552 not in new
    assert new.count(1) == old.count(1) + 1


def test_data_among_code(compile_program: Compile) -> None:
    """Bytes that are jumped over and a table in the text: what is behind them is found."""
    code = find_code(Elf(compile_program("tangled.c").read_bytes(), "tangled"))
    found = [s.kind for s in code.sites if code.function_at(s.address) in ("skips", "chooses")]
    assert found == [Kind.LOCK, Kind.XCHG, Kind.LOCK, Kind.LOCK, Kind.XCHG]
    assert not code.partial


def test_what_cannot_be_read_is_not_touched(tmp_path: Path) -> None:
    """Behind a jump to who knows where: code, or not. Its traps are missed, and that is told."""
    body = """
     jmp *%rax
     .byte 0x48, 0xb8
     jmp 1f
     .byte 0x0f, 0xff
  1: lock addl $1, (%rdi)
     jmp 2f
     .byte 0xf0
  2: mov %eax, %ecx
    """
    code = find_code(_assemble(_function("f", body), tmp_path))
    assert code.sites == [] and code.partial
