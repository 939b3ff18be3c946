"""
What a report means for the spool.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome, Peer, Report, Status, by_reason, by_reply
from pymail_tx.core.reply import Reply
from pymail_tx.core.retry import RetryPlan
from pymail_tx.relay.attempt import failures, settle
from pymail_tx.spool.interface import Delivery, Due

PLAN = RetryPlan.parse("1*30m 1*1h")
ADDRESSES = ("a@example.net", "b@example.net", "c@example.net")
BUSY = by_reply("a@example.net", Reply(451, ("4.2.0 greylisted",)), Peer(host="mx.example.net"))


def due(*attempts: int) -> Due:
    return Due(
        message_id=1,
        envelope=Envelope("", ADDRESSES[: len(attempts)]),
        deliveries=tuple(Delivery(id=number, attempt=attempt) for number, attempt in enumerate(attempts)),
        due_at=0,
        accepted_at=0,
        content=b"",
    )


def ended(status: Status) -> Outcome:
    return by_reason("a@example.net", status, "x", Peer())


class SettleTests(SynchronousTestCase):
    def test_delivered_and_failed_are_done(self) -> None:
        report = Report((ended(Status.DELIVERED), ended(Status.FAILED)))
        results = settle(due(1, 1), report, PLAN, now=100)
        self.assertEqual([result.next_attempt_at for result in results], [None, None])
        self.assertEqual(failures(results), report.outcomes[1:])

    def test_each_deferred_delivery_waits_by_its_own_attempt(self) -> None:
        results = settle(due(1, 2), Report((BUSY, BUSY)), PLAN, now=100)
        self.assertEqual([result.next_attempt_at for result in results], [1_900, 3_700])
        self.assertEqual(failures(results), ())

    def test_behind_the_plans_end_a_deferral_is_a_failure_that_keeps_the_last_word(self) -> None:
        [result] = settle(due(3), Report((BUSY,)), PLAN, now=5_400)
        self.assertIsNone(result.next_attempt_at)
        [failed] = failures((result,))
        self.assertEqual(
            failed.reason, "4.4.7 given up after 3 attempts in 1 hour; at last: 4.2.0 greylisted (reply 451)"
        )
        self.assertEqual([failed.reply, failed.host], [BUSY.reply, "mx.example.net"])
