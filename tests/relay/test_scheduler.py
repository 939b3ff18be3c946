"""
The scheduler brings each delivery to its end: with the real spool, and a world that follows a script.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import BinaryIO

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Outcome, Peer, Report, Status, by_reason, by_reply
from pymail_tx.core.reply import Reply
from pymail_tx.core.retry import DEFAULT_PLAN
from pymail_tx.relay.courier import Content, Courier
from pymail_tx.relay.lines import MAX_HELD, MAX_LINE, MAX_SENDS_A_COURIER
from pymail_tx.relay.scheduler import LONGEST_REST_S, SPOOL_RETRY_S, STOP_GRACE_S, Scheduler
from pymail_tx.spool.administration import Action, Selection
from pymail_tx.spool.interface import NewMessage, SpoolError
from pymail_tx.spool.sqlite_administration import SQLiteAdministration
from tests.spool.turns import SpoolTestCase, message

EPOCH = 1_700_000_000
PEER = Peer(host="mx.example.net", port=25)

Script = Callable[[str], Outcome]


def delivered(recipient: str) -> Outcome:
    return by_reply(recipient, Reply(250, ("2.0.0 ok",)), PEER)


def deferred(recipient: str) -> Outcome:
    return by_reply(recipient, Reply(451, ("4.2.0 greylisted",)), PEER)


def refused(recipient: str) -> Outcome:
    return by_reply(recipient, Reply(550, ("5.1.1 no such user",)), PEER)


@define(eq=False)
class ScriptedCourier:
    """
    The world beyond a route, as a test wants it.

    @ivar script: the outcome for each recipient; another for some in C{special}.
    @ivar slow: whether sends wait until the test fires them.
    """

    key: str
    clock: Clock
    script: Script = delivered
    special: dict[str, Script] = field(factory=dict)
    slow: bool = False
    sends: list[tuple[int, tuple[str, ...]]] = field(factory=list)
    contents: list[bytes] = field(factory=list)
    waiting: list[tuple[Deferred[Report], Report]] = field(factory=list)
    envelopes: list[Envelope] = field(factory=list)
    files: list[BinaryIO] = field(factory=list)

    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        recipients = tuple(one.address for one in envelope.recipients)
        self.sends.append((int(self.clock.seconds()), recipients))
        self.envelopes.append(envelope)
        if not isinstance(content, bytes):
            self.files.append(content)
        self.contents.append(content if isinstance(content, bytes) else content.read())
        report = Report(tuple(self.special.get(address, self.script)(address) for address in recipients))
        if not self.slow:
            return succeed(report)
        fires: Deferred[Report] = Deferred()
        self.waiting.append((fires, report))
        return fires

    def close(self) -> Deferred[None]:
        return succeed(None)


class SchedulerTestCase(SpoolTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.courier = ScriptedCourier("main", self.clock)
        self.other = ScriptedCourier("other", self.clock)
        self.tokens = 0
        self.events = self.enterContext(capturedLogs())
        self.scheduler = self.made()

    def made(self) -> Scheduler:
        return Scheduler(
            self.spool,
            self.courier_for,
            courier_to=self.courier_to,
            clock=self.clock,
            wall_clock=self.now,
            plan=DEFAULT_PLAN,
            hostname="relay.example.org",
            new_token=self.new_token,
        )

    def courier_for(self, domain: str) -> Courier:
        return self.other if domain.startswith("other.") else self.courier

    def courier_to(self, target: str) -> Courier:
        return {"discard:": self.other}[target]

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def new_token(self) -> str:
        self.tokens += 1
        return f"token{self.tokens}"

    def start(self) -> None:
        self.scheduler.start()
        self.turns.run()

    def accept(self, *recipients: str, sender: str = "alice@example.org") -> None:
        self.got(self.scheduler.accept(message(*recipients, sender=sender), now=self.now()))

    def pass_time(self, seconds: float, step: float = 10) -> None:
        for _ in range(int(seconds // step)):
            self.clock.advance(step)
            self.turns.run()

    def waiting(self) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as reader:
            return reader.execute("SELECT recipient, state, due_at, attempt FROM deliveries ORDER BY id").fetchall()

    def sql(self, statements: Sequence[str]) -> None:
        """Somebody else tampers with the spool's file."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            for statement in statements:
                other.execute(statement)

    def logged(self, event: str) -> list[LogEvent]:
        return [one for one in self.events if one.get("event") == event]


