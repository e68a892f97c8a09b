# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol at a host other than home: it asks home, and does as home says.

Home's messages are handled strictly in order, one at a time: while a
protection that takes something from the guest is not yet in force, the next
message waits. So the guest never sees a later decision of home before an
earlier one (hub order), and a page's memory is written only when no guest
thread can look at it.

Two kinds of message must not disturb a pinned page. A recall is laid aside
until the pin ends; home has the page locked meanwhile, and everything else
goes on. An invalidation has no answer that home waits for, so nothing later
may be seen before it: it holds up the messages behind it until the pin ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor.coherence.messages import (
    Access,
    Applied,
    BusFreed,
    Content,
    Delivery,
    Direct,
    Fetch,
    Flush,
    Flushed,
    Forget,
    Forgotten,
    Grant,
    GrantBus,
    Halt,
    Invalidate,
    Message,
    PageDiff,
    Part,
    Recall,
    Refused,
    Run,
    Update,
    Yielded,
)
from supervisor.coherence.pages import Span, any_overlap, append_run, covers, run_of, without
from supervisor.coherence.transfer import check_needs, check_parts, pack, pages_in, unpack
from supervisor.errors import PeerError
from supervisor.units import HOME, PAGE_SIZE, HostId

if TYPE_CHECKING:
    from supervisor.coherence.node import Node


