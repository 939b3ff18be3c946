"""
Threads in turn: what a spool wants run in its thread or its caller's waits here until a test runs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.spool.interface import Due, NewMessage
from pymail_tx.spool.sqlite import SQLiteSpool

T = TypeVar("T")


@define(eq=False)
class Turns:
    """
    @ivar hops: how often something went back to the caller's thread, which is once for each batch.
    """

    hops: int = 0
    _in_thread: deque[Callable[[], None]] = field(factory=deque)
    _in_caller: deque[Callable[[], None]] = field(factory=deque)

    def run_in_thread(self, job: Callable[[], None]) -> None:
        self._in_thread.append(job)

    def call_in_caller(self, job: Callable[[], None]) -> None:
        self.hops += 1
        self._in_caller.append(job)

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._in_thread or self._in_caller:
            self.step()

    def step(self) -> None:
        """One turn: of the caller's, if something waits there."""
        (self._in_caller or self._in_thread).popleft()()


class SpoolTestCase(SynchronousTestCase):
    """
    Has a real SQLite spool in a temporary directory, with threads in turn.
    """

    def setUp(self) -> None:
        self.turns = Turns()
        self.path = f"{self.mktemp()}/spool.sqlite"
        self.spool = self.opened()

    def opened(self, path: str = "") -> SQLiteSpool:
        spool = SQLiteSpool.open(
            path or self.path, run_in_thread=self.turns.run_in_thread, call_in_caller=self.turns.call_in_caller
        )
        self.addCleanup(self.closed, spool)
        return spool

    def closed(self, spool: SQLiteSpool) -> None:
        spool.close()
        self.turns.run()

    def reopened(self) -> SQLiteSpool:
        self.closed(self.spool)
        self.spool = self.opened()
        return self.spool

    def got(self, deferred: Deferred[T]) -> T:
        self.turns.run()
        return self.successResultOf(deferred)


def message(
    *recipients: str, sender: str = "alice@example.org", content: bytes = b"Subject: x\r\n\r\nx\r\n"
) -> NewMessage:
    """A message to C{bob@example.net} if nobody else is named."""
    return NewMessage(envelope=Envelope(sender, recipients or ("bob@example.net",)), content=content)


def octets(due: Due) -> bytes:
    """The whole content, wherever it is."""
    if isinstance(due.content, bytes):
        return due.content
    with due.content.open() as file:
        return file.read()
