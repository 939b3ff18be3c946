"""
One timer for one deadline after another.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Deadline:
    """
    Calls back when a deadline passes that was neither moved nor dropped. Moving
    it later only notes the new time, and a look at the old one finds out:
    moving the timer itself at every reply would cost more.
    """

    def __init__(self, clock: IReactorTime, passed: Callable[[], None]) -> None:
        self._clock = clock
        self._passed = passed
        self._due_s: float | None = None
        self._timer: IDelayedCall | None = None
        self._timer_due_s = 0.0

    @property
    def running(self) -> bool:
        """Whether there is one."""
        return self._due_s is not None

    def within(self, seconds: float) -> None:
        """There is one: that many seconds from now."""
        self._due_s = due_s = self._clock.seconds() + seconds
        if self._timer is None:
            self._start(seconds, due_s)
        elif self._timer_due_s > due_s:
            self._timer.reset(seconds)
            self._timer_due_s = due_s

    def drop(self) -> None:
        """There is none."""
        self._due_s = None

    def stop(self) -> None:
        """There is none any more; no delayed call is left."""
        self._due_s = None
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _start(self, seconds: float, due_s: float) -> None:
        self._timer, self._timer_due_s = self._clock.callLater(seconds, self._look), due_s

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        left_s = self._due_s - self._clock.seconds()
        if left_s > 0:
            self._start(left_s, self._due_s)
        else:
            self._due_s = None
            self._passed()
