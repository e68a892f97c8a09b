# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the figures, from the suite's JSON.

    python benches/page.py docs/benchmarks.json docs/benchmarks.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benches import plots
from benches.targets import judge

QUIET_SHARE: Final = 0.05
"""Above this share of the machine used by others, the figures are not those of a quiet one."""


def rounded(value: Any) -> Any:
    """The same with floats of five significant digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def shown(figure: dict[str, float] | None, unit: str = "") -> str:
    """The median and, in parentheses, the spread."""
    if figure is None:
        return ""
    numbers = [f"{figure[name]:,.4g}" for name in ("median", "low", "high")]
    numbers = [
        f"{figure[name]:,.0f}" if figure[name] >= 1000 else number
        for name, number in zip(("median", "low", "high"), numbers, strict=True)
    ]
    return f"{numbers[0]}{unit} ({numbers[1]} to {numbers[2]})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def verdict_lines(results: dict[str, Any]) -> list[str]:
    """The targets for a terminal."""
    words = {True: "met", False: "MISSED"}
    return [
        f"{words[verdict.met]:6}  {verdict.target.name}: "
        + "; ".join(f"{part.label} {part.measured}" for part in verdict.parts)
        for verdict in judge(results["sections"])
        if verdict.met is not None
    ]


def write(results: dict[str, Any], path: Path) -> None:
    """The page at `path`, and its plots in a folder of the same name."""
    drawn = plots.draw(results["sections"], path.with_suffix(""))
    lines = [*_head(results), *_targets(results), *_misses(results)]
    for name, make in _SECTIONS.items():
        section = results["sections"].get(name)
        if section:
            lines += make(section)
            if name in drawn:
                lines += [f"![{name}]({path.stem}/{drawn[name]})", ""]
    lines += _failures(results)
    path.write_text("\n".join(lines).rstrip() + "\n")


def _head(results: dict[str, Any]) -> Iterator[str]:
    machine, load = results["machine"], results["load"]
    yield from (
        "# Benchmarks", "",
        "Written by `make bench` (`benches/`); the same figures are in `benchmarks.json`. What is "
        "compared was run in turn, in one run of the suite; given are the median and, in "
        "parentheses, the least and the greatest. Hosts are processes bound to processors of "
        "their own.", "",
        f"Commit {machine['commit']}, {machine['date']}, {machine['processors']} processors "
        f"({machine['processor']}), Linux {machine['kernel']}, Python {machine['python']}; "
        f"{sum(results['took_s'].values()) / 60:.0f} minutes.", "",
    )  # fmt: skip
    others, stolen = load["others_share"], load["stolen_share"]
    busy = (
        f"Other processes used {others:.0%} of the processors meanwhile, {stolen:.0%} were taken "
        f"by the hypervisor; the load average before was {load['load_average_before']:.1f}."
    )
    if results["quick"]:
        busy = "**This was a quick run: its figures mean nothing.** " + busy
    elif others + stolen > QUIET_SHARE:
        busy = "**The machine was not quiet: these figures show that the suite runs, and no more.** " + busy  # fmt: skip  # noqa: E501
    yield from (busy, "")


def _targets(results: dict[str, Any]) -> Iterator[str]:
    verdicts = judge(results["sections"])
    missed = sum(verdict.met is False for verdict in verdicts)
    unmeasured = sum(verdict.met is None for verdict in verdicts)
    note = f", {unmeasured} not measured" if unmeasured else ""
    yield from ("## Targets", "", f"{missed} of {len(verdicts)} missed{note}.", "")
    words = {True: "met", False: "**missed**", None: "not measured"}
    yield from table(
        ("figure", "target", "measured", ""),
        (
            (
                verdict.target.name, verdict.target.limit,
                "<br>".join(
                    f"{part.label}: {part.measured}" + ("" if part.met else " **missed**")
                    for part in verdict.parts
                ),
                words[verdict.met],
            )
            for verdict in verdicts
        ),
    )  # fmt: skip


def _misses(results: dict[str, Any]) -> Iterator[str]:
    missed = [v for v in judge(results["sections"]) if v.met is False]
    if not missed:
        return
    yield from (
        "## Where the time goes in what was missed", "",
        "Each was run once more while its supervisors looked every millisecond at what they were "
        "doing. `waiting` is for the other host, for the guest, or for nothing; the rooms are those of "  # noqa: E501
        "`ARCHITECTURE.md`. Counts are for each operation, or for the whole of a program.", "",
    )  # fmt: skip
    breakdowns = results.get("breakdowns", {})
    for verdict in missed:
        yield from (f"### {verdict.target.name}", "")
        for subject in dict.fromkeys(p.subject for p in verdict.parts if not p.met):
            if subject not in breakdowns:
                continue
            yield from (f"{subject}:", "")
            yield from table(
                ("host", "time", "busiest functions", "counts"),
                (
                    (
                        str(host["host"]), _shares(host["rooms"], 0.01),
                        _shares(host["functions"], 0.02),
                        ", ".join(f"{n} {c:,.3g}" for n, c in host["counts"].items()),
                    )
                    for host in breakdowns[subject]["hosts"]
                ),
            )  # fmt: skip
        yield from (f"Next: {verdict.target.idea}", "")


def _shares(shares: dict[str, float], least: float) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= least)


def _paper(section: dict[str, Any]) -> Iterator[str]:
    published = section["published"]
    yield from (
        "## The paper's table", "",
        f"MFENCE {section['fences']:,} times; times a native one. The paper has "
        f"{published['fence']:,} without memory access and {published['dirty-fence']:,} with.", "",
    )  # fmt: skip
    yield from table(
        ("policy", "where", "", "ns", "times a native fence", "times the same natively", "paper"),
        (
            (
                row["policy"], row["place"], row["means"], shown(row["ns"]),
                shown(row["over_native_fence"]), shown(row["over_native_same"]),
                f"{published[row['operation']]:,}",
            )
            for row in section["rows"]
        ),
    )  # fmt: skip


def _share(section: dict[str, Any]) -> Iterator[str]:
    yield from (
        "## Share of synchronization instructions", "",
        f"`dsmsup count`, of at most {section['limit']:,} instructions of each program.", "",
    )  # fmt: skip
    yield from table(
        ("program", "instructions", "all kinds", "LOCK-prefixed", "kinds", "busiest functions"),
        (
            (
                row["program"],
                f"{row['instructions']:,}" + ("" if row["complete"] else " (and more)"),
                f"{row['share']:.4%}", f"{row['lock_share']:.4%}",
                ", ".join(f"{kind} {count:,}" for kind, count in row["kinds"].items()),
                ", ".join(f"{name} {count:,}" for name, count in row["busiest"]),
            )
            for row in section["rows"]
        ),
    )  # fmt: skip


def _speedup(section: dict[str, Any]) -> Iterator[str]:
    yield from (
        "## Speed-up against the number of processors", "",
        "One thread a processor, dsmsup with one processor a host; times one native thread. "
        "Pages moved: in the last run of the greatest number of hosts.", "",
    )  # fmt: skip
    counts = section["processors"]
    yield from table(
        (
            "program", "size", "native, 1 thread",
            *(f"native {n}" for n in counts[1:]), *(f"dsmsup {n}" for n in counts), "pages moved",
        ),
        (
            (
                row["name"], " ".join(row["size"]), shown(row["native_s"], " s"),
                *(shown(curve["native"]) for curve in row["curve"][1:]),
                *(shown(curve["dsmsup"]) for curve in row["curve"]),
                f"{row['curve'][-1]['pages_moved']:,}",
            )
            for row in section["rows"]
        ),
    )  # fmt: skip


def _micro(section: dict[str, Any]) -> Iterator[str]:
    yield from (
        "## Single operations", "",
        "Microseconds an operation on two hosts (one where it says so), what the mechanism under "
        "it takes in bare C, and the same natively on two processors. Of MFENCE, LOCK ADD and "
        "XCHG it is the quickest of each process's batches that counts.", "",
    )  # fmt: skip
    yield from table(
        ("operation", "us", "floor", "us", "times the floor", "native, us", "times native"),
        (
            (
                row["name"], shown(row["us"]), row.get("floor", "native"),
                shown(row.get("floor_us")), shown(row.get("over_floor")),
                shown(row["native_us"]), shown(row["over_native"]),
            )
            for row in section["rows"]
        ),
    )  # fmt: skip


def _presence(section: dict[str, Any]) -> Iterator[str]:
    yield from ("## The cost of presence", "", "With `-n 1`, on as many processors as threads:", "")
    yield from table(
        ("program", "threads", "native", "times native", "least to least"),
        (
            (row["program"], str(row["threads"]), shown(row["native_s"], " s"),
             shown(row["over_native"]), f"{row['least_over_native']:.3f}")
            for row in section["computing"]
        ),
    )  # fmt: skip
    yield from ("Starting and ending a program, its files in the cache:", "")
    yield from table(
        ("program", "native", "more with -n 1", "more with -n 2"),
        (
            (row["program"], shown(row["native_s"], " s"), shown(row["added_s_1"], " s"),
             shown(row["added_s_2"], " s"))
            for row in section["start"]
        ),
    )  # fmt: skip
    yield from ("Memory of the supervisors after 64 MiB have been streamed twice:", "")
    yield from table(
        ("host", "proportional, MiB", "resident, MiB"),
        ((r["host"], f"{r['pss_mib']:.1f}", f"{r['rss_mib']:.1f}") for r in section["memory"]),
    )


def _rewriter(section: dict[str, Any]) -> Iterator[str]:
    yield from ("## The rewriter", "", "Rewritten instructions while nothing is armed:", "")
    yield from table(
        ("", "bare, ns", "rewritten, ns", "ratio"),
        (
            (name, f"{row['bare_ns']:.2f}", f"{row['rewritten_ns']:.2f}", f"{row['ratio']:.3f}")
            for name, row in section["ratios"].items()
        ),
    )
    times = section["rewriting"]
    yield from (
        f"Rewriting libc takes {times['libc_first_s']:.2f} s once, an answer from the cache "
        f"{times['libc_cached_s'] * 1e6:.0f} us.", "",
    )  # fmt: skip


def _transport(section: list[dict[str, Any]]) -> Iterator[str]:
    yield from ("## Links", "", "A link's framing over the bare Python socket under it:", "")
    yield from table(
        ("", "bare", "link", "unit", "ratio"),
        (
            (row["name"], f"{row['bare']:.1f}", f"{row['link']:.1f}", row["unit"],
             f"{row['link'] / row['bare']:.2f}")
            for row in section
        ),
    )  # fmt: skip


def _failures(results: dict[str, Any]) -> Iterator[str]:
    if results["failures"]:
        yield from ("## Failed", "", *(f"- `{line}`" for line in results["failures"]))


_SECTIONS: Final = {
    "paper": _paper, "share": _share, "speedup": _speedup, "micro": _micro,
    "presence": _presence, "rewriter": _rewriter, "transport": _transport,
}  # fmt: skip


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
