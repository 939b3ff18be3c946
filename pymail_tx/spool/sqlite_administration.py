"""
What an operator does to a spool in an SQLite file, beside the relay that has it
open or without one.

It has a connection of its own. The relay waits for a write of ours at most
L{BUSY_TIMEOUT_S <pymail_tx.spool.sqlite_file.BUSY_TIMEOUT_S>}, so each is short,
and leaves time behind it for the relay's.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from attrs import define, evolve
from twisted.internet.defer import Deferred, execute

from pymail_tx.core.envelope import Recipient
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.routes import Target
from pymail_tx.core.secret import Secret
from pymail_tx.spool.administration import (
    DEFAULT_LIMIT,
    Action,
    Changed,
    Destination,
    Entry,
    Event,
    Selection,
    Shown,
)
from pymail_tx.spool.queries import Value, named_queries
from pymail_tx.spool.sqlite_file import another_connection, explaining
from pymail_tx.spool.sqlite_rows import StoredEnvelope, noted

DELIVERIES_A_SLICE = 500
"""Changed in one transaction, which takes some 10 ms."""

SLICE_PAUSE_S = 0.02
"""Between two slices: SQLite's writers do not queue, they try again every few milliseconds."""

_QUERIES = named_queries("sqlite_administration.sql")
_NO_LIMIT = 2**63 - 1

_NOTED_AS = {
    Action.RETRY: "retried",
    Action.HOLD: "held",
    Action.RELEASE: "released",
    Action.CANCEL: "cancelled",
    Action.BOUNCE: "returned",
    Action.ROUTE: "routed",
}

_DEFAULT_WORDS = {
    Action.CANCEL: "cancelled by an operator",
    Action.BOUNCE: "returned by an operator of the relay",
}

Row = dict[str, Any]  # what a column holds, its query says

T = TypeVar("T")


class Run(Protocol):
    """Runs a call where it may block, always in the same thread; fires with its result."""

    def __call__(self, function: Callable[[], T]) -> Deferred[T]: ...


def _at_once(function: Callable[[], T]) -> Deferred[T]:
    return execute(function)


@define(eq=False)
class SQLiteAdministration:
    """
    Implements L{Administration <pymail_tx.spool.administration.Administration>};
    what each method promises is told there.
    """

    _database: sqlite3.Connection
    _files: ExitStack
    _path: str
    _run: Run
    _pause: Callable[[float], object]

    @classmethod
    def open(
        cls, path: str, *, run: Run = _at_once, pause: Callable[[float], object] = time.sleep
    ) -> SQLiteAdministration:
        """
        @param run: where each method's work is done; as it is, at once, so that
            what a method returns has fired.
        @param pause: sleeps for so many seconds, within C{run}.
        @raise SpoolError: there is no spool that this version knows; one line
            says why.
        """
        with ExitStack() as opening, explaining(path):
            database = opening.enter_context(another_connection(path))
            return cls(database, opening.pop_all(), path, run, pause)

    def entries(self, selection: Selection, *, limit: int = DEFAULT_LIMIT, after: int = 0) -> Deferred[Sequence[Entry]]:
        return self._do(partial(self._entries, selection, limit, after))

    def show(self, message_id: int) -> Deferred[Shown | None]:
        return self._do(partial(self._show, message_id))

    def destinations(self, *, limit: int = DEFAULT_LIMIT) -> Deferred[Sequence[Destination]]:
        return self._do(lambda: [Destination(**row) for row in self._rows("destinations", limit=limit)])

    def apply(self, action: Action, selection: Selection, *, now: float, words: str = "") -> Deferred[Changed]:
        if action is Action.ROUTE and words:
            _check_target(words)
        return Deferred.fromCoroutine(self._apply(action, selection, now, words or _DEFAULT_WORDS.get(action, "")))

    def close(self) -> Deferred[None]:
        return self._run(self._files.close)

    async def _apply(self, action: Action, selection: Selection, now: float, words: str) -> Changed:
        """Up to the delivery that is the last one now: an operator means what he sees."""
        until = (await self._do(lambda: self._rows("last_delivery")))[0]["id"]
        changed, after = Changed(), 0
        while True:
            take = partial(self._selected, selection, DELIVERIES_A_SLICE, after, until)
            ids = [row["delivery_id"] for row in await self._do(take)]
            if not ids:
                return changed
            one = await self._do(partial(self._change, action, ids, now, words))
            changed = Changed(done=changed.done + one.done, under_way=changed.under_way + one.under_way)
            after = ids[-1]
            if len(ids) == DELIVERIES_A_SLICE:
                await self._run(partial(self._pause, SLICE_PAUSE_S))

    def _change(self, action: Action, ids: list[int], now: float, words: str) -> Changed:
        with self._transaction():
            done = self._changed(action.value, ids, now, words)
            under_way = [] if action is Action.RETRY else self._changed(f"{action.value}_under_way", ids, now, words)
            noted_ids = json.dumps([*done, *under_way])
            self._rows("note", ids=noted_ids, now=now, what=_NOTED_AS[action], words=noted(words))
        return Changed(done=len(done), under_way=len(under_way))

    def _changed(self, query: str, ids: list[int], now: float, words: str) -> list[int]:
        return [row["id"] for row in self._rows(query, ids=json.dumps(ids), now=now, words=words)]

    def _show(self, message_id: int) -> Shown | None:
        events = [*self._rows("history", message_id=message_id), *self._rows("events", message_id=message_id)]
        messages = self._rows("message", message_id=message_id)
        if not messages and not events:
            return None
        shown = Shown(
            message_id=message_id,
            envelope=None,
            submitter="",
            entries=(),
            events=tuple(Event(**row) for row in events),
        )
        if not messages:
            return shown
        [row] = messages
        submitter = row.pop("submitter")
        recipients = self._rows("recipients", message_id=message_id)
        return evolve(
            shown,
            envelope=StoredEnvelope(**row).to(Recipient(**one) for one in recipients),
            submitter=submitter,
            entries=tuple(self._entries(Selection(message_ids=(message_id,)), _NO_LIMIT, 0)),
        )

    def _entries(self, selection: Selection, limit: int, after: int) -> Sequence[Entry]:
        return [Entry(**row) for row in self._selected(selection, limit, after)]

    def _selected(self, selection: Selection, limit: int, after: int, until: int = _NO_LIMIT) -> list[Row]:
        message_ids, state = selection.message_ids, selection.state
        return self._rows(
            "entries",
            after=after,
            until=until,
            limit=limit,
            message_ids=None if message_ids is None else json.dumps(message_ids),
            domain=selection.domain,
            state=state.value if state else None,
            accepted_before=selection.accepted_before,
            lane=selection.lane,
        )

    def _rows(self, name: str, **values: Value) -> list[Row]:
        """Each row by the names of its columns, which are those of the values' attributes."""
        cursor = self._database.execute(_QUERIES[name], values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _do(self, work: Callable[[], T]) -> Deferred[T]:
        return self._run(partial(self._explained, work))

    def _explained(self, work: Callable[[], T]) -> T:
        with explaining(self._path):
            return work()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")


def _check_target(text: str) -> None:
    """
    @raise BadArgument: it is none, or holds a password: what is in the spool is
        shown to operators.
    """
    if isinstance(Target.parse(text).password, Secret):
        raise BadArgument("target", "a password cannot be kept there; write ?password_file=… or ?password_env=…")
