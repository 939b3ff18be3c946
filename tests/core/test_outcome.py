"""
Reports, and the exception that one can become.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import NotAllDelivered
from pymail_tx.core.outcome import MAX_NAMED, Peer, Report, Status, by_reason, by_reply
from pymail_tx.core.reply import Reply


def _report(*outcomes: tuple[str, Status, str]) -> Report:
    return Report(tuple(by_reason(*each, Peer()) for each in outcomes))


_ANN = ("ann@example.org", Status.DELIVERED, "2.0.0 ok")
_BOB = ("bob@example.org", Status.FAILED, "5.1.1 no such user")
_CAT = ("cat@example.org", Status.DEFERRED, "4.2.2 full")


class RaiseForFailures(SynchronousTestCase):
    def test_nothing_happens_if_everybody_has_the_message(self) -> None:
        _report(_ANN, _ANN).raise_for_failures()

    def test_whoever_is_deferred_or_failed_is_named_with_the_reason(self) -> None:
        report = _report(_ANN, _BOB, _CAT)
        error = self.assertRaises(NotAllDelivered, report.raise_for_failures)
        self.assertIs(error.report, report)
        self.assertEqual(
            str(error),
            "2 of 3 not delivered: bob@example.org failed: 5.1.1 no such user; cat@example.org deferred: 4.2.2 full",
        )

    def test_of_very_many_the_first_are_named_and_the_rest_counted(self) -> None:
        all_named = self.assertRaises(NotAllDelivered, _report(*[_BOB] * MAX_NAMED).raise_for_failures)
        self.assertEqual(str(all_named).count(_BOB[0]), MAX_NAMED)
        self.assertNotIn("more", str(all_named))
        error = self.assertRaises(NotAllDelivered, _report(*[_BOB] * (MAX_NAMED + 2)).raise_for_failures)
        self.assertEqual(str(error).count(_BOB[0]), MAX_NAMED)
        self.assertTrue(str(error).endswith("; and 2 more"))

    def test_a_servers_words_are_printable_in_it(self) -> None:
        report = Report((by_reply("bob@example.org", Reply(550, ("\x1b[31mno",)), Peer()),))
        self.assertTrue(str(self.assertRaises(NotAllDelivered, report.raise_for_failures)).isprintable())
