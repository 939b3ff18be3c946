"""
A deadline passes when it is due, wherever it was moved, and not if it was dropped.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.net.deadline import Deadline


class Deadlines(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.passed_s: list[float] = []
        self.deadline = Deadline(self.clock, lambda: self.passed_s.append(self.clock.seconds()))

    def until(self, seconds: float) -> list[float]:
        """When it passed, up to that time."""
        self.clock.advance(seconds - self.clock.seconds())
        return self.passed_s

    def timers_s(self) -> list[float]:
        return [call.getTime() for call in self.clock.getDelayedCalls()]

    def test_there_is_none_at_first(self) -> None:
        self.assertFalse(self.deadline.running)
        self.assertEqual(self.timers_s(), [])

    def test_it_passes_when_it_is_due_and_not_before(self) -> None:
        self.deadline.within(10)
        self.assertTrue(self.deadline.running)
        self.assertEqual(self.until(9.999), [])
        self.assertEqual(self.until(10), [10])
        self.assertFalse(self.deadline.running)

    def test_it_passes_once(self) -> None:
        self.deadline.within(10)
        self.assertEqual(self.until(1_000), [1_000])
        self.assertEqual(self.timers_s(), [])

    def test_moved_later_it_passes_then(self) -> None:
        self.deadline.within(10)
        self.until(9)
        self.deadline.within(10)
        self.assertEqual(self.until(18.999), [])
        self.assertEqual(self.until(19), [19])

    def test_moved_sooner_it_passes_then(self) -> None:
        self.deadline.within(300)
        self.deadline.within(5)
        self.assertEqual(self.until(4.999), [])
        self.assertEqual(self.until(5), [5])
        self.assertEqual(self.timers_s(), [])

    def test_dropped_it_does_not_pass(self) -> None:
        self.deadline.within(10)
        self.deadline.drop()
        self.assertFalse(self.deadline.running)
        self.assertEqual(self.until(1_000), [])
        self.assertEqual(self.timers_s(), [])

    def test_after_a_drop_there_can_be_another(self) -> None:
        for seconds in (5, 10, 50):
            self.setUp()
            self.deadline.within(10)
            self.deadline.drop()
            self.deadline.within(seconds)
            self.assertEqual(self.until(seconds - 0.001), [])
            self.assertEqual(self.until(seconds), [seconds])

    def test_after_it_passed_there_can_be_another(self) -> None:
        self.deadline.within(10)
        self.until(10)
        self.deadline.within(10)
        self.assertEqual(self.until(20), [10, 20])

    def test_stopped_it_leaves_no_timer_behind(self) -> None:
        self.deadline.within(10)
        self.deadline.stop()
        self.assertFalse(self.deadline.running)
        self.assertEqual(self.timers_s(), [])
        self.deadline.stop()

    def test_dropped_and_stopped_it_leaves_no_timer_behind(self) -> None:
        self.deadline.within(10)
        self.deadline.drop()
        self.deadline.stop()
        self.assertEqual(self.timers_s(), [])

    def test_moved_at_every_reply_it_moves_its_timer_once(self) -> None:
        self.deadline.within(10)
        for second in range(1, 10):
            self.until(second)
            self.deadline.within(10)
            self.assertEqual(self.timers_s(), [10])
        self.until(10)
        self.assertEqual(self.timers_s(), [19])

    def test_who_hears_of_it_may_set_the_next(self) -> None:
        deadline = Deadline(self.clock, lambda: deadline.within(7))
        deadline.within(3)
        self.until(3)
        self.assertTrue(deadline.running)
        self.assertEqual(self.timers_s(), [10])

    @given(st.lists(st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(1, 20)))))
    def test_moved_and_dropped_in_any_way_it_passes_when_it_is_due(self, moves: list[tuple[int, int | None]]) -> None:
        """After so many seconds it is moved to so many from then, or dropped."""
        self.setUp()
        due_s: int | None = None
        expected: list[float] = []
        for pause_s, seconds in moves:
            now_s = int(self.clock.seconds()) + pause_s
            for second in range(now_s - pause_s, now_s):
                self.until(second + 1)
            if due_s is not None and due_s <= now_s:
                expected.append(due_s)
                due_s = None
            if seconds is None:
                self.deadline.drop()
                due_s = None
            else:
                self.deadline.within(seconds)
                due_s = now_s + seconds
            self.assertEqual(self.deadline.running, due_s is not None)
        self.assertEqual(self.passed_s, expected)