class Remote:
    """Messages from home not yet handled, and recalls laid aside."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.inbox: deque[Message] = deque()
        self.deferred: list[Recall] = []
        self.deliveries: dict[tuple[HostId, int], Delivery] = {}
        """By sender and recall: data that no grant has named yet.

        Invariant: each is for an open request, and no page is there twice for one."""

    def free(self, needs: tuple[Run, ...]) -> bool:
        """A new pin keeps nobody waiting: home has asked none of these pages back."""
        return not (self.deferred or self.inbox) or not any_overlap(needs, self.leaving())

    @property
    def held_up(self) -> bool:
        """Home waits for pages that may be pinned."""
        return bool(self.deferred or self.inbox)

    def leaving(self) -> list[Run]:
        """Runs that home has asked back and that are still here."""
        runs: list[Run] = []
        for message in (*self.deferred, *self.inbox):
            if isinstance(message, Recall):
                runs += message.needs
                runs += message.optional
            elif isinstance(message, Invalidate):
                runs += message.runs
            elif isinstance(message, Forget):
                runs.append(run_of(message.first, message.count, Access.NONE))
        return runs

    def fetch(self, message: Fetch) -> None:
        self.node.send(HOME, message)

    def publish(self, diffs: list[PageDiff], late: bool) -> None:
        """This host's stores, for everybody."""
        self.node.send(HOME, Flush(self.node.buffer.sent(diffs), tuple(diffs), late))

    def received(self, sender: HostId, message: Message) -> None:
        if type(message) is Delivery and (sender, self.node.host) in self.node.paths:
            self._delivered(sender, message)
        elif sender != HOME or type(message) not in _HANDLERS:
            raise PeerError(f"host {sender} sent a {type(message).__name__}")
        else:
            self.inbox.append(message)
        self.run()

    def _delivered(self, sender: HostId, message: Delivery) -> None:
        """Keep data until its grant comes; a request may be over before it is here."""
        node, fetching = self.node, self.node.requests.open.get(message.fetch)
        check_parts(message.parts, message.data)
        if fetching is None:
            if not node.requests.has_asked(message.fetch):
                raise PeerError(f"host {sender} answers request {message.fetch}, never made")
            return
        runs = [run_of(part.first, part.count, Access.READ) for part in message.parts]
        for other in self.deliveries.values():
            if other.fetch == message.fetch and any_overlap(
                runs, [Span(part.first, part.count) for part in other.parts]
            ):
                raise PeerError(f"host {sender} sends pages that are here already")
        if not all(covers(fetching.asked, (run,)) for run in runs):
            raise PeerError(f"host {sender} sends pages that nobody asked for")
        self.deliveries[sender, message.recall] = message

    def _forget_deliveries(self, fetch: int) -> None:
        for key in [key for key, kept in self.deliveries.items() if kept.fetch == fetch]:
            del self.deliveries[key]

    def run(self) -> None:
        """Handle home's messages until one has to wait."""
        while self.inbox and not self.node.lowering:
            message = self.inbox[0]
            if not _HANDLERS[type(message)](self, message):
                return
            self.inbox.popleft()

    def released(self) -> None:
        """Some pins are gone: answer the recalls that waited for them."""
        if self.deferred:
            waiting, self.deferred = self.deferred, []
            self.deferred = [recall for recall in waiting if not self._try_yield(recall)]
        self.run()

    # Home's messages: each handler tells whether the message is done with -----------

    def _grant(self, message: Grant) -> bool:
        node = self.node
        fetching = node.requests.open.get(message.fetch)
        if fetching is None:
            raise PeerError(f"home answers request {message.fetch}, which is not open")
        check_parts(message.parts, message.data)
        if message.direct and not all(
            (run.source, run.recall) in self.deliveries for run in message.direct
        ):
            return False  # the owner sent them before home heard of it: they are near
        raised: list[Run] = []
        for direct in message.direct:
            self._use(fetching.asked, message.fetch, direct)
            append_run(raised, direct.first, direct.count, direct.access)
        for part, data in unpack(message.parts, message.data):
            self._check_grant(fetching.asked, part)
            if part.content != Content.HELD:
                node.install(part.first, part.count, data)
                node.counters["pages_fetched"] += part.count
            append_run(raised, part.first, part.count, part.access)
            if part.access == Access.WRITE:
                node.pages.touched.set(part.first, part.count, 1)
        node.raise_access(raised)
        for run in message.multiple:
            self._become_multiple(fetching.asked, run)
        if message.final:
            self._forget_deliveries(message.fetch)
            node.requests.granted(message.fetch)
        return True

    def _use(self, asked: tuple[Run, ...], fetch: int, run: Direct) -> None:
        """Put delivered pages that home has granted into memory."""
        node, delivery = self.node, self.deliveries[run.source, run.recall]
        self._check_grant(asked, Part(run.first, run.count, run.access, Content.DATA))
        end, found = run.first + run.count, 0
        for part, data in unpack(delivery.parts, delivery.data):
            low, high = max(part.first, run.first), min(part.first + part.count, end)
            if low < high:
                at = (low - part.first) * PAGE_SIZE
                node.install(low, high - low, data and data[at : at + (high - low) * PAGE_SIZE])
                found += high - low
        if found != run.count or delivery.fetch != fetch:
            raise PeerError(f"host {run.source} did not send all of pages {run.first:#x}")
        node.counters["pages_fetched"] += run.count
        node.counters["pages_direct"] += run.count
        if run.access == Access.WRITE:
            node.pages.touched.set(run.first, run.count, 1)

    def _become_multiple(self, asked: tuple[Run, ...], run: Run) -> None:
        spans = self.node.pages.access.runs(run.first, run.count)
        wanted = covers(asked, (run_of(run.first, run.count, Access.READ),))
        if not wanted or len(spans) != 1 or spans[0].value != Access.READ:
            raise PeerError(f"home makes pages {run.first:#x} multiple-writer without a copy")
        self.node.buffer.multiple.update(range(run.first, run.first + run.count))
        self.node.pages.touched.set(run.first, run.count, 1)

    def _check_grant(self, asked: tuple[Run, ...], part: Part) -> None:
        expected = Access.READ if part.content == Content.HELD else Access.NONE
        spans = self.node.pages.access.runs(part.first, part.count)
        run = run_of(part.first, part.count, part.access)
        if (
            not (run in asked or covers(asked, (run,)))
            or part.access <= expected
            or len(spans) != 1
            or spans[0].value != expected
        ):
            raise PeerError(f"home grants pages {part.first:#x} that cannot be granted")

    def _refused(self, message: Refused) -> bool:
        if message.fetch not in self.node.requests.open:
            raise PeerError(f"home refuses request {message.fetch}, which is not open")
        self._forget_deliveries(message.fetch)
        self.node.requests.refused(message.fetch)
        return True

    def _recall(self, message: Recall) -> bool:
        check_needs(tuple(_wanting(message.needs or message.optional)))
        for run in message.needs + message.optional:
            if not self._recallable(run):
                raise PeerError(f"home recalls pages {run.first:#x}, which it cannot")
        if any_overlap(message.needs, self._deferred_runs()):
            raise PeerError("home recalls pages twice")
        if message.to != HOME and (self.node.host, message.to) not in self.node.paths:
            raise PeerError(f"home has pages sent to host {message.to}, to which there is no link")
        if not self._try_yield(message):
            self.deferred.append(message)
        return True

    def _deferred_runs(self) -> list[Run]:
        return [run for recall in self.deferred for run in recall.needs + recall.optional]

    def _recallable(self, run: Run) -> bool:
        """Exclusive or shared here, or a multiple-writer copy that is to go altogether."""
        multiple = self.node.buffer.multiple
        if multiple and run.access == Access.NONE:
            return all(
                page in multiple or self.node.pages.access.get(page) != Access.NONE
                for page in range(run.first, run.first + run.count)
            )
        return run.access != Access.WRITE and self.node.pages.allows(
            run.first, run.count, Access.READ
        )

    def _try_yield(self, recall: Recall) -> bool:
        """Freeze the recalled pages, flush, then send them; False while a pin forbids it.

        Rules 2 and 3: what was stored before a page is given up is visible to
        others before the page is, so the flush comes after the freeze and
        travels ahead of the page.
        """
        pages, buffer = self.node.pages, self.node.buffer
        if not buffer.freezable():
            return False
        for run in recall.needs:
            if pages.pinned_against(run.first, run.count, run.access):
                return False
        asked = list(recall.needs)
        for run in recall.optional:
            asked += [
                run_of(span.first, span.count, run.access)
                for span in pages.unpinned_part(run.first, run.count, run.access)
            ]
        giving: list[Run] = []
        copies: list[Run] = []
        for run in sorted(asked):
            self._split(run, giving, copies)
        self.node.lower(giving + copies, partial(self._yield, recall, giving, copies))
        if buffer.twins:
            self.node.freeze_dirty()
        for run in copies:
            buffer.multiple.difference_update(range(run.first, run.first + run.count))
        return True

    def _split(self, run: Run, giving: list[Run], copies: list[Run]) -> None:
        """Which pages of the run are exclusive, which are multiple-writer copies."""
        if not self.node.buffer.multiple:
            append_run(giving, *run)
            return
        for page in range(run.first, run.first + run.count):
            to = copies if page in self.node.buffer.multiple else giving
            append_run(to, page, 1, run.access)

    def _yield(self, recall: Recall, giving: list[Run], copies: list[Run]) -> None:
        parts = [Part(run.first, run.count, run.access, Content.HELD) for run in copies]
        chunks: list[bytes] = []
        for run in giving:
            got, data = pack(self.node.memory.read(run.first, run.count), run.first, run.access)
            parts += got
            chunks.append(data)
        self.node.counters["pages_sent"] += pages_in(giving)
        data = b"".join(chunks)
        if recall.to != HOME:
            if parts:
                delivery = Delivery(recall.recall, recall.fetch, tuple(parts), data)
                self.node.send(recall.to, delivery)
            parts = [Part(run.first, run.count, run.access, Content.DIRECT) for run in giving]
            data = b""
        self.node.send(HOME, Yielded(recall.recall, tuple(sorted(parts)), data))

    def _invalidate(self, message: Invalidate) -> bool:
        pages = self.node.pages
        for run in message.runs:
            if pages.pinned_against(run.first, run.count, Access.NONE):
                return False
        runs: list[Run] = []
        for run in message.runs:
            for span in pages.access.runs(run.first, run.count):
                if span.value != Access.READ:
                    raise PeerError(f"home invalidates pages {run.first:#x}, not shared here")
                append_run(runs, span.first, span.count, Access.NONE)
        self.node.lower(runs, _nothing)
        return True

    def _forget(self, message: Forget) -> bool:
        node, span = self.node, Span(message.first, message.count)
        node.pages.drop_pins(span.first, span.count)
        node.buffer.drop(span.first, span.count)
        if message.answer:
            node.send(HOME, Forgotten())
        node.retry_overlapping(span)
        self.deferred = [
            Recall(
                recall.recall,
                tuple(without(recall.needs, span.first, span.count)),
                tuple(without(recall.optional, span.first, span.count)),
                recall.to,
                recall.fetch,
            )
            for recall in self.deferred
        ]
        runs = [
            run_of(above.first, above.count, Access.NONE)
            for above in node.pages.above(span.first, span.count, Access.NONE)
        ]
        if runs:
            node.lower(runs, partial(node.install, span.first, span.count, b""))
        else:
            node.install(span.first, span.count, b"")
        waiting, self.deferred = self.deferred, []
        self.deferred = [recall for recall in waiting if not self._try_yield(recall)]
        node.bus.run()
        return True

    def _flushed(self, message: Flushed) -> bool:
        buffer = self.node.buffer
        known = buffer.answered(message.flush) if message.done else buffer.placed(message.flush)
        if not known:
            raise PeerError(f"home answers flush {message.flush}, which is not the oldest")
        return True

    def _update(self, message: Update) -> bool:
        """Others' stores: all of them show at once, so the pages are taken away meanwhile,
        unless they are all in one word.

        A page that was given up while the update was under way is left out.
        """
        node, buffer = self.node, self.node.buffer
        diffs = [diff for diff in message.diffs if diff.page in buffer.multiple]
        if buffer.lay_in_word(diffs):
            self._laid_in()
            return True
        if any(node.pages.pinned_against(diff.page, 1, Access.NONE) for diff in diffs):
            return False
        runs: list[Run] = []
        for diff in diffs:
            append_run(runs, diff.page, 1, Access.NONE)
        buffer.updating.update(diff.page for diff in diffs)
        node.lower(runs, partial(self._lay_in, diffs))
        return True

    def _lay_in(self, diffs: list[PageDiff]) -> None:
        buffer = self.node.buffer
        for diff in diffs:
            if diff.page in buffer.updating:  # else it was discarded meanwhile
                buffer.lay_in(diff)
                buffer.updating.remove(diff.page)
            if diff.page in buffer.multiple:  # else it was given up meanwhile
                self.node.raise_access([run_of(diff.page, 1, buffer.own_access(diff.page))])
        self._laid_in()

    def _laid_in(self) -> None:
        if self.node.policy.acknowledges:
            self.node.send(HOME, Applied())


    # The bus lock -------------------------------------------------------------------

    def _halt(self, message: Halt) -> bool:
        self.node.bus.halt()
        return True

    def _bus_granted(self, message: GrantBus) -> bool:
        self.node.bus.granted()
        return True

    def _bus_freed(self, message: BusFreed) -> bool:
        self.node.bus.freed()
        return True


def _nothing() -> None:
    """An invalidation only has to be in force before the next message."""


def _wanting(runs: tuple[Run, ...]) -> list[Run]:
    """The same pages as if they were asked for, so that the same checks apply."""
    return [run_of(run.first, run.count, Access.READ) for run in runs]


_HANDLERS: Final[dict[type[Message], Callable[..., bool]]] = {
    Grant: Remote._grant,
    Refused: Remote._refused,
    Recall: Remote._recall,
    Invalidate: Remote._invalidate,
    Forget: Remote._forget,
    Flushed: Remote._flushed,
    Update: Remote._update,
    Halt: Remote._halt,
    GrantBus: Remote._bus_granted,
    BusFreed: Remote._bus_freed,
}
