# SPDX-License-Identifier: GPL-2.0-or-later
"""`dsmsup exec` whose supervisors look every millisecond at what they are doing.

    python benches/profiled.py FOLDER exec -n 2 PROGRAM...

writes FOLDER/HOST.json: how often which function of which room was found at
work, from when the host's first thread started (or, of programs that have one
thread only, from SKIP_S after the host joined). Real time, so waiting counts as well.
A Python signal handler does the sampling: it runs between two bytecodes of the
function that was interrupted, so time inside a system call counts for the
function that made it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import supervisor.run  # noqa: E402
from supervisor.driver.core import Supervisor  # noqa: E402

INTERVAL_S = 0.001
SKIP_S = 1.0
"""Starting the program is not what is looked at."""

# Nothing of ours below these but trio: the loop sleeps, or asks whether there is work.
_WAITING = (os.path.join("driver", "events.py"), "run.py")
_PLACES = f"{ROOT}{os.sep}supervisor{os.sep}"


def room_of(frame: FrameType | None) -> tuple[str, str]:
    """The room at work, and its function: those of the innermost frame of ours."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PLACES):
            inside = path[len(_PLACES) :]
            if inside in _WAITING:
                return "waiting", frame.f_code.co_name
            room = inside.split(os.sep)[0] if os.sep in inside else "other"
            return room, f"{inside[:-3]}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "other", ""


_here: list[Supervisor] = []


def _noted(begin: Any) -> Any:
    """`Supervisor.__init__` that tells which one it is."""

    def init(self: Supervisor, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        _here.append(self)

    return init


def _has_threads() -> bool:
    return any(supervisor.counters["threads_started"] for supervisor in _here)


def sampled(folder: Path, run_host: Any) -> Any:
    """`run_host` with samples taken meanwhile."""

    def run(plan: Any, *rest: Any) -> int:
        rooms: Counter[str] = Counter()
        functions: Counter[str] = Counter()

        began = time.monotonic()

        def sample(_number: int, frame: FrameType | None) -> None:
            if not _has_threads() and time.monotonic() - began < SKIP_S:
                return
            room, function = room_of(frame)
            rooms[room] += 1
            functions[function] += 1

        signal.signal(signal.SIGALRM, sample)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_S, INTERVAL_S)
        try:
            return int(run_host(plan, *rest))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            report = {"rooms": rooms.most_common(), "functions": functions.most_common(8)}
            (folder / f"{plan.host_id or 0}.json").write_text(json.dumps(report))

    return run


def main() -> None:
    folder = Path(sys.argv[1])
    Supervisor.__init__ = _noted(Supervisor.__init__)  # type: ignore[method-assign]
    supervisor.run.run_host = sampled(folder, supervisor.run.run_host)
    from supervisor.cli import main as dsmsup

    sys.argv[:2] = ["dsmsup"]
    dsmsup()


if __name__ == "__main__":
    main()
