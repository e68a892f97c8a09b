# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer of processor time by itself; with hosts and threads they are in testprogs/posix."""

from __future__ import annotations

import pytest

from supervisor.driver.processor_time import ALL
from supervisor.driver.processor_timer import OVERRUN_MAX, Clock, Timer


def timer(expiry_ns: int, interval_ns: int = 0) -> Timer:
    made = Timer(3, Clock(ALL, False), 34, 4711, 0)
    made.expiry_ns, made.interval_ns = expiry_ns, interval_ns
    return made


@pytest.mark.parametrize(
    ("now_ns", "count", "expiry_ns"),
    [(99, 0, 100), (100, 1, 110), (109, 1, 110), (110, 2, 120), (1005, 91, 1010)],
)
def test_an_interval_goes_on_from_its_own_times(now_ns: int, count: int, expiry_ns: int) -> None:
    each = timer(100, 10)
    assert (each.expire(now_ns), each.expiry_ns) == (count, expiry_ns)
    assert each.expire(now_ns) == 0


def test_without_an_interval_it_expires_once() -> None:
    once = timer(100)
    assert [once.expire(now) for now in (50, 170, 1000)] == [0, 1, 0]
    assert once.expiry_ns == 0


def test_what_expires_while_a_signal_is_under_way_is_overrun() -> None:
    each = timer(100, 10)
    each.count(each.expire(125))
    assert (each.wanted, each.overruns) == (True, 2)
    each.wanted, each.sent_to = False, 17
    each.count(each.expire(131))
    assert (each.wanted, each.overruns) == (False, 3)
    each.sent_to = 0  # it has been taken
    each.count(each.expire(140))
    assert (each.wanted, each.overruns) == (True, 0)


def test_a_signal_of_a_setting_that_is_over_becomes_the_next_one_s() -> None:
    each = timer(100, 10)
    each.count(each.expire(125))
    each.wanted, each.sent_to = False, 17
    each.over = True  # it has been set anew, and that signal is pending still
    each.count(each.expire(145))
    assert (each.over, each.wanted, each.overruns) == (False, False, 1)


def test_overruns_have_the_kernels_bound() -> None:
    each = timer(1, 1)
    each.count(each.expire(1 << 40))
    assert each.overruns == OVERRUN_MAX
