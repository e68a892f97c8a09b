# SPDX-License-Identifier: GPL-2.0-or-later
"""mremap: mappings that grow, shrink and move (mm/mremap.c).

What is one mapping to the program may be several areas here: of a mapping of a file, what
lies beyond the end of the file is the kernel's, at home. Guest memory is moved by copying
it; the kernel's own mappings the kernel moves.
"""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Final

from supervisor.areas import EXEC, Area, Kind
from supervisor.coherence.messages import Access
from supervisor.driver.copies import COPY_PIECE
from supervisor.driver.joint import ANONYMOUS
from supervisor.driver.memory_limits import is_data
from supervisor.driver.operations import Pause, Steps
from supervisor.syscalls.call import Acquire
from supervisor.syscalls.handlers import mapping
from supervisor.tracee import inject
from supervisor.tracee.memory import FileBacking
from supervisor.units import PAGE_MASK, round_up

if TYPE_CHECKING:
    from supervisor.driver.home import Home
    from supervisor.driver.messages import SpecialCall
    from supervisor.driver.thread import Thread

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4
_PLACED: Final = MREMAP_FIXED | MREMAP_DONTUNMAP
"""Where the fifth argument is a place, or a hint of one."""


def mremap(home: Home, thread: Thread, args: list[int], _call: SpecialCall | None) -> Steps:
    old, old_length, new_length, flags, target, _ = args
    old_length, new_length = round_up(old_length), round_up(new_length)
    wrong = _wrong_arguments(home, thread, old, old_length, new_length, flags, target)
    if wrong:
        return -wrong
    area = home.space.find(old)
    if area is None or area.kind is Kind.RESERVED:
        return -errno.EFAULT
    if not old_length and not _is_shared(home, area):
        return -errno.EINVAL
    if area.name == ANONYMOUS and area.kind is Kind.GUEST \
            and (not old_length or flags & MREMAP_DONTUNMAP):
        yield from home.joint.share([area])  # it is going to be at two places
    parts = _parts(home, old, old + old_length)
    if not parts:
        return -errno.EFAULT
    if any(part.kind is Kind.NATIVE and part.protection & EXEC for part in parts):
        return -errno.EINVAL  # its traps are known by their addresses
    more = new_length if flags & MREMAP_DONTUNMAP else max(new_length - old_length, 0)
    gone = (target, target + new_length) if flags & MREMAP_FIXED else (0, 0)
    if more and not home.limits_of(thread).fits(home, more, more * is_data(home, area), gone):
        return -errno.ENOMEM
    if new_length < old_length:
        home.layout.unmap(old + new_length, old + old_length)
        old_length = new_length
        parts = _parts(home, old, old + old_length)
    if not flags & _PLACED:
        if new_length == old_length:
            return old
        grown = (old + old_length, old + new_length)
        if old_length and _ends(home, grown[0]) and home.layout.is_free(*grown):
            yield from _extend(home, parts[-1], *grown)
            return old
        if not flags & MREMAP_MAYMOVE:
            return -errno.ENOMEM
    if not flags & MREMAP_FIXED:
        hint = target if flags & MREMAP_DONTUNMAP else 0
        found = home.layout.free_range(new_length, hint)
        if found is None:
            return -errno.ENOMEM
        target = found
    else:
        home.layout.unmap(target, target + new_length)
    if not old_length:
        return _by_kernel(home, parts[0], target, new_length, 0)
    return (yield from _move(home, parts, target, new_length, flags))


def _wrong_arguments(
    home: Home, thread: Thread, old: int, old_length: int, new_length: int, flags: int, target: int
) -> int:
    """The errno of what no mapping could make right, or 0."""
    known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
    if old & PAGE_MASK or not new_length or flags & ~known:
        return errno.EINVAL
    if flags & _PLACED and (not flags & MREMAP_MAYMOVE or target & PAGE_MASK):
        return errno.EINVAL
    if flags & MREMAP_DONTUNMAP and old_length != new_length:
        return errno.EINVAL
    if flags & _PLACED and target < old + old_length and old < target + new_length:
        return errno.EINVAL
    end = target + new_length
    if flags & MREMAP_FIXED and end > thread.arch.user_top:
        return errno.EINVAL
    if flags & MREMAP_FIXED and (target < mapping.LOWEST or home.layout.is_reserved(target, end)):
        return errno.EPERM
    return 0


def _is_shared(home: Home, area: Area) -> bool:
    """Is it a shared mapping, in the program's eyes?"""
    if area.kind is Kind.JOINT:
        return home.layout.copies.file_at(area.start) is None
    return area.kind is Kind.FILE or area.name == ANONYMOUS