class DeliveryTests(SchedulerTestCase):
    def test_fresh_mail_goes_out_at_once_and_is_gone_from_the_spool(self) -> None:
        self.start()
        self.accept("bob@example.net")
        self.assertEqual(self.courier.sends, [(0, ("bob@example.net",))])
        self.assertEqual(self.waiting(), [])

    def test_what_was_there_before_the_start_goes_out(self) -> None:
        self.accept("bob@example.net")
        self.assertEqual(self.courier.sends, [])
        self.start()
        self.assertEqual(len(self.courier.sends), 1)

    def test_recipients_for_one_courier_travel_together_and_others_apart(self) -> None:
        self.start()
        self.accept("a@example.net", "b@other.example", "c@example.com")
        self.assertEqual(self.courier.sends, [(0, ("a@example.net", "c@example.com"))])
        self.assertEqual(self.other.sends, [(0, ("b@other.example",))])
        self.assertEqual(self.waiting(), [])

    def test_one_couriers_trouble_does_not_hold_the_other_recipients(self) -> None:
        self.other.script = deferred
        self.start()
        self.accept("a@example.net", "b@other.example")
        self.assertEqual(
            self.waiting(),
            [("a@example.net", "delivered", None, 1), ("b@other.example", "waiting", EPOCH + 1_800, 1)],
        )

    def test_a_thousand_messages_all_arrive_once(self) -> None:
        for number in range(1_000):
            self.spool.accept(message(f"r{number}@example.net"), now=self.now())
        self.start()
        self.assertEqual(sorted(r for _, r in self.courier.sends), sorted((f"r{n}@example.net",) for n in range(1_000)))
        self.assertEqual(self.waiting(), [])

    def test_an_ended_attempt_is_told_with_its_fields(self) -> None:
        self.courier.script = deferred
        self.start()
        self.accept("bob@example.net")
        [event] = self.logged("attempt_ended")
        fields = ("message_id", "recipient", "status", "reason", "uncertain", "attempt", "next_attempt_at")
        self.assertEqual(
            [event[name] for name in fields],
            [1, "bob@example.net", "deferred", "4.2.0 greylisted (reply 451)", False, 1, EPOCH + 1_800],
        )

    def test_an_uncertain_outcome_is_deferred_and_told_as_uncertain(self) -> None:
        self.courier.script = lambda recipient: by_reason(
            recipient, Status.DEFERRED, "4.4.2 lost", PEER, uncertain=True
        )
        self.start()
        self.accept("bob@example.net")
        self.assertEqual([event["uncertain"] for event in self.logged("attempt_ended")], [True])
        self.assertEqual(self.waiting(), [("bob@example.net", "waiting", EPOCH + 1_800, 1)])


