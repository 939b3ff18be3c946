"""
The end of the reactor's turn: what is put off until then, what is not, and in which order it comes.
"""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.net.at_once import TurnEnd


class TheEndOfTheTurn(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.is_alone = False
        self.written: list[tuple[str, bytes]] = []
        self.turn_end = TurnEnd(lambda: self.is_alone)
        self.first, self.second = (
            self.turn_end.writer(partial(self._write, name), self.clock) for name in ("first", "second")
        )

    def _write(self, name: str, octets: bytes) -> None:
        self.written.append((name, octets))

    def test_one_that_is_alone_writes_at_once(self) -> None:
        self.is_alone = True
        self.first(b"a")
        self.assertEqual(self.written, [("first", b"a")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_several_write_when_the_turn_is_over_in_their_order(self) -> None:
        self.first(b"a")
        self.second(b"b")
        self.first(b"c")
        self.assertEqual(self.written, [])
        self.clock.advance(0)
        self.assertEqual(self.written, [("first", b"a"), ("second", b"b"), ("first", b"c")])

    def test_what_comes_behind_does_not_overtake_once_the_others_are_done(self) -> None:
        self.first(b"a")
        self.is_alone = True
        self.first(b"b")
        self.clock.advance(0)
        self.assertEqual(self.written, [("first", b"a"), ("first", b"b")])

    def test_it_can_come_early_and_leaves_no_delayed_call(self) -> None:
        self.first(b"a")
        self.turn_end.come()
        self.turn_end.come()
        self.assertEqual(self.written, [("first", b"a")])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_every_turn_has_one(self) -> None:
        for octets in (b"a", b"b"):
            self.first(octets)
            self.clock.advance(0)
        self.assertEqual(self.written, [("first", b"a"), ("first", b"b")])
