# SPDX-License-Identifier: GPL-2.0-or-later
"""Clocks that programs read without a system call: a vDSO of our own.

The kernel's vDSO cannot be shown to the program: its code and data differ from
kernel to kernel, and a thread may be moved to another host in the middle of it.
So every host's control block holds the same small vDSO image, whose functions
call the native one of the host that they happen to run on, parked out of sight
in the control block, and go along the timeline from there to home's clock where the
host does not share home's (driver/host_clock.py; the sums are timeline.py's). They
read the host's generation before and after, and begin again where it has changed:
the thread has been moved, or the timelines were corrected. While it is odd, which
is while the supervisor writes some hundred bytes, they wait.

While a thread is in native code (`is_native`) it stays on its host. Its results
go through the stack, so that no other page of the program can fault there.

As in control.py, the code is assembled from the text below, checked by
tests/tracee/test_clock.py, and pasted.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from supervisor.arch import X86_64
from supervisor.tracee import control, inject
from supervisor.tracee.inject import Agent
from supervisor.tracee.maps import read_maps

NATIVE_NAMES: Final = frozenset(("[vdso]", "[vvar]", "[vvar_vclock]"))

_MREMAP_MAYMOVE: Final = 1
_MREMAP_FIXED: Final = 2
_SHT_DYNSYM: Final = 11
_SYMBOL: Final = struct.Struct("<IBBHQQ")

CLOCK_GETTIME: Final = X86_64.vdso + 0x400
GETTIMEOFDAY: Final = X86_64.vdso + 0x500
TIME: Final = X86_64.vdso + 0x580

CLOCK_GETTIME_SOURCE: Final = f"""
    cmp edi, 11
    ja system
    mov eax, 0x8f3
    bt eax, edi
    jae system
    push rbx
    push rbp
    push r12
    sub rsp, 32
    mov ebx, edi
    mov rbp, rsi
    mov r12d, {control.CLOCK:#x}
again:
    mov rax, [r12]
    test al, 1
    je begin
    pause
    jmp again
begin:
    mov [rsp + 16], rax
    mov rax, [r12 + 8]
    test rax, rax
    je unwind
    mov edi, ebx
    cmp dword ptr [r12 + 16], 0
    je native
    shl edi, 6
    mov edi, [r12 + rdi + {control.READINGS}]
native:
    mov rsi, rsp
    call rax
    test eax, eax
    jne unwind
    mov rax, [rsp]
    mov rdx, [rsp + 8]
    cmp dword ptr [r12 + 16], 0
    je same
    imul rax, rax, 1000000000
    add rax, rdx
    mov ecx, ebx
    shl ecx, 6
    lea rcx, [r12 + rcx + {control.READINGS + 8}]
    cmp rax, [rcx + 24]
    jl first
    add rcx, 24
first:
    xor edx, edx
    sub rax, [rcx]
    cmovs rax, rdx
    mov rsi, rax
    imul qword ptr [rcx + 16]
    shrd rax, rdx, 32
    add rax, rsi
    add rax, [rcx + 8]
    xor edx, edx
    mov ecx, 1000000000
    div rcx
same:
    mov rcx, [rsp + 16]
    cmp rcx, [r12]
    jne again
    mov [rbp], rax
    mov [rbp + 8], rdx
    xor eax, eax
    add rsp, 32
    pop r12
    pop rbp
    pop rbx
    ret
unwind:
    mov edi, ebx
    mov rsi, rbp
    add rsp, 32
    pop r12
    pop rbp
    pop rbx
system:
    mov eax, 228
    syscall
    ret
"""
"""0x8f3: clocks 0, 1, 4 to 7 and 11, which the vDSO reads; 6: log2 of a reading's size."""

GETTIMEOFDAY_SOURCE: Final = f"""
    test rsi, rsi
    jne other
    test rdi, rdi
    je other
    push rdi
    sub rsp, 16
    xor edi, edi
    mov rsi, rsp
    call {CLOCK_GETTIME:#x}
    pop rcx
    pop rax
    xor edx, edx
    mov esi, 1000
    div rsi
    pop rdi
    mov [rdi], rcx
    mov [rdi + 8], rax
    xor eax, eax
    ret
other:
    mov eax, 96
    syscall
    ret
"""

TIME_SOURCE: Final = f"""
    push rdi
    sub rsp, 16
    mov edi, 5
    mov rsi, rsp
    call {CLOCK_GETTIME:#x}
    pop rax
    pop rcx
    pop rdi
    test rdi, rdi
    je done
    mov [rdi], rax
done:
    ret
"""

CLOCK_GETTIME_BYTES: Final = bytes.fromhex(
    "83ff0b0f87df000000b8f30800000fa3f80f83d1000000535541544883ec2089fb4889f541bc0010"
    "0f00498b0424a8017404f390ebf44889442410498b4424084885c00f849200000089df41837c2410"
    "007408c1e706418b7c3c404889e6ffd085c07577488b0424488b54240841837c24100074444869c0"
    "00ca9a3b4801d089d9c1e106498d4c0c48483b41187c044883c11831d2482b01480f48c24889c648"
    "f76910480facd0204801f04803410831d2b900ca9a3b48f7f1488b4c2410493b0c240f8562ffffff"
    "488945004889550831c04883c420415c5d5bc389df4889ee4883c420415c5d5bb8e40000000f05c3"
)  # fmt: skip
GETTIMEOFDAY_BYTES: Final = bytes.fromhex(
    "4885f6752b4885ff7426574883ec1031ff4889e6e8e7feffff595831d2bee803000048f7f65f4889"
    "0f4889470831c0c3b8600000000f05c3"
)  # fmt: skip
TIME_BYTES: Final = bytes.fromhex(
    "574883ec10bf050000004889e6e86efeffff58595f4885ff7403488907c3"
)  # fmt: skip

_FUNCTIONS: Final = {
    "__vdso_clock_gettime": (CLOCK_GETTIME, CLOCK_GETTIME_BYTES),
    "__vdso_gettimeofday": (GETTIMEOFDAY, GETTIMEOFDAY_BYTES),
    "__vdso_time": (TIME, TIME_BYTES),
}
_NAME: Final = "linux-vdso.so.1"
_VERSION: Final = "LINUX_2.6"


def is_native(address: int) -> bool:
    """Is it in the kernel's own vDSO? Such code differs from host to host."""
    return control.PARK <= address < control.END


def vdso_image() -> bytes:
    """The shared object at `X86_64.vdso`: what libraries look for in a vDSO, and the code.

    Its addresses count from 0, as in the kernel's. It has a hash table, since
    that is what every C library and Go's runtime can read.
    """
    strings = b"\0"
    offsets: dict[str, int] = {}
    for name in (_NAME, _VERSION, *_FUNCTIONS):
        offsets[name] = len(strings)
        strings += name.encode() + b"\0"
    symbols = bytes(_SYMBOL.size)
    for name, (at, code) in _FUNCTIONS.items():
        symbols += _SYMBOL.pack(offsets[name], 0x12, 0, 1, at - X86_64.vdso, len(code))
    count = len(_FUNCTIONS) + 1
    # One bucket, whose chain runs down from the last symbol to the first.
    table = struct.pack(f"<{3 + count}I", 1, count, count - 1, *(0, *range(count - 1)))
    versions = struct.pack(f"<{count}H", 0, *(2,) * (count - 1))
    definitions = b"".join(
        struct.pack("<HHHHIII", 1, flags, index, 1, _elf_hash(name), 20, following)
        + struct.pack("<II", offsets[name], 0)
        for index, name, flags, following in ((1, _NAME, 1, 28), (2, _VERSION, 0, 0))
    )
    image = bytearray(64 + 2 * 56)
    places = {}
    for name, part in (
        ("table", table), ("symbols", symbols), ("strings", strings), ("versions", versions),
        ("definitions", definitions),
    ):  # fmt: skip
        image += bytes(-len(image) % 8)
        places[name] = len(image)
        image += part
    image += bytes(-len(image) % 8)
    dynamic_at = len(image)
    dynamic = b"".join(
        struct.pack("<qQ", *entry)
        for entry in (
            (14, offsets[_NAME]),  # DT_SONAME
            (4, places["table"]),  # DT_HASH
            (5, places["strings"]), (10, len(strings)),  # DT_STRTAB, DT_STRSZ
            (6, places["symbols"]), (11, _SYMBOL.size),  # DT_SYMTAB, DT_SYMENT
            (0x6FFFFFF0, places["versions"]),  # DT_VERSYM
            (0x6FFFFFFC, places["definitions"]), (0x6FFFFFFD, 2),  # DT_VERDEF, DT_VERDEFNUM
            (0, 0),
        )
    )  # fmt: skip
    image += dynamic
    assert len(image) <= CLOCK_GETTIME - X86_64.vdso
    for at, code in _FUNCTIONS.values():
        image += bytes(at - X86_64.vdso - len(image)) + code
    size = len(image)
    struct.pack_into(
        "<16sHHIQQQIHHHHHH", image, 0, b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2,
        64, 0, 0,
    )  # fmt: skip
    struct.pack_into("<IIQQQQQQ", image, 64, 1, 5, 0, 0, 0, size, size, 0x1000)  # PT_LOAD
    struct.pack_into(
        "<IIQQQQQQ", image, 120, 2, 4, dynamic_at, dynamic_at, dynamic_at, len(dynamic),
        len(dynamic), 8,
    )  # fmt: skip
    return bytes(image)


def _elf_hash(name: str) -> int:
    """The hash function of the System V ABI, which version definitions use."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF000_0000
        value = (value ^ high >> 24) & ~high
    return value


def park_native(pid: int, agent: Agent) -> int:
    """Move the kernel's vDSO of a guest process into the control block.

    The address of its clock_gettime there; 0 where there is none, or where it
    cannot be moved: it is gone then.
    """
    mappings = [each for each in read_maps(pid) if each.path in NATIVE_NAMES]
    if not mappings:
        return 0
    move = control.PARK - mappings[0].start
    found = 0
    for each in mappings:
        if each.path == "[vdso]":
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                image = os.pread(memory.fileno(), each.end - each.start, each.start)
            offset = symbol(image, b"__vdso_clock_gettime")
            found = each.start + move + offset if offset else 0
    if found and mappings[-1].end + move <= control.END:
        results = agent.run(
            [
                (
                    inject.SYS_MREMAP, each.start, each.end - each.start, each.end - each.start,
                    _MREMAP_MAYMOVE | _MREMAP_FIXED, each.start + move,
                )
                for each in mappings
            ]
        )  # fmt: skip
        if all(result >= 0 for result in results):
            return found
    agent.run(
        [
            (inject.SYS_MUNMAP, start, each.end - each.start)
            for each in mappings
            for start in (each.start, each.start + move)
        ]
    )
    return 0


def symbol(image: bytes, name: bytes) -> int:
    """The offset of a function in a vDSO's image (which has sections); 0 for none."""
    (sections_at,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    if sections_at + size * count > len(image):
        return 0
    headers = [
        struct.unpack_from("<IIQQQQII", image, sections_at + size * index)
        for index in range(count)
    ]
    for _, kind, _, _, at, length, link, _ in headers:
        if kind != _SHT_DYNSYM or link >= count:
            continue
        strings = headers[link][4]
        for entry in range(at, at + length, _SYMBOL.size):
            name_at, _, _, section, value, _ = _SYMBOL.unpack_from(image, entry)
            start = strings + name_at
            if section and image[start : image.index(b"\0", start)] == name:
                return int(value)
    return 0
