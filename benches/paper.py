# SPDX-License-Identifier: GPL-2.0-or-later
"""The paper's table: 10,000 memory fences, native, emulated, and with a memory access each."""

from __future__ import annotations

from typing import Any, Final

from benches.measure import Bench, alternate, figure, over

FENCES: Final = 10_000
ROW_LIMIT_S: Final = 8.0
PUBLISHED: Final = {"native": 1, "fence": 1325, "dirty-fence": 4052}
"""Times a native fence; a Pentium 4 of 2.4 GHz took 0.63 ms for all of them."""

OPERATIONS: Final = {"fence": "without memory access", "dirty-fence": "with memory access"}
PLACES: Final = {"": "at home", "-elsewhere": "on another host"}


def measure(bench: Bench) -> dict[str, Any]:
    """Nanoseconds a fence and times native, by policy, operation and place."""
    program = bench.program("micro")
    count = str(bench.count(FENCES))

    # What takes nanoseconds is done ten times as often, or reading the clock would count.
    def native(operation: str) -> float:
        run = bench.native([program, operation, str(FENCES * 10), "3"], bench.on(1))
        return float(run.stdout.split()[0])

    def emulated(operation: str, policy: str) -> float:
        run = bench.dsmsup(
            [program, operation, *((count, "1") if policy == "paper" else (str(FENCES * 10), "3"))],
            bench.on(2), 2, options=["--policy", policy, "--no-migrate"],
        )  # fmt: skip
        return float(run.stdout.split()[0])

    rows = []
    for operation, means in OPERATIONS.items():
        for policy in ("paper", "adaptive"):
            for suffix, place in PLACES.items():
                with bench.noting():
                    ns = alternate(
                        {
                            "fence": lambda: native("fence"),
                            "same": lambda o=operation: native(o),  # type: ignore[misc]
                            "dsmsup": lambda o=operation + suffix, p=policy: emulated(o, p),  # type: ignore[misc]
                        },
                        bench.rounds(3), ROW_LIMIT_S,
                    )
                    rows.append({
                        "operation": operation, "means": means, "policy": policy, "place": place,
                        "ns": figure(ns["dsmsup"]), "native_fence_ns": figure(ns["fence"]),
                        "over_native_fence": over(ns["dsmsup"], ns["fence"]),
                        "over_native_same": over(ns["dsmsup"], ns["same"]),
                    })  # fmt: skip
                    bench.say(f"  {policy:9} {means:22} {place:16} "
                              f"{rows[-1]['over_native_fence']['median']:9.1f} times native")
    return {"fences": FENCES, "published": PUBLISHED, "rows": rows}
