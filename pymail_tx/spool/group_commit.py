"""
Group commit: many jobs, one transaction, one thread.

Whatever is handed in while a transaction commits goes into the next one
together, so that under load one fsync serves many messages. A job that fails is
undone and told so, and its neighbours are not harmed: since that is rare, the
whole batch is done again then, with each job in a savepoint of its own. So a job
may be run twice, and changes nothing but the database. If the commit fails,
nothing of the batch is stored and all of it is told.

The threads come as arguments: C{run_in_thread} runs something in the one
thread that may touch the database, C{call_in_caller} runs something back where
the jobs come from, in order, one call for each batch. A test passes executors
that it runs in turn.

Once the disk has failed to keep what was written nothing is written any more,
see L{SpoolLost}: whatever comes is told so.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Generic, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pymail_tx.spool.interface import SpoolError, SpoolLost

MAX_BATCH = 500
"""Jobs in a transaction. More gain nothing measurable, and the first of them would wait for the last."""

Thunk = Callable[[], None]
Runner = Callable[[Thunk], None]
T = TypeVar("T")


@frozen(eq=False)
class _Job(Generic[T]):
    work: Callable[[], T]
    fires: Deferred[T]

    def attempt(self) -> Thunk:
        """Do the work. What comes back tells the result, once it is durable."""
        return partial(self.fires.callback, self.work())

    def fail(self, problem: Exception) -> Thunk:
        return partial(self.fires.errback, Failure(problem))


@define(eq=False)
class GroupCommit:
    """
    @ivar explain: makes the L{SpoolError} for what SQLite complained about.
    @ivar on_lost: told once that the process has to end, where the jobs come
        from, before the jobs are.
    """

    _database: sqlite3.Connection
    _run_in_thread: Runner
    _call_in_caller: Runner
    _explain: Callable[[sqlite3.Error], SpoolError]
    _on_lost: Callable[[SpoolLost], None] = field(default=lambda problem: None)
    _lost: SpoolLost | None = field(init=False, default=None)
    _lock: Lock = field(init=False, factory=Lock)  # guards the two below
    _queue: deque[_Job[object]] = field(init=False, factory=deque)
    _draining: bool = field(init=False, default=False)

    def submit(self, work: Callable[[], T]) -> Deferred[T]:
        """
        Run C{work} in the writer thread, within a transaction.

        @return: fires with its result after the commit. Fails with
            L{SpoolError} if the database does, nothing of the work stored.
        """
        fires: Deferred[T] = Deferred()
        with self._lock:
            self._queue.append(_Job(work, fires))  # type: ignore[arg-type]  # the job pairs them; the queue need not know
            start, self._draining = not self._draining, True
        if start:
            self._run_in_thread(self._drain)
        return fires

    def _drain(self) -> None:
        while batch := self._next_batch():
            self._call_in_caller(partial(_tell, self._commit(batch)))

    def _next_batch(self) -> list[_Job[object]]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
            self._draining = bool(batch)
        return batch

    def _commit(self, batch: list[_Job[object]]) -> list[Thunk]:
        if self._lost:
            return [job.fail(self._lost) for job in batch]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            answers = self._together(batch) or [self._apart(job) for job in batch]
            self._database.execute("COMMIT")
        except sqlite3.Error as problem:
            return self._undo(batch, self._explain(problem))
        return answers

    def _together(self, batch: list[_Job[object]]) -> list[Thunk]:
        """
        @return: nothing if a job failed; then none of them is done.
        """
        try:
            return [job.attempt() for job in batch]
        except Exception:  # noqa: BLE001 - whose it is, and what, the second run tells
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._database.execute("BEGIN IMMEDIATE")
            return []

    def _undo(self, batch: list[_Job[object]], problem: SpoolError) -> list[Thunk]:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        told = [job.fail(problem) for job in batch]
        if isinstance(problem, SpoolLost):
            self._lost = problem
            told.insert(0, partial(self._on_lost, problem))
        return told

    def _apart(self, job: _Job[object]) -> Thunk:
        self._database.execute("SAVEPOINT job")
        try:
            answer = job.attempt()
        except Exception as problem:  # a job's bug is its caller's, not its neighbours'
            if isinstance(problem, sqlite3.Error) and not self._database.in_transaction:
                raise  # a full or failing disk ends the transaction at once: the whole batch is undone
            self._database.execute("ROLLBACK TO job")
            answer = job.fail(self._explain(problem) if isinstance(problem, sqlite3.Error) else problem)
        self._database.execute("RELEASE job")
        return answer


def _tell(answers: list[Thunk]) -> None:
    for answer in answers:
        answer()
