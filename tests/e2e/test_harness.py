# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness finds what it is there to find: each fault planted here must fail a run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import harness
import pytest
from harness import Place

Failed = pytest.fail.Exception


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_and_status_are_kept(place: Place) -> None:
    run = place.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in\n")
    assert (run.status, run.stdout, run.stderr) == (3, b"in\n", b"err\n")


def test_death_by_signal_is_shown_as_a_shell_does(place: Place) -> None:
    assert place.run(["sh", "-c", "kill -SEGV $$"]).status == 139


def test_run_that_does_not_end_is_killed(place: Place) -> None:
    begin_s = time.monotonic()
    with pytest.raises(Failed, match="still running") as failure:
        place.run(["sh", "-c", "sleep 100 & sleep 101"], limit_s=0.3)
    assert "sleep 101" in str(failure.value)
    assert time.monotonic() - begin_s < 20
    place.check_clean()


def test_process_left_is_found(place: Place) -> None:
    run = place.start(["sh", "-c", "sleep 100 >/dev/null 2>&1 & exit 0"])
    run.wait()
    with pytest.raises(Failed, match="sleep 100"):
        place.check_clean(0.1)
    place.check_clean()


def test_daemon_left_is_found(place: Place) -> None:
    """A double fork, a new session and an empty environment do not hide it."""
    code = (
        "import os\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execve('/bin/sleep', ['sleep', '99'], {})\n"
        "    os._exit(0)\n"
    )
    place.start(python(code)).wait()
    with pytest.raises(Failed, match="sleep 99"):
        place.check_clean(0.2)


def test_process_that_is_about_to_end_is_not_left(place: Place) -> None:
    place.start(["sh", "-c", "sleep 0.2 >/dev/null 2>&1 & exit 0"]).wait()
    place.check_clean(5)


def test_temporary_file_left_is_found(place: Place) -> None:
    code = "import tempfile; tempfile.mkstemp(prefix='left')"
    place.start(python(code)).wait()
    with pytest.raises(AssertionError, match="temporary files left"):
        place.check_clean()
    for path in place.temporary.iterdir():
        path.unlink()


def test_traceback_fails_the_run(place: Place) -> None:
    with pytest.raises(Failed, match="a Python traceback"):
        place.run(python("raise ValueError"))


def test_output_is_waited_for(place: Place) -> None:
    run = place.start(["sh", "-c", "echo ready; sleep 100"])
    run.wait_for_output(b"ready\n")
    silent = place.start(["sh", "-c", "exit 0"])
    with pytest.raises(Failed, match="ended before it printed"):
        silent.wait_for_output(b"never")


def test_pin(tmp_path: Path, cache: Path) -> None:
    place = Place(tmp_path, cache, pin=0)
    run = place.run(python("import os; print(os.sched_getaffinity(0))"))
    assert run.stdout == b"{0}\n"
    place.finish()


def host(number: int, threads: int) -> dict[str, int]:
    return dict.fromkeys(harness.HOST_FIELDS, 0) | {"id": number, "threads_started": threads}


@pytest.mark.parametrize(
    ("counted", "accepted"),
    [
        ([host(0, 3), host(1, 2)], True),
        ([host(0, 5), host(1, 0)], False),  # all at home
        ([host(0, 1), host(1, 1)], False),  # two of four lost
        ([host(0, 3), host(2, 2)], False),  # a host that is not there
        ([host(0, 3), {"id": 1, "threads_started": 2}], False),  # fields lacking
    ],
)
def test_statistics_are_checked(
    counted: list[dict[str, int]], accepted: bool, tmp_path: Path
) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(
        {"program": "x", "exit_status": 0, "wall_s": 1.0, "policy": "p", "hosts": counted}
    ))
    if accepted:
        harness.read_stats(path, hosts=2, status=0, threads=4)
        with pytest.raises(AssertionError):
            harness.read_stats(path, hosts=2, status=1, threads=4)
    else:
        with pytest.raises(AssertionError):
            harness.read_stats(path, hosts=2, status=0, threads=4)
