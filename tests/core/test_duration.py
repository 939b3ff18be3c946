"""
Lengths of time as people write them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core import duration
from pymail_tx.core.errors import BadArgument


class Durations(SynchronousTestCase):
    def test_each_unit(self) -> None:
        for text, expected in {"90s": 90, "30m": 1_800, "4h": 14_400, "5d": 432_000}.items():
            self.assertEqual(duration.parse("x", text, most_s=432_000), expected)

    def test_what_is_written_is_read(self) -> None:
        for seconds, expected in {1: "1s", 90: "90s", 5_400: "90m", 14_400: "4h", 172_800: "2d"}.items():
            self.assertEqual(duration.written(seconds), expected)

    @given(st.integers(1, 10**8))
    def test_every_length_survives(self, seconds: int) -> None:
        self.assertEqual(duration.parse("x", duration.written(seconds), most_s=10**8), seconds)

    def test_a_limit_holds_at_the_limit_and_one_past_it(self) -> None:
        self.assertEqual(duration.parse("x", "60s", most_s=60), 60)
        self.assertIn("longer than 1m", str(self.assertRaises(BadArgument, duration.parse, "x", "61s", most_s=60)))

    def test_anything_else_is_refused(self) -> None:
        for text in ("", "4", "h", "0h", "-1h", "1.5h", "4 h", "4H", "4h30m", "٤h", "9999999999s"):
            self.assertRaises(BadArgument, duration.parse, "x", text, most_s=10**12)
