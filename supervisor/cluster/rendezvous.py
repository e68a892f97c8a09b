# SPDX-License-Identifier: GPL-2.0-or-later
"""Meeting at HOST:PORT: who can listen there is home, the others connect.

Three traps of names stand behind `listen`:

- A machine's own name often resolves, on that machine only, to a loopback address
  (Debian writes `127.0.1.1 node1` into /etc/hosts). Listening there would shut the
  others out, so home then listens on every address of the machine.
- `localhost` is often both ::1 and 127.0.0.1. Two processes of one machine must not each
  win one of them, so only the first address, in a fixed order, decides who is home.
- A name may stand for home without being an address of its machine: behind a forwarded
  port, or as a Kubernetes service. A host that is told to be home believes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import signal
import socket
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import trio

from supervisor.cluster.plan import Rendezvous, endpoint
from supervisor.cluster.transport import tune
from supervisor.errors import DsmsupError, UsageError

_BACKLOG: Final = 128
_SIOCGIFCONF: Final = 0x8912
_IFREQ_BYTES: Final = 40
_NOT_OURS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH)


_SockAddr = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
_Answers = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, _SockAddr]]
"""What getaddrinfo(3) gives in Python."""


class PortInUse(DsmsupError):
    """Something listens at the rendezvous already: another home, or a stranger."""


class NotHere(DsmsupError):
    """The rendezvous is no address of this host."""


class UnknownHost(UsageError):
    """The name does not exist, or not yet (a Kubernetes pod that is still to start)."""


class NameServiceSilent(DsmsupError):
    """A name may exist, but the name service does not say now."""


class Address(NamedTuple):
    """A socket address, resolved."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    def __str__(self) -> str:
        return endpoint(self.sockaddr[0], self.sockaddr[1])


async def resolve(rendezvous: Rendezvous) -> list[Address]:
    """Every address of the rendezvous, in a fixed order within each of its names.

    Raises UnknownHost when the name does not exist, NameServiceSilent when the name
    service does not answer now.
    """
    found: list[Address] = []
    for host in rendezvous.hosts:
        try:
            answers = await _getaddrinfo(host, rendezvous.port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise NameServiceSilent(f"the name service does not answer for {host}") from None
            if len(rendezvous.hosts) > 1:
                continue
            raise UnknownHost(f"unknown host {host} in --rendezvous {rendezvous}") from None
        except UnicodeError:
            raise UsageError(f"{host!r} is no host name (--rendezvous)") from None
        addresses = {
            Address(family, sockaddr)
            for family, _, _, _, sockaddr in answers
            if isinstance(sockaddr[0], str) and isinstance(sockaddr[1], int)
        }
        found += sorted(addresses, key=lambda address: (address.family, address.sockaddr))
    return list(dict.fromkeys(found))


async def _getaddrinfo(host: str, port: int) -> _Answers:
    """Ask the name service without holding up the event loop.

    In a thread of our own rather than trio's, which keeps its threads for later use: the
    driver blocks SIGCHLD to read it from a descriptor, and one forgotten thread that does
    not block it would swallow it. Ours blocks every signal from its start, and is gone
    when the answer is there (later only if the caller did not wait for it).
    """
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    outcome: list[_Answers | OSError | UnicodeError] = []

    def ask() -> None:
        try:
            flags = socket.AI_NUMERICSERV
            outcome.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
        except (OSError, UnicodeError) as error:
            outcome.append(error)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    thread = threading.Thread(target=ask, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    await done.wait()
    thread.join()
    answer = outcome[0]
    if isinstance(answer, Exception):
        raise answer
    return answer


async def listen(rendezvous: Rendezvous, told: bool) -> list[socket.socket]:
    """Listen at the rendezvous, on the first of its addresses that is ours and the rest.

    `told`: this host was told to be home, it does not only try. Raises NotHere when no
    address is this host's (and none can be forwarded to it), PortInUse when the first
    that is ours is taken, UsageError when we may not listen there.
    """
    believed = told and not any(_is_literal(host) for host in rendezvous.hosts)
    try:
        addresses = await resolve(rendezvous)
    except (UnknownHost, NameServiceSilent):
        if believed:
            return [_everywhere(rendezvous)]
        raise
    if _is_own_name(rendezvous, addresses):
        return [_everywhere(rendezvous)]
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                listeners.append(_bound(address))
            except OSError as error:
                if error.errno in _NOT_OURS:
                    continue
                if not listeners:
                    raise _explain(error, rendezvous) from None
    except BaseException:
        close_all(listeners)
        raise
    if listeners:
        return listeners
    if believed:
        return [_everywhere(rendezvous)]
    raise NotHere(
        f"{rendezvous} is no address of this host: host 0 must run where --rendezvous points"
    )


def _is_own_name(rendezvous: Rendezvous, addresses: list[Address]) -> bool:
    """Whether a name that is neither an address nor `localhost` means loopback only."""
    for host in rendezvous.hosts:
        if host == "localhost" or host.endswith(".localhost") or _is_literal(host):
            return False
    return bool(addresses) and all(
        ipaddress.ip_address(address.sockaddr[0].partition("%")[0]).is_loopback
        for address in addresses
    )


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _bound(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        # Only lets a new home listen where an earlier one's connections linger; two
        # listeners at one address still exclude each other.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address.sockaddr)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _everywhere(rendezvous: Rendezvous) -> socket.socket:
    try:
        return listen_anywhere(rendezvous.port)
    except OSError as error:
        raise _explain(error, rendezvous) from None


def _explain(error: OSError, rendezvous: Rendezvous) -> DsmsupError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{rendezvous} is in use already, by another home or something else:"
            " choose another port for --rendezvous"
        )
    if error.errno == errno.EACCES:
        return UsageError(
            f"not allowed to listen at {rendezvous}: choose a port above 1023 for --rendezvous"
        )
    return DsmsupError(f"cannot listen at {rendezvous}: {error.strerror}")


def listen_on_loopback() -> socket.socket:
    """A listener at 127.0.0.1 on a port that the kernel chose."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    sock.setblocking(False)
    return sock


def check_loopback() -> None:
    """Raise DsmsupError unless processes of this machine can reach each other at 127.0.0.1.

    A new network namespace has the interface, but down: a listener waits there in vain.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 1))  # of datagrams: nothing is sent
        except OSError as error:
            if error.errno in _NOT_OURS:
                raise DsmsupError("the loopback interface is down: ip link set lo up") from None
            raise


