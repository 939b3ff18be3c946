"""
The spool in one SQLite file, for one relay on one machine.

A lock on a file beside it keeps a second relay out, since two would release
each other's claims; readers, and operators with what
L{pymail_tx.spool.administration} offers, are welcome at any time. How the file
is opened, and how durable it is, tells L{pymail_tx.spool.sqlite_file}.

After a burst the file shrinks: whenever nothing is due, free pages at its end
are given back to the disk in small transactions between the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail

from pymail_tx.spool.group_commit import GroupCommit, Runner
from pymail_tx.spool.interface import (
    Accepted,
    ContentWriter,
    Due,
    NewMessage,
    Result,
    SpoolError,
    SpoolLost,
)
from pymail_tx.spool.policies import StoredPolicy
from pymail_tx.spool.sqlite_contents import ComingIn, SQLiteContentWriter
from pymail_tx.spool.sqlite_file import explained, explaining, only_relay, relays_connection
from pymail_tx.spool.sqlite_tables import Tables, new_epoch

T = TypeVar("T")


@define(eq=False)
class SQLiteSpool:
    """
    Implements L{Spool<pymail_tx.spool.interface.Spool>} and L{KeepsPolicies
    <pymail_tx.spool.policies.KeepsPolicies>}; what each method promises is told
    there.
    """

    _tables: Tables
    _writer: GroupCommit
    _files: ExitStack
    _run_in_thread: Runner
    _call_in_caller: Runner
    _path: str
    _closed: bool = field(init=False, default=False)
    _shrinking: bool = field(init=False, default=False)

    @classmethod
    def open(
        cls,
        path: str,
        *,
        run_in_thread: Runner,
        call_in_caller: Runner,
        relay: str = "relay",
        on_lost: Callable[[SpoolLost], None] = lambda problem: None,
    ) -> SQLiteSpool:
        """
        Open the spool, making file and directory if they are not there, and
        bringing it to the present schema. This blocks; afterwards only
        C{run_in_thread} touches the file, and whoever reads large contents.

        @param run_in_thread: runs a call in one thread, always the same.
        @param call_in_caller: runs a call where this spool's methods are
            called, such as the reactor's C{callFromThread}.
        @param relay: the name that claims carry.
        @param on_lost: told once, where this spool's methods are called, that
            the process has to end.
        @raise SpoolError: it cannot be opened; one line says why.
        """
        with ExitStack() as opening, explaining(path):
            opening.enter_context(only_relay(path))
            database = opening.enter_context(relays_connection(path))
            tables = Tables(database, path, relay, new_epoch(database, relay))
            tables.drop_orphans()
            writer = GroupCommit(database, run_in_thread, call_in_caller, partial(explained, path), on_lost)
            return cls(tables, writer, opening.pop_all(), run_in_thread, call_in_caller, path)

    def begin_content(self) -> ContentWriter:
        return SQLiteContentWriter(self._submit, self._tables)

    def accept(self, message: NewMessage, *, now: float, lanes: Sequence[str] = ()) -> Deferred[int]:
        return self._taking(message, lambda content: self._tables.accept(message, content, now, lanes))

    def accept_and_claim(self, message: NewMessage, *, now: float, lanes: Sequence[str] = ()) -> Deferred[Accepted]:
        return self._taking(message, lambda content: self._tables.accept_and_claim(message, content, now, lanes))

    def claim(self, *, now: float, limit: int, max_octets: int, busy: Collection[str] = ()) -> Deferred[Sequence[Due]]:
        return self._submit(partial(self._tables.claim, now, limit, max_octets, busy)).addCallback(self._claimed)

    def record(
        self, results: Sequence[Result], *, now: float, lane: str = "", notices: Sequence[NewMessage] = ()
    ) -> Deferred[None]:
        return self._submit(partial(self._tables.record, results, now, lane, notices))

    def give_back(self, due: Due, *, now: float, lane: str) -> Deferred[None]:
        return self._submit(partial(self._tables.give_back, due, lane, now))

    def release(self, *, now: float) -> Deferred[int]:
        return self._submit(partial(self._tables.release, now))

    def next_due_at(self, *, busy: Collection[str] = ()) -> Deferred[float | None]:
        return self._submit(partial(self._tables.next_due_at, busy))

    def load_policy(self, domain: str) -> Deferred[StoredPolicy | None]:
        return self._submit(partial(self._tables.load_policy, domain))

    def save_policy(self, policy: StoredPolicy) -> Deferred[None]:
        return self._submit(partial(self._tables.save_policy, policy))

    def forget_policy(self, domain: str) -> Deferred[None]:
        return self._submit(partial(self._tables.forget_policy, domain))

    def policies_due(self, now: float) -> Deferred[Sequence[str]]:
        return self._submit(partial(self._tables.policies_due, now))

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._closed:
            return
        last = self._submit(lambda: None)
        self._closed = True
        with suppress(SpoolError):  # a broken spool is closed like any other
            await last
        shut: Deferred[None] = Deferred()
        self._run_in_thread(partial(self._shut, shut))
        await shut

    def _shut(self, shut: Deferred[None]) -> None:
        try:
            self._files.close()
        finally:
            self._call_in_caller(partial(shut.callback, None))

    def _taking(self, message: NewMessage, work: Callable[[ComingIn], T]) -> Deferred[T]:
        """Accept a message with its content, which is a writer's no more if that succeeds."""
        if isinstance(message.content, bytes):
            return self._submit(partial(work, ComingIn.of(message.content)))
        writer = message.content
        assert isinstance(writer, SQLiteContentWriter), "made by begin_content"

        def taken(answer: T) -> T:
            writer.taken()
            return answer

        return self._submit(partial(work, writer.so_far())).addCallback(taken)

    def _claimed(self, claimed: list[Due]) -> list[Due]:
        if not claimed and not self._shrinking:
            self._shrinking = True
            Deferred.fromCoroutine(self._shrink())
        return claimed

    async def _shrink(self) -> None:
        """Give space back, a slice at a time, so that what is handed in meanwhile goes first."""
        with suppress(SpoolError):  # not worth a word: whoever needs the spool says it
            more = await self._submit(self._tables.has_space_to_give_back)
            while more:
                more = await self._submit(self._tables.give_space_back)
        self._shrinking = False

    def _submit(self, work: Callable[[], T]) -> Deferred[T]:
        if self._closed:
            return fail(SpoolError(f"spool {self._path}: closed"))
        return self._writer.submit(work)
