# SPDX-License-Identifier: GPL-2.0-or-later
"""`drifting.py PPM COMMAND exec ...`: dsmsup as home, whose clocks gain so much.

No machine lets its clock be made to drift for one process. So home's supervisor is
told that the program's clocks are not the kernel's, but along a line that gains on
it, and that is what it tells the other hosts.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from supervisor import cli
from supervisor.driver.home import Home
from supervisor.driver.host_clock import AHEAD
from supervisor.timeline import Line, ppm

rate = ppm(float(sys.argv[1]))
begin = Home.__init__


def begin_drifting(self: Home, *arguments: Any, **named: Any) -> None:
    begin(self, *arguments, **named)
    clock = self.clock
    raw_ns, now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), time.monotonic_ns()
    ahead_ns = {each: time.clock_gettime_ns(each) - now_ns for each in AHEAD}
    clock.follow(Line(now_ns, now_ns, rate), Line(now_ns, raw_ns, rate), ahead_ns)
    clock.id = "drifting"


Home.__init__ = begin_drifting  # type: ignore[method-assign]
sys.argv = ["dsmsup", *sys.argv[sys.argv.index("exec") :]]
cli.main()
