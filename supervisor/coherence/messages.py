# SPDX-License-Identifier: GPL-2.0-or-later
"""Events into and effects out of one host's coherence node.

`Node.step(event)` returns a list of effects, and the driver carries them out
strictly in order. The node knows neither processes nor sockets nor clocks: a
requester is an opaque number (a guest thread, or a system call that touches
guest memory), time comes in as `Tick`.

Messages between hosts are defined beside the node that speaks them, in this
module too, as msgspec structures (frozen, array_like, tagged), so that
`wire.py` can turn them into bytes and check what a peer sends.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, Protocol

import msgspec

from supervisor.units import HOME, HostId, PageNumber


class Access(IntEnum):
    """What a requester needs of a page, and what a host's copy allows."""

    NONE = 0
    READ = 1
    WRITE = 2


class Run(NamedTuple):
    """`count` consecutive pages from `first`, all with the same access."""

    first: PageNumber
    count: int  # type: ignore[assignment]
    access: Access


WORD_SIZE: Final = 8


class Memory(Protocol):
    """One host's guest memory as its supervisor sees it, whatever the guest may touch.

    Every length is whole pages of PAGE_SIZE bytes. Reading and writing work
    while guest threads run, whatever protection the guest has.
    """

    def read(self, first: PageNumber, count: int) -> bytes: ...

    def read_word(self, page: PageNumber, offset: int) -> bytes:
        """WORD_SIZE bytes at an offset that is a multiple of it, as they are at one moment."""
        ...

    def replace_word(self, page: PageNumber, offset: int, old: bytes, new: bytes) -> bool:
        """Put `new` where `old` is, in one step; False (and nothing) where it is not."""
        ...

    def write(self, first: PageNumber, data: bytes) -> None: ...

    def zero(self, first: PageNumber, count: int) -> None: ...

    def holes(self, first: PageNumber, count: int) -> int:
        """How many pages at the front are known to be zeros without a look at them."""
        ...


# Events -----------------------------------------------------------------------


class Fault(NamedTuple):
    """A requester needs all of `needs` at once before it can go on.

    Raised for a stopped guest thread and for the supervisor's own accesses.
    `page` is the one that is missing (of one of the needs; none said: of the last), `above`
    and `below` how many pages after and before its need the requester's areas allow to be
    fetched as well: hints for bulk transfer. `constant`: they hold code, or the like, that
    nobody writes, and are wanted in no order. `fresh`: so many pages before the need, a new
    stack's, will be written as well, as far as nobody has touched them yet.
    """

    requester: int
    needs: tuple[Run, ...]
    above: int = 0
    below: int = 0
    page: int = -1
    constant: bool = False
    fresh: int = 0


class Released(NamedTuple):
    """The requester has made progress: pages pinned for it may be taken back."""

    requester: int


class Cancelled(NamedTuple):
    """The requester is gone (its thread died): forget its fault, drop its pins."""

    requester: int


class Received(NamedTuple):
    """A message from another host, in the order in which its link delivered it."""

    sender: HostId
    message: Message


class Protected(NamedTuple):
    """The `Protect` effect of this token is in force in the guest."""

    token: int


class Discarded(NamedTuple):
    """Home only: pages whose contents are gone (unmapped, or reading as zero again).

    The node tells every host, in hub order, to forget its copies. Requesters
    that wait for one of the pages get `Retry`.
    """

    first: PageNumber
    count: int  # type: ignore[assignment]


class Serialize(NamedTuple):
    """A serializing instruction or an observable system call of `requester`.

    `Resume` follows when every earlier store of this host is visible to all.
    """

    requester: int


class BusLock(NamedTuple):
    """A bus-locked instruction of `requester`, which touches `needs`.

    Stepped for one that trapped, and for one whose page fault is the first that
    is seen of it: a page it touches must not stay multiple-writer. `Resume`
    follows when every earlier store of this host is visible to all and all
    `needs` are exclusive here; they are pinned until `Released`.
    """

    requester: int
    needs: tuple[Run, ...]


