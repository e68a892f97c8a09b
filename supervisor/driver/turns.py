# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations that take turns: one runs to its end, the others wait, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from supervisor.driver.operations import Steps, Wait


class Turns:
    """`wake(key, value)` answers a `Wait`."""

    def __init__(self, wake: Callable[[Any, Any], bool]) -> None:
        self._wake = wake
        self._busy = False
        self._waiting: deque[object] = deque()
        self._handing_on = False

    def in_turn(self, steps: Steps) -> Steps:
        """The same steps, begun when those before are done. None of them may ask for a turn."""
        while self._busy:
            key = object()
            self._waiting.append(key)
            try:
                yield Wait(key)
            except GeneratorExit:  # the thread is gone
                if key in self._waiting:
                    self._waiting.remove(key)
                raise
        self._busy = True
        try:
            return (yield from steps)
        finally:
            self._busy = False
            self._hand_on()

    def _hand_on(self) -> None:
        """Wake who waits; a loop, since one that is done at once is back here before `wake` is."""
        if self._handing_on:
            return
        self._handing_on = True
        try:
            while self._waiting and not self._busy:
                self._wake(self._waiting.popleft(), None)
        finally:
            self._handing_on = False
