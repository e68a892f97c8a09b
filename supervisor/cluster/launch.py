# SPDX-License-Identifier: GPL-2.0-or-later
"""From options, environment and launcher to a plan of the run's hosts.

Options beat DSMSUP_* variables, which beat what a launcher (`launchers.py`) tells. With
nothing named, the hosts are virtual ones of this machine.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from supervisor.cluster import exchange, pmix
from supervisor.cluster.auth import new_key, read_key
from supervisor.cluster.launchers import Launcher, completion_index, detect
from supervisor.cluster.plan import (
    HOSTS_MAX,
    JOIN_TIMEOUT_S,
    ClusterPlan,
    Rendezvous,
    VirtualPlan,
    share_cpus,
)
from supervisor.cluster.rendezvous import (
    listen_anywhere,
    listen_on_loopback,
    own_addresses,
)
from supervisor.errors import UsageError
from supervisor.units import HostId

_JOIN_TIMEOUT_S_MAX: Final = 86400.0
_DIGITS: Final = re.compile(r"-?[0-9]{1,9}")
"""int() takes more: 1_0, and the digits of other scripts."""
_DECIMAL: Final = re.compile(r"[0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9}")
_WILDCARDS: Final = ("", "*", "0.0.0.0", "::")

Share = Callable[[str, str, int, int, str, Mapping[str, str], float], str]


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """The command line's words, None where not given; checked by `plan`."""

    n: int | str | None = None
    hosts: int | str | None = None
    rendezvous: str | None = None
    key_file: str | None = None
    host_id: int | str | None = None
    join_timeout: float | str | None = None


class _Setting(NamedTuple):
    """A value and where it came from, for messages."""

    text: str
    source: str
    explicit: bool


_NAMES: Final = {
    "n": ("-n", "DSMSUP_N"),
    "hosts": ("--hosts", "DSMSUP_HOSTS"),
    "rendezvous": ("--rendezvous", "DSMSUP_RENDEZVOUS"),
    "key_file": ("--key-file", "DSMSUP_KEY_FILE"),
    "host_id": ("--host-id", "DSMSUP_HOST_ID"),
    "join_timeout": ("--join-timeout", "DSMSUP_JOIN_TIMEOUT"),
}
"""Option and environment variable of each setting."""

_CLUSTER_FORM: Final = "--hosts N --rendezvous HOST:PORT --key-file FILE"


def plan(
    options: LaunchOptions,
    environ: Mapping[str, str],
    available_cpus: tuple[int, ...],
    share: Share = exchange.share,
    machine_cpus: int | None = None,
) -> VirtualPlan | ClusterPlan:
    """Decide which hosts the run has and which one this process is.

    `available_cpus` are the processors this process may use. Reads the key file, and
    under a launcher, when rendezvous or key is not given, meets the job's other
    processes by `share` (at most --join-timeout). Raises UsageError in one line that
    names option and mend.
    """
    settings = _read(options, environ)
    wait_s = _seconds(settings)
    virtual = _virtual_hosts(settings)
    launcher = None if virtual else detect(environ)
    named = [name for name in ("hosts", "rendezvous") if settings[name]]
    if virtual is None and launcher is None and not named:
        _refuse_strays(settings)
        virtual = min(HOSTS_MAX, max(2, len(available_cpus)))
    if virtual is not None:
        return VirtualPlan(virtual, share_cpus(available_cpus, virtual), wait_s)

    hosts = _host_count(settings, launcher)
    host_id = _host_id(settings, launcher, hosts, completion_index(environ))
    if launcher is not None and launcher.size == hosts:
        available_cpus = _own_share(launcher, available_cpus, machine_cpus or os.cpu_count() or 1)
    if hosts == 1:
        return VirtualPlan(1, (available_cpus,))
    rendezvous = _rendezvous(settings["rendezvous"])
    key = _key(settings["key_file"])
    if launcher is None or (rendezvous and key):
        rendezvous, key = _demand(settings, rendezvous, key)
        return ClusterPlan(hosts, host_id, rendezvous, key, available_cpus, wait_s)
    if host_id != launcher.rank or hosts != launcher.size:
        raise UsageError(
            f"the hosts given are not those that {launcher.name} started:"
            " give --rendezvous and --key-file too"
        )
    way = _way(launcher, environ)
    if not way:
        rendezvous, key = _demand_of_launcher(launcher, rendezvous, key)
        return ClusterPlan(hosts, host_id, rendezvous, key, available_cpus, wait_s)
    listens = rendezvous is None
    rendezvous, key, listener = _meet(launcher, way, rendezvous, key, environ, share, wait_s)
    return ClusterPlan(hosts, host_id, rendezvous, key, available_cpus, wait_s, listens, listener)


