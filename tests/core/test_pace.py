"""
Rates, and what a reply causes.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.pace import Rate, Reaction, ReactionKind


class Rates(SynchronousTestCase):
    def test_a_rate_is_a_count_and_a_unit(self) -> None:
        rate = Rate.parse("100/m")
        self.assertEqual((rate.count, rate.per_s, str(rate)), (100, 60, "100/m"))

    def test_anything_else_is_refused(self) -> None:
        for text in ("", "100", "0/m", "100/x", "100 / m", "1.5/s", "100/5m", "/m"):
            self.assertRaises(BadArgument, Rate.parse, text)


class Reactions(SynchronousTestCase):
    def test_suspend_for_a_time(self) -> None:
        reaction = Reaction.parse("suspend 30m")
        self.assertEqual(reaction, Reaction(ReactionKind.SUSPEND, 1_800, None))
        self.assertEqual(str(reaction), "suspend 30m")

    def test_slow_to_a_rate_for_a_time(self) -> None:
        reaction = Reaction.parse("slow 10/m 2h")
        self.assertEqual(reaction, Reaction(ReactionKind.SLOW, 7_200, Rate(10, "m")))
        self.assertEqual(str(reaction), "slow 10/m 2h")

    def test_a_week_at_most(self) -> None:
        self.assertEqual(Reaction.parse("suspend 7d").duration_s, 604_800)
        self.assertRaises(BadArgument, Reaction.parse, "suspend 604801s")

    def test_anything_else_is_refused(self) -> None:
        for text in ("", "suspend", "suspend 30", "suspend 10/m 30m", "slow 30m", "slow 30m 10/m", "stop 1h"):
            self.assertRaises(BadArgument, Reaction.parse, text)
