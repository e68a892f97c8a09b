# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs: the bytes of a page that differ from its twin.

A twin is a copy of a page from before this host's first store into it. A diff
holds exactly the bytes that differ, never an unchanged neighbour: another host
may have written that one. (So a store of the value that was there already is
in no diff; see the architecture notes for what that means.)
"""

from __future__ import annotations

from array import array
from operator import ne
from typing import TYPE_CHECKING, Final

from rewriter import numeric
from rewriter.numeric import np
from supervisor.coherence.messages import WORD_SIZE, PageDiff
from supervisor.errors import PeerError
from supervisor.units import PAGE_SIZE, PageNumber

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLOSE: Final = 64
"""Changed bytes so near each other are compared one by one."""
_RUNS_PLAIN_MAX: Final = 48
"""Beyond it, indexing with numpy beats a loop over runs."""
_MARKS: Final = b"\0" + b"\1" * 255
"""For `bytes.translate`: 1 where bytes differ."""


def make_diff(page: int, twin: bytes, current: bytes) -> PageDiff | None:
    """What `current` has that `twin` has not; None when they are equal.

    Both are PAGE_SIZE bytes, and `current` must not be changing meanwhile.
    """
    if twin == current:
        return None
    first, end = changed_span(twin, current)
    old, new = twin[first:end], current[first:end]
    if end - first <= _CLOSE:
        marks = bytes(map(ne, old, new))
    else:
        differing = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
        marks = differing.to_bytes(end - first, "little").translate(_MARKS)
    starts, lengths, data = array("H"), array("H"), []
    at = 0
    while at >= 0:
        if len(starts) == _RUNS_PLAIN_MAX and numeric.ready():
            return _many_runs(page, first, marks, new)
        to = marks.find(0, at)
        if to < 0:
            to = end - first
        starts.append(first + at)
        lengths.append(to - at)
        data.append(new[at:to])
        at = marks.find(1, to)
    return PageDiff(PageNumber(page), starts.tobytes(), lengths.tobytes(), b"".join(data))


def _many_runs(page: int, first: int, marks: bytes, new: bytes) -> PageDiff:
    """The diff of the bytes from `first` on that are marked: the first and the last are."""
    changed = np.frombuffer(marks, np.bool_)
    edges = np.flatnonzero(changed[:-1] != changed[1:]) + 1
    starts = np.concatenate(([0], edges[1::2]))
    lengths = np.concatenate((edges[::2], [len(marks)])) - starts
    return PageDiff(
        PageNumber(page), (starts + first).astype("<u2").tobytes(),
        lengths.astype("<u2").tobytes(), np.frombuffer(new, np.uint8)[changed].tobytes(),
    )  # fmt: skip


def _with_numpy(runs: int) -> bool:
    return runs > _RUNS_PLAIN_MAX and numeric.ready()


def changed_span(twin: bytes, current: bytes) -> tuple[int, int]:
    """The first byte that differs, and the one after the last; the two must not be equal."""
    first, end, step = 0, PAGE_SIZE, PAGE_SIZE // 2
    while step:
        if twin.startswith(current[first : first + step], first):
            first += step
        if twin.startswith(current[end - step : end], end - step):
            end -= step
        step >>= 1
    return first, end


def _runs(diff: PageDiff) -> list[tuple[int, int]]:
    """First byte and length of each run."""
    return list(zip(_numbers(diff.starts), _numbers(diff.lengths), strict=True))


def _numbers(packed: bytes) -> list[int]:
    return memoryview(packed).cast("H").tolist()  # x86 is little-endian, as the wire is


def _columns(diff: PageDiff) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.frombuffer(diff.starts, dtype="<u2").astype(np.int64)
    lengths = np.frombuffer(diff.lengths, dtype="<u2").astype(np.int64)
    return starts, lengths


def changed_bytes(diff: PageDiff) -> NDArray[np.int64]:
    """Offsets within the page of the bytes in the diff, ascending."""
    starts, lengths = _columns(diff)
    ends = np.cumsum(lengths)
    offsets: NDArray[np.int64] = np.arange(len(diff.data), dtype=np.int64)
    offsets += np.repeat(starts - (ends - lengths), lengths)
    return offsets


def changed_mask(diff: PageDiff) -> int:
    """A number that has bit N set where byte N of the page is in the diff."""
    if _with_numpy(len(diff.starts) // 2):
        changed = np.zeros(PAGE_SIZE, dtype=np.bool_)
        changed[changed_bytes(diff)] = True
        return int.from_bytes(np.packbits(changed, bitorder="little").tobytes(), "little")
    mask = 0
    for start, length in _runs(diff):
        mask |= ((1 << length) - 1) << start
    return mask


def word_of(diff: PageDiff) -> int | None:
    """Offset of the aligned word that has all of the diff's bytes; None where there is none."""
    runs = _runs(diff)
    first = runs[0][0] // WORD_SIZE
    last = (sum(runs[-1]) - 1) // WORD_SIZE
    return first * WORD_SIZE if first == last else None


def apply_diff(diff: PageDiff, page: bytearray) -> None:
    """Lay the diff's bytes over a page."""
    if _with_numpy(len(diff.starts) // 2):
        whole = np.frombuffer(page, dtype=np.uint8)
        whole[changed_bytes(diff)] = np.frombuffer(diff.data, dtype=np.uint8)
        return
    at = 0
    for start, length in _runs(diff):
        page[start : start + length] = diff.data[at : at + length]
        at += length


def check_diff(diff: PageDiff) -> None:
    """Runs ascend, do not touch, stay in the page, and the data is theirs; else PeerError."""
    if not diff.starts or len(diff.starts) != len(diff.lengths) or len(diff.starts) % 2:
        raise PeerError(f"malformed diff of page {diff.page:#x}")
    good = _many_good(diff) if _with_numpy(len(diff.starts) // 2) else _few_good(diff)
    if not good:
        raise PeerError(f"malformed diff of page {diff.page:#x}")


def _few_good(diff: PageDiff) -> bool:
    end, total = -1, 0
    for start, length in _runs(diff):
        if start <= end or length < 1:
            return False
        end = start + length
        total += length
    return end <= PAGE_SIZE and total == len(diff.data)


def _many_good(diff: PageDiff) -> bool:
    starts, lengths = _columns(diff)
    ends = starts + lengths
    return (
        int(lengths.min()) >= 1
        and int(ends[-1]) <= PAGE_SIZE
        and not bool((starts[1:] <= ends[:-1]).any())
        and int(lengths.sum()) == len(diff.data)
    )