# Settings ----------------------------------------------------------------------------


def _read(options: LaunchOptions, environ: Mapping[str, str]) -> dict[str, _Setting | None]:
    """Every setting, from its option or else its variable; an empty variable is none."""
    found: dict[str, _Setting | None] = {}
    for name, (option, variable) in _NAMES.items():
        given = getattr(options, name)
        if given is not None:
            found[name] = _Setting(str(given).strip(), option, True)
        elif environ.get(variable, "").strip():
            found[name] = _Setting(environ[variable].strip(), variable, False)
        else:
            found[name] = None
    return found


def _integer(setting: _Setting, low: int, high: int, what: str) -> int:
    if not _DIGITS.fullmatch(setting.text):
        raise UsageError(
            f"{setting.source} {setting.text}: not a number; {what} is {low} to {high}"
        )
    value = int(setting.text)
    if not low <= value <= high:
        raise UsageError(f"{setting.source} {value}: {what} is {low} to {high}")
    return value


def _seconds(settings: dict[str, _Setting | None]) -> float:
    setting = settings["join_timeout"]
    if setting is None:
        return JOIN_TIMEOUT_S
    value = float(setting.text) if _DECIMAL.fullmatch(setting.text) else -1.0
    if not 0 < value <= _JOIN_TIMEOUT_S_MAX:
        raise UsageError(
            f"{setting.source} {setting.text}: give seconds, above 0 and up to"
            f" {_JOIN_TIMEOUT_S_MAX:g}"
        )
    return value


def _virtual_hosts(settings: dict[str, _Setting | None]) -> int | None:
    """How many virtual hosts are asked for, None when none are.

    Between -n and the cluster's settings, options win over variables; on one level the
    two contradict each other.
    """
    asked = settings["n"]
    if asked is None:
        return None
    for name in ("hosts", "rendezvous"):
        other = settings[name]
        if other and other.explicit == asked.explicit:
            raise UsageError(
                f"{asked.source} makes virtual hosts here, {other.source} names a cluster:"
                " give one of them"
            )
        if other and other.explicit:
            return None
    if asked.explicit:
        _refuse_strays(settings, asked.source)
    return _integer(asked, 1, HOSTS_MAX, "the number of hosts")


def _refuse_strays(settings: dict[str, _Setting | None], beside: str = "") -> None:
    """A cluster's option without a cluster is a mistake; a variable is a habit."""
    for name in ("key_file", "host_id"):
        setting = settings[name]
        if setting and setting.explicit:
            why = f"has no meaning beside {beside}" if beside else "needs a cluster"
            raise UsageError(f"{setting.source} {why}: give {_CLUSTER_FORM}")


def _host_count(settings: dict[str, _Setting | None], launcher: Launcher | None) -> int:
    setting = settings["hosts"]
    if setting is not None:
        return _integer(setting, 1, HOSTS_MAX, "the number of hosts")
    if launcher is None:
        given = settings["rendezvous"]
        assert given is not None
        raise UsageError(f"{given.source} needs the number of hosts: give {_CLUSTER_FORM}")
    if not 1 <= launcher.size <= HOSTS_MAX:
        raise UsageError(f"{launcher.name} started {launcher.size} hosts: 1 to {HOSTS_MAX} work")
    return launcher.size


def _host_id(
    settings: dict[str, _Setting | None], launcher: Launcher | None, hosts: int, index: str
) -> HostId | None:
    setting = settings["host_id"]
    if setting is None and launcher is None and index:
        setting = _Setting(index, "JOB_COMPLETION_INDEX", False)
    if setting is not None:
        return HostId(_integer(setting, 0, hosts - 1, f"the host id among {hosts} hosts"))
    if launcher is not None and launcher.size == hosts:
        return HostId(launcher.rank)
    return None


def _key(setting: _Setting | None) -> bytes | None:
    if setting is None:
        return None
    if not setting.text:
        raise UsageError(f"{setting.source} names no file: give the one with the run's key")
    return read_key(setting.text)


