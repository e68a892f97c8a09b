# SPDX-License-Identifier: GPL-2.0-or-later
"""Marshalling: a system call's buffers out of guest memory, into scratch, and back.

    origin   gather   what the kernel will read, out of the calling thread's memory
    home     place    into memory private to home's process; the call runs there
    home     collect  what the kernel wrote
    origin   scatter  into the calling thread's memory

Why: the kernel does not raise SIGSEGV for a page that the coherence protocol has
taken away, it fails with EFAULT or loses data; and memory of other hosts it cannot
see at all. The calling thread's stores meanwhile are nobody's: it is stopped.

Transfers over BUFFER_MAX go in pieces, so that no host needs memory for all:

    done = 0
    while True:
        call = yield from gather(row, args, guest, done)
        ...
        value = yield from scatter(row, args, call, result, guest)
        if value < 0:
            break
        done += value
        if not goes_on(call, value):
            break
    answer = done or value
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable

from supervisor.errors import PeerError, UnsupportedError
from supervisor.syscalls.build import (
    PIECE,
    WRITE,
    Build,
    Decided,
    fetch_pending,
    groups,
)
from supervisor.syscalls.call import (
    LITERAL,
    Acquire,
    BadAddress,
    Call,
    Guest,
    Result,
    Scratch,
    Segment,
)
from supervisor.syscalls.compile import Step, compile_row
from supervisor.syscalls.spec import BUFFER_MAX, Args, Row, Rule, Where
from supervisor.units import PAGE_MASK

__all__ = [
    "PIECE",
    "Acquire",
    "BadAddress",
    "Call",
    "Guest",
    "Result",
    "Scratch",
    "Segment",
    "collect",
    "gather",
    "goes_on",
    "place",
    "resolve",
    "scatter",
]

EFAULT = 14

_steps: dict[Row, tuple[tuple[Step, ...], int]] = {}
"""Steps of each row, and how many arguments it has; made on first use."""


def resolve(row: Row, args: Args) -> Row:
    """The row for these arguments: of an ioctl, say, that of its request."""
    while row.choose is not None:
        row = row.choose(args)
    return row


def gather(
    row: Row, args: Args, guest: Guest, done: int = 0
) -> Generator[Acquire, None, Call | int]:
    """The call to run, or its outcome where that is known without (a negative errno).

    `args` are the six argument registers, unsigned. `done` bytes of a long transfer
    have been made by earlier calls. Raises UnsupportedError for a call that is
    refused for good.
    """
    assert row.unwrap is None
    arch, number = row.arch, row.number
    if row.choose is not None:
        row = resolve(row, args)
    compiled = _steps.get(row)
    if compiled is None:
        compiled = _steps[row] = (compile_row(row), len(row.args))
    steps, count = compiled
    if row.answer is not None:
        return row.answer
    if row.where is Where.REFUSE:
        raise UnsupportedError(f"system call {row.name}: {row.why}")
    if row.runs_as:
        number = arch.numbers[row.runs_as]
    values = list(args[:count])
    if not steps:
        return Call(number, values)
    build = Build(arch, args, guest, values, done)
    try:
        for step in steps:
            more = step(build)
            if more is not None:
                yield from more
        if build.pending:
            yield from fetch_pending(build)
    except Decided as decided:
        return decided.value
    except BadAddress:
        return -EFAULT
    return Call(
        number, values, build.pointers, build.segments, build.left, arch.buffer_max, arch.word,
        build.whole,
    )


_POINTERS = {8: struct.Struct("<Q"), 4: struct.Struct("<I")}
_SELF_CONTAINED = (Rule.WHOLE, Rule.RETURNED)


def _check(call: Call) -> None:
    """PeerError unless everything that a call refers to lies within it."""
    segments, count = call.segments, len(call.segments)
    sound = call.word in _POINTERS and len(call.args) <= 6 and all(
        0 <= argument < 6 and 0 <= number < count for argument, number in call.pointers
    )
    for segment in segments:
        rule, base, length = segment.rule, segment.base, segment.length
        sound = sound and len(segment.data) <= length <= 2 * BUFFER_MAX
        if rule == Rule.COUNTED:
            at = segment.unit
            sound = sound and 0 <= at < count and 0 <= base <= segments[at].length - 4
        elif rule:
            sound = sound and rule in _SELF_CONTAINED and segment.unit >= 0 and base >= 0
        for offset, target, addend in segment.fixups:
            if target == LITERAL:
                sound = sound and 0 <= addend < 1 << 64
            else:
                sound = sound and 0 <= target < count and 0 <= addend <= segments[target].length
            sound = sound and 0 <= offset <= len(segment.data) - call.word
    if not sound:
        raise PeerError(f"system call {call.nr}: its arguments contradict each other")


def place(call: Call, scratch: Scratch) -> list[int]:
    """Put a call's segments into scratch memory; the six argument registers to run it with.

    One allocation and one write: segments with data first, then those that the
    kernel only fills. Raises PeerError for a call that no `gather` makes.
    """
    _check(call)
    registers = call.args + [0] * (6 - len(call.args))
    segments = call.segments
    if not segments:
        return registers
    if len(segments) == 1 and not segments[0].fixups and len(segments[0].data) in (
        0, segments[0].length,
    ):  # fmt: skip
        segment = segments[0]
        base = scratch.allocate(segment.length)
        if segment.data:
            scratch.write(base, segment.data)
        addresses = call.addresses = [base]
    else:
        addresses = _place_many(call, scratch)
    for argument, number in call.pointers:
        registers[argument] = addresses[number]
    return registers


def _place_many(call: Call, scratch: Scratch) -> list[int]:
    segments = call.segments
    starts = [0] * len(segments)
    order = [i for i, segment in enumerate(segments) if segment.data]
    filled_count = len(order)
    order += [i for i, segment in enumerate(segments) if not segment.data]
    at = filled = 0
    for position, number in enumerate(order):
        length = segments[number].length
        # Direct I/O wants aligned memory; 16 serves any type.
        mask = 15 if length < 512 else PAGE_MASK
        at = (at + mask) & ~mask
        starts[number] = at
        at += length
        if position < filled_count:
            filled = at
    base = scratch.allocate(at)
    addresses = call.addresses = [base + start for start in starts]
    if filled:
        image = bytearray(filled)
        pointer = _POINTERS[call.word]
        for number in order[:filled_count]:
            segment, start = segments[number], starts[number]
            image[start : start + len(segment.data)] = segment.data
            for offset, target, addend in segment.fixups:
                value = addend if target == LITERAL else addresses[target] + addend
                pointer.pack_into(image, start + offset, value)
        scratch.write(base, bytes(image))
    return addresses


def collect(row: Row, call: Call, ret: int, scratch: Scratch) -> Result:
    """What the kernel wrote, after a call that returned `ret` (negative errno).

    Of a segment that the kernel also read only the changed range, if any.
    """
    del row
    result = Result(ret)
    for number, segment in enumerate(call.segments):
        rule = segment.rule
        if not rule or ret < segment.least:
            continue
        if rule == Rule.WHOLE:
            length = segment.length
        elif rule == Rule.RETURNED:
            length = min(segment.length, segment.base + max(ret, 0) * segment.unit)
        else:
            word = scratch.read(call.addresses[segment.unit] + segment.base, 4)
            length = min(segment.length, int.from_bytes(word, "little"))
        if length <= 0:
            continue
        data = scratch.read(call.addresses[number], length)
        if not segment.data:
            result.outs.append((number, 0, data))
            continue
        changed = _changed(segment, data, call.word)
        if changed is not None:
            result.outs.append((number, *changed))
    return result


def _changed(segment: Segment, data: bytes, word: int) -> tuple[int, bytes] | None:
    """(offset, bytes) from the first to the last byte that differs from what was placed."""
    before = segment.data
    if len(before) < segment.length:
        before += bytes(segment.length - len(before))
    before = before[: len(data)]
    if segment.fixups:
        restored = bytearray(data)
        for offset, _, _ in segment.fixups:
            restored[offset : offset + word] = before[offset : offset + word]
        data = bytes(restored[: len(before)])
    if data == before:
        return None
    difference = int.from_bytes(data, "little") ^ int.from_bytes(before, "little")
    first = ((difference & -difference).bit_length() - 1) >> 3
    last = (difference.bit_length() + 7) >> 3
    return first, data[first:last]


def scatter(
    row: Row, args: Args, call: Call, result: Result, guest: Guest
) -> Generator[Acquire, None, int]:
    """Write a call's results into guest memory; the value for the program (negative errno).

    Raises PeerError for a result that does not fit the call, UnsupportedError where the
    kernel would have used an Opaque argument.
    """
    if row.choose is not None:
        row = resolve(row, args)
        if row.why and (result.ret >= 0 or result.ret == -EFAULT):
            raise UnsupportedError(f"system call {row.name}: {row.why}")
    fault = False
    for number, offset, data in result.outs:
        if not (0 <= number < len(call.segments) and call.segments[number].rule and offset >= 0):
            raise PeerError(f"system call {call.nr}: no result was asked for in segment {number}")
        segment = call.segments[number]
        if offset + len(data) > segment.length:
            raise PeerError(f"system call {call.nr}: result longer than its buffer")
        if not data:
            continue
        try:
            if not segment.parts and len(data) <= PIECE:
                address = segment.address + offset
                if guest.check(address, len(data), WRITE):
                    yield Acquire(((address, len(data), WRITE),))
                    guest.write(address, data)
                else:
                    fault = True
            elif not (yield from _scatter_parts(segment, offset, data, guest)):
                fault = True
        except BadAddress:
            fault = True
    return -EFAULT if fault else result.ret


def _scatter_parts(
    segment: Segment, offset: int, data: bytes, guest: Guest
) -> Generator[Acquire, None, bool]:
    """Write `data` over the segment's parts, or in pieces; False where memory ends first."""
    parts = segment.parts or ((segment.address + offset, len(data)),)
    at = 0
    for group in groups(_first(parts, len(data))):
        if not all(guest.check(address, length, WRITE) for address, length in group):
            return False
        yield Acquire(tuple((address, length, WRITE) for address, length in group))
        for address, length in group:
            guest.write(address, data[at : at + length])
            at += length
    return True


def _first(parts: tuple[tuple[int, int], ...], length: int) -> Iterable[tuple[int, int]]:
    """The first `length` bytes of the parts."""
    for address, n in parts:
        if length <= 0:
            return
        yield address, min(n, length)
        length -= n


def goes_on(call: Call, value: int, cut_short: bool = False) -> bool:
    """Whether a long transfer continues after a call that transferred `value` bytes.

    It does if this piece was transferred in full. A read of that many bytes in full is
    one of a regular file, in practice: pipes and sockets hold less. It does too if the
    piece was `cut_short`, and would not have been natively.
    """
    if cut_short and 0 < value < call.whole:
        return True
    return call.left > 0 and value == call.piece