def listen_anywhere(port: int) -> socket.socket:
    """A listener at every address of this machine; port 0 lets the kernel choose one."""
    if socket.has_dualstack_ipv6():
        sock = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    else:
        sock = socket.create_server(("", port), backlog=_BACKLOG)
    sock.setblocking(False)
    return sock


def own_addresses() -> tuple[str, ...]:
    """This machine's addresses that others may reach, IPv4 first; at least a loopback one.

    From SIOCGIFCONF (netdevice(7)), which knows IPv4 only, and /proc/net/if_inet6.
    """
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        room = bytearray(64 * _IFREQ_BYTES)
        address = (ctypes.c_char * len(room)).from_buffer(room)
        request = struct.pack("iP", len(room), ctypes.addressof(address))
        (length,) = struct.unpack_from("i", fcntl.ioctl(sock, _SIOCGIFCONF, request))
        for start in range(0, length, _IFREQ_BYTES):
            found.append(socket.inet_ntoa(room[start + 20 : start + 24]))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as table:
        found += [str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))) for line in table]
    useful = [one for one in found if _reachable(ipaddress.ip_address(one))]
    return tuple(dict.fromkeys(useful)) or ("127.0.0.1",)


def _reachable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (address.is_loopback or address.is_link_local or address.is_multicast)


async def dial(address: Address, deadline: float) -> trio.SocketStream:
    """Connect, until `deadline` on trio's clock. Raises OSError (TimeoutError is one)."""
    bare = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        tune(bare)
        sock = trio.socket.from_stdlib_socket(bare)
        with trio.move_on_at(deadline) as limit:
            await sock.connect(address.sockaddr)
        if limit.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, "no answer")
        if sock.getsockname() == sock.getpeername():
            # TCP lets a socket connect to itself when the kernel picks, as our own
            # port, the very one that nobody listens at.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    except BaseException:
        bare.close()
        raise
    return trio.SocketStream(sock)


def close_all(listeners: Iterable[socket.socket]) -> None:
    """Close sockets."""
    for sock in listeners:
        sock.close()
