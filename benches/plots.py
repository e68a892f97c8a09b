# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's plots. Without matplotlib (`pip install -e '.[bench]'`) there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError:
    pyplot = None  # type: ignore[assignment]

NATIVE, OURS, FLOOR = "#9aa7b0", "#1f6f8b", "#d08c3f"
DPI = 80


def draw(sections: dict[str, Any], folder: Path) -> dict[str, str]:
    """PNG files into a folder: the file's name by section."""
    if pyplot is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, plot in (("speedup", _speedup), ("micro", _micro)):
        if sections.get(name, {}).get("rows"):
            figure = plot(sections[name])
            # No version or date in the file: the same figures make the same bytes.
            figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
            pyplot.close(figure)
            drawn[name] = f"{name}.png"
    return drawn


def _spread(figures: list[dict[str, float]]) -> list[list[float]]:
    return [
        [f["median"] - f["low"] for f in figures],
        [f["high"] - f["median"] for f in figures],
    ]


def _speedup(section: dict[str, Any]) -> Any:
    """Native threads and dsmsup hosts beside each other, on the most processors."""
    rows = section["rows"]
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    count = section["processors"][-1]
    for offset, key, colour in ((-0.2, "native", NATIVE), (0.2, "dsmsup", OURS)):
        figures = [row["curve"][-1][key] for row in rows]
        axes.bar(
            [at + offset for at in range(len(rows))], [f["median"] for f in figures], 0.38,
            yerr=_spread(figures), color=colour, label=key, error_kw={"linewidth": 0.8},
        )  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right")
    axes.set_ylabel("times one native thread")
    axes.set_title(f"{count} threads: on {count} processors, on {count} hosts of one")
    axes.legend(frameon=False)
    return figure


def _micro(section: dict[str, Any]) -> Any:
    """Each operation and its floor, or the same natively where it has none."""
    rows = section["rows"][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.26 * len(rows)), layout="constrained")
    places = range(len(rows))
    below = [row.get("floor_us", row["native_us"])["median"] for row in rows]
    ours = [row["us"] for row in rows]
    axes.hlines(places, below, [f["median"] for f in ours], color="#cccccc", zorder=1)
    axes.scatter(below, places, 18, color=FLOOR, label="floor in C, or native", zorder=2)
    axes.errorbar([f["median"] for f in ours], places, xerr=_spread(ours), fmt="o",
                  markersize=4, color=OURS, label="dsmsup", linewidth=0.8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    axes.set_xlabel("microseconds")
    axes.legend(frameon=False)
    return figure