class FreshMailTests(SchedulerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.statements: list[str] = []
        self.spool._tables._database.set_trace_callback(self.statements.append)

    def test_it_goes_out_from_memory_and_is_not_read_again(self) -> None:
        self.start()
        self.statements.clear()
        self.accept("bob@example.net")
        self.assertEqual(self.courier.sends, [(0, ("bob@example.net",))])
        self.assertEqual([one for one in self.statements if "FROM parts" in one and one.startswith("SELECT")], [])
        self.assertIn("COMMIT", self.statements)

    def test_it_is_sent_after_its_commit_and_not_before(self) -> None:
        self.start()
        self.scheduler.accept(message("bob@example.net"), now=self.now())
        self.assertEqual(self.courier.sends, [])

    def test_what_became_of_one_goes_into_the_commit_that_accepts_the_next(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("a@example.net")
        self.statements.clear()
        [(fires, report)] = self.courier.waiting
        self.scheduler.accept(message("b@example.net"), now=self.now())
        fires.callback(report)
        self.turns.step()
        self.assertEqual(self.statements.count("COMMIT"), 1)
        self.assertTrue(any("INSERT INTO messages" in one for one in self.statements))
        self.assertTrue(any("UPDATE deliveries" in one for one in self.statements))

    def test_the_envelope_goes_out_as_it_came_in(self) -> None:
        envelope = Envelope(
            "a@example.org", [Recipient("b@example.net", notify="NEVER"), "c@other.example"], envid="E7", ret="HDRS"
        )
        seen: list[Envelope] = []
        self.courier.envelopes = self.other.envelopes = seen
        self.start()
        self.got(self.scheduler.accept(NewMessage(envelope=envelope, content=b"x"), now=self.now()))
        self.assertEqual(seen, [evolve(envelope, recipients=[one]) for one in envelope.recipients])

    def test_without_room_it_waits_in_the_spool_in_the_lane_of_its_courier(self) -> None:
        self.courier.slow = True
        self.start()
        for number in range(MAX_HELD):
            self.accept(f"r{number}@example.net")
        with closing(sqlite3.connect(self.path)) as reader:
            waiting = reader.execute("SELECT DISTINCT lane FROM deliveries WHERE state = 'waiting'").fetchall()
        self.assertEqual(waiting, [("main",)])
        self.accept("fresh@other.example")
        self.assertEqual(len(self.other.sends), 1)

    def test_room_that_two_were_promised_is_given_to_one_and_the_other_waits(self) -> None:
        self.courier.slow = True
        self.start()
        for number in range(MAX_LINE - 1):
            self.accept(f"r{number}@example.net")
        for name in ("one", "two"):
            self.scheduler.accept(message(f"{name}@example.net"), now=self.now())
        self.turns.run()
        self.assertEqual([state for _, state, *_ in self.waiting()][-2:], ["claimed", "waiting"])

    def test_before_the_start_and_while_it_stops_it_is_only_stored(self) -> None:
        self.accept("a@example.net")
        self.courier.slow = True
        self.start()
        stopped = self.scheduler.stop()
        self.accept("b@example.net")
        self.pass_time(STOP_GRACE_S, step=1)
        self.successResultOf(stopped)
        self.assertEqual([state for _, state, *_ in self.waiting()], ["waiting", "waiting"])

    def test_what_is_committed_while_the_stop_begins_is_released(self) -> None:
        self.start()
        accepting = self.scheduler.accept(message("bob@example.net"), now=self.now())
        stopped = self.scheduler.stop()
        self.got(accepting)
        self.successResultOf(stopped)
        self.assertEqual([self.waiting()[0][1], self.courier.sends], ["waiting", []])

    def test_a_large_message_reaches_the_courier_as_a_file_that_is_closed_afterwards(self) -> None:
        self.courier.slow = True
        self.start()
        writer = self.scheduler.begin_content()
        whole = b"line\r\n" * 50_000
        for start in range(0, len(whole), 70_000):
            self.got(writer.write(whole[start : start + 70_000]))
        new = NewMessage(envelope=Envelope("", ["bob@example.net"]), content=writer)
        self.got(self.scheduler.accept(new, now=self.now()))
        self.assertEqual(self.courier.contents, [whole])
        [file] = self.courier.files
        self.assertFalse(file.closed)
        [(fires, report)] = self.courier.waiting
        fires.callback(report)
        self.assertTrue(file.closed)

    def test_the_bounce_of_a_large_message_has_its_header(self) -> None:
        self.courier.special["bob@example.net"] = refused
        self.start()
        content = b"Subject: large\r\n\r\n" + b"x" * 200_000
        self.got(self.scheduler.accept(message("bob@example.net", content=content), now=self.now()))
        self.assertIn(b"Subject: large\r\n", self.courier.contents[1])


class OperatorTests(SchedulerTestCase):
    def operate(self, action: Action, words: str = "") -> None:
        operator = SQLiteAdministration.open(self.path)
        self.got(operator.apply(action, Selection(), now=self.now(), words=words))
        self.got(operator.close())

    def waits(self) -> None:
        self.courier.script = deferred
        self.start()
        self.accept("bob@example.net")

    def test_a_retry_at_a_prompt_is_noticed_within_5_s(self) -> None:
        self.waits()
        self.operate(Action.RETRY)
        self.pass_time(LONGEST_REST_S, step=1)
        self.assertEqual(len(self.courier.sends), 2)

    def test_a_delivery_goes_where_an_operator_routes_it(self) -> None:
        self.waits()
        self.operate(Action.ROUTE, "discard:")
        self.pass_time(LONGEST_REST_S, step=1)
        self.assertEqual([len(self.courier.sends), len(self.other.sends)], [1, 1])
        self.assertEqual(self.waiting(), [])

    def test_what_an_operator_sends_back_is_bounced_in_his_words_and_not_tried(self) -> None:
        self.waits()
        self.operate(Action.BOUNCE, "that host is gone")
        self.courier.script = delivered
        self.pass_time(LONGEST_REST_S, step=1)
        self.assertEqual([recipients for _, recipients in self.courier.sends[1:]], [("alice@example.org",)])
        self.assertIn(b"5.7.1 that host is gone", self.courier.contents[1])
        self.assertEqual(self.waiting(), [])


class RetryTests(SchedulerTestCase):
    def test_deferred_mail_is_tried_by_the_plan_and_then_bounced(self) -> None:
        self.courier.special["bob@example.net"] = deferred
        self.start()
        self.accept("bob@example.net")
        self.pass_time(6 * 86_400, step=300)
        attempts = [at for at, recipients in self.courier.sends if recipients == ("bob@example.net",)]
        gaps = [later - earlier for earlier, later in pairwise(attempts)]
        self.assertEqual(gaps, [1_800] * 4 + [3_600] * 22 + [86_400] * 4)
        self.assertEqual(self.courier.sends[-1], (attempts[-1], ("alice@example.org",)))
        self.assertIn(b"Status: 4.4.7\r\n", self.courier.contents[-1])
        self.assertIn(b"given up after 31 attempts in 5 days", self.courier.contents[-1])
        self.assertIn(b"Diagnostic-Code: smtp; 451 4.2.0 greylisted\r\n", self.courier.contents[-1])
        self.assertEqual(self.waiting(), [])

    def test_the_timer_fires_when_the_next_is_due_and_not_sooner(self) -> None:
        self.courier.script = deferred
        self.start()
        self.accept("bob@example.net")
        self.pass_time(1_799, step=1)
        self.assertEqual(len(self.courier.sends), 1)
        self.pass_time(1, step=1)
        self.assertEqual(len(self.courier.sends), 2)

    def test_a_wall_clock_that_is_set_forward_is_noticed_within_a_minute(self) -> None:
        self.courier.script = deferred
        self.start()
        self.accept("bob@example.net")
        self.scheduler._wall_clock = lambda: self.now() + 86_400
        self.pass_time(60)
        self.assertEqual(len(self.courier.sends), 2)


class BounceTests(SchedulerTestCase):
    def test_a_permanent_failure_is_told_to_the_sender_now(self) -> None:
        self.courier.special["bob@example.net"] = refused
        self.start()
        self.accept("bob@example.net")
        self.assertEqual(self.courier.sends, [(0, ("bob@example.net",)), (0, ("alice@example.org",))])
        self.assertIn(b"\r\nTo: <alice@example.org>\r\n", self.courier.contents[1])
        self.assertIn(b"550 5.1.1 no such user", self.courier.contents[1])
        self.assertEqual(self.waiting(), [])
        self.assertEqual([event["recipient"] for event in self.logged("bounced")], ["alice@example.org"])

    def test_one_bounce_tells_of_all_that_failed_and_of_nobody_else(self) -> None:
        self.courier.special = {"a@example.net": refused, "b@example.net": refused, "c@example.net": deferred}
        self.start()
        self.accept("a@example.net", "b@example.net", "c@example.net", "d@example.net")
        self.assertEqual(len(self.courier.sends), 2)
        named = [address in self.courier.contents[1] for address in (b"a@example.net", b"b@example.net", b"c@", b"d@")]
        self.assertEqual(named, [True, True, False, False])
        self.assertEqual([state for _, state, *_ in self.waiting()], ["failed", "failed", "waiting", "delivered"])

    def test_a_bounce_is_never_bounced(self) -> None:
        self.courier.script = refused
        self.start()
        self.accept("bob@example.net")
        self.assertEqual(len(self.courier.sends), 2)
        self.assertEqual(self.waiting(), [])
        self.assertEqual(len(self.logged("bounce_dropped")), 1)

    def test_nobody_is_told_where_there_is_no_sender(self) -> None:
        self.courier.script = refused
        self.start()
        self.accept("bob@example.net", sender="")
        self.assertEqual(len(self.courier.sends), 1)


class BrokenCourier(ScriptedCourier):
    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        return fail(ZeroDivisionError("a bug"))


class RaisingCourier(ScriptedCourier):
    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        raise ZeroDivisionError("a bug")


class ForgetfulCourier(ScriptedCourier):
    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        return succeed(Report(()))


class CancelledCourier(ScriptedCourier):
    def send(self, envelope: Envelope, content: Content) -> Deferred[Report]:
        return fail(CancelledError())


class BugTests(SchedulerTestCase):
    def test_a_courier_that_breaks_is_logged_once_and_the_mail_deferred(self) -> None:
        broken = {
            BrokenCourier: ZeroDivisionError,
            RaisingCourier: ZeroDivisionError,
            ForgetfulCourier: AssertionError,
            CancelledCourier: CancelledError,
        }
        self.start()
        for number, (courier, error) in enumerate(broken.items(), 1):
            self.courier = courier("main", self.clock)
            self.accept("bob@example.net")
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)
            self.assertEqual(self.waiting()[-1], ("bob@example.net", "waiting", EPOCH + 1_800, 1))
            self.assertEqual(len(self.logged("courier_broken")), number)
            self.assertTrue(self.logged("attempt_ended")[-1]["reason"].startswith("4.3.0 "))

    def test_without_a_courier_for_the_domain_the_mail_is_deferred(self) -> None:
        def nowhere(domain: str) -> Courier:
            raise KeyError(domain)

        self.scheduler._courier_for = nowhere
        self.start()
        self.accept("bob@example.net")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.waiting(), [("bob@example.net", "waiting", EPOCH + 1_800, 1)])


