# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: ioctl, by request.

Requests made with the macros of asm-generic/ioctl.h tell direction and size, but only
those of kinds known to hold no pointers are taken at their word. Older ones, and those
whose number lies about their argument, are in the table. Any other is tried with a
bad pointer, for the errno of a descriptor that does not have it, and refused by number
if it does: forwarding a pointer blindly would let the kernel use memory that the
coherence protocol does not know it uses.
"""

from __future__ import annotations

from typing import Final

from supervisor.syscalls.build import USER_TOP
from supervisor.syscalls.spec import (
    FD,
    LONG,
    NOTHING,
    SUCCESS,
    Args,
    Buffer,
    In,
    Inner,
    InOut,
    Kind,
    Out,
    Row,
    Rule,
    SelfSized,
    Size,
    Struct,
    V,
    Valid,
    answered,
    chosen,
    home,
    unknown,
)

ENOTTY: Final = -25
EOPNOTSUPP: Final = -95

TERMIOS: Final = 36
TERMIO: Final = 18
WINSIZE: Final = 8
SERIAL_STRUCT: Final = Size(72, 60)
SERIAL_RS485: Final = 32
SERIAL_ICOUNTER: Final = 80
IFREQ: Final = Size(40, 32)
ARPREQ: Final = 68
LOOP_INFO64: Final = 232
HD_GEOMETRY: Final = Size(16, 8)
FIEMAP: Final = 32
FIEMAP_EXTENT: Final = 56

_INT_OUT: Final = Out(4)
_INT_IN: Final = In(4)
_LONG_OUT: Final = Out(LONG)


def _fiemap(header: bytes) -> int:
    """struct fiemap: extent_count at 24, then the extents."""
    return FIEMAP + FIEMAP_EXTENT * int.from_bytes(header[24:28], "little")


def _dedupe(header: bytes) -> int:
    """struct file_dedupe_range: dest_count at 16, then 32 bytes each."""
    return 24 + 32 * int.from_bytes(header[16:18], "little")


def _entropy(header: bytes) -> int:
    """struct rand_pool_info: entropy_count, buf_size, bytes."""
    return 8 + min(int.from_bytes(header[4:8], "little"), 1 << 20)


_IFCONF: Final = Struct(
    2 * LONG,
    (
        Inner(
            LONG,
            lambda data: max(int.from_bytes(data[:4], "little", signed=True), 0),
            reads=False,
            valid=Valid(Rule.COUNTED, base=0),
        ),
    ),
    valid=SUCCESS,
)
"""struct ifconf: int length, in and out; pointer to struct ifreq."""

_TERMINAL: Final[dict[int, Kind]] = {
    0x5401: Out(TERMIOS),  # TCGETS
    **{request: In(TERMIOS) for request in (0x5402, 0x5403, 0x5404)},  # TCSETS, W, F
    0x5405: Out(TERMIO),  # TCGETA
    **{request: In(TERMIO) for request in (0x5406, 0x5407, 0x5408)},  # TCSETA, W, F
    0x5409: V,  # TCSBRK
    0x540A: V,  # TCXONC
    0x540B: V,  # TCFLSH
    0x540C: V,  # TIOCEXCL
    0x540D: V,  # TIOCNXCL
    0x540E: V,  # TIOCSCTTY
    0x540F: _INT_OUT,  # TIOCGPGRP
    0x5410: _INT_IN,  # TIOCSPGRP
    0x5411: _INT_OUT,  # TIOCOUTQ
    0x5412: In(1),  # TIOCSTI
    0x5413: Out(WINSIZE),  # TIOCGWINSZ
    0x5414: In(WINSIZE),  # TIOCSWINSZ
    0x5415: _INT_OUT,  # TIOCMGET
    **{request: _INT_IN for request in (0x5416, 0x5417, 0x5418)},  # TIOCMBIS, BIC, SET
    0x5419: _INT_OUT,  # TIOCGSOFTCAR
    0x541A: _INT_IN,  # TIOCSSOFTCAR
    0x541B: _INT_OUT,  # FIONREAD
    0x541D: V,  # TIOCCONS
    0x541E: Out(SERIAL_STRUCT),  # TIOCGSERIAL
    0x541F: In(SERIAL_STRUCT),  # TIOCSSERIAL
    0x5420: _INT_IN,  # TIOCPKT
    0x5421: _INT_IN,  # FIONBIO
    0x5422: V,  # TIOCNOTTY
    0x5423: _INT_IN,  # TIOCSETD
    0x5424: _INT_OUT,  # TIOCGETD
    0x5425: V,  # TCSBRKP
    0x5427: V,  # TIOCSBRK
    0x5428: V,  # TIOCCBRK
    0x5429: _INT_OUT,  # TIOCGSID
    0x542E: Out(SERIAL_RS485),  # TIOCGRS485
    0x542F: InOut(SERIAL_RS485),  # TIOCSRS485
    0x5437: V,  # TIOCVHANGUP
    0x5441: V,  # TIOCGPTPEER
    0x5450: V,  # FIONCLEX
    0x5451: V,  # FIOCLEX
    0x5452: _INT_IN,  # FIOASYNC
    0x5456: Out(TERMIOS),  # TIOCGLCKTRMIOS
    0x5457: In(TERMIOS),  # TIOCSLCKTRMIOS
    0x5459: _INT_OUT,  # TIOCSERGETLSR
    0x545C: V,  # TIOCMIWAIT
    0x545D: Out(SERIAL_ICOUNTER),  # TIOCGICOUNT
    0x5460: _LONG_OUT,  # FIOQSIZE
    0x400454CA: InOut(IFREQ),  # TUNSETIFF
    0x400454C8: V,  # TUNSETNOCSUM
    0x400454C9: V,  # TUNSETDEBUG
    0x400454CB: V,  # TUNSETPERSIST
    0x400454CC: V,  # TUNSETOWNER
    0x400454CD: V,  # TUNSETLINK
    0x400454CE: V,  # TUNSETGROUP
    0x400454D0: V,  # TUNSETOFFLOAD
    0x800454D2: Out(IFREQ),  # TUNGETIFF
}

_OF_INTERFACES: Final = (
    0x8910, 0x8913, 0x8914, 0x8915, 0x8916, 0x8917, 0x8918, 0x8919, 0x891A, 0x891B, 0x891C,
    0x891D, 0x891E, 0x8921, 0x8922, 0x8923, 0x8924, 0x8925, 0x8926, 0x8927, 0x8929, 0x8930,
    0x8931, 0x8932, 0x8933, 0x8934, 0x8935, 0x8936, 0x8937, 0x8942, 0x8943, 0x8970, 0x8971,
)  # fmt: skip
"""Requests with a struct ifreq whose union holds no pointer."""

_SOCKET: Final[dict[int, Kind]] = {
    0x8901: _INT_IN,  # FIOSETOWN
    0x8902: _INT_IN,  # SIOCSPGRP
    0x8903: _INT_OUT,  # FIOGETOWN
    0x8904: _INT_OUT,  # SIOCGPGRP
    0x8905: _INT_OUT,  # SIOCATMARK
    0x8906: Out(2 * LONG),  # SIOCGSTAMP
    0x8907: Out(2 * LONG),  # SIOCGSTAMPNS
    0x894B: _INT_OUT,  # SIOCOUTQNSD
    0x8912: _IFCONF,  # SIOCGIFCONF
    **{request: InOut(IFREQ) for request in _OF_INTERFACES},
    **{request: InOut(ARPREQ) for request in (0x8953, 0x8954, 0x8955)},  # SIOC[DGS]ARP
}

_FILE: Final[dict[int, Kind]] = {
    0x0001: InOut(4),  # FIBMAP
    0x0002: _INT_OUT,  # FIGETBSZ
    # These say long in their number and use int.
    0x80086601: _INT_OUT,  # FS_IOC_GETFLAGS
    0x40086602: _INT_IN,  # FS_IOC_SETFLAGS
    0x80087601: _INT_OUT,  # FS_IOC_GETVERSION
    0x40087602: _INT_IN,  # FS_IOC_SETVERSION
    0x40049409: V,  # FICLONE, of a descriptor
    0xC020660B: SelfSized(FIEMAP, _fiemap, SUCCESS),  # FS_IOC_FIEMAP
    0xC0189436: SelfSized(24, _dedupe, SUCCESS),  # FIDEDUPERANGE
    0x80045200: _INT_OUT,  # RNDGETENTCNT
    0x40085203: SelfSized(8, _entropy),  # RNDADDENTROPY
    0xB704: _INT_OUT,  # NS_GET_OWNER_UID
}

_BLOCK: Final[dict[int, Kind]] = {
    0x0301: Out(HD_GEOMETRY),  # HDIO_GETGEO
    0x125D: _INT_IN,  # BLKROSET
    0x125E: _INT_OUT,  # BLKROGET
    0x125F: V,  # BLKRRPART
    0x1260: _LONG_OUT,  # BLKGETSIZE
    0x1261: V,  # BLKFLSBUF
    0x1262: V,  # BLKRASET
    0x1263: _LONG_OUT,  # BLKRAGET
    0x1264: V,  # BLKFRASET
    0x1265: _LONG_OUT,  # BLKFRAGET
    0x1267: Out(2),  # BLKSECTGET
    0x1268: _INT_OUT,  # BLKSSZGET
    **{request: In(16) for request in (0x1277, 0x127D, 0x127F)},  # BLKDISCARD ...
    **{request: _INT_OUT for request in (0x1278, 0x1279, 0x127A, 0x127B, 0x127C)},
    0x127E: Out(2),  # BLKROTATIONAL
    0x80081270: _INT_OUT,  # BLKBSZGET
    0x40081271: _INT_IN,  # BLKBSZSET
    0x4C00: V,  # LOOP_SET_FD
    0x4C01: V,  # LOOP_CLR_FD
    0x4C04: In(LOOP_INFO64),  # LOOP_SET_STATUS64
    0x4C05: Out(LOOP_INFO64),  # LOOP_GET_STATUS64
    **{request: V for request in (0x4C06, 0x4C07, 0x4C08, 0x4C09, 0x4C80, 0x4C81, 0x4C82)},
}

TABLE: Final = {
    request: home("ioctl", FD, V, kind)
    for request, kind in (_TERMINAL | _SOCKET | _FILE | _BLOCK).items()
}
TABLE[0x8946] = answered("ioctl", EOPNOTSUPP, "SIOCETHTOOL has pointers inside")
TABLE[0x541C] = answered("ioctl", ENOTTY, "TIOCLINUX is the console's own")

_FLAT: Final = frozenset({0x12, 0x45, 0x49, 0x52, 0x54, 0x58, 0x66, 0x70, 0x72, 0x76, 0x89, 0x8A,
                          0x94, 0xB7, 0xFF})  # fmt: skip
"""Kinds (the number's second byte) of requests that hold no pointers where they tell
direction and size: block devices, evdev, inotify, random, terminals, XFS and generic
file systems, clocks, FAT, sockets, epoll, cloning, namespaces, pidfd."""

_PLAIN: Final = home("ioctl", FD, V, V)
_made: dict[int, Row] = {}
"""Rows of requests that are not in the table, made on first use."""


def _decode(request: int) -> Buffer:
    """The buffer that a number made by _IOR, _IOW or _IOWR speaks of."""
    length, direction = request >> 16 & 0x3FFF, request >> 30
    # What a driver writes of it is its own affair, hence a change is looked for.
    return Buffer(length, True, SUCCESS if direction & 2 else NOTHING)


def by_request(args: Args) -> Row:
    """The row of one ioctl(fd, request, argument)."""
    request, argument = args[1] & 0xFFFFFFFF, args[2]
    row = TABLE.get(request)
    if row is not None:
        return row
    if not request >> 30 and (argument < 0x10000 or argument >= USER_TOP):
        return _PLAIN  # No pointer to anything that can be mapped.
    row = _made.get(request)
    if row is None:
        kind = request >> 8 & 0xFF
        if request >> 30 and request >> 16 & 0x3FFF and kind in _FLAT:
            row = home("ioctl", FD, V, _decode(request))
        else:
            row = unknown("ioctl", f"request {request:#x} is in no table", FD, V)
        _made[request] = row
    return row


ROWS: Final = (chosen("ioctl", by_request),)
