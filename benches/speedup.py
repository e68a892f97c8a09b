# SPDX-License-Identifier: GPL-2.0-or-later
"""The paper's sketch: speed-up against the number of processors, for twelve programs.

One thread a processor, one processor a host. The time is that of the parallel
part, as the program prints it; a checksum that differs is a failure.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from benches.measure import Bench, RunFailed, alternate, figure, over

KERNEL_LIMIT_S: Final = 24.0


class Kernel(NamedTuple):
    """A program of benches/programs and its size.

    Those that compute only take 3 to 7 seconds on one core, as what is worth two hosts
    does; the others, whose sizes the targets name, or which move much, 0.2 to 2.
    """

    name: str
    program: str
    size: tuple[int, ...]
    small: tuple[int, ...]
    """What takes a moment."""


KERNELS: Final = (
    Kernel("pi", "pi", (3000,), (1,)),
    Kernel("n-queens", "nqueens", (16,), (8,)),
    Kernel("mandelbrot", "mandelbrot", (1024, 12000), (64, 100)),
    Kernel("blackscholes", "blackscholes", (200, 400), (2, 2)),
    Kernel("n-body", "nbody", (16384, 4), (128, 2)),
    Kernel("matrix multiply 1024", "matmul", (1024,), (64,)),
    Kernel("matrix multiply 1536", "matmul", (1536,), (64,)),
    Kernel("k-means", "kmeans", (400, 25), (2, 2)),
    Kernel("parallel sort", "psort", (14000,), (10,)),
    Kernel("LU 1024", "lu", (1024,), (128,)),
    Kernel("LU 2048", "lu", (2048,), (128,)),
    Kernel("Jacobi 2048", "jacobi", (2048, 200), (64, 4)),
    Kernel("FFT 1024", "fft", (1024, 8), (64, 1)),
    Kernel("word count", "wordcount", (256,), (1,)),
)


def processors_of(bench: Bench) -> list[int]:
    """1, 2, 4, ... as far as the machine has them."""
    return [n for n in (1, 2, 4, 8, 16) if n == 1 or n <= len(bench.processors)]


def measure(bench: Bench) -> dict[str, Any]:
    """Seconds of each program natively and under dsmsup on 1, 2, ... processors."""
    counts = processors_of(bench)
    kernels = [k for k in KERNELS if k.program == "kmeans"] if bench.quick else KERNELS
    rows = []
    for kernel in kernels:
        with bench.noting():
            rows.append(_one(bench, kernel, counts))
            shown = "  ".join(
                f"{c['processors']}: {c['native']['median']:.2f} native "
                f"{c['dsmsup']['median']:.2f} dsmsup"
                for c in rows[-1]["curve"]
            )
            bench.say(f"  {kernel.name:21} speed-up on  {shown}")
    return {"processors": counts, "rows": rows}


def _one(bench: Bench, kernel: Kernel, counts: list[int]) -> dict[str, Any]:
    program = bench.program(kernel.program)
    size = [str(number) for number in (kernel.small if bench.quick else kernel.size)]
    checksums: dict[str, str] = {}
    stats: dict[int, dict[str, Any]] = {}

    def parallel_s(name: str, stdout: str) -> float:
        took_s, checksum = stdout.split()
        first = checksums.setdefault("native 1", checksum)
        if checksum != first:
            raise RunFailed(f"{kernel.name} {name}: result {checksum}, not {first}")
        return float(took_s)

    def native(count: int) -> float:
        run = bench.native([program, str(count), *size], bench.on(count))
        return parallel_s(f"native, {count} threads", run.stdout)

    def dsmsup(count: int) -> float:
        run = bench.dsmsup([program, str(count), *size], bench.on(count), count)
        stats[count] = run.stats
        return parallel_s(f"on {count} hosts", run.stdout)

    taken_s = alternate(
        {
            f"{how.__name__} {count}": lambda how=how, count=count: how(count)  # type: ignore[misc]
            for count in counts
            for how in (native, dsmsup)
        },
        bench.rounds(3),
        KERNEL_LIMIT_S,
    )
    base = taken_s["native 1"]
    return {
        "name": kernel.name,
        "size": size,
        "native_s": figure(base),
        "curve": [
            {
                "processors": count,
                "native": over(base, taken_s[f"native {count}"]),
                "dsmsup": over(base, taken_s[f"dsmsup {count}"]),
                "pages_moved": sum(host["pages_sent"] for host in stats[count]["hosts"]),
            }
            for count in counts
        ],
    }
