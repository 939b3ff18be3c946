"""
Group commit: what waits goes together, what fails fails alone, and a lost commit is told to all.
"""

from __future__ import annotations

import resource
import sqlite3
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

from twisted.internet import defer, reactor
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pymail_tx.spool.group_commit import MAX_BATCH, GroupCommit
from pymail_tx.spool.interface import SpoolError, SpoolLost
from tests.spool.turns import Turns

Answers = Generator[defer.Deferred[list[None]], list[None], None]


@contextmanager
def a_full_disk() -> Iterator[None]:
    """No file of this process may grow; to SQLite that is a disk that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def explained(problem: sqlite3.Error) -> SpoolError:
    return SpoolError(f"explained: {problem}")


class GroupCommitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        self.database = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(self.database.close)
        self.database.execute("PRAGMA journal_mode = WAL")  # writes reach the file at COMMIT, not before
        self.database.execute("CREATE TABLE numbers (number INTEGER UNIQUE)")
        self.statements: list[str] = []
        self.database.set_trace_callback(self.statements.append)
        self.turns = Turns()
        self.writer = GroupCommit(self.database, self.turns.run_in_thread, self.turns.call_in_caller, explained)

    def insert(self, number: int) -> defer.Deferred[int]:
        return self.writer.submit(partial(self.inserted, number))

    def inserted(self, number: int) -> int:
        self.database.execute("INSERT INTO numbers VALUES (?)", [number])
        return number

    def stored(self) -> list[int]:
        return [number for (number,) in self.database.execute("SELECT number FROM numbers ORDER BY 1")]

    def test_what_waits_goes_into_one_commit_and_one_hop(self) -> None:
        inserts = [self.insert(number) for number in range(100)]
        self.turns.run()
        self.assertEqual([self.successResultOf(one) for one in inserts], list(range(100)))
        self.assertEqual(self.statements.count("COMMIT"), 1)
        self.assertEqual(self.turns.hops, 1)

    def test_a_batch_has_an_upper_limit(self) -> None:
        for number in range(MAX_BATCH + 1):
            self.insert(number)
        self.turns.run()
        self.assertEqual(self.statements.count("COMMIT"), 2)

    def test_what_is_handed_in_by_an_answer_goes_into_the_next_commit(self) -> None:
        second = self.insert(1).addCallback(lambda _: self.insert(2))
        self.turns.run()
        self.assertEqual(self.successResultOf(second), 2)
        self.assertEqual(self.statements.count("COMMIT"), 2)

    def test_nothing_is_told_before_the_commit(self) -> None:
        told: list[bool] = []
        self.insert(1).addCallback(lambda _: told.append("COMMIT" in self.statements))
        self.turns.run()
        self.assertEqual(told, [True])

    def test_a_job_that_fails_is_undone_and_harms_no_neighbour(self) -> None:
        def half_done() -> None:
            self.inserted(7)
            self.inserted(1)  # is there already

        first, broken, last = self.insert(1), self.writer.submit(half_done), self.insert(2)
        self.turns.run()
        self.assertEqual([self.successResultOf(first), self.successResultOf(last)], [1, 2])
        self.assertIn("explained: UNIQUE", str(self.failureResultOf(broken, SpoolError).value))
        self.assertEqual(self.stored(), [1, 2])

    def test_a_bug_in_a_job_is_told_to_its_caller_as_it_is(self) -> None:
        broken, fine = self.writer.submit(lambda: 1 // 0), self.insert(1)
        self.turns.run()
        self.failureResultOf(broken, ZeroDivisionError)
        self.assertEqual(self.successResultOf(fine), 1)

    def test_a_batch_without_a_failure_needs_no_savepoints(self) -> None:
        for number in range(3):
            self.insert(number)
        self.turns.run()
        self.assertEqual([one for one in self.statements if "SAVEPOINT" in one], [])

    def test_after_an_fsync_that_failed_nothing_is_written_and_all_are_told(self) -> None:
        told: list[object] = []
        lost = SpoolLost("the disk forgets")
        writer = GroupCommit(
            self.database, self.turns.run_in_thread, self.turns.call_in_caller, lambda problem: lost, told.append
        )
        first = writer.submit(partial(self.inserted, 1))
        first.addErrback(lambda failure: told.append("first"))
        with a_full_disk():
            self.turns.run()
        self.assertEqual(told, [lost, "first"])
        self.statements.clear()
        self.failureResultOf(self.after_turns(writer.submit(partial(self.inserted, 2))), SpoolLost)
        self.assertEqual([self.statements, told], [[], [lost, "first"]])

    def after_turns(self, fires: defer.Deferred[int]) -> defer.Deferred[int]:
        self.turns.run()
        return fires

    def test_a_transaction_that_cannot_begin_fails_the_whole_batch_and_the_next_works(self) -> None:
        self.database.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        inserts = [self.insert(number) for number in (1, 2)]
        self.turns.run()
        for one in inserts:
            self.assertIn("locked", str(self.failureResultOf(one, SpoolError).value))
        other.execute("ROLLBACK")
        again = self.insert(3)
        self.turns.run()
        self.assertEqual(self.successResultOf(again), 3)
        self.assertEqual(self.stored(), [3])

    def test_a_commit_that_does_not_reach_the_disk_fails_the_whole_batch_and_stores_nothing(self) -> None:
        inserts = [self.insert(1), self.insert(2)]
        with a_full_disk():
            self.turns.run()
        for one in inserts:
            self.failureResultOf(one, SpoolError)
        again = self.insert(3)
        self.turns.run()
        self.assertEqual(self.successResultOf(again), 3)
        self.assertEqual(self.stored(), [3])


class ThreadTests(TestCase):
    timeout = 30

    @defer.inlineCallbacks
    def test_with_real_threads_every_job_is_done_in_order_and_told_in_the_callers_thread(self) -> Answers:
        pool = ThreadPool(1, 1)
        pool.start()
        self.addCleanup(pool.stop)
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        writer = GroupCommit(database, pool.callInThread, IReactorFromThreads(reactor).callFromThread, explained)
        done: list[int] = []
        told: set[threading.Thread] = set()
        jobs = [writer.submit(partial(done.append, number)) for number in range(2_000)]
        for job in jobs:
            job.addCallback(lambda _: told.add(threading.current_thread()))
        yield defer.gatherResults(jobs)
        self.assertEqual(done, list(range(2_000)))
        self.assertEqual(told, {threading.main_thread()})
