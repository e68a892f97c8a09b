# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of home's own in the place of those that the program's private futex calls name.

The kernel at home has the queues, the timeouts and the signals of all threads that wait for
a futex. It compares a word when a thread begins to wait, so home would need the page
of each: the page that another host has just written and will write again. Private calls
need only agree in a name for their queue. So threads wait for a word in scratch memory; what
it holds is a number that every wake-up changes first. A thread whose word home has found
to be as expected, and which is not in the kernel's queue yet when another is to be woken,
meets another number there, and its call begins anew (`EAGAIN`): no wake-up is lost.
Where that happens to one again and again, the next wake-up waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from supervisor.driver.scratch import Lease, Scratch

_WORD: Final = 16
_SLAB: Final = 4096


class FutexWord:
    """That of one address of the program's while threads wait for it."""

    __slots__ = ("address", "at", "linked", "starving", "value", "waiters")

    def __init__(self, at: int) -> None:
        self.at = at
        """Where it is in the guest."""
        self.value = 0
        self.address = 0
        self.waiters = 0
        self.starving = 0
        """How many of the waiters have come too late for the queue several times."""
        self.linked = False
        """Threads that wait for it may have been requeued, from or to another word."""


class FutexWords:
    """Of one image of the program. Its scratch memory ends with the image."""

    def __init__(self) -> None:
        self._words: dict[int, FutexWord] = {}
        self._free: list[FutexWord] = []
        self._waiters = 0
        self._lease: Lease | None = None

    def enter(self, scratch: Scratch, address: int) -> FutexWord:
        """The word of an address for one thread more, which will `leave` it."""
        word = self.of(scratch, address)
        word.waiters += 1
        self._waiters += 1
        return word

    def leave(self, word: FutexWord) -> None:
        word.waiters -= 1
        self._waiters -= 1
        if not self._waiters:
            for other in list(self._words.values()):
                self._drop(other)
        elif not (word.waiters or word.linked):
            self._drop(word)

    def find(self, address: int) -> FutexWord | None:
        """That of an address, if threads wait for it."""
        return self._words.get(address)

    def of(self, scratch: Scratch, address: int) -> FutexWord:
        """That of an address; a fresh one stays until a thread leaves the last of all."""
        word = self._words.get(address)
        if word is None:
            if not self._free:
                self._grow(scratch)
            word = self._words[address] = self._free.pop()
            word.address, word.linked = address, False
        return word

    def change(self, word: FutexWord) -> None:
        """Before a wake-up: who is on the way into the queue will not wait."""
        assert self._lease is not None
        word.value = word.value + 1 & 0xFFFF_FFFF
        self._lease.write(word.at, word.value.to_bytes(4, "little"))

    def close(self) -> None:
        """The image is no more."""
        if self._lease is not None:
            self._lease.release()

    def _drop(self, word: FutexWord) -> None:
        del self._words[word.address]
        self._free.append(word)

    def _grow(self, scratch: Scratch) -> None:
        if self._lease is None:
            self._lease = scratch.lease()
        start = self._lease.allocate(_SLAB)
        self._lease.write(start, bytes(_SLAB))
        self._free += [FutexWord(at) for at in range(start, start + _SLAB, _WORD)]
