# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between nodes as bytes: msgpack arrays tagged with the kind of message.

Before the array stands its length, and behind it the page data, which so is copied
neither to be sent nor, where there is much of it, when it has been received.

Decoding checks what can be checked without knowing the node's state: types,
ranges, order of runs, and that data has the length its parts promise. Whether
a message makes sense here and now is the node's to say. Both raise PeerError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, get_args

import msgspec

from supervisor.coherence.diff import check_diff
from supervisor.coherence.messages import (
    Applied,
    AskBus,
    BusFreed,
    Content,
    Delivery,
    Direct,
    Fetch,
    Flush,
    Flushed,
    Forget,
    Forgotten,
    FreeBus,
    Grant,
    GrantBus,
    Halt,
    Halted,
    Invalidate,
    Message,
    Part,
    Recall,
    Refused,
    Run,
    Update,
    Yielded,
)
from supervisor.coherence.pages import any_overlap
from supervisor.coherence.transfer import check_needs, check_parts
from supervisor.errors import PeerError
from supervisor.units import PAGES_END

AnyMessage = (
    Fetch
    | Grant
    | Refused
    | Recall
    | Yielded
    | Delivery
    | Invalidate
    | Forget
    | Forgotten
    | Flush
    | Flushed
    | Update
    | Applied
    | AskBus
    | Halt
    | Halted
    | GrantBus
    | FreeBus
    | BusFreed
)

_LENGTH: Final = struct.Struct("<I")
_WITH_DATA: Final = (Grant, Yielded, Delivery)
_COPIED_BYTES_MAX: Final = 1 << 16
"""So much page data is copied out of its frame, rather than that a view keeps the frame."""

_encoder = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> tuple[bytes, ...]:
    """One or two buffers, to be sent one behind the other; page data is the second, as it is."""
    data = b""
    if isinstance(message, _WITH_DATA) and message.data:
        data = message.data
        message = msgspec.structs.replace(message, data=b"")
    head = _encoder.encode(message)
    head = _LENGTH.pack(len(head)) + head
    return (head, data) if data else (head,)


def decode(payload: bytes | bytearray) -> Message:
    """The message that these bytes are; PeerError if they are none.

    Much page data stays where it is, as a memoryview of `payload`.
    """
    view = memoryview(payload)
    if len(view) < _LENGTH.size:
        raise PeerError("malformed coherence message: it is too short")
    end = _LENGTH.size + _LENGTH.unpack_from(view)[0]
    try:
        decoded: Message = _decoder.decode(view[_LENGTH.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"malformed coherence message: {error}") from None
    rest = view[end:]
    if isinstance(decoded, _WITH_DATA):
        if decoded.data:
            raise PeerError("malformed coherence message: page data in its head")
        if len(rest):
            data = rest if len(rest) > _COPIED_BYTES_MAX else bytes(rest)
            msgspec.structs.force_setattr(decoded, "data", data)
    elif len(rest):
        raise PeerError(f"malformed coherence message: {len(rest)} bytes behind it")
    _CHECKS[type(decoded)](decoded)
    return decoded


def _check_spans(runs: tuple[Run | Part | Direct, ...]) -> None:
    for run in runs:
        if run.first < 0 or run.count < 1 or run.first + run.count > PAGES_END:
            raise PeerError(f"pages {run.first:#x}+{run.count} are outside of memory")


def _check_ascending(runs: tuple[Run | Direct, ...]) -> None:
    _check_spans(runs)
    end = 0
    for run in runs:
        if run.first < end:
            raise PeerError(f"runs out of order at {run.first:#x}")
        end = run.first + run.count


def _positive(*numbers: int) -> None:
    if min(numbers) < 0:
        raise PeerError(f"negative number in a message: {min(numbers)}")


def _fetch(message: Fetch) -> None:
    _positive(message.fetch, message.streak)
    _check_spans(message.needs)
    check_needs(message.needs)
    if message.ahead:
        _check_spans(message.ahead)
        check_needs(message.ahead)
        if any_overlap(message.needs, message.ahead):
            raise PeerError("pages that are needed are asked for ahead")


def _with_parts(message: Grant | Yielded | Delivery) -> None:
    _positive(message.fetch if isinstance(message, Grant) else message.recall)
    _check_spans(message.parts)
    check_parts(message.parts, message.data)
    if isinstance(message, Grant):
        _check_ascending(message.multiple)
        _check_ascending(message.direct)
        for direct in message.direct:
            _positive(direct.source, direct.recall)
    if not isinstance(message, Yielded):
        for part in message.parts:
            if part.content == Content.DIRECT:
                raise PeerError("data that goes by another way twice")
    if isinstance(message, Delivery):
        _positive(message.fetch)
        if any(part.content == Content.HELD for part in message.parts):
            raise PeerError("a delivery of nothing")


def _refused(message: Refused) -> None:
    _positive(message.fetch)


def _flushed(message: Flushed) -> None:
    _positive(message.flush)


def _with_diffs(message: Flush | Update) -> None:
    if isinstance(message, Flush):
        _positive(message.flush)
    end = 0
    for diff in message.diffs:
        if not end <= diff.page < PAGES_END:
            raise PeerError(f"diffs out of order at {diff.page:#x}")
        check_diff(diff)
        end = diff.page + 1


def _recall(message: Recall) -> None:
    _positive(message.recall, message.to, message.fetch)
    _check_ascending(message.needs)
    _check_ascending(message.optional)


def _invalidate(message: Invalidate) -> None:
    _check_ascending(message.runs)


def _forget(message: Forget) -> None:
    if message.first < 0 or message.count < 1 or message.first + message.count > PAGES_END:
        raise PeerError(f"pages {message.first:#x}+{message.count} are outside of memory")


_CHECKS: Final[dict[type[Message], Callable[..., None]]] = {
    Fetch: _fetch,
    Grant: _with_parts,
    Refused: _refused,
    Recall: _recall,
    Yielded: _with_parts,
    Delivery: _with_parts,
    Invalidate: _invalidate,
    Forget: _forget,
    Flush: _with_diffs,
    Flushed: _flushed,
    Update: _with_diffs,
    **dict.fromkeys(
        (Applied, Forgotten, AskBus, Halt, Halted, GrantBus, FreeBus, BusFreed),
        lambda message: None,
    ),
}
assert set(_CHECKS) == set(get_args(AnyMessage)), "every kind of message has its check"
