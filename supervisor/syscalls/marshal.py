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
from collections.abc import Generator

from supervisor.arch import syscalls_x86_64
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
    number = row.number
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
        number = syscalls_x86_64.NUMBERS[row.runs_as]
    values = list(args[:count])
    if not steps:
        return Call(number, values)
    build = Build(args, guest, values, done)
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
    return Call(number, values, build.pointers, build.segments, build.left)


def place(call: Call, scratch: Scratch) -> list[int]:
    """Put a call's segments into scratch memory; the six argument registers to run it with.

    One allocation and one write: segments with data first, then those that the
    kernel only fills. Raises PeerError for a call that no `gather` makes.
    """
    registers = call.args + [0] * (6 - len(call.args))
    segments = call.segments
    if not segments:
        return registers
    starts = [0] * len(segments)
    at = filled = 0
    order = sorted(range(len(segments)), key=lambda i: not segments[i].data)
    for number in order:
        segment = segments[number]
        if segment.length < 0 or len(segment.data) > segment.length:
            raise PeerError(f"system call {call.nr}: segment {number} is longer than its length")
        # Direct I/O wants aligned memory; 16 serves any type.
        at = (at + (15 if segment.length < 512 else PAGE_MASK)) & ~(
            15 if segment.length < 512 else PAGE_MASK
        )
        starts[number] = at
        at += segment.length
        if segment.data:
            filled = at
    base = scratch.allocate(at)
    addresses = call.addresses = [base + start for start in starts]
    try:
        for argument, number in call.pointers:
            registers[argument] = addresses[number]
        if len(order) == 1 and not segments[0].fixups and len(segments[0].data) == filled:
            if filled:
                scratch.write(base, segments[0].data)
        elif filled:
            image = bytearray(filled)
            for number in order:
                segment, start = segments[number], starts[number]
                if not segment.data:
                    break
                image[start : start + len(segment.data)] = segment.data
                for offset, target, addend in segment.fixups:
                    value = addend if target == LITERAL else addresses[target] + addend
                    struct.pack_into("<Q", image, start + offset, value)
            scratch.write(base, bytes(image))
    except (IndexError, struct.error) as error:
        raise PeerError(f"system call {call.nr}: bad pointers: {error}") from None
    return registers


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
        changed = _changed(segment, data)
        if changed is not None:
            result.outs.append((number, *changed))
    return result


def _changed(segment: Segment, data: bytes) -> tuple[int, bytes] | None:
    """(offset, bytes) from the first to the last byte that differs from what was placed."""
    before = segment.data
    if len(before) < segment.length:
        before += bytes(segment.length - len(before))
    before = before[: len(data)]
    if segment.fixups:
        restored = bytearray(data)
        for offset, _, _ in segment.fixups:
            restored[offset : offset + 8] = before[offset : offset + 8]
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

    Raises PeerError for a result that does not fit the call.
    """
    del row, args
    fault = False
    for number, offset, data in result.outs:
        if not (0 <= number < len(call.segments) and call.segments[number].rule and offset >= 0):
            raise PeerError(f"system call {call.nr}: no result was asked for in segment {number}")
        segment = call.segments[number]
        if offset + len(data) > segment.length:
            raise PeerError(f"system call {call.nr}: result longer than its buffer")
        if segment.parts:
            parts = _spread(segment.parts, len(data))
        else:
            parts = ((segment.address + offset, len(data)),)
        at = 0
        try:
            for group in groups(parts):
                if not all(guest.check(address, n, WRITE) for address, n in group):
                    fault = True
                    break
                yield Acquire(tuple((address, n, WRITE) for address, n in group))
                for address, n in group:
                    guest.write(address, data[at : at + n])
                    at += n
        except BadAddress:
            fault = True
    return -EFAULT if fault else result.ret


def _spread(parts: tuple[tuple[int, int], ...], length: int) -> tuple[tuple[int, int], ...]:
    """The first `length` bytes of the parts."""
    spread: list[tuple[int, int]] = []
    for address, n in parts:
        if length <= 0:
            break
        spread.append((address, min(n, length)))
        length -= n
    return tuple(spread)


def goes_on(call: Call, value: int, regular: bool = True) -> bool:
    """Whether a long transfer continues after a call that transferred `value` bytes.

    It does if this piece was transferred in full. A read of BUFFER_MAX bytes in full is
    one of a regular file, in practice: pipes and sockets hold less. With `regular`
    false it does not go on, which is a short transfer as such files may make.
    """
    return call.left > 0 and regular and value == BUFFER_MAX