class BoundsTests(SchedulerTestCase):
    def test_a_dead_courier_with_many_messages_leaves_others_moving(self) -> None:
        self.courier.slow = True
        for number in range(3 * MAX_HELD):
            self.spool.accept(message(f"r{number}@example.net"), now=self.now())
        self.spool.accept(message("last@other.example"), now=self.now())
        self.start()
        self.assertEqual(len(self.courier.sends), MAX_SENDS_A_COURIER)
        self.assertEqual(self.other.sends, [(0, ("last@other.example",))])
        self.accept("fresh@other.example")
        self.assertEqual(len(self.other.sends), 2)
        claimed = [state for _, state, *_ in self.waiting() if state == "claimed"]
        self.assertEqual(len(claimed), MAX_LINE)

    def test_a_courier_that_wakes_up_gets_all_its_mail_in_order(self) -> None:
        self.courier.slow = True
        for number in range(2 * MAX_HELD):
            self.spool.accept(message(f"r{number}@example.net"), now=self.now() + number / 1_000)
        self.pass_time(10)
        self.start()
        while self.courier.waiting:
            fires, report = self.courier.waiting.pop(0)
            fires.callback(report)
            self.turns.run()
        self.assertEqual([r for _, r in self.courier.sends], [(f"r{n}@example.net",) for n in range(2 * MAX_HELD)])
        self.assertEqual(self.waiting(), [])

    def test_a_busy_courier_does_not_make_the_scheduler_spin(self) -> None:
        self.courier.slow = True
        for number in range(2 * MAX_LINE):
            self.spool.accept(message(f"r{number}@example.net"), now=self.now())
        self.start()
        hops = self.turns.hops
        self.pass_time(600)
        self.assertLessEqual(self.turns.hops - hops, 2 * 600 / LONGEST_REST_S + 2)


