# SPDX-License-Identifier: GPL-2.0-or-later
"""dsmsup with virtual hosts whose processors claim to lack features, for tests.

    lacking.py WHO FEATURES dsmsup-arguments...

WHO is `home` or `others`. A host claims so when it joins; nothing else is changed.
FEATURES are names of /proc/cpuinfo, of states of registers ("AVX-512"), and `faulting`.
"""

from __future__ import annotations

import sys

import msgspec

from supervisor.arch.cpuid import users_of, without
from supervisor.cli import main
from supervisor.cluster import gather, join
from supervisor.cluster.hostinfo import HostInfo, local_info

STATES = {"AVX-512": 0b1110_0000, "PKRU": 1 << 9, "AMX": 0b11 << 17}
"""Bits of XCR0."""


def without_states(state: tuple[int, ...], lacked: int) -> tuple[int, ...]:
    """tracee.cpuid.saved_state's of a host that has not enabled these bits of XCR0."""
    xcr0, *parts = state
    enabled = [each for each in range(2, xcr0.bit_length()) if xcr0 >> each & 1]
    kept = [
        pair
        for each, pair in zip(enabled, zip(parts[::2], parts[1::2], strict=True), strict=True)
        if not lacked >> each & 1
    ]
    return (xcr0 & ~lacked, *(part for pair in kept for part in pair))


def lacking(names: frozenset[str], cpus: int, port: int = 0) -> HostInfo:
    """This host, without some of its features."""
    info = local_info(cpus, port)
    states = sum(bits for name, bits in STATES.items() if name in names)
    names |= users_of(states)
    processor = msgspec.structs.replace(
        info.processor,
        features=tuple(each for each in info.processor.features if each not in names),
        words=without(info.processor.words, names),
        state=without_states(info.processor.state, states),
        faults=info.processor.faults and "faulting" not in names,
    )
    return msgspec.structs.replace(info, processor=processor)


if __name__ == "__main__":
    who, features, *rest = sys.argv[1:]
    module = {"home": gather, "others": join}[who]
    module.local_info = lambda cpus, port=0: lacking(frozenset(features.split(",")), cpus, port)
    sys.argv = ["dsmsup", *rest]
    main()