class Tick(NamedTuple):
    """Time, in microseconds of any clock that never goes back.

    Stepped when a `WakeAt` asks for it; stepping it oftener only helps.
    """

    now_us: int


class StoodStill(NamedTuple):
    """The `StandStill` effect is in force: no guest thread of this host runs."""


Event = (
    Fault
    | Released
    | Cancelled
    | Received
    | Protected
    | Discarded
    | Serialize
    | BusLock
    | Tick
    | StoodStill
)

# Effects ----------------------------------------------------------------------


class Protect(NamedTuple):
    """Set what the guest may do to these pages, then step `Protected(token)`.

    The driver intersects the access with what the program itself asked for
    (mprotect), and carries all runs of one effect out in one injection. Other
    guest threads of the host run meanwhile. The first `lowered` of the runs are
    taken from it, the others given.
    """

    token: int
    runs: tuple[Run, ...]
    lowered: int


class Send(NamedTuple):
    """Send a message to a host; links are first-in first-out."""

    host: HostId
    message: Message


class Resume(NamedTuple):
    """All that the requester needs is there, and pinned until `Released`."""

    requester: int


class Retry(NamedTuple):
    """The requester's pages were discarded: evaluate its fault again from the start.

    It holds no pins.
    """

    requester: int


class Arm(NamedTuple):
    """Set the guest process's `armed` byte (the rewritten code's check).

    Setting it is complete only when no thread of the process stands between its
    check of the byte and the instruction that the check is for: such a thread
    is put back before its check.
    """

    armed: bool


class WakeAt(NamedTuple):
    """Step a `Tick` once `now_us` has come (soon, when that has passed already).

    Each `Tick` makes earlier ones void: the node asks again if it still has to wake.
    """

    now_us: int


class StandStill(NamedTuple):
    """Let no guest thread of this host execute, then step `StoodStill`.

    Another host has the bus lock. Threads in a system call may stay there, but
    do not return from it until `GoOn`.
    """


class GoOn(NamedTuple):
    """The bus is free: guest threads may execute again."""


class ModeChanged(NamedTuple):
    """Home only, to be told to who wants to know: the mode of these pages from now on."""

    first: PageNumber
    count: int  # type: ignore[assignment]
    multiple: bool
    why: str


Effect = Protect | Send | Resume | Retry | Arm | WakeAt | StandStill | GoOn | ModeChanged


# Messages between hosts ---------------------------------------------------------


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """Base of the messages between nodes."""


class Content(IntEnum):
    """Where the bytes of a part come from."""

    DATA = 0  # the next pages of the message's data
    ZERO = 1  # all zeros, not sent
    HELD = 2  # the receiver's own copy is the current one
    DIRECT = 3  # sent to the host that the recall named, not in this message


class Part(NamedTuple):
    """Pages handed over, and the access that the giver leaves or grants."""

    first: PageNumber
    count: int  # type: ignore[assignment]
    access: Access
    content: Content


class Direct(NamedTuple):
    """Pages of a grant whose contents another host has sent, under a recall's number."""

    first: PageNumber
    count: int  # type: ignore[assignment]
    access: Access
    source: HostId
    recall: int


class PageDiff(NamedTuple):
    """Bytes that a host stored into one page.

    `starts` and `lengths` are little-endian 16-bit arrays, ascending runs that do
    not touch; `data` is the bytes of all runs one after the other.
    """

    page: PageNumber
    starts: bytes
    lengths: bytes
    data: bytes


class Fetch(Message, frozen=True, array_like=True, tag_field="t", tag="fetch"):
    """Any host -> home: all of `needs` at once, and what can be had of `ahead`.

    `ahead` is apart from the needs. `streak` counts how many faults of this host in
    a row continued one stream; home goes to more expense the longer it is.
    """

    fetch: int
    needs: tuple[Run, ...]
    ahead: tuple[Run, ...]
    streak: int
    locked: bool = False
    """For a bus-locked instruction: no page of the needs may be multiple-writer."""


