"""
The SQLite spool keeps what a spool promises, across crashes and beside rivals.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.outcome import Outcome, Peer, Status, by_reason
from pymail_tx.spool.interface import (
    FIRST_INTERRUPTION_S,
    LONGEST_INTERRUPTION_S,
    Due,
    NewMessage,
    Result,
    SpoolError,
)
from pymail_tx.spool.sqlite import SQLiteSpool
from tests.spool.turns import SpoolTestCase, Turns, message, octets

NOW = 1_700_000_000.0


def outcome(status: Status, reason: str = "4.0.0 said so") -> Outcome:
    return by_reason("bob@example.net", status, reason, Peer())


def attempts(due: Due) -> tuple[int, ...]:
    return tuple(delivery.attempt for delivery in due.deliveries)


class TablesTestCase(SpoolTestCase):
    def accept(self, *recipients: str, now: float = NOW, content: bytes = b"x\r\n") -> int:
        return self.got(self.spool.accept(message(*recipients, content=content), now=now))

    def claim(
        self, now: float = NOW, limit: int = 100, max_octets: int = 1_000_000, busy: tuple[str, ...] = ()
    ) -> list[Due]:
        return [*self.got(self.spool.claim(now=now, limit=limit, max_octets=max_octets, busy=busy))]

    def record(
        self,
        due: Due,
        *statuses: Status,
        next_at: float | None = None,
        lane: str = "",
        notices: Sequence[NewMessage] = (),
    ) -> None:
        results = [
            Result(
                delivery_id=delivery.id,
                outcome=outcome(status),
                next_attempt_at=next_at if status is Status.DEFERRED else None,
            )
            for delivery, status in zip(due.deliveries, statuses, strict=True)
        ]
        self.got(self.spool.record(results, now=NOW, lane=lane, notices=notices))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as reader:
            return reader.execute(query).fetchall()


class AcceptTests(TablesTestCase):
    def test_an_accepted_message_is_due_at_once_and_whole(self) -> None:
        message_id = self.accept("bob@example.net", "carol@example.net", content=b"a\r\n\0\xff\r\n")
        [due] = self.claim()
        self.assertEqual(due.message_id, message_id)
        self.assertEqual(due.envelope.sender, "alice@example.org")
        self.assertEqual([one.address for one in due.envelope.recipients], ["bob@example.net", "carol@example.net"])
        self.assertEqual(due.content, b"a\r\n\0\xff\r\n")
        self.assertEqual([attempts(due), due.accepted_at, due.due_at], [(1, 1), NOW, NOW])

    def test_accept_fires_only_after_the_commit(self) -> None:
        seen: list[object] = []
        accepted = self.spool.accept(message(), now=NOW)
        accepted.addCallback(lambda _: seen.append(self.rows("SELECT count(*) FROM messages")))
        self.turns.run()
        self.assertEqual(seen, [[(1,)]])

    def test_numbers_are_never_used_twice(self) -> None:
        first = self.accept()
        [due] = self.claim()
        self.record(due, Status.DELIVERED)
        self.assertGreater(self.accept(), first)


class EnvelopeTests(TablesTestCase):
    def test_the_whole_envelope_comes_out_as_it_went_in(self) -> None:
        for envelope in (
            Envelope("", ["postmaster"]),
            Envelope("alice@example.org", ["bob@example.net"], requiretls=True, smtputf8=True),
            Envelope("jürgen@example.org", ["bob@bücher.example", '"b o"@example.net'], ret="FULL", envid="a+b=c"),
            Envelope(
                "alice@example.org",
                [
                    Recipient("a@example.net", notify="NEVER"),
                    Recipient("b@example.net", notify=("SUCCESS", "DELAY"), orcpt="rfc822;rob@example.org"),
                    Recipient("c@example.net", orcpt="utf-8;jürgen@example.org"),
                ],
                ret="HDRS",
            ),
        ):
            self.got(self.spool.accept(NewMessage(envelope=envelope, content=b"", submitter="user:x"), now=NOW))
            self.reopened()
            [due] = self.claim()
            self.assertEqual([due.envelope, due.submitter], [envelope, "user:x"])
            self.record(due, *[Status.DELIVERED] * len(due.deliveries))

    def test_a_message_of_1000_recipients_ends_in_linear_time(self) -> None:
        self.accept(*(f"r{number}@example.net" for number in range(1_000)))
        [due] = self.claim()
        steps = [0]
        database = self.spool._tables._database
        database.set_progress_handler(lambda: steps.append(0), 1_000)  # every 1,000 instructions of SQLite's machine
        self.record(due, *[Status.DELIVERED] * 1_000)
        self.assertEqual(self.rows("SELECT * FROM deliveries"), [])
        self.assertLess(len(steps), 2_000)

    def test_the_sender_is_told_of_a_delay_once(self) -> None:
        self.accept()
        [due] = self.claim()
        self.assertFalse(due.deliveries[0].warned)
        for warned in (True, False):
            waits = Result(
                delivery_id=due.deliveries[0].id,
                outcome=outcome(Status.DEFERRED),
                next_attempt_at=NOW,
                warned=warned,
            )
            self.got(self.spool.record([waits], now=NOW))
            [due] = self.claim()
            self.assertTrue(due.deliveries[0].warned)


class ClaimAtOnceTests(TablesTestCase):
    def test_a_message_is_claimed_by_the_commit_that_accepts_it(self) -> None:
        new = message("a@example.net", "b@example.net")
        accepted = self.got(self.spool.accept_and_claim(new, now=NOW, lanes=["x", "y"]))
        due = accepted.due
        assert due
        self.assertEqual([due.envelope, due.content, due.due_at], [new.envelope, new.content, NOW])
        self.assertEqual(
            self.rows("SELECT state, attempt, due_at, lane, owner, epoch FROM deliveries"),
            [("claimed", 1, NOW + FIRST_INTERRUPTION_S, lane, "relay", 1) for lane in "xy"],
        )
        self.assertEqual(self.claim(), [])
        self.record(due, Status.DELIVERED, Status.DELIVERED)
        self.assertEqual(self.rows("SELECT * FROM messages"), [])

    def test_it_outlives_a_crash_like_any_claim(self) -> None:
        self.got(self.spool.accept_and_claim(message(), now=NOW))
        self.reopened()
        self.assertEqual(self.got(self.spool.release(now=NOW)), 1)
        [due] = self.claim(now=NOW + FIRST_INTERRUPTION_S)
        self.assertEqual(attempts(due), (1,))


class OwnerTests(TablesTestCase):
    def test_a_record_of_another_owner_is_ignored(self) -> None:
        self.accept()
        [due] = self.claim()
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("UPDATE deliveries SET owner = 'another relay'")
            other.commit()
        self.record(due, Status.DELIVERED)
        self.got(self.spool.give_back(due, now=NOW, lane=""))
        self.assertEqual(self.rows("SELECT state, owner FROM deliveries"), [("claimed", "another relay")])

    def test_every_opening_has_an_epoch_of_its_own_whoever_opens(self) -> None:
        for relay, epoch in (("one", 2), ("two", 3), ("one", 4)):
            self.closed(self.spool)
            self.spool = SQLiteSpool.open(
                self.path,
                run_in_thread=self.turns.run_in_thread,
                call_in_caller=self.turns.call_in_caller,
                relay=relay,
            )
            self.assertEqual([self.spool._tables.owner, self.spool._tables.epoch], [relay, epoch])
        self.addCleanup(self.closed, self.spool)


class ClaimTests(TablesTestCase):
    def test_what_is_claimed_is_not_claimed_again(self) -> None:
        self.accept()
        self.assertEqual(len(self.claim()), 1)
        self.assertEqual(self.claim(), [])

    def test_a_claim_has_stored_the_attempt_and_the_time_after_an_interruption(self) -> None:
        self.accept()
        self.claim()
        self.assertEqual(
            self.rows("SELECT state, attempt, due_at, epoch FROM deliveries"),
            [("claimed", 1, NOW + FIRST_INTERRUPTION_S, 1)],
        )

    def test_earliest_first_and_no_more_than_the_limit(self) -> None:
        late, early = self.accept(now=NOW), self.accept(now=NOW - 5)
        self.assertEqual([due.message_id for due in self.claim(limit=1)], [early])
        self.assertEqual([due.message_id for due in self.claim()], [late])

    def test_nothing_is_claimed_before_its_time(self) -> None:
        self.accept(now=NOW + 1)
        self.assertEqual(self.claim(now=NOW + 0.999), [])
        self.assertEqual(len(self.claim(now=NOW + 1)), 1)

    def test_content_is_bounded_but_one_message_comes_in_any_case(self) -> None:
        for _ in range(3):
            self.accept(content=b"x" * 100)
        self.assertEqual(len(self.claim(max_octets=1)), 1)
        self.assertEqual(len(self.claim(max_octets=199)), 1)
        self.accept(content=b"x" * 100)
        self.assertEqual(len(self.claim(max_octets=200)), 2)

    def test_what_waits_in_a_busy_lane_does_not_stand_in_the_way(self) -> None:
        self.accept("dead@example.net")
        self.give_back_all("dead")
        alive = self.accept("alive@example.net", now=NOW + 1)
        self.assertEqual([due.message_id for due in self.claim(now=NOW + 1, limit=1, busy=("dead",))], [alive])
        self.assertEqual(len(self.claim(now=NOW + 1)), 1)

    def test_of_one_message_only_the_deliveries_in_other_lanes_are_claimed(self) -> None:
        self.accept("dead@example.net", "alive@example.net")
        [due] = self.claim()
        dead = evolve(due, deliveries=due.deliveries[:1])
        self.got(self.spool.give_back(dead, now=NOW, lane="dead"))
        self.got(self.spool.release(now=NOW))
        [claimed] = self.claim(now=NOW + 60, busy=("dead",))
        self.assertEqual([one.address for one in claimed.envelope.recipients], ["alive@example.net"])

    def give_back_all(self, lane: str) -> None:
        for due in self.claim():
            self.got(self.spool.give_back(due, now=NOW, lane=lane))


class RecordTests(TablesTestCase):
    def test_a_finished_message_leaves_nothing_behind(self) -> None:
        self.accept("bob@example.net", "carol@example.net")
        [due] = self.claim()
        self.record(due, Status.DELIVERED, Status.FAILED)
        for table in ("messages", "parts", "deliveries", "events", "keys"):
            self.assertEqual(self.rows(f"SELECT * FROM {table}"), [])

    def test_a_deferred_delivery_waits_for_its_time_and_keeps_the_message(self) -> None:
        self.accept("bob@example.net", "carol@example.net")
        [due] = self.claim()
        self.record(due, Status.DELIVERED, Status.DEFERRED, next_at=NOW + 1_800)
        self.assertEqual(self.claim(now=NOW + 1_799), [])
        [again] = self.claim(now=NOW + 1_800)
        self.assertEqual([attempts(again), [one.id for one in again.deliveries]], [(2,), [due.deliveries[1].id]])

    def test_deferred_without_a_next_time_ends_as_failed(self) -> None:
        self.accept()
        [due] = self.claim()
        self.record(due, Status.DEFERRED, next_at=None)
        self.assertEqual(self.rows("SELECT * FROM messages"), [])

    def test_why_a_delivery_waits_is_noted_and_bounded(self) -> None:
        self.accept()
        [due] = self.claim()
        waits = Result(
            delivery_id=due.deliveries[0].id,
            outcome=outcome(Status.DEFERRED, "4.2.1 " + "busy " * 1_000 + "\ud800"),
            next_attempt_at=NOW + 1,
        )
        self.got(self.spool.record([waits], now=NOW))
        [(what, words)] = self.rows("SELECT what, words FROM events")
        self.assertEqual([what, len(str(words))], ["deferred", 500])

    def test_a_bounce_is_a_new_message_due_at_once(self) -> None:
        self.accept()
        [due] = self.claim()
        self.record(due, Status.FAILED, notices=[message("alice@example.org", sender="", content=b"sorry\r\n")])
        [bounce] = self.claim()
        self.assertEqual([bounce.envelope.sender, bounce.content], ["", b"sorry\r\n"])

    def test_the_same_record_twice_changes_nothing_and_bounces_once(self) -> None:
        self.accept()
        [due] = self.claim()
        for _ in range(2):
            self.record(due, Status.FAILED, notices=[message("alice@example.org", sender="")])
        self.assertEqual(len(self.claim()), 1)

    def test_a_record_for_an_earlier_epoch_is_ignored(self) -> None:
        self.accept()
        [due] = self.claim()
        self.reopened()
        self.record(due, Status.FAILED, notices=[message("alice@example.org", sender="")])
        self.assertEqual(self.rows("SELECT state, epoch FROM deliveries"), [("claimed", 1)])


class GiveBackTests(TablesTestCase):
    def test_what_is_given_back_is_due_as_before_and_no_attempt_counts(self) -> None:
        self.accept(now=NOW - 7)
        [due] = self.claim()
        self.got(self.spool.give_back(due, now=NOW, lane="slow"))
        [again] = self.claim()
        self.assertEqual([again.due_at, attempts(again)], [NOW - 7, (1,)])
        self.assertEqual(self.rows("SELECT lane, interruptions FROM deliveries"), [("slow", 0)])


class ReleaseTests(TablesTestCase):
    def delays_of_interruptions(self, count: int) -> Iterator[float]:
        now = NOW
        for _ in range(count):
            self.assertEqual(len(self.claim(now=now)), 1)
            self.assertEqual(self.got(self.spool.release(now=now)), 1)
            [(due_at,)] = self.rows("SELECT due_at FROM deliveries")
            assert isinstance(due_at, float)
            yield due_at - now
            now = due_at

    def test_an_interrupted_attempt_is_due_in_10_s_then_doubling_up_to_an_hour(self) -> None:
        self.accept()
        self.assertEqual(
            [*self.delays_of_interruptions(11)],
            [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, LONGEST_INTERRUPTION_S],
        )

    def test_many_interruptions_do_not_overflow(self) -> None:
        self.accept()
        self.assertEqual([*self.delays_of_interruptions(80)][-1], LONGEST_INTERRUPTION_S)

    def test_an_interrupted_attempt_does_not_count(self) -> None:
        self.accept()
        [*self.delays_of_interruptions(3)]
        [due] = self.claim(now=NOW + 1_000)
        self.assertEqual(attempts(due), (1,))

    def test_an_attempt_with_an_end_begins_the_doubling_anew(self) -> None:
        self.accept()
        [*self.delays_of_interruptions(3)]
        [due] = self.claim(now=NOW + 1_000)
        self.record(due, Status.DEFERRED, next_at=NOW)
        self.assertEqual([*self.delays_of_interruptions(1)], [10])

    def test_what_waits_in_the_retry_plan_keeps_its_time(self) -> None:
        self.accept()
        [due] = self.claim()
        self.record(due, Status.DEFERRED, next_at=NOW + 1_800)
        self.assertEqual(self.got(self.spool.release(now=NOW)), 0)
        self.assertEqual(self.got(self.spool.next_due_at()), NOW + 1_800)

    def test_the_claims_of_an_earlier_process_are_given_back(self) -> None:
        self.accept()
        self.claim()
        self.reopened()
        self.assertEqual(self.claim(now=NOW + 999), [])
        self.assertEqual(self.got(self.spool.release(now=NOW + 1_000)), 1)
        self.assertEqual(len(self.claim(now=NOW + 1_010)), 1)


class NextDueTests(TablesTestCase):
    def test_nothing_waits_nothing_is_due(self) -> None:
        self.assertIsNone(self.got(self.spool.next_due_at()))
        self.accept()
        self.claim()
        self.assertIsNone(self.got(self.spool.next_due_at()))

    def test_the_earliest_of_all_lanes_that_are_not_busy_counts(self) -> None:
        for number, lane in enumerate(("a", "b", "c")):
            self.accept(now=NOW + number)
            [due] = self.claim(now=NOW + number, busy=("a", "b", "c"))
            self.got(self.spool.give_back(due, now=NOW, lane=lane))
        self.assertEqual(self.got(self.spool.next_due_at()), NOW)
        self.assertEqual(self.got(self.spool.next_due_at(busy=("a", "b"))), NOW + 2)
        self.assertIsNone(self.got(self.spool.next_due_at(busy=("a", "b", "c"))))


class OpenTests(SpoolTestCase):
    def refusal(self, path: str) -> str:
        with self.assertRaises(SpoolError) as caught:
            self.opened(path)
        text = str(caught.exception)
        self.assertTrue(text.startswith(f"spool {path}: "), text)
        self.assertNotIn("\n", text)
        return text

    def test_it_is_durable(self) -> None:
        database = self.spool._tables._database  # only the connection itself knows
        answers = [
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
        self.assertEqual(answers, ["wal", 2, 1])

    def test_file_and_directory_are_made_for_this_user_alone(self) -> None:
        modes = [Path(path).stat().st_mode & 0o777 for path in (Path(self.path).parent, self.path, f"{self.path}-wal")]
        self.assertEqual(modes, [0o700, 0o600, 0o600])

    def test_what_is_there_is_there_after_reopening(self) -> None:
        self.got(self.spool.accept(message(), now=NOW))
        self.reopened()
        self.assertEqual(len(self.got(self.spool.claim(now=NOW, limit=1, max_octets=1))), 1)

    def test_a_second_relay_is_refused_and_told_whom_to_stop(self) -> None:
        self.assertIn(f"process id {os.getpid()}; stop that one", self.refusal(self.path))

    def test_a_second_relay_is_refused_under_another_name_of_the_file(self) -> None:
        link = f"{self.mktemp()}.sqlite"
        Path(link).symlink_to(Path(self.path).absolute())
        self.assertIn("in use by the relay", self.refusal(link))

    def test_a_closed_spool_can_be_opened_again(self) -> None:
        self.closed(self.spool)
        self.opened()

    def test_a_refused_opening_keeps_no_lock(self) -> None:
        path = self.mktemp()
        Path(path).write_bytes(b"not a database, " * 100)
        self.refusal(path)
        Path(path).unlink()
        self.opened(path)

    def test_what_is_no_database_is_refused(self) -> None:
        path = self.mktemp()
        Path(path).write_bytes(b"not a database, " * 100)
        self.assertIn("file is not a database; name another file", self.refusal(path))

    def test_beside_what_is_no_database_nothing_is_put(self) -> None:
        path = str(Path(self.mktemp()).with_name("passwd"))
        Path(path).write_bytes(b"root:x:0:0:root:/root:/bin/bash\n")
        self.refusal(path)
        self.assertEqual([file.name for file in Path(path).parent.glob("passwd*")], ["passwd"])

    def test_a_damaged_file_is_refused(self) -> None:
        self.closed(self.spool)
        octets = bytearray(Path(self.path).read_bytes())
        octets[100:4096] = b"\xff" * 3_996
        Path(self.path).write_bytes(octets)
        self.assertIn("malformed; the file is damaged", self.refusal(self.path))

    def test_another_programs_database_is_refused_and_left_as_it_is(self) -> None:
        path = self.mktemp()
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE recipes (name TEXT)")
        before = Path(path).read_bytes()
        self.assertIn("the database of another program", self.refusal(path))
        self.assertEqual(Path(path).read_bytes(), before)

    def test_a_newer_schema_is_refused(self) -> None:
        self.closed(self.spool)
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("PRAGMA user_version = 3")
        self.assertIn("of schema 3, this pymail-tx knows 2; run a newer one", self.refusal(self.path))

    def test_a_directory_that_cannot_be_made_is_named(self) -> None:
        in_the_way = self.mktemp()
        Path(in_the_way).write_bytes(b"")
        self.assertIn(in_the_way, self.refusal(f"{in_the_way}/spool.sqlite"))

    def test_a_directory_instead_of_a_file_is_refused(self) -> None:
        path = self.mktemp()
        Path(path).mkdir()
        self.assertIn("Is a directory", self.refusal(path))

    def test_a_file_of_somebody_else_is_refused(self) -> None:
        path = f"{self.mktemp()}/spool.sqlite"
        Path(path).parent.mkdir()
        Path(path).write_bytes(b"")
        Path(path).parent.chmod(0o500)
        with no_privileges():
            self.assertIn("Permission denied", self.refusal(path))


class CloseTests(SpoolTestCase):
    def test_what_was_handed_in_before_is_finished(self) -> None:
        accepted, closed = self.spool.accept(message(), now=NOW), self.spool.close()
        self.got(closed)
        self.successResultOf(accepted)

    def test_afterwards_everything_is_refused_by_name(self) -> None:
        self.got(self.spool.close())
        late: list[Deferred[int]] = [self.spool.accept(message(), now=NOW), self.spool.release(now=NOW)]
        for one in late:
            self.assertIn(self.path, str(self.failureResultOf(one, SpoolError).value))

    def test_closing_twice_is_closing_once(self) -> None:
        self.got(self.spool.close())
        self.got(self.spool.close())


class ThreadTests(TestCase):
    timeout = 30

    def test_with_real_threads_every_message_goes_in_and_out_once(self) -> Deferred[None]:
        pool = ThreadPool(1, 1)
        pool.start()
        self.addCleanup(pool.stop)
        spool = SQLiteSpool.open(
            f"{self.mktemp()}/spool.sqlite",
            run_in_thread=pool.callInThread,
            call_in_caller=IReactorFromThreads(reactor).callFromThread,
        )
        return Deferred.fromCoroutine(self.in_and_out(spool))

    async def in_and_out(self, spool: SQLiteSpool) -> None:
        numbers = await gatherResults([spool.accept(message(), now=NOW) for _ in range(200)])
        self.assertEqual(len(set(numbers)), 200)
        claims = await gatherResults([spool.claim(now=NOW, limit=60, max_octets=1_000_000) for _ in range(4)])
        claimed = [due for claim in claims for due in claim]
        self.assertEqual(sorted(due.message_id for due in claimed), sorted(numbers))
        for due in claimed:
            [delivery] = due.deliveries
            done = Result(delivery_id=delivery.id, outcome=outcome(Status.DELIVERED), next_attempt_at=None)
            await spool.record([done], now=NOW)
        self.assertEqual(await spool.release(now=NOW), 0)
        await spool.close()


CRASHING_RELAY = """
import sys
from pymail_tx.core.envelope import Envelope
from pymail_tx.spool.interface import NewMessage
from pymail_tx.spool.sqlite import SQLiteSpool
from tests.spool.turns import Turns