class BrokenAtTheDoorTests(SchedulerTestCase):
    def test_a_message_that_cannot_be_stored_is_refused_and_the_cause_told_once(self) -> None:
        self.start()
        self.sql(["ALTER TABLE deliveries RENAME TO gone"])
        for _ in range(3):
            accepting = self.scheduler.accept(message("bob@example.net"), now=self.now())
            self.turns.run()
            self.failureResultOf(accepting, SpoolError)
        self.assertEqual(len(self.logged("spool_failed")), 1)
        self.sql(["ALTER TABLE gone RENAME TO deliveries"])
        self.accept("bob@example.net")
        self.assertEqual([len(self.logged("spool_works")), len(self.courier.sends)], [1, 1])


class StopTests(SchedulerTestCase):
    def stopped(self) -> Deferred[None]:
        stopped = self.scheduler.stop()
        self.turns.run()
        return stopped

    def test_with_nothing_under_way_it_stops_at_once_and_leaves_no_timer(self) -> None:
        self.start()
        self.successResultOf(self.stopped())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_scheduler_that_never_started_stops(self) -> None:
        self.successResultOf(self.stopped())

    def test_a_send_that_ends_within_the_grace_is_recorded(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("bob@example.net")
        stopped = self.stopped()
        self.pass_time(STOP_GRACE_S - 1, step=1)
        self.assertNoResult(stopped)
        [(fires, report)] = self.courier.waiting
        fires.callback(report)
        self.turns.run()
        self.successResultOf(stopped)
        self.assertEqual(self.waiting(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_slow_send_is_cancelled_and_due_10_s_later_without_counting(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("bob@example.net")
        stopped = self.stopped()
        self.pass_time(STOP_GRACE_S, step=1)
        self.successResultOf(stopped)
        self.assertEqual(self.waiting(), [("bob@example.net", "waiting", EPOCH + STOP_GRACE_S + 10, 0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_was_claimed_and_not_begun_is_due_as_before(self) -> None:
        self.courier.slow = True
        for number in range(MAX_SENDS_A_COURIER + 2):
            self.spool.accept(message(f"r{number}@example.net"), now=self.now())
        self.start()
        self.pass_time(5, step=1)
        stopped = self.stopped()
        self.pass_time(STOP_GRACE_S, step=1)
        self.successResultOf(stopped)
        self.assertEqual([row[2] for row in self.waiting()][-2:], [EPOCH, EPOCH])

    def test_after_stop_nothing_is_begun(self) -> None:
        self.start()
        self.successResultOf(self.stopped())
        self.accept("bob@example.net")
        self.pass_time(600)
        self.assertEqual(self.courier.sends, [])

    def test_the_next_start_takes_up_what_was_released_within_10_s(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("bob@example.net")
        self.stopped()
        self.pass_time(STOP_GRACE_S)
        self.reopened()
        self.courier.slow = False
        self.scheduler = self.made()
        self.start()
        self.pass_time(10, step=1)
        self.assertEqual(len(self.courier.sends), 2)
        self.assertEqual(self.waiting(), [])


class RestartTests(SchedulerTestCase):
    def test_what_a_dead_process_had_under_way_is_delivered_within_a_minute(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("bob@example.net")
        self.reopened()  # nothing was released
        self.pass_time(3_600)
        begun = int(self.clock.seconds())
        self.courier = ScriptedCourier("main", self.clock)
        self.scheduler = self.made()
        self.start()
        self.pass_time(60, step=1)
        self.assertEqual(self.courier.sends, [(begun + 10, ("bob@example.net",))])
        self.assertEqual([event["count"] for event in self.logged("released")], [1])


class BrokenSpoolTests(SchedulerTestCase):
    def break_spool(self) -> None:
        self.sql(["ALTER TABLE deliveries RENAME TO gone"])

    def mend_spool(self) -> None:
        self.sql(["ALTER TABLE gone RENAME TO deliveries"])

    def test_results_that_cannot_be_recorded_are_kept_until_they_can(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("bob@example.net")
        self.break_spool()
        [(fires, report)] = self.courier.waiting
        fires.callback(report)
        self.pass_time(10 * SPOOL_RETRY_S, step=1)
        self.assertEqual(len(self.logged("spool_failed")), 1)
        self.assertEqual(self.logged("attempt_ended"), [])
        self.mend_spool()
        self.pass_time(SPOOL_RETRY_S, step=1)
        self.assertEqual(len(self.logged("attempt_ended")), 1)
        self.assertEqual(len(self.logged("spool_works")), 1)
        self.assertEqual([self.waiting(), len(self.courier.sends)], [[], 1])

    def test_claiming_goes_on_once_the_spool_works_again(self) -> None:
        self.start()
        self.got(self.spool.accept(message("bob@example.net"), now=self.now()))
        self.break_spool()
        self.scheduler.wake()
        self.pass_time(10 * SPOOL_RETRY_S, step=1)
        self.assertEqual(self.courier.sends, [])
        self.mend_spool()
        self.pass_time(SPOOL_RETRY_S, step=1)
        self.assertEqual([r for _, r in self.courier.sends], [("bob@example.net",)])

    def test_a_row_that_cannot_be_read_is_told_and_does_not_end_the_loop(self) -> None:
        self.start()
        self.got(self.spool.accept(message("bob@example.net"), now=self.now()))
        self.sql(["UPDATE messages SET sender = 'no address'"])
        self.scheduler.wake()
        self.turns.run()
        self.assertEqual(len(self.flushLoggedErrors(BadArgument)), 1)
        self.sql(["UPDATE messages SET sender = ''"])
        self.pass_time(60)
        self.assertEqual([r for _, r in self.courier.sends], [("bob@example.net",)])

    def test_a_start_on_a_broken_spool_waits_for_it(self) -> None:
        self.accept("bob@example.net")
        self.break_spool()
        self.start()
        self.mend_spool()
        self.pass_time(SPOOL_RETRY_S, step=1)
        self.assertEqual(len(self.courier.sends), 1)

    def test_a_broken_spool_does_not_hold_up_the_stop(self) -> None:
        self.courier.slow = True
        self.start()
        self.accept("bob@example.net")
        self.break_spool()
        [(fires, report)] = self.courier.waiting
        fires.callback(report)
        self.turns.run()
        stopped = self.scheduler.stop()
        self.pass_time(STOP_GRACE_S, step=1)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.mend_spool()
        self.assertEqual([state for _, state, *_ in self.waiting()], ["claimed"])
