"""
What an operator sees and does, over a connection of his own beside the relay's.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Peer, Status, TLSFacts, by_reason
from pymail_tx.spool.administration import Action, Changed, Entry, Selection, State
from pymail_tx.spool.interface import Due, NewMessage, Result, SpoolError
from pymail_tx.spool.sqlite_administration import DELIVERIES_A_SLICE, SQLiteAdministration
from tests.spool.turns import SpoolTestCase, message

ALL = Selection()
NOW = 1_700_000_000.0
TLS = TLSFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", verified=True, problem="")
PEER = Peer(host="mx.example.net", port=25, tls=TLS)


class AdministrationTestCase(SpoolTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pauses: list[float] = []
        self.operator = SQLiteAdministration.open(self.path, pause=self.pauses.append)
        self.addCleanup(self.operator.close)

    def accept(self, *recipients: str, now: float = NOW) -> int:
        return self.got(self.spool.accept(message(*recipients), now=now))

    def claim(self, now: float = NOW) -> Sequence[Due]:
        return self.got(self.spool.claim(now=now, limit=1_000, max_octets=2**30))

    def record(self, due: Due, *statuses: Status, now: float = NOW, words: str = "4.2.0 busy") -> None:
        results = [
            Result(
                delivery_id=delivery.id,
                outcome=by_reason(recipient.address, status, words, PEER),
                next_attempt_at=now + 1_800 if status is Status.DEFERRED else None,
            )
            for recipient, delivery, status in zip(due.envelope.recipients, due.deliveries, statuses, strict=True)
        ]
        self.got(self.spool.record(results, now=now))

    def apply(
        self, action: Action, selection: Selection | None = None, *, now: float = NOW, words: str = ""
    ) -> Changed:
        return self.got(self.operator.apply(action, selection or Selection(), now=now, words=words))

    def entries(self, selection: Selection = ALL, *, limit: int = 100, after: int = 0) -> Sequence[Entry]:
        return self.got(self.operator.entries(selection, limit=limit, after=after))

    def states(self) -> list[str]:
        return [entry.state.value for entry in self.entries()]


class SeeingTests(AdministrationTestCase):
    def test_a_delivery_is_listed_with_all_that_an_operator_asks(self) -> None:
        message_id = self.accept("bob@example.net")
        [due] = self.claim()
        self.record(due, Status.DEFERRED)
        [entry] = self.entries()
        self.assertEqual(
            entry,
            Entry(
                message_id=message_id, delivery_id=due.deliveries[0].id, sender="alice@example.org",
                recipient="bob@example.net", state=State.WAITING, accepted_at=NOW, due_at=NOW + 1_800, attempt=1,
                lane="", why="4.2.0 busy", target="", wish=None, owner="", size_bytes=17,
            ),
        )  # fmt: skip

    def test_whose_claim_it_is_is_said(self) -> None:
        self.accept()
        self.claim()
        [entry] = self.entries()
        self.assertEqual([entry.state, entry.owner], [State.CLAIMED, "relay"])

    def test_deliveries_are_selected_by_whatever_is_given(self) -> None:
        first = self.accept("bob@example.net", "Bob@Example.ORG")
        second = self.accept("carol@example.net", now=NOW + 10)
        self.got(self.spool.accept(message("dan@example.com"), now=NOW + 20, lanes=["slow"]))
        self.apply(Action.HOLD, Selection(message_ids=(second,)))

        def found(selection: Selection) -> str:
            return " ".join(entry.recipient.partition("@")[0] for entry in self.entries(selection))

        self.assertEqual(found(Selection()), "bob Bob carol dan")
        self.assertEqual(found(Selection(message_ids=(first,))), "bob Bob")
        self.assertEqual(found(Selection(message_ids=())), "")
        self.assertEqual(found(Selection(domain="example.net")), "bob carol")
        self.assertEqual(found(Selection(domain="EXAMPLE.org")), "Bob")
        self.assertEqual(found(Selection(state=State.HELD)), "carol")
        self.assertEqual(found(Selection(accepted_before=NOW + 10)), "bob Bob")
        self.assertEqual(found(Selection(lane="slow")), "dan")
        self.assertEqual(found(Selection(domain="example.net", state=State.WAITING)), "bob")

    def test_a_long_list_is_seen_page_by_page(self) -> None:
        for number in range(5):
            self.accept(f"r{number}@example.net")
        first = self.entries(limit=3)
        rest = self.entries(limit=3, after=first[-1].delivery_id)
        self.assertEqual([entry.recipient[:2] for entry in [*first, *rest]], ["r0", "r1", "r2", "r3", "r4"])

    def test_a_message_is_shown_with_its_envelope_and_every_attempt(self) -> None:
        envelope = Envelope(
            "alice@example.org",
            [Recipient("bob@example.net", notify="FAILURE,DELAY", orcpt="rfc822;rob@example.org"), "eve@example.net"],
            envid="QQ314159",
            ret="HDRS",
        )
        new = NewMessage(envelope=envelope, content=b"x\r\n", submitter="user:alice")
        message_id = self.got(self.spool.accept(new, now=NOW))
        [due] = self.claim()
        self.record(due, Status.DEFERRED, Status.DELIVERED, words="2.0.0 words")
        [due] = self.claim(now=NOW + 1_800)
        self.record(due, Status.DEFERRED, now=NOW + 1_800)
        shown = self.got(self.operator.show(message_id))
        assert shown
        self.assertEqual([shown.envelope, shown.submitter], [envelope, "user:alice"])
        self.assertEqual([entry.state for entry in shown.entries], [State.WAITING, State.DELIVERED])
        self.assertEqual(
            [(event.at - NOW, event.recipient[:3], event.what, event.attempt, event.words) for event in shown.events],
            [
                (0, "bob", "deferred", 1, "2.0.0 words"),
                (0, "eve", "delivered", 1, "2.0.0 words"),
                (1_800, "bob", "deferred", 2, "4.2.0 busy"),
            ],
        )
        self.assertEqual(
            {(event.host, event.port, event.tls, event.uncertain) for event in shown.events},
            {("mx.example.net", 25, "TLSv1.3, verified", False)},
        )

    def test_of_a_message_that_is_gone_its_events_are_shown(self) -> None:
        message_id = self.accept("bob@example.net", "eve@example.net")
        [due] = self.claim()
        self.record(due, Status.DEFERRED, Status.DELIVERED)
        [due] = self.claim(now=NOW + 1_800)
        self.record(due, Status.FAILED, now=NOW + 1_800, words="5.1.1 nobody")
        shown = self.got(self.operator.show(message_id))
        assert shown
        self.assertEqual([shown.envelope, shown.entries], [None, ()])
        self.assertEqual([event.what for event in shown.events], ["deferred", "delivered", "failed"])
        self.assertEqual(self.entries(), [])

    def test_of_a_message_that_never_was_nothing_is_shown(self) -> None:
        self.assertIsNone(self.got(self.operator.show(7)))

    def test_content_that_still_comes_in_is_no_message_yet(self) -> None:
        writer = self.spool.begin_content()
        self.got(writer.write(bytes(100_000)))
        self.assertIsNone(self.got(self.operator.show(1)))
        self.assertEqual(self.entries(), [])

    def test_destinations_are_told_with_the_most_waiting_first(self) -> None:
        self.accept("a@example.net", now=NOW + 5)
        self.accept("b@example.com", "c@EXAMPLE.com")
        for due in self.claim(now=NOW + 5):
            self.record(due, *[Status.DEFERRED] * len(due.deliveries), now=NOW + 5, words=f"4.2.0 {due.message_id}")
        self.accept("d@example.com", now=NOW + 9)
        self.apply(Action.HOLD, Selection(domain="example.net"))
        com, net = self.got(self.operator.destinations())
        self.assertEqual(
            [com.domain, com.waiting, com.held, com.oldest_at, com.next_due_at, com.why],
            ["example.com", 3, 0, NOW, NOW + 9, "4.2.0 2"],
        )
        self.assertEqual(
            [net.domain, net.waiting, net.held, net.oldest_at, net.next_due_at, net.why],
            ["example.net", 0, 1, NOW + 5, None, "4.2.0 1"],
        )
        self.assertEqual([one.domain for one in self.got(self.operator.destinations(limit=1))], ["example.com"])


class DoingTests(AdministrationTestCase):
    def waiting(self) -> Due:
        """A delivery that waits for its second attempt."""
        self.accept()
        [due] = self.claim()
        self.record(due, Status.DEFERRED)
        return due

    def test_retry_makes_it_due_now(self) -> None:
        self.waiting()
        self.assertEqual(self.claim(now=NOW + 60), [])
        self.assertEqual(self.apply(Action.RETRY, now=NOW + 60), Changed(done=1))
        self.assertEqual(len(self.claim(now=NOW + 60)), 1)

    def test_what_is_held_is_not_claimed_until_it_is_released(self) -> None:
        self.waiting()
        self.assertEqual(self.apply(Action.HOLD), Changed(done=1))
        self.assertEqual([self.apply(Action.RETRY), self.apply(Action.HOLD)], [Changed(), Changed()])
        self.assertEqual([self.claim(now=NOW + 9_000), self.states()], [[], ["held"]])
        self.assertEqual(self.apply(Action.RELEASE, now=NOW + 9_000), Changed(done=1))
        self.assertEqual(len(self.claim(now=NOW + 9_000)), 1)

    def test_what_is_cancelled_is_gone_and_its_history_says_so(self) -> None:
        due = self.waiting()
        self.assertEqual(self.apply(Action.CANCEL, words="not wanted"), Changed(done=1))
        self.assertEqual([self.entries(), self.claim(now=NOW + 9_000)], [[], []])
        shown = self.got(self.operator.show(due.message_id))
        assert shown
        self.assertEqual([(event.what, event.words) for event in shown.events][-1], ("cancelled", "not wanted"))

    def test_one_recipient_is_cancelled_and_the_message_stays_for_the_others(self) -> None:
        self.accept("bob@example.net", "eve@example.com")
        self.apply(Action.CANCEL, Selection(domain="example.com"))
        self.assertEqual(self.states(), ["waiting", "cancelled"])
        [due] = self.claim()
        self.assertEqual([one.address for one in due.envelope.recipients], ["bob@example.net"])

    def test_what_is_to_bounce_comes_to_the_relay_with_the_reason(self) -> None:
        self.waiting()
        self.apply(Action.HOLD)
        self.assertEqual(self.apply(Action.BOUNCE, words="this host is gone"), Changed(done=1))
        [due] = self.claim()
        self.assertEqual(due.deliveries[0].returned, "this host is gone")
        self.record(due, Status.FAILED)
        self.assertEqual(self.entries(), [])

    def test_a_bounce_without_words_has_a_reason_too(self) -> None:
        self.waiting()
        self.apply(Action.BOUNCE)
        [due] = self.claim()
        self.assertEqual(due.deliveries[0].returned, "returned by an operator of the relay")

    def test_another_target_goes_with_the_delivery_until_it_is_taken_back(self) -> None:
        self.waiting()
        self.assertEqual(self.apply(Action.ROUTE, words="smtp://backup.example.net:2525"), Changed(done=1))
        [due] = self.claim()
        self.assertEqual(due.deliveries[0].target, "smtp://backup.example.net:2525")
        self.record(due, Status.DEFERRED)
        self.apply(Action.ROUTE)
        [due] = self.claim()
        self.assertEqual(due.deliveries[0].target, "")

    def test_no_target_that_is_none_or_holds_a_password_is_stored(self) -> None:
        for target in ("nowhere", "smtp://joe:Zq7@example.net"):
            with self.assertRaises(BadArgument) as caught:
                self.operator.apply(Action.ROUTE, ALL, now=NOW, words=target)
            self.assertNotIn("Zq7", str(caught.exception))
        self.operator.apply(Action.ROUTE, ALL, now=NOW, words="smtp://joe@example.net?password_env=PASSWORD")

    def test_each_action_is_noted(self) -> None:
        message_id = self.accept()
        for action in (Action.RETRY, Action.HOLD, Action.RELEASE, Action.ROUTE, Action.BOUNCE):
            self.apply(action, words="discard:" if action is Action.ROUTE else "")
        shown = self.got(self.operator.show(message_id))
        assert shown
        self.assertEqual([event.what for event in shown.events], ["retried", "held", "released", "routed", "returned"])


class UnderWayTests(AdministrationTestCase):
    def under_way(self) -> Due:
        self.accept()
        [due] = self.claim()
        return due

    def test_an_attempt_under_way_is_not_disturbed_and_a_hold_follows_it(self) -> None:
        due = self.under_way()
        self.assertEqual(self.apply(Action.HOLD), Changed(under_way=1))
        self.assertEqual([(entry.state, entry.wish) for entry in self.entries()], [(State.CLAIMED, Action.HOLD)])
        self.record(due, Status.DEFERRED)
        self.assertEqual(self.states(), ["held"])

    def test_a_hold_is_taken_back_before_the_attempt_is_over(self) -> None:
        due = self.under_way()
        self.apply(Action.HOLD)
        self.assertEqual(self.apply(Action.RELEASE), Changed(under_way=1))
        self.record(due, Status.DEFERRED)
        self.assertEqual(self.states(), ["waiting"])

    def test_a_delivery_that_succeeds_after_all_is_delivered(self) -> None:
        due = self.under_way()
        self.apply(Action.CANCEL)
        self.record(due, Status.DELIVERED)
        shown = self.got(self.operator.show(due.message_id))
        assert shown
        self.assertEqual([event.what for event in shown.events], ["cancelled", "delivered"])

    def test_what_is_deferred_or_interrupted_is_cancelled_then(self) -> None:
        self.record_after(Action.CANCEL)
        self.assertEqual(self.entries(), [])
        due = self.under_way()
        self.apply(Action.CANCEL)
        self.got(self.spool.give_back(due, now=NOW, lane=""))
        self.assertEqual(self.entries(), [])
        self.under_way()
        self.apply(Action.CANCEL)
        self.got(self.spool.release(now=NOW))
        self.assertEqual(self.entries(), [])

    def test_what_is_deferred_goes_back_now_if_it_is_to_bounce(self) -> None:
        self.record_after(Action.BOUNCE)
        [due] = self.claim()
        self.assertEqual(due.deliveries[0].returned, "returned by an operator of the relay")

    def test_the_next_attempt_goes_to_the_new_target(self) -> None:
        due = self.under_way()
        self.assertEqual(self.apply(Action.ROUTE, words="discard:"), Changed(under_way=1))
        self.record(due, Status.DEFERRED)
        [due] = self.claim(now=NOW + 1_800)
        self.assertEqual(due.deliveries[0].target, "discard:")

    def test_there_is_nothing_to_retry(self) -> None:
        self.under_way()
        self.assertEqual(self.apply(Action.RETRY), Changed())

    def record_after(self, action: Action) -> None:
        due = self.under_way()
        self.apply(action)
        self.record(due, Status.DEFERRED)


class BesideTests(AdministrationTestCase):
    def test_many_are_changed_in_slices_with_time_for_the_relay_between(self) -> None:
        for number in range(2 * DELIVERIES_A_SLICE + 1):
            self.spool.accept(message(f"r{number}@example.net"), now=NOW)
        self.turns.run()
        self.assertEqual(self.apply(Action.HOLD), Changed(done=2 * DELIVERIES_A_SLICE + 1))
        self.assertEqual(len(self.pauses), 2)

    def test_what_is_accepted_meanwhile_is_not_touched(self) -> None:
        for number in range(DELIVERIES_A_SLICE):
            self.spool.accept(message(f"r{number}@example.net"), now=NOW)
        self.turns.run()
        operator = SQLiteAdministration.open(self.path, pause=lambda seconds: self.accept("fresh@example.net"))
        self.addCleanup(operator.close)
        self.got(operator.apply(Action.CANCEL, ALL, now=NOW))
        self.assertEqual([entry.recipient for entry in self.entries()], ["fresh@example.net"])

    def test_an_action_of_another_process_is_there_at_the_relays_next_claim(self) -> None:
        self.accept("bob@example.net", now=NOW + 3_600)
        self.assertEqual(self.claim(), [])
        script = (
            "import sys; from pymail_tx.spool.administration import *\n"
            "from pymail_tx.spool.sqlite_administration import SQLiteAdministration\n"
            "operator = SQLiteAdministration.open(sys.argv[1])\n"
            f"operator.apply(Action.RETRY, Selection(), now={NOW}).addCallback(print)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", script, Path(self.path).absolute()],
            cwd=root,
            capture_output=True,
            timeout=60,
            check=True,
        )
        self.assertEqual(done.stdout, b"Changed(done=1, under_way=0)\n")
        self.assertEqual(len(self.claim()), 1)

    def test_a_spool_that_is_locked_is_told_in_words_and_nothing_is_changed(self) -> None:
        self.accept()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.operator._database.execute("PRAGMA busy_timeout = 0")
            failed = self.operator.apply(Action.HOLD, ALL, now=NOW)
            self.assertIn("another program keeps it locked", str(self.failureResultOf(failed, SpoolError).value))
        self.assertEqual(self.states(), ["waiting"])


class OpenTests(SynchronousTestCase):
    def test_a_spool_that_is_not_there_is_not_made(self) -> None:
        path = self.mktemp()
        with self.assertRaisesRegex(SpoolError, "is not there"):
            SQLiteAdministration.open(path)
        self.assertFalse(Path(path).exists())

    def test_a_spool_of_another_schema_waits_for_its_relay(self) -> None:
        path = self.mktemp()
        with closing(sqlite3.connect(path)) as database:
            database.executescript("PRAGMA application_id = 0x504D5458; PRAGMA user_version = 1; CREATE TABLE x (y)")
        with self.assertRaisesRegex(SpoolError, "of schema 1; start the relay on it once"):
            SQLiteAdministration.open(path)
