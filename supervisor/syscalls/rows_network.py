# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: sockets."""

from __future__ import annotations

from typing import Final

from supervisor.syscalls.spec import (
    BUFFER_MAX,
    FD,
    LONG,
    POSITIVE,
    RETURNED,
    Arg,
    Args,
    Counted,
    Data,
    In,
    Inner,
    InOut,
    Message,
    Messages,
    Out,
    Row,
    Struct,
    TimeSize,
    V,
    answered,
    chosen,
    home,
    int_arg,
)

SOCKADDR_MAX: Final = 128
OPTION_MAX: Final = 1 << 20
TIMESPEC: Final = TimeSize(16, 8)

_MSG_PEEK: Final = 0x2
_MSG_WAITALL: Final = 0x100
_SOL_SOCKET: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_ZEROCOPY: Final = 60
_SOL_PACKET: Final = 263
_PACKET_FANOUT_DATA: Final = 22
_IPPROTO_TCP: Final = 6
_TCP_ZEROCOPY_RECEIVE: Final = 35
_ENOPROTOOPT: Final = -92


def _address_out(length: int) -> Counted:
    return Counted(length, SOCKADDR_MAX, clamp=True)


_FILTER: Final = Struct(
    2 * LONG, (Inner(LONG, lambda data: 8 * int.from_bytes(data[:2], "little")),)
)
"""struct sock_fprog: u16 number of 8-byte instructions, pointer to them."""

_SET_FILTER: Final = home("setsockopt", FD, V, V, _FILTER, V)
_SET_PLAIN: Final = home("setsockopt", FD, V, V, In(int_arg(4), limit=OPTION_MAX), V)
# The kernel would send from the buffer after the call, when it is another call's.
_SET_ZEROCOPY: Final = answered("setsockopt", _ENOPROTOOPT, "no zero-copy from scratch memory")
_SET: Final[dict[tuple[int, int], Row]] = {
    (_SOL_SOCKET, _SO_ATTACH_FILTER): _SET_FILTER,
    (_SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF): _SET_FILTER,
    (_SOL_SOCKET, _SO_ZEROCOPY): _SET_ZEROCOPY,
    (_SOL_PACKET, _PACKET_FANOUT_DATA): _SET_FILTER,
}
_GET_PLAIN: Final = home("getsockopt", FD, V, V, Counted(4, OPTION_MAX, reads=True), V)
_GET: Final[dict[tuple[int, int], Row]] = {
    (_IPPROTO_TCP, _TCP_ZEROCOPY_RECEIVE): answered(
        "getsockopt", _ENOPROTOOPT, "no zero-copy into scratch memory"
    ),
}


def _setsockopt(args: Args) -> Row:
    return _SET.get((args[1] & 0xFFFFFFFF, args[2] & 0xFFFFFFFF), _SET_PLAIN)


def _getsockopt(args: Args) -> Row:
    return _GET.get((args[1] & 0xFFFFFFFF, args[2] & 0xFFFFFFFF), _GET_PLAIN)


def wants_all(args: Args) -> bool:
    """Does a recvfrom wait until its buffer is full?"""
    return args[3] & (_MSG_WAITALL | _MSG_PEEK) == _MSG_WAITALL


ROWS: Final = (
    home("socket", V, V, V),
    home("socketpair", V, V, V, Out(8)),
    home("bind", FD, In(int_arg(2), limit=SOCKADDR_MAX), V),
    home("connect", FD, In(int_arg(2), limit=SOCKADDR_MAX), V, blocks=True),
    home("listen", FD, V),
    home("accept", FD, _address_out(2), V, blocks=True),
    home("accept4", FD, _address_out(2), V, V, blocks=True),
    home("getsockname", FD, _address_out(2), V),
    home("getpeername", FD, _address_out(2), V),
    home("shutdown", FD, V),
    home("sendto", FD, Data(2, out=False, whole=True), V, V,
         In(int_arg(5), limit=SOCKADDR_MAX), V, blocks=True),
    home("recvfrom", FD,
         Out(Arg(2), RETURNED, limit=BUFFER_MAX, clamp=True, goes_on=wants_all), V, V,
         _address_out(5), V, blocks=True),
    home("sendmsg", FD, Message(out=False), V, blocks=True),
    home("recvmsg", FD, Message(out=True), V, blocks=True),
    home("sendmmsg", FD, Messages(2, out=False), V, V, blocks=True),
    home("recvmmsg", FD, Messages(2, out=True), V, V, InOut(TIMESPEC, POSITIVE), blocks=True),
    chosen("setsockopt", _setsockopt),
    chosen("getsockopt", _getsockopt),
)
