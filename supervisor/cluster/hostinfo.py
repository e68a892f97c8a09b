# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host tells the others of itself when it joins."""

from __future__ import annotations

import os
import resource
import socket
from functools import cache
from pathlib import Path

import msgspec

from supervisor import __version__
from supervisor.cluster.processors import Processor, local_processor, unfit
from supervisor.units import PAGE_SIZE


class HostInfo(msgspec.Struct, frozen=True, array_like=True):
    """One host as every other knows it.

    `id` is -1 until home has assigned one; `address` is the host's as its peer sees it,
    without a port. `cpus` counts the processors it lends; `processor` is what programs
    can tell of them (processors.py).
    """

    id: int
    cpus: int
    hostname: str
    address: str
    kernel: str
    machine: str
    page_size: int
    cpu_vendor: str
    cpu_model: str
    processor: Processor
    port: int = 0
    """Where the other hosts may call it, 0 for nowhere."""
    trouble: str = ""
    """Why it cannot take part: it comes only to say so."""

    @property
    def name(self) -> str:
        """How messages call it: `node2 at 10.0.0.2`."""
        return f"{self.hostname} at {self.address}" if self.address else self.hostname


def local_info(cpus: int, port: int = 0) -> HostInfo:
    """This host, before it has an id or an address."""
    system = os.uname()
    vendor, model, features = _processor()
    return HostInfo(
        id=-1,
        cpus=cpus,
        hostname=socket.gethostname()[:255],
        address="",
        kernel=system.release,
        machine=system.machine,
        page_size=resource.getpagesize(),
        cpu_vendor=vendor,
        cpu_model=model,
        processor=local_processor(features),
        port=port,
    )


def misfit(ours: HostInfo, theirs: HostInfo) -> str:
    """Why two hosts cannot form one machine, "" when they can."""
    for what, mine, yours in (
        ("machine", ours.machine, theirs.machine),
        ("page size", ours.page_size, theirs.page_size),
    ):
        if mine != yours:
            return f"its {what} is {yours}, home's is {mine}"
    if theirs.page_size != PAGE_SIZE:
        return f"its page size is {theirs.page_size}, dsmsup needs {PAGE_SIZE}"
    if not 0 <= theirs.port < 1 << 16:
        return f"its port is {theirs.port}"
    if theirs.cpus < 1:
        return "it lends no processor"
    differs = unfit(ours.processor, theirs.processor)
    if differs:
        return (
            f"the processor of {theirs.name} {differs}: this cannot be hidden from a program"
            " (give virtual machines one CPU model, or start kernels with clearcpuid=)"
        )
    return ""


@cache
def _processor() -> tuple[str, str, tuple[str, ...]]:
    """Vendor, model and feature flags of the first processor; empty where unknown."""
    fields = {"vendor_id": "", "model name": "", "flags": ""}
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n", 1)[0]
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in fields:
            fields[name.strip()] = value.strip()
    return fields["vendor_id"], fields["model name"], tuple(sorted(set(fields["flags"].split())))


def dsmsup_version() -> str:
    """Of the code that runs here, which all hosts have alike."""
    return __version__
