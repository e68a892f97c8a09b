# SPDX-License-Identifier: GPL-2.0-or-later
"""What supervisors say to each other besides coherence: threads, calls, areas, the end.

All travel in frames of one kind, on the same first-in first-out links as the
coherence messages: an area change reaches a host before any page of it does.
"""

from __future__ import annotations

from typing import Final

import msgspec

from supervisor.areas import Area
from supervisor.errors import PeerError
from supervisor.syscalls.call import Call, Result
from supervisor.tracee.usage import Times

COHERENCE: Final = 1
CONTROL: Final = 2


class ControlMessage(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """Base of the messages between drivers."""


class AreasChanged(ControlMessage, frozen=True, array_like=True, tag="areas"):
    """Home -> others: first unmap, then map, then protect."""

    removed: list[tuple[int, int]]
    mapped: list[Area]
    protected: list[Area]


class CodeLoaded(ControlMessage, frozen=True, array_like=True, tag="code"):
    """Home -> others: a rewritten file lies in the guest (see driver/code.py)."""

    bias: int
    traps: dict[int, int]
    redirects: dict[int, int]
    checked: dict[int, int]
    questions: dict[int, int]


class Pause(ControlMessage, frozen=True, array_like=True, tag="pause"):
    """Home -> others: the program has been stopped (job control), or goes on."""

    stopped: bool


class Fence(ControlMessage, frozen=True, array_like=True, tag="fence"):
    """Home -> host: answer when all that came before is done."""

    number: int
    drains: bool
    """and when all that the host's threads have stored is visible to all"""


class Fenced(ControlMessage, frozen=True, array_like=True, tag="fenced"):
    """Host -> home: the answer to a Fence; what this host sent before came before."""

    number: int


class LinkLost(ControlMessage, frozen=True, array_like=True, tag="link_lost"):
    """Host -> home: the link to another host than home has ended."""

    host: int
    why: str


class StartThread(ControlMessage, frozen=True, array_like=True, tag="start"):
    """Home -> host: run this thread from here. `xstate` is its XSAVE area.

    `tls` are its entries of the descriptor table (struct user_desc).
    """

    tid: int
    registers: bytes
    xstate: bytes
    tls: list[bytes]


class BringHome(ControlMessage, frozen=True, array_like=True, tag="bring"):
    """Home -> host: send this thread back (a signal waits for it)."""

    tid: int


class Departed(ControlMessage, frozen=True, array_like=True, tag="departed"):
    """Host -> home: this thread goes on at home from here (a fault of its own, BringHome).

    `used` is the processor time of its stay.
    """

    tid: int
    registers: bytes
    xstate: bytes
    used: Times
    gives_up: bool = False
    """It did little there but wait for pages."""


class StayOver(ControlMessage, frozen=True, array_like=True, tag="stay"):
    """Host -> home: a thread is about to exit here, or goes home because it thrashes.

    `gained_ns`: what the stay was worth (`Account.gained_ns`).
    """

    gained_ns: int


class SystemCall(ControlMessage, frozen=True, array_like=True, tag="call"):
    """Host -> home: a gathered system call, to run on the thread's shadow."""

    tid: int
    number: int
    """The call that the program made: the number of its row."""
    call: Call


class SpecialCall(ControlMessage, frozen=True, array_like=True, tag="special"):
    """Host -> home: a call that home has a handler for.

    `payload` holds what the handler wants gathered on the way (a timeout),
    `registers` and `xstate` the thread's context where it matters (clone). `compared`: the
    futex word that the thread is to wait for is as expected in the host's own copy. Without
    `answer` the thread goes on meanwhile.
    """

    tid: int
    number: int
    arguments: list[int]
    payload: bytes
    registers: bytes
    xstate: bytes
    compared: bool = False
    answer: bool = True


class CallDone(ControlMessage, frozen=True, array_like=True, tag="done"):
    """Home -> host: the result of the thread's one outstanding call."""

    tid: int
    result: Result


class ThreadEnded(ControlMessage, frozen=True, array_like=True, tag="ended"):
    """Home -> host: this thread is gone; drop its worker."""

    tid: int


class ClockProbe(ControlMessage, frozen=True, array_like=True, tag="clock?"):
    """Host -> home, with the host's own CLOCK_MONOTONIC."""

    asked_ns: int


class ClockAnswer(ControlMessage, frozen=True, array_like=True, tag="clock"):
    """Home -> host: home's clocks (host_clock.Told), and which machine they are of."""

    asked_ns: int
    clock_id: str
    monotonic_ns: int
    raw_ns: int
    ahead_ns: tuple[int, ...]
    took_ns: int


class TimesAsked(ControlMessage, frozen=True, array_like=True, tag="times?"):
    """Home -> host: what has this thread used there (0: have all that were ever there)?"""

    number: int
    tid: int


class TimesTold(ControlMessage, frozen=True, array_like=True, tag="times"):
    """Host -> home: the answer to a TimesAsked. Of a thread, only of its present stay."""

    number: int
    used: Times


class UserSignal(ControlMessage, frozen=True, array_like=True, tag="signal"):
    """Host -> home: somebody sent dsmsup this signal there."""

    number: int


class Trouble(ControlMessage, frozen=True, array_like=True, tag="trouble"):
    """Any -> home: this host cannot go on; home says why and ends the run."""

    reason: str


class Shutdown(ControlMessage, frozen=True, array_like=True, tag="shutdown"):
    """Home -> others: the run is over; answer with Statistics, then end with this status.

    `reason` is empty unless something went wrong that the user should be told.
    """

    status: int
    reason: str


class Statistics(ControlMessage, frozen=True, array_like=True, tag="stats"):
    """Host -> home: its counters, at the end."""

    counters: dict[str, int]


AnyControl = (
    AreasChanged
    | CodeLoaded
    | Pause
    | Fence
    | Fenced
    | StartThread
    | BringHome
    | Departed
    | StayOver
    | SystemCall
    | SpecialCall
    | CallDone
    | ThreadEnded
    | ClockProbe
    | ClockAnswer
    | TimesAsked
    | TimesTold
    | UserSignal
    | Trouble
    | LinkLost
    | Shutdown
    | Statistics
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyControl)


def encode(message: ControlMessage) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes | bytearray) -> AnyControl:
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise PeerError(f"malformed control message: {error}") from None
