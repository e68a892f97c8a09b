# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps for arguments with pointers inside: iovec arrays, messages, argv.

The elements of an iovec array share one segment, in order: what the kernel fills is
then its first bytes. A struct iovec is two words; of struct msghdr there are two layouts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from supervisor.syscalls.build import (
    READ,
    USER_TOP,
    WRITE,
    Build,
    Decided,
    bad,
    fetch,
    fetch_parts,
    fetch_pointers,
    fetch_text,
    valid_prefix,
)
from supervisor.syscalls.call import LITERAL, Acquire, Segment
from supervisor.syscalls.spec import (
    BUFFER_MAX,
    RW_MAX,
    Message,
    Messages,
    Rule,
    Texts,
    Vector,
)

Steps = Generator[Acquire, None, None]

IOV_MAX: Final = 1024


class Header(NamedTuple):
    """struct msghdr: its size, that of struct mmsghdr, and where its fields are."""

    size: int
    with_count: int
    fields: struct.Struct
    """name, namelen, iov, iovlen, control, controllen"""
    name: int
    namelen: int
    iov: int
    control: int
    controllen: int


HEADERS: Final = {
    8: Header(56, 64, struct.Struct("<QixxxxQQQQ"), 0, 8, 16, 32, 40),
    4: Header(28, 32, struct.Struct("<IiIIII"), 0, 4, 8, 16, 20),
}
"""By the bytes of a word."""
_SOCKADDR_MAX: Final = 128
_CONTROL_MAX: Final = 1 << 20

ARGV_MAX: Final = 1 << 20
"""Strings; the kernel's own bound is their size (a quarter of the stack's)."""
ARGV_TEXT_MAX: Final = 131072
"""Bytes of one string: MAX_ARG_STRLEN of the kernel."""


class Pieces(NamedTuple):
    """An iovec array for the kernel: its bytes, where data goes, what is left out."""

    array: bytes
    pointers: list[tuple[int, int]]
    """(offset in the array, offset in the data)."""
    literals: list[tuple[int, int]]
    """(offset in the array, pointer): not mapped."""
    parts: list[tuple[int, int]]
    left: int


def cut(build: Build, raw: bytes, out: bool, done: int, whole: bool) -> Pieces:
    """Decide what of an iovec array one call transfers.

    The first `done` bytes are skipped, BUFFER_MAX at most are taken. What is not
    mapped ends a transfer, as in the kernel; with `whole` it makes the call fail.
    """
    access = WRITE if out else READ
    size = build.arch.word
    code, limit = build.arch.pointer.format[-1], build.arch.buffer_max
    words = list(struct.unpack(f"<{len(raw) // size}{code}", raw))
    lengths = words[1::2]
    negative = 8 * size - 1
    if any(
        n >> negative or b + n > USER_TOP for b, n in zip(words[::2], lengths, strict=True) if n
    ):
        # The kernel looks at all elements before it transfers any, and objects.
        literals = [(2 * size * i, bad(b)) for i, b in enumerate(words[::2])]
        return Pieces(raw, [], literals, [], 0)
    pieces = Pieces(b"", [], [], [], 0)
    skip, total, open_ = done, 0, True
    for i, length in enumerate(lengths):
        base = words[2 * i]
        skipped = min(skip, length)
        skip, base, length = skip - skipped, base + skipped, length - skipped
        take = min(length, limit - total) if open_ else 0
        if take and not build.guest.check(base, take, access):
            found = 0 if whole else valid_prefix(build.guest, base, take, access)
            open_ = whole
            if not found and (whole or not total):
                pieces.literals.append((2 * size * i, bad(base)))
                words[2 * i : 2 * i + 2] = 0, take
                continue
            take = found
        elif take < length:
            open_ = False
        if take:
            pieces.pointers.append((2 * size * i, total))
            pieces.parts.append((base, take))
            total += take
        words[2 * i : 2 * i + 2] = 0, take
    asked = min(sum(lengths), RW_MAX) - done
    cut_short = total == limit and asked > total
    array = struct.pack(f"<{len(words)}{code}", *words)
    return pieces._replace(array=array, left=asked - total if cut_short else 0)


def add_pieces(
    build: Build, pieces: Pieces, out: bool, least: int = 0, valid: tuple[int, int] | None = None
) -> Generator[Acquire, None, Segment]:
    """Add the data's segment; the array's segment, not yet added.

    `valid` is (segment, offset) of the word that will tell how much data came, if it
    is not the return value.
    """
    total = sum(length for _, length in pieces.parts)
    number = LITERAL
    if total:
        data = Segment(b"", total, parts=tuple(pieces.parts), least=least)
        number = build.add(data)
        if not out:
            data.data = yield from fetch_parts(build.guest, pieces.parts)
        elif valid is None:
            data.rule = Rule.RETURNED
        else:
            data.rule, (data.unit, data.base) = Rule.COUNTED, valid
    fixups = [(offset, number, start) for offset, start in pieces.pointers]
    fixups += [(offset, LITERAL, pointer) for offset, pointer in pieces.literals]
    return Segment(pieces.array, len(pieces.array), fixups=tuple(fixups))