def _parts(home: Home, start: int, end: int) -> list[Area]:
    """The areas that make up this part of one mapping; none where it is not of one."""
    area = home.space.find(start)
    if start == end:
        return [] if area is None else [area.cut(start, start)]
    parts = home.space.pieces(start, end)
    ends = [start, *(part.end for part in parts)]
    if [part.start for part in parts] != ends[:-1] or ends[-1] != end:
        return []
    if not all(_continues(home, *pair) for pair in itertools.pairwise(parts)):
        return []
    return parts


def _continues(home: Home, left: Area, right: Area) -> bool:
    """Are neighbours parts of one mapping of a file?"""
    before = home.layout.file_at(left.end - 1)
    after = home.layout.file_at(right.start)
    return (
        before is not None and after is not None and after.continues(before)
        and left.protection == right.protection and left.name == right.name
        and _is_shared(home, left) is _is_shared(home, right)
    )  # fmt: skip


def _ends(home: Home, address: int) -> bool:
    """Does a mapping end there?"""
    area = home.space.find(address - 1)
    return area is not None and area.end == address


def _extend(home: Home, last: Area, start: int, end: int) -> Steps:
    """A mapping, whose last part this is, goes on in [start, end), where nothing is."""
    copies = home.layout.copies
    file = copies.file_at(last.end - 1)
    if last.kind is not Kind.GUEST:
        _by_kernel(home, last, last.start, end - last.start, 0)
        return
    area = Area(start, end, last.protection, Kind.GUEST, last.name)
    if file is None:
        home.layout.replace(area)
        return
    file_end = file.end_within(start, end)
    if file_end < end and not _map_file(home, area.cut(file_end, end), file):
        file_end = end
    if start < file_end:
        home.layout.replace(area.cut(start, file_end))
    copies.add(start, end, file)
    yield from copies.fill(start, file_end)


def _map_file(home: Home, area: Area, file: FileBacking) -> bool:
    """The kernel's mapping of what is beyond a file's end; False where it may not be opened."""
    opened = home.agent.open_to_read(file.descriptor)
    if opened < 0:
        return False
    home.agent.check(
        [
            (
                inject.SYS_MMAP, area.start, area.end - area.start, area.protection,
                inject.MAP_PRIVATE | inject.MAP_FIXED, opened, file.offset_of(area.start),
            ),
            (inject.SYS_CLOSE, opened),
        ]
    )  # fmt: skip
    mapping.map_beyond_end(home, area)
    return True


def _move(home: Home, parts: list[Area], target: int, new_length: int, flags: int) -> Steps:
    """Move a mapping to where nothing is; what it is longer there is there too."""
    start = parts[0].start
    stays = flags & MREMAP_DONTUNMAP
    for part in parts:
        to = part.start - start + target
        if part.kind is not Kind.GUEST:
            result = _by_kernel(home, part, to, part.end - part.start, stays)
            if result < 0:
                return result
            continue
        yield from _copy(home, part, to)
        if stays:
            yield from home.layout.copies.discard(part)
        else:
            home.layout.unmap(part.start, part.end)
    moved = parts[-1].end - start + target
    if moved < target + new_length:
        last = home.space.find(moved - 1)
        assert last is not None
        yield from _extend(home, last, moved, target + new_length)
    return target


def _copy(home: Home, part: Area, target: int) -> Steps:
    """Guest memory, to a place of which the program does not know yet."""
    length = part.end - part.start
    home.layout.replace(Area(target, target + length, part.protection, Kind.GUEST, part.name))
    for at in range(0, length, COPY_PIECE):
        size = min(COPY_PIECE, length - at)
        source, to = part.start + at, target + at
        yield Acquire(((source, size, Access.READ), (to, size, Access.WRITE)))
        home.memory.copy(source, to, size)
        yield Pause()
    home.layout.copies.copy(part.start, part.end, target)


def _by_kernel(home: Home, part: Area, target: int, new_length: int, stays: int) -> int:
    """The kernel's own mapping, moved or resized: its contents stay where they are.

    With no length of its own it stays where it is too, and is at the target as well.
    """
    layout, memory = home.layout, home.memory
    length, is_new = part.end - part.start, part.start != target
    how = (MREMAP_MAYMOVE | MREMAP_FIXED | stays) if is_new else 0
    result = home.agent.run([(inject.SYS_MREMAP, part.start, length, new_length, how, target)])[0]
    if result < 0:
        return result
    end = target + new_length
    backing, file = memory.backing_at(part.start), layout.copies.file_at(part.start)
    if isinstance(backing, FileBacking):
        backing = backing.moved(target - part.start)
    if is_new and length and not stays:
        home.space.remove(part.start, part.end)
        layout.forget(part.start, part.end)
    layout.replace(Area(target, end, part.protection, part.kind, part.name))
    memory.set_backing(target, end, backing)
    if file is not None:
        layout.copies.add(target, end, file.moved(target - part.start) if is_new else file)
    if is_new:
        layout.file_mappings.move(part.start, target, new_length)
        if length == home.joint.attached.get(part.start) and not stays:
            home.joint.attached[target] = home.joint.attached.pop(part.start)
    return target
