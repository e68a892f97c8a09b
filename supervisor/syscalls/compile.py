# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows into steps: one function for each pointer argument of a row.

A step adds to a `Build` what its argument contributes. One that has to look into
guest memory first is a generator; plain buffers only note what is to be read, so
that one acquisition serves all of a call's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from supervisor.syscalls.build import (
    READ,
    USER_TOP,
    WRITE,
    Build,
    bad,
    fetch,
    fetch_text,
    valid_prefix,
)
from supervisor.syscalls.call import LITERAL, Acquire, Segment
from supervisor.syscalls.narrow import wide
from supervisor.syscalls.nested import message_step, messages_step, texts_step, vector_step
from supervisor.syscalls.spec import (
    BUFFER_MAX,
    RW_MAX,
    Arg,
    Args,
    Buffer,
    Counted,
    Data,
    Kind,
    Length,
    Message,
    Messages,
    Opaque,
    Row,
    Rule,
    SelfSized,
    Struct,
    Text,
    Texts,
    Valid,
    Value,
    Vector,
)

Steps = Generator[Acquire, None, None]
Step = Callable[[Build], Steps | None]

_MASKS = {32: (1 << 32) - 1, 64: (1 << 64) - 1}


def measure(length: Length) -> Callable[[Args], int]:
    """A function from the arguments to a length in bytes; negative lengths are 0."""
    if isinstance(length, int):
        return lambda args: length
    if not isinstance(length, Arg):
        return length
    index, unit, bits, signed, base = length
    mask = _MASKS[bits]
    if not signed:
        return lambda args: (args[index] & mask) * unit + base
    sign = 1 << (bits - 1)

    def signed_length(args: Args) -> int:
        count = args[index] & mask
        return 0 if count & sign else count * unit + base

    return signed_length


def buffer_step(index: int, kind: Buffer) -> Step:
    length_of = measure(kind.length)
    reads, limit, clamp = kind.reads, kind.limit, kind.clamp
    rule, unit, base, least = kind.valid
    access = WRITE if rule else READ
    counter = kind.length if isinstance(kind.length, Arg) else None
    assert counter is not None or not clamp

    def step(build: Build) -> None:
        address = build.args[index]
        if not address:
            return
        length = length_of(build.args)
        most = min(limit, build.arch.buffer_max) if clamp else limit
        if kind.goes_on is not None and counter is not None and kind.goes_on(build.args):
            address += build.done
            total = min(length, RW_MAX) - build.done
            build.values[counter.position] = build.whole = length = min(total, most)
            build.left = total - length
        elif length > most:
            if not clamp or counter is None:
                build.values[index] = bad(address)
                return
            count = most // counter.unit
            build.values[counter.position] = count
            length = count * counter.unit
        if length <= 0:
            build.values[index] = bad(address)
            return
        mapped, keep = length, rule
        if not build.guest.check(address, length, access):
            if kind.prefix:
                mapped = valid_prefix(build.guest, address, length, access)
            elif kind.optional and build.guest.check(address, length, READ):
                keep = Rule.NONE
            elif reads or not build.guest.check(address, 1, access):
                mapped = 0
            if not mapped:
                build.values[index] = bad(address)
                return
        segment = Segment(b"", length, keep, unit, base, least, address)
        build.point(index, segment)
        if reads:
            build.pending.append((segment, address, mapped))

    return step


def opaque_step(index: int) -> Step:
    def step(build: Build) -> None:
        build.values[index] = bad(build.args[index])

    return step


def data_step(index: int, kind: Data) -> Step:
    counter, position = kind.count, kind.position
    access = WRITE if kind.out else READ
    rule = Rule.RETURNED if kind.out else Rule.NONE

    def step(build: Build) -> None:
        address, count, done = build.args[index], build.args[counter], build.done
        if not address:
            return
        if address + count > USER_TOP or count == done:
            build.values[index] = bad(address)
            return
        address += done
        total = min(count, RW_MAX) - done
        length = min(total, build.arch.buffer_max)
        if build.guest.check(address, length, access):
            build.left = total - length
        else:
            length = 0 if kind.whole else valid_prefix(build.guest, address, length, access)
            if not length:
                build.values[index] = bad(address)
                return
        build.values[counter] = length
        build.whole = 0 if kind.out else length
        if done and position is not None:
            build.move_position(position)
        segment = Segment(b"", length, rule, 1, 0, 0, address)
        build.point(index, segment)
        if not rule:
            build.pending.append((segment, address, length))

    return step


