# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts whose processors differ in what programs can use do not form one machine."""

from __future__ import annotations

import msgspec

from supervisor.cluster.hostinfo import local_info, misfit
from supervisor.cluster.processors import difference, instructions


def test_what_only_the_kernel_uses_may_differ() -> None:
    home = ("avx2", "sse2", "smep", "erms", "arat")
    assert difference(home, ("avx2", "sse2", "umip", "hypervisor")) == ""
    assert instructions(home) == {"avx2", "sse2"}


def test_what_programs_use_may_not() -> None:
    assert difference(("sse2", "avx2", "avx512f"), ("sse2",)) == (
        "lacks avx2, avx512f, which home's has"
    )
    assert difference(("sse2",), ("sse2", "amx_tile")) == "has amx_tile, which home's lacks"
    assert difference(("sse2", "fma"), ("sse2", "fma4")) == (
        "lacks fma, which home's has and has fma4, which home's lacks"
    )


def test_a_kernel_that_tells_nothing_is_believed() -> None:
    assert difference((), ("sse2",)) == difference(("sse2",), ()) == ""


def test_the_line_names_the_host_and_the_feature() -> None:
    ours = local_info(2)
    assert misfit(ours, ours) == ""
    features = tuple(each for each in ours.features if each != "sse2")
    theirs = msgspec.structs.replace(ours, hostname="node2", address="10.0.0.2", features=features)
    assert misfit(ours, theirs).startswith(
        "the processor of node2 at 10.0.0.2 lacks sse2, which home's has: "
    )
