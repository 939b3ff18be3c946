"""
Who may send now, and how much is held in memory.
"""

from __future__ import annotations

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report
from pymail_tx.relay.courier import Content
from pymail_tx.relay.lines import (
    MAX_HELD,
    MAX_HELD_FRESH,
    MAX_HELD_OCTETS,
    MAX_LINE,
    MAX_SENDS,
    MAX_SENDS_A_COURIER,
    Group,
    Lines,
)
from pymail_tx.spool.interface import PART_OCTETS, Delivery, Due


@frozen
class Idle:
    """A courier that nobody asks to send."""

    key: str

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        raise AssertionError("not in this test")

    def close(self) -> Deferred[None]:
        raise AssertionError("not in this test")


def group(key: str = "a", content: bytes = b"") -> Group:
    due = Due(
        message_id=1,
        envelope=Envelope("", ["bob@example.net"]),
        deliveries=(Delivery(id=1),),
        due_at=0,
        accepted_at=0,
        content=content,
    )
    return Group(due=due, courier=Idle(key))


class LinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = Lines()

    def joined(self, count: int, key: str = "a") -> list[bool]:
        return [self.lines.join(group(key)) for _ in range(count)]

    def begun(self) -> list[str]:
        keys = []
        while begun := self.lines.next():
            keys.append(begun.courier.key)
        return keys

    def test_a_courier_has_five_sends_at_once(self) -> None:
        self.joined(MAX_SENDS_A_COURIER + 1)
        self.assertEqual(len(self.begun()), MAX_SENDS_A_COURIER)

    def test_all_together_have_twenty(self) -> None:
        for key in "abcdef":
            self.joined(MAX_SENDS_A_COURIER, key)
        self.assertEqual(len(self.begun()), MAX_SENDS)

    def test_whoever_has_the_least_under_way_goes_next(self) -> None:
        self.joined(3, "a")
        self.begun()
        self.joined(3, "a")
        self.joined(3, "b")
        self.assertEqual(self.begun(), ["b", "b", "b", "a", "a"])

    def test_an_ended_send_makes_a_place_and_recorded_results_make_room(self) -> None:
        self.joined(MAX_LINE)
        first = self.lines.next()
        assert first
        self.begun()
        self.lines.sent(first)
        self.assertEqual(self.begun(), ["a"])
        self.assertEqual(self.joined(1), [False])
        self.lines.leave(first)
        self.assertEqual(self.joined(2), [True, False])

    def test_a_full_line_is_busy_and_leaves_room_for_others(self) -> None:
        self.assertEqual(self.joined(MAX_LINE + 1), [True] * MAX_LINE + [False])
        self.assertEqual(self.lines.busy, ("a",))
        self.assertEqual(self.joined(1, "b"), [True])

    def test_a_hundred_groups_are_held_and_one_more_is_not(self) -> None:
        self.joined(MAX_LINE, "a")
        self.joined(MAX_HELD - MAX_LINE - 1, "b")
        self.assertEqual(self.lines.room, 1)
        self.assertEqual(self.joined(2, "c"), [True, False])
        self.assertEqual(self.lines.room, 0)

    def test_content_fills_the_room_too(self) -> None:
        whole = MAX_HELD_OCTETS // PART_OCTETS
        for number in range(whole - 1):
            self.lines.join(group("ab"[number % 2], bytes(PART_OCTETS)))
        self.lines.join(group("a", bytes(PART_OCTETS - 1)))
        self.assertEqual([self.lines.room_octets, self.lines.room], [1, MAX_HELD - whole])
        self.lines.join(group("b", b"x"))
        self.assertEqual(self.lines.room, 0)

    def test_of_a_large_message_only_a_part_takes_room(self) -> None:
        self.lines.join(group("a", bytes(PART_OCTETS + 1)))
        self.assertEqual(self.lines.room_octets, MAX_HELD_OCTETS - PART_OCTETS)

    def test_a_fresh_message_is_promised_room_that_nobody_else_gets(self) -> None:
        self.joined(MAX_LINE - 1, "a")
        self.assertTrue(self.lines.promise(["a", "b"]))
        self.assertEqual(self.lines.room, MAX_HELD - MAX_LINE)
        self.lines.redeem()
        self.assertEqual(self.lines.room, MAX_HELD - MAX_LINE + 1)

    def test_no_fresh_message_is_promised_room_in_a_full_line(self) -> None:
        self.joined(MAX_LINE, "a")
        self.assertFalse(self.lines.promise(["b", "a"]))
        self.assertTrue(self.lines.promise(["b"]))

    def test_the_last_quarter_is_for_what_waits_in_the_spool(self) -> None:
        self.joined(MAX_LINE, "a")
        promised = [self.lines.promise(["b"]) for _ in range(MAX_HELD_FRESH - MAX_LINE + 1)]
        self.assertEqual(promised, [True] * (MAX_HELD_FRESH - MAX_LINE) + [False])

    def test_clearing_takes_out_what_was_not_begun(self) -> None:
        self.joined(MAX_SENDS_A_COURIER + 2)
        self.begun()
        self.assertEqual(len(self.lines.clear()), 2)
        self.assertEqual(self.lines.room, MAX_HELD - MAX_SENDS_A_COURIER)