def text_step(index: int, kind: Text) -> Step:
    limit = kind.limit

    def step(build: Build) -> Steps:
        address = build.args[index]
        if not address:
            return
        data = yield from fetch_text(build.guest, address, limit)
        if data is None:
            build.values[index] = bad(address)
        else:
            build.point(index, Segment(data, len(data)))

    return step


def counted_step(index: int, kind: Counted) -> Step:
    def step(build: Build) -> Steps:
        guest = build.guest
        address, length_address = build.args[index], build.args[kind.length]
        data = None
        if length_address and guest.check(length_address, 4, WRITE):
            data = yield from fetch(guest, length_address, 4)
        if data is None:
            build.values[kind.length] = bad(length_address)
            build.values[index] = bad(address)
            return
        rule, unit, base, least = _CHANGED
        counter = build.point(
            kind.length, Segment(data, 4, rule, unit, base, least, length_address)
        )
        if not address:
            return
        length = int.from_bytes(data, "little", signed=True)
        if length > kind.limit:
            length = kind.limit if kind.clamp else 0
        if length <= 0 or not guest.check(address, length if kind.reads else 1, WRITE):
            build.values[index] = bad(address)
            return
        segment = Segment(b"", length, Rule.COUNTED, counter, 0, 0, address)
        build.point(index, segment)
        if kind.reads:
            build.pending.append((segment, address, length))

    return step


_CHANGED = Valid(Rule.WHOLE, least=-4096)


def struct_step(index: int, kind: Struct) -> Step:
    rule, unit, base, least = kind.valid

    def step(build: Build) -> Steps:
        guest, address = build.guest, build.args[index]
        if not address:
            return
        data = yield from fetch(guest, address, kind.length)
        if data is None or (rule and not guest.check(address, kind.length, WRITE)):
            build.values[index] = bad(address)
            return
        segment = Segment(data, kind.length, rule, unit, base, least, address)
        number = build.point(index, segment)
        fixups: list[tuple[int, int, int]] = []
        for inner in kind.inner:
            pointer = build.arch.pointer_at(data, inner.offset)
            length = inner.length(data)
            if not pointer or length < 0:
                continue
            access = WRITE if inner.valid.rule else READ
            if not 0 < length <= BUFFER_MAX or not guest.check(pointer, length, access):
                fixups.append((inner.offset, LITERAL, bad(pointer)))
                continue
            valid = inner.valid
            target = valid.unit if valid.rule is not Rule.COUNTED else number
            child = Segment(b"", length, valid.rule, target, valid.base, valid.least, pointer)
            fixups.append((inner.offset, build.add(child), 0))
            if inner.reads:
                build.pending.append((child, pointer, length))
        segment.fixups = tuple(fixups)

    return step


def self_sized_step(index: int, kind: SelfSized) -> Step:
    rule, unit, base, least = kind.valid
    access = WRITE if rule else READ

    def step(build: Build) -> Steps:
        guest, address = build.guest, build.args[index]
        if not address:
            return
        header = yield from fetch(guest, address, kind.header)
        length = kind.length(header) if header is not None else 0
        if not 0 < length <= BUFFER_MAX or not guest.check(address, length, access):
            build.values[index] = bad(address)
            return
        segment = Segment(b"", length, rule, unit, base, least, address)
        build.point(index, segment)
        build.pending.append((segment, address, length))

    return step


def _step(index: int, kind: Kind) -> Step | None:
    match kind:
        case Value():
            return None
        case Opaque():
            return opaque_step(index)
        case Buffer():
            return buffer_step(index, kind)
        case Data():
            return data_step(index, kind)
        case Text():
            return text_step(index, kind)
        case Counted():
            return counted_step(index, kind)
        case Vector():
            return vector_step(index, kind)
        case Message():
            return message_step(index, kind)
        case Messages():
            return messages_step(index, kind)
        case Texts():
            return texts_step(index, kind)
        case Struct():
            return struct_step(index, kind)
        case SelfSized():
            return self_sized_step(index, kind)
    raise AssertionError(kind)


def compile_row(row: Row) -> tuple[Step, ...]:
    """The steps of a row, in the order of its arguments."""
    steps = (_step(index, wide(kind)) for index, kind in enumerate(row.args))
    return tuple(step for step in steps if step is not None)
