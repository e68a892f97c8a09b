# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs: the bytes of a page that differ from its twin.

A twin is a copy of a page from before this host's first store into it. A diff
holds exactly the bytes that differ, never an unchanged neighbour: another host
may have written that one. (So a store of the value that was there already is
in no diff; see the architecture notes for what that means.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rewriter.numeric import np
from supervisor.coherence.messages import WORD_SIZE, PageDiff
from supervisor.errors import PeerError
from supervisor.units import PAGE_SIZE, PageNumber

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RUNS_PLAIN_MAX: Final = 48  # beyond it, indexing with numpy beats a loop over runs


def make_diff(page: int, twin: bytes, current: bytes) -> PageDiff | None:
    """What `current` has that `twin` has not; None when they are equal.

    Both are PAGE_SIZE bytes, and `current` must not be changing meanwhile.
    """
    if twin == current:
        return None
    new = np.frombuffer(current, dtype=np.uint8)
    changed = (np.frombuffer(twin, dtype=np.uint8) != new).view(np.int8)
    edges = np.diff(changed, prepend=np.int8(0), append=np.int8(0))
    starts = np.flatnonzero(edges == 1)
    lengths = np.flatnonzero(edges == -1) - starts
    if len(starts) == 1:
        data = current[starts[0] : starts[0] + lengths[0]]
    else:
        data = new[changed.view(np.bool_)].tobytes()
    return PageDiff(
        PageNumber(page), starts.astype("<u2").tobytes(), lengths.astype("<u2").tobytes(), data
    )


def _runs(diff: PageDiff) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.frombuffer(diff.starts, dtype="<u2").astype(np.int64)
    lengths = np.frombuffer(diff.lengths, dtype="<u2").astype(np.int64)
    return starts, lengths


def changed_bytes(diff: PageDiff) -> NDArray[np.int64]:
    """Offsets within the page of the bytes in the diff, ascending."""
    starts, lengths = _runs(diff)
    ends = np.cumsum(lengths)
    offsets: NDArray[np.int64] = np.arange(len(diff.data), dtype=np.int64)
    offsets += np.repeat(starts - (ends - lengths), lengths)
    return offsets


def word_of(diff: PageDiff) -> int | None:
    """Offset of the aligned word that has all of the diff's bytes; None where there is none."""
    starts, lengths = _runs(diff)
    first = int(starts[0]) // WORD_SIZE
    last = int(starts[-1] + lengths[-1] - 1) // WORD_SIZE
    return first * WORD_SIZE if first == last else None


def apply_diff(diff: PageDiff, page: bytearray) -> None:
    """Lay the diff's bytes over a page."""
    if len(diff.starts) > 2 * _RUNS_PLAIN_MAX:
        whole = np.frombuffer(page, dtype=np.uint8)
        whole[changed_bytes(diff)] = np.frombuffer(diff.data, dtype=np.uint8)
        return
    at = 0
    starts, lengths = _runs(diff)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        page[start : start + length] = diff.data[at : at + length]
        at += length


def overlap(one: PageDiff, other: PageDiff) -> bool:
    """Whether both diffs have a byte at the same place."""
    mask = np.zeros(PAGE_SIZE, dtype=np.bool_)
    mask[changed_bytes(one)] = True
    return bool(mask[changed_bytes(other)].any())


def check_diff(diff: PageDiff) -> None:
    """Runs ascend, do not touch, stay in the page, and the data is theirs; else PeerError."""
    if len(diff.starts) != len(diff.lengths) or len(diff.starts) % 2 or not diff.starts:
        raise PeerError(f"malformed diff of page {diff.page:#x}")
    starts, lengths = _runs(diff)
    ends = starts + lengths
    if (
        int(lengths.min()) < 1
        or int(ends[-1]) > PAGE_SIZE
        or bool((starts[1:] <= ends[:-1]).any())
        or int(lengths.sum()) != len(diff.data)
    ):
        raise PeerError(f"malformed diff of page {diff.page:#x}")