class Grant(Message, frozen=True, array_like=True, tag_field="t", tag="grant"):
    """Home -> requester: pages for a fetch; with `final` its needs are all there."""

    fetch: int
    parts: tuple[Part, ...]
    data: bytes
    final: bool
    multiple: tuple[Run, ...] = ()
    """Runs of this grant that are multiple-writer: a copy of the master, readable;
    the host makes a twin when it first stores into one."""
    direct: tuple[Direct, ...] = ()


class Refused(Message, frozen=True, array_like=True, tag_field="t", tag="refused"):
    """Home -> requester: pages of this fetch were discarded; evaluate the faults again."""

    fetch: int


class Recall(Message, frozen=True, array_like=True, tag_field="t", tag="recall"):
    """Home -> a host with current data: hand it over, keep only each run's access.

    The data goes to home, or directly to the host `to` whose request `fetch` it is
    for. `optional` runs are left out of the answer if they are pinned.
    """

    recall: int
    needs: tuple[Run, ...]
    optional: tuple[Run, ...]
    to: HostId = HOME
    fetch: int = 0


class Yielded(Message, frozen=True, array_like=True, tag_field="t", tag="yielded"):
    """Former owner -> home: the answer to one recall."""

    recall: int
    parts: tuple[Part, ...]
    data: bytes


class Delivery(Message, frozen=True, array_like=True, tag_field="t", tag="delivery"):
    """Former owner -> requester: the data of one recall, sent before the answer to home.

    Of no use by itself: its place in home's order is that of the grant that names
    the recall. Home sends that one after it has the owner's answer, so that it
    comes after every decision of home's that the owner had handled.
    """

    recall: int
    fetch: int
    parts: tuple[Part, ...]
    data: bytes


class Invalidate(Message, frozen=True, array_like=True, tag_field="t", tag="invalidate"):
    """Home -> sharers: these copies are old as of here in home's order. No answer."""

    runs: tuple[Run, ...]


class Forget(Message, frozen=True, array_like=True, tag_field="t", tag="forget"):
    """Home -> all: the contents of these pages are gone.

    With `answer`, some of them were multiple-writer: stores of before may be on
    their way to home, up to the host's `Forgotten`.
    """

    first: PageNumber
    count: int
    answer: bool = False


class Forgotten(Message, frozen=True, array_like=True, tag_field="t", tag="forgotten"):
    """Host -> home: the oldest `Forget` that asked for an answer is done."""


class Flush(Message, frozen=True, array_like=True, tag_field="t", tag="flush"):
    """Host -> home: its stores into multiple-writer pages, all visible at once."""

    flush: int
    diffs: tuple[PageDiff, ...]
    late: bool = False
    """Nobody asked for it: the stores had been waiting for the deadline."""


class Flushed(Message, frozen=True, array_like=True, tag_field="t", tag="flushed"):
    """Home -> host: the flush has its place in home's order.

    Without `done` holders have yet to acknowledge it, and another answer follows.
    """

    flush: int
    done: bool = True


class Update(Message, frozen=True, array_like=True, tag_field="t", tag="update"):
    """Home -> holders of copies: another host's stores, as of here in home's order."""

    diffs: tuple[PageDiff, ...]


class Applied(Message, frozen=True, array_like=True, tag_field="t", tag="applied"):
    """Holder -> home, where the policy acknowledges: the oldest update is laid in."""


class AskBus(Message, frozen=True, array_like=True, tag_field="t", tag="ask_bus"):
    """Host -> home: the global bus lock, for one bus-locked instruction."""


class Halt(Message, frozen=True, array_like=True, tag_field="t", tag="halt"):
    """Home -> the others: stand still and send what is in the store buffer."""


class Halted(Message, frozen=True, array_like=True, tag_field="t", tag="halted"):
    """Host -> home: it stands still, and all that it stored is visible to all."""


class GrantBus(Message, frozen=True, array_like=True, tag_field="t", tag="grant_bus"):
    """Home -> host: the bus is its own, the others stand still."""


class FreeBus(Message, frozen=True, array_like=True, tag_field="t", tag="free_bus"):
    """Host -> home: the instruction is done, its stores are visible to all."""


class BusFreed(Message, frozen=True, array_like=True, tag_field="t", tag="bus_freed"):
    """Home -> the others: the bus is free again."""
