# SPDX-License-Identifier: GPL-2.0-or-later
"""When a thread counts as one that does little but wait for pages."""

from __future__ import annotations

import pytest

from supervisor.driver import account
from supervisor.driver.account import FAULTS, Account


class Thread:
    """Its wall clock and processor time, in seconds."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.used = 100.0, 0.0
        self.account = Account()
        patch.setattr(account.time, "monotonic", lambda: self.now)
        patch.setattr(account, "used_by", lambda process, task: int(self.used * 1e9))

    def faults(self, waits_s: float, computes_s: float) -> bool:
        self.account.asks()
        self.now += waits_s
        thrashes = self.account.thrashes(1, 1)
        self.now += computes_s
        self.used += computes_s
        return thrashes


def test_a_thread_that_computes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch)
    assert not any(thread.faults(300e-6, 200e-6) for _ in range(5 * FAULTS))


@pytest.mark.parametrize(("waits_s", "faults"), [(300e-6, FAULTS + 2), (10e-3, 103)])
def test_a_thread_that_waits_goes(
    monkeypatch: pytest.MonkeyPatch, waits_s: float, faults: int
) -> None:
    thread = Thread(monkeypatch)
    seen = [thread.faults(waits_s, waits_s / 4) for _ in range(faults)]
    assert sum(seen) == 1


def test_what_is_no_wait_for_a_page_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch)
    thread.faults(300e-6, 0)
    thread.now += 3  # asleep in a call
    assert not thread.account.thrashes(1, 1)  # a trap is over
    assert not thread.faults(300e-6, 0)


def test_what_a_stay_has_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch)
    for _ in range(2 * FAULTS):  # more than one judgement
        thread.faults(300e-6, 200e-6)
    gained_s = thread.account.gained_ns(1, 1) / 1e9
    assert gained_s == pytest.approx(2 * FAULTS * 50e-6, abs=1e-3)