def vector_step(index: int, kind: Vector) -> Callable[[Build], Steps]:
    def step(build: Build) -> Steps:
        address, count = build.args[index], build.args[kind.count]
        raw = None
        if address and 0 < count <= IOV_MAX:
            raw = yield from fetch(build.guest, address, count * 2 * build.arch.word)
        if raw is None:
            build.values[index] = bad(address)
            return
        pieces = cut(build, raw, kind.out, build.done, whole=False)
        build.left = pieces.left
        build.whole = 0 if kind.out else sum(length for _, length in pieces.parts)
        if build.done and kind.position is not None:
            build.move_position(kind.position)
        build.point(index, (yield from add_pieces(build, pieces, kind.out)))

    return step


class _Header(NamedTuple):
    """Where one struct msghdr lies: in which segment, at which byte of it."""

    segment: int
    offset: int
    least: int
    """The call's return value from which on it has been filled."""
    counter: tuple[int, int] | None
    """(segment, offset) of msg_len, for a struct mmsghdr."""


def _message(
    build: Build, raw: bytes, header: _Header, out: bool
) -> Generator[Acquire, None, list[tuple[int, int, int]]]:
    """Add what one msghdr (`raw`) points to; the fixups of its pointers."""
    guest, at, layout = build.guest, header.offset, HEADERS[build.arch.word]
    name, namelen, iov, iovlen, control, controllen = layout.fields.unpack_from(raw)
    fixups: list[tuple[int, int, int]] = []

    def refer(field: int, pointer: int, length: int, count_field: int) -> None:
        access = WRITE if out else READ
        if not pointer:
            return
        if length <= 0 or not guest.check(pointer, length, access):
            fixups.append((at + field, LITERAL, bad(pointer)))
            return
        segment = Segment(b"", length, address=pointer)
        if out:
            segment.rule, segment.least = Rule.COUNTED, header.least
            segment.unit, segment.base = header.segment, at + count_field
        else:
            build.pending.append((segment, pointer, length))
        fixups.append((at + field, build.add(segment), 0))

    refer(layout.name, name, min(namelen, _SOCKADDR_MAX), layout.namelen)
    length = controllen if controllen <= _CONTROL_MAX else 0
    refer(layout.control, control, length, layout.controllen)
    vector = None
    if iov and 0 < iovlen <= IOV_MAX:
        vector = yield from fetch(guest, iov, iovlen * 2 * build.arch.word)
    if vector is None:
        fixups.append((at + layout.iov, LITERAL, bad(iov)))
    else:
        pieces = cut(build, vector, out, 0, whole=True)
        array = yield from add_pieces(build, pieces, out, header.least, header.counter)
        fixups.append((at + layout.iov, build.add(array), 0))
    return fixups


def message_step(index: int, kind: Message) -> Callable[[Build], Steps]:
    def step(build: Build) -> Steps:
        address, size = build.args[index], HEADERS[build.arch.word].size
        raw = yield from fetch(build.guest, address, size)
        if raw is None or (kind.out and not build.guest.check(address, size, WRITE)):
            build.values[index] = bad(address)
            return
        segment = Segment(raw, size, int(kind.out and Rule.WHOLE), address=address)
        number = build.point(index, segment)
        fixups = yield from _message(build, raw, _Header(number, 0, 0, None), kind.out)
        segment.fixups = tuple(fixups)

    return step


def messages_step(index: int, kind: Messages) -> Callable[[Build], Steps]:
    def step(build: Build) -> Steps:
        address = build.args[index]
        # The kernel takes the first 1024, silently.
        count = min(build.args[kind.count] & 0xFFFFFFFF, IOV_MAX)
        size, each = HEADERS[build.arch.word][:2]
        length = count * each
        guest = build.guest
        raw = None
        if length and guest.check(address, length, WRITE):
            raw = yield from fetch(guest, address, length)
        if raw is None:
            build.values[index] = bad(address)
            return
        build.values[kind.count] = count
        segment = Segment(raw, length, Rule.RETURNED, each, 0, 0, address)
        number = build.point(index, segment)
        fixups: list[tuple[int, int, int]] = []
        for i in range(count):
            at = i * each
            header = _Header(number, at, i + 1, (number, at + size))
            one = raw[at : at + size]
            fixups += yield from _message(build, one, header, kind.out)
        segment.fixups = tuple(fixups)

    return step


def texts_step(index: int, kind: Texts) -> Callable[[Build], Steps]:
    del kind

    def step(build: Build) -> Steps:
        address = build.args[index]
        if not address:
            return
        word = build.arch.word
        pointers = yield from fetch_pointers(build.guest, address, ARGV_MAX, word)
        texts: list[bytes] = []
        offsets: list[int] = []
        total = 0
        for pointer in pointers:
            text = yield from fetch_text(build.guest, pointer, ARGV_TEXT_MAX)
            if text is None:
                raise Decided(-14)
            if text[-1] or total + len(text) > BUFFER_MAX:
                raise Decided(-7)
            texts.append(text)
            offsets.append(total)
            total += len(text)
        number = build.add(Segment(b"".join(texts), total)) if texts else LITERAL
        length = word * (len(pointers) + 1)
        fixups = tuple((word * i, number, offset) for i, offset in enumerate(offsets))
        build.point(index, Segment(bytes(length), length, fixups=fixups))

    return step
