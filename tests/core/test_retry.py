"""
The retry plan: its notation, its delays, its end.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.retry import DEFAULT_PLAN, MAX_ATTEMPTS, RetryPlan, Step, in_words

STEPS = st.builds(Step, st.integers(1, 100), st.integers(1, 30), st.sampled_from("smhd"))


class NotationTests(SynchronousTestCase):
    def test_the_default_plan_is_the_documented_one(self) -> None:
        self.assertEqual(RetryPlan.parse("4*30m 22*1h 4*1d"), DEFAULT_PLAN)
        self.assertEqual(str(DEFAULT_PLAN), "4*30m 22*1h 4*1d")

    def test_every_unit_is_read(self) -> None:
        plan = RetryPlan.parse("1*7s 1*7m 1*7h 1*7d")
        self.assertEqual([plan.delay_after(attempt) for attempt in (1, 2, 3, 4)], [7, 420, 25_200, 604_800])

    @given(st.lists(STEPS, min_size=1, max_size=10).map(tuple))
    def test_the_text_of_a_plan_gives_the_plan_back(self, steps: tuple[Step, ...]) -> None:
        plan = RetryPlan(steps)
        self.assertEqual(RetryPlan.parse(str(plan)), plan)

    def test_what_is_no_step_is_refused_by_name(self) -> None:
        for nonsense in ("30m", "4*30", "4*m", "*30m", "-1*30m", "4*1w", "4x30m", "4*1.5h", "4*30m,", "٤*30m"):
            with self.assertRaises(BadArgument) as caught:
                RetryPlan.parse(f"1*1h {nonsense}")
            self.assertIn(nonsense.split()[0], str(caught.exception))

    def test_a_step_that_does_nothing_is_refused(self) -> None:
        for nothing in ("0*30m", "4*0m"):
            with self.assertRaisesRegex(BadArgument, "does nothing"):
                RetryPlan.parse(nothing)

    def test_an_empty_plan_is_refused_with_an_example(self) -> None:
        with self.assertRaisesRegex(BadArgument, r"4\*30m"):
            RetryPlan.parse("  ")

    def test_a_thousand_attempts_are_a_plan_and_one_more_is_not(self) -> None:
        RetryPlan.parse(f"{MAX_ATTEMPTS}*1m")
        with self.assertRaisesRegex(BadArgument, "more than 1000 attempts"):
            RetryPlan.parse(f"{MAX_ATTEMPTS}*1m 1*1m")

    def test_thirty_days_are_a_delay_and_31_are_not(self) -> None:
        RetryPlan.parse("1*30d")
        with self.assertRaisesRegex(BadArgument, "longer than 30 days"):
            RetryPlan.parse("1*31d")


class DelayTests(SynchronousTestCase):
    def test_the_default_plan_waits_four_half_hours_22_hours_and_four_days(self) -> None:
        delays = [DEFAULT_PLAN.delay_after(attempt) for attempt in range(1, 31)]
        self.assertEqual(delays, [1_800] * 4 + [3_600] * 22 + [86_400] * 4)

    def test_after_its_last_step_a_plan_is_at_its_end(self) -> None:
        self.assertIsNone(DEFAULT_PLAN.delay_after(31))
        self.assertIsNone(DEFAULT_PLAN.delay_after(1_000_000))


class InWordsTests(SynchronousTestCase):
    def test_a_length_of_time_is_told_by_its_largest_unit(self) -> None:
        told = {432_000.5: "5 days", 86_400: "1 day", 7_300: "2 hours", 60: "1 minute", 1: "1 second", 0.2: "0 seconds"}
        self.assertEqual({seconds: in_words(seconds) for seconds in told}, told)