turns = Turns()
spool = SQLiteSpool.open(sys.argv[1], run_in_thread=turns.run_in_thread, call_in_caller=turns.call_in_caller)
for number in range(1_000_000):
    for copy in range(5):
        message = NewMessage(envelope=Envelope("", ["bob@example.net"]), content=b"%d.%d" % (number, copy))
        spool.accept(message, now=0).addCallback(lambda _, content=message.content: print(content.decode(), flush=True))
    turns.run()
    if number % 2:
        spool.claim(now=0, limit=3, max_octets=1_000)
        turns.run()
"""


class CrashTests(SynchronousTestCase):
    def test_after_sigkill_everything_that_was_answered_is_there(self) -> None:
        for answers in (1, 7, 200):
            path = f"{self.mktemp()}/spool.sqlite"
            answered = self.answered_before_sigkill(path, answers)
            self.assertGreaterEqual(len(answered), answers)
            self.assertLessEqual(answered, self.contents_after_restart(path))

    def answered_before_sigkill(self, path: str, answers: int) -> set[bytes]:
        root = Path(__file__).parents[2]
        relay = subprocess.Popen(
            [sys.executable, "-c", CRASHING_RELAY, Path(path).absolute()], stdout=subprocess.PIPE, cwd=root
        )
        assert relay.stdout
        with relay:
            answered = {relay.stdout.readline().strip() for _ in range(answers)}
            relay.send_signal(signal.SIGKILL)
            lines = relay.stdout.read().split(b"\n")
        return answered | set(lines[:-1])

    def contents_after_restart(self, path: str) -> set[bytes]:
        turns = Turns()
        spool = SQLiteSpool.open(path, run_in_thread=turns.run_in_thread, call_in_caller=turns.call_in_caller)
        spool.release(now=0)
        claimed = spool.claim(now=60, limit=1_000_000, max_octets=2**40)
        spool.close()
        turns.run()
        return {octets(due) for due in self.successResultOf(claimed)}


@contextmanager
def no_privileges() -> Iterator[None]:
    """Root may write everywhere; then be nobody for a while."""
    user = os.geteuid()
    if not user:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)
