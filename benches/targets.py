# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets, which of them a run of the suite met, and what to try where it did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

NATIVE_SPEEDUP: Final = 1.95
"""What native threads reach on two processors where the machine lets them."""

BEST_PEER_US: Final = 187
"""A remote page read in the best other mprotect-based system seen, in its own runtime."""


class Part(NamedTuple):
    """One measured figure of a target."""

    label: str
    measured: str
    met: bool
    subject: str = ""
    """What to profile when it is missed: a key of micro, or a program of speedup."""


class Target(NamedTuple):
    """A row of the table. `parts` are made from the suite's sections; none when not measured."""

    name: str
    limit: str
    parts: Callable[[dict[str, Any]], Iterator[Part]]
    idea: str
    """The next thing to try where it is missed."""


def _ranged(figure: dict[str, float], unit: str = "", digits: int = 2) -> str:
    low, high = figure["low"], figure["high"]
    return f"{figure['median']:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def _micro(sections: dict[str, Any], *keys: str) -> Iterator[dict[str, Any]]:
    by_key = {row["key"]: row for row in sections.get("micro", {"rows": []})["rows"]}
    yield from (by_key[key] for key in keys if key in by_key)


def _cheap(sections: dict[str, Any]) -> Iterator[Part]:
    for row in _micro(sections, "fence", "locked-add", "exchange"):
        ratio = row["over_native"]
        yield Part(row["name"], _ranged(ratio), ratio["median"] <= 1.1, row["key"])


def _computing(sections: dict[str, Any]) -> Iterator[Part]:
    for row in sections.get("presence", {"computing": []})["computing"]:
        if row["threads"] == 1:
            # (What others of the machine take comes on top: the least of each tells what is ours.)
            least = row["least_over_native"]
            told = f"{least:.3f} least to least; {_ranged(row['over_native'], digits=3)}"
            yield Part(row["program"], told, least <= 1.02)


def _start(sections: dict[str, Any]) -> Iterator[Part]:
    for row in sections.get("presence", {"start": []})["start"]:
        if row["program"] == "hello":
            for hosts in (1, 2):
                added_s = row[f"added_s_{hosts}"]
                yield Part(f"-n {hosts}", _ranged(added_s, " s"), added_s["median"] <= 0.5)


def _floors(key: str, limit: float) -> Callable[[dict[str, Any]], Iterator[Part]]:
    def parts(sections: dict[str, Any]) -> Iterator[Part]:
        for row in _micro(sections, key):
            ratio = row["over_floor"]
            yield Part(row["name"], _ranged(ratio), ratio["median"] <= limit, row["key"])

    return parts


def _read_fault(sections: dict[str, Any]) -> Iterator[Part]:
    for row in _micro(sections, "read-fault-busy"):
        ratio, us = row["over_floor"], row["us"]
        yield Part("round trips", _ranged(ratio), ratio["median"] <= 3, row["key"])
        yield Part("time", _ranged(us, " us", 0), us["median"] < BEST_PEER_US, row["key"])


def _stream(sections: dict[str, Any]) -> Iterator[Part]:
    for row in _micro(sections, "stream-64", "stream-16384"):
        us, share = row["us"]["median"], 1 / row["over_floor"]["median"]
        yield Part(
            row["name"], f"{_ranged(row['us'], ' us', 1)}, {share:.0%} of a socket's bandwidth",
            us <= 25 or share >= 0.6, row["key"],
        )  # fmt: skip


def _speedups(
    names: tuple[str, ...], least: float, scaled: bool
) -> Callable[[dict[str, Any]], Iterator[Part]]:
    """Speed-ups on two hosts; `scaled` to what native threads reach where it is less."""

    def parts(sections: dict[str, Any]) -> Iterator[Part]:
        for row in sections.get("speedup", {"rows": []})["rows"]:
            pair = next((c for c in row["curve"] if c["processors"] == 2), None)
            if row["name"] not in names or pair is None:
                continue
            native, ours = pair["native"]["median"], pair["dsmsup"]
            wanted, note = least, f"native {native:.2f}"
            if scaled and native < NATIVE_SPEEDUP:
                wanted = least / NATIVE_SPEEDUP * native
                note += f", so {wanted:.2f} would do"
            yield Part(row["name"], f"{_ranged(ours)}; {note}", ours["median"] >= wanted,
                       row["name"])  # fmt: skip

    return parts


TARGETS: Final = (
    Target(
        "fence, LOCK, XCHG with nothing dirty, `adaptive`", "at most 1.1 of native", _cheap,
        "The check before the instruction is one compare and one branch; where it shows, "
        "put the instruction's line and the armed byte's test into one trampoline line.",
    ),
    Target(
        "compute-bound program, `-n 1`", "at most 1.02 of native", _computing,
        "Nothing stops such a program, so a miss is the machine's noise, or a page size: guest "
        "memory is a memfd, which gets huge pages only where shmem_enabled allows them.",
    ),
    Target(
        "start-up of a dynamic program, warm cache", "at most 0.5 s over native", _start,
        "Most of it is importing Python modules: import what a run needs when it needs it.",
    ),
    Target(
        "trap handled", "at most 2 C ptrace stops", _floors("trap", 2),
        "One call for get-registers, set-registers and continue (a few lines of C), or no stop: "
        "a stub in the guest that asks the supervisor through shared memory.",
    ),
    Target(
        "remote 4 KiB read fault, the owner's core computing",
        f"at most 3 bare round trips under the same load, and below {BEST_PEER_US} us",
        _read_fault,
        "Fewer Python steps between a packet and the answer to it.",
    ),
    Target(
        "stream, per 4 KiB page", "at most 25 us, or 60 % of a bare socket's bandwidth", _stream,
        "A larger first window, and the next range asked for before the last has been touched.",
    ),
    Target(
        "contended lock and increment, 2 hosts, per operation", "at most 4 round trips",
        _floors("contended-lock", 4),
        "Hold a page that a locked instruction got until the thread leaves its critical section.",
    ),
    Target(
        "pthread_barrier of 2 across hosts", "at most 4 round trips", _floors("barrier", 4),
        "A futex wake that carries the pages which the woken thread will touch.",
    ),
    Target(
        "pi, n-queens, mandelbrot, blackscholes, n-body on 2 hosts of 1 core",
        "at least 1.9 times one native core, where native threads reach 1.95",
        _speedups(("pi", "n-queens", "mandelbrot", "blackscholes", "n-body"), 1.9, True),
        "Work lists (n-queens, mandelbrot) take a lock and one or two pages of the other host for "
        "each piece of work, each up to a millisecond after much computing, for the supervisor's "
        "memory has left the caches: send a page that is read again after each lock with it.",
    ),
    Target(
        "matrix multiply 1024, k-means, parallel sort, LU 1024, Jacobi 2048",
        "at least 1.5",
        _speedups(
            ("matrix multiply 1024", "k-means", "parallel sort", "LU 1024", "Jacobi 2048"),
            1.5, False,
        ),
        "Data that home wrote before the threads began is fetched while they compute: push "
        "the ranges beside those asked for, and overlap fetching with computing.",
    ),
)  # fmt: skip


class Verdict(NamedTuple):
    """A target against the figures of a run."""

    target: Target
    parts: list[Part]

    @property
    def met(self) -> bool | None:
        """None when nothing of it was measured."""
        return all(part.met for part in self.parts) if self.parts else None


def judge(sections: dict[str, Any]) -> list[Verdict]:
    """Every target against the sections of a run."""
    return [Verdict(target, list(target.parts(sections))) for target in TARGETS]