def _rendezvous(setting: _Setting | None) -> Rendezvous | None:
    """Read HOST:PORT, with [ ] around an IPv6 address."""
    if setting is None:
        return None
    host, colon, port = setting.text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{setting.source} {setting.text}: write IPv6 as [ADDRESS]:PORT")
    if not colon or not _DIGITS.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise UsageError(
            f"{setting.source} {setting.text}: give HOST:PORT, with a port from 1 to 65535"
        )
    if host in _WILDCARDS:
        raise UsageError(
            f"{setting.source} {setting.text} names no host: give home's name or address"
        )
    if _lacks_interface(host):
        raise UsageError(
            f"{setting.source} {setting.text}: a link-local address is one of an interface, and"
            f" each host names its own: [{host}%INTERFACE]:PORT"
        )
    return Rendezvous((host,), int(port))


def _lacks_interface(host: str) -> bool:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return address.is_link_local and address.scope_id is None


def _demand(
    settings: dict[str, _Setting | None], rendezvous: Rendezvous | None, key: bytes | None
) -> tuple[Rendezvous, bytes]:
    """Without a launcher, everything must be given."""
    source = next(setting.source for name in ("hosts", "rendezvous") if (setting := settings[name]))
    if rendezvous is None:
        raise UsageError(f"{source} needs a place to meet: give --rendezvous HOST:PORT")
    if key is None:
        raise UsageError(
            f"{source} needs a key: make one with `dsmsup keygen FILE`, copy it to every host,"
            " and give --key-file FILE"
        )
    return rendezvous, key


# Launchers ---------------------------------------------------------------------------


def _own_share(launcher: Launcher, cpus: tuple[int, ...], machine_cpus: int) -> tuple[int, ...]:
    """This process's processors, when the launcher left several unbound on one node."""
    if launcher.local_size > 1 and len(cpus) >= machine_cpus:
        return share_cpus(cpus, launcher.local_size)[launcher.local_rank]
    return cpus


def _demand_of_launcher(
    launcher: Launcher, rendezvous: Rendezvous | None, key: bytes | None
) -> tuple[Rendezvous, bytes]:
    """Where the launcher lets nothing be exchanged: its first node, and a key from a file."""
    if key is None:
        raise UsageError(
            f"{launcher.name} shares no secret between nodes: make a key with"
            " `dsmsup keygen FILE` where every node can read it, and set"
            f" DSMSUP_KEY_FILE{launcher.hint}"
        )
    rendezvous = rendezvous or launcher.fallback
    if rendezvous is None:
        raise UsageError(
            f"{launcher.name} does not tell where its first process runs:"
            " give --rendezvous HOST:PORT"
        )
    return rendezvous, key


def _meet(
    launcher: Launcher,
    way: str,
    rendezvous: Rendezvous | None,
    key: bytes | None,
    environ: Mapping[str, str],
    share: Share,
    wait_s: float,
) -> tuple[Rendezvous, bytes, socket.socket | None]:
    """Agree with the job's other processes on what was not given; rank 0 tells it.

    Without a rendezvous rank 0 listens at a port of the kernel's choice, and the listener
    is the third value.
    """
    text, listener = "-", None
    try:
        if launcher.rank == 0:
            if rendezvous is None:
                listener = listen_on_loopback() if launcher.one_node else listen_anywhere(0)
                port = listener.getsockname()[1]
                addresses = ("127.0.0.1",) if launcher.one_node else own_addresses()
            else:
                port, addresses = rendezvous.port, rendezvous.hosts
            text = "@".join(((key or new_key()).hex(), str(port), ",".join(addresses)))
        text = share(way, launcher.job, launcher.rank, launcher.size, text, environ, wait_s)
        key_hex, port_text, names = text.split("@", 2)
        return Rendezvous(tuple(names.split(",")), int(port_text)), bytes.fromhex(key_hex), listener
    except ValueError:
        raise UsageError(
            f"the first process that {launcher.name} started is no dsmsup of this version"
        ) from None
    except BaseException:
        if listener is not None:
            listener.close()
        raise


def _way(launcher: Launcher, environ: Mapping[str, str]) -> str:
    """The first way of exchange that works here, "" for none."""
    for way in launcher.ways:
        if way != "pmix" or pmix.available(environ):
            return way
    return ""
