# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark suite runs, and judges what it measured as its targets say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benches import measure, page  # noqa: E402
from benches.targets import judge  # noqa: E402


def test_a_quick_run(tmp_path: Path) -> None:
    report, written = tmp_path / "figures.json", tmp_path / "page.md"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benches" / "suite.py"), "--quick", "--only", "micro",
         "--only", "speedup", "--work", str(tmp_path / "work"), "--json", str(report),
         "--page", str(written)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(report.read_text())
    assert results["failures"] == []
    names = [row["name"] for row in results["sections"]["micro"]["rows"]]
    for row in results["sections"]["micro"]["rows"]:
        assert row["us"]["median"] > 0 and row["over_native"]["median"] > 0
    text = written.read_text()
    assert "quick run" in text
    for name in [*names, "k-means"]:
        assert f"| {name} |" in text


def results_of(sections: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": {"processor": "x", "processors": 2, "kernel": "6", "python": "3",
                    "commit": "c", "date": "d"},
        "load": {"load_average_before": 0.0, "others_share": 0.0, "stolen_share": 0.0},
        "quick": False, "took_s": {}, "failures": [], "sections": sections,
    }  # fmt: skip


def barrier(times: float) -> dict[str, Any]:
    one = measure.figure([times])
    return {"key": "barrier", "name": "barrier of 2", "us": one, "native_us": one,
            "over_native": one, "floor": "round trip", "floor_us": one,
            "over_floor": one}  # fmt: skip


def test_targets_are_met_or_missed() -> None:
    for times, met in ((3.9, True), (4.1, False)):
        sections = {"micro": {"rows": [barrier(times)]}}
        verdicts = [v for v in judge(sections) if v.met is not None]
        assert [v.met for v in verdicts] == [met]
        assert [p.met for p in verdicts[0].parts] == [met]


def test_the_page_tells_what_was_missed_and_under_what_load(tmp_path: Path) -> None:
    results = results_of({"micro": {"rows": [barrier(5)]}})
    results["breakdowns"] = {"barrier": {"hosts": [
        {"host": 0, "rooms": {"tracee": 0.5}, "functions": {}, "counts": {"traps": 1.0}},
    ]}}  # fmt: skip
    path = tmp_path / "page.md"
    page.write(results, path)
    text = path.read_text()
    assert "1 of 10 missed, 9 not measured" in text and "tracee 50%" in text
    assert "not quiet" not in text
    results["load"]["others_share"] = 0.5
    page.write(results, path)
    assert "not quiet" in path.read_text()


def test_a_run_that_hangs_or_fails_is_told(tmp_path: Path) -> None:
    bench = measure.Bench(tmp_path)
    for command, told in ((["sleep", "60"], "still running"), (["false"], "status 1")):
        with bench.noting():
            bench.native(command, bench.on(1), limit_s=0.5)
        assert told in bench.failures[-1] and command[0] in bench.failures[-1]
