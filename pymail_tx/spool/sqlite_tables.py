"""
What each promise of a spool means in SQLite's tables.

Plain calls, each to be run within a transaction by whoever owns the
connection. The statements stand in sqlite_queries.sql, the tables and what
their columns mean in sqlite.sql.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib.resources import files

from attrs import frozen

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Status
from pymail_tx.spool.interface import FIRST_INTERRUPTION_S, LONGEST_INTERRUPTION_S, Due, NewMessage, Result

SCHEMA_VERSION = 1

MAX_NOTED_CHARACTERS = 500
"""Of the reason in an event. The whole reply stands in the log and in the bounce."""

Value = str | bytes | int | float | None


def sql(name: str) -> str:
    """The text of one of this package's .sql files."""
    return files("pymail_tx.spool").joinpath(name).read_text(encoding="utf-8")


def _by_name(text: str) -> dict[str, str]:
    names_and_queries = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(names_and_queries[::2], names_and_queries[1::2], strict=True))


_QUERIES = _by_name(sql("sqlite_queries.sql"))
_INTERRUPTION: dict[str, Value] = {"first_s": FIRST_INTERRUPTION_S, "most_s": LONGEST_INTERRUPTION_S}


@frozen(eq=False)
class Tables:
    """
    @ivar epoch: marks the claims of this process; see L{new_epoch}.
    """

    _database: sqlite3.Connection
    epoch: int

    def accept(self, message: NewMessage, now: float) -> int:
        """See L{Spool.accept<pymail_tx.spool.interface.Spool.accept>}; likewise below."""
        [(message_id,)] = self._run(
            "accept_message", sender=message.sender, now=now, size_bytes=len(message.content)
        ).fetchall()
        self._run("accept_content", message_id=message_id, content=message.content)
        for recipient in message.recipients:
            self._run("accept_delivery", message_id=message_id, recipient=recipient, now=now)
        return int(message_id)

    def claim(self, now: float, limit: int, max_octets: int, busy: Collection[str]) -> list[Due]:
        due = sorted(
            row
            for lane in self._lanes(busy)
            for row in self._run("due_in_lane", lane=lane, now=now, limit=limit).fetchall()
        )
        return [
            self._claim_message(message_id, due_at, now, busy) for message_id, due_at in _picked(due, limit, max_octets)
        ]

    def record(self, results: Sequence[Result], now: float, lane: str, bounce: NewMessage | None) -> None:
        ended = [(result, message_id) for result in results for message_id in self._end_attempt(result, lane)]
        if ended and bounce:
            self.accept(bounce, now)
        for message_id in {message_id for _, message_id in ended}:
            self._run("remove_finished", message_id=message_id)
        for result, _ in ended:
            self._note(result, now)

    def give_back(self, due: Due, lane: str) -> None:
        for delivery_id in due.delivery_ids:
            self._run("give_back", delivery_id=delivery_id, due_at=due.due_at, lane=lane, epoch=self.epoch)

    def release(self, now: float) -> int:
        return self._run("release", now=now, **_INTERRUPTION).rowcount

    def next_due_at(self, busy: Collection[str]) -> float | None:
        return min(
            (at for lane in self._lanes(busy) for (at,) in self._run("next_due_in_lane", lane=lane).fetchall()),
            default=None,
        )

    def _lanes(self, busy: Collection[str]) -> list[str]:
        return [lane for (lane,) in self._run("lanes").fetchall() if lane not in busy]

    def _claim_message(self, message_id: int, due_at: float, now: float, busy: Collection[str]) -> Due:
        claimed = sorted(
            self._run(
                "claim", message_id=message_id, epoch=self.epoch, now=now, busy=json.dumps([*busy]), **_INTERRUPTION
            ).fetchall()
        )
        [(sender, accepted_at, content)] = self._run("claimed_message", message_id=message_id).fetchall()
        delivery_ids, recipients, attempts = zip(*claimed, strict=True)
        return Due(
            message_id=message_id,
            envelope=Envelope(sender, recipients),
            delivery_ids=delivery_ids,
            attempts=attempts,
            due_at=due_at,
            accepted_at=accepted_at,
            content=content,
        )

    def _end_attempt(self, result: Result, lane: str) -> Iterator[int]:
        """The message's number, unless the claim is not ours any more."""
        if _deferred(result):
            rows = self._run(
                "defer", delivery_id=result.delivery_id, epoch=self.epoch, due_at=result.next_attempt_at, lane=lane
            )
        else:
            rows = self._run("finish", delivery_id=result.delivery_id, epoch=self.epoch, state=_state(result))
        return (message_id for (message_id,) in rows.fetchall())

    def _note(self, result: Result, now: float) -> None:
        self._run(
            "note",
            delivery_id=result.delivery_id,
            now=now,
            what="deferred" if _deferred(result) else _state(result),
            words=result.outcome.reason[:MAX_NOTED_CHARACTERS].encode(errors="backslashreplace").decode(),
        )

    def _run(self, name: str, **values: Value) -> sqlite3.Cursor:
        return self._database.execute(_QUERIES[name], values)


def new_epoch(database: sqlite3.Connection) -> int:
    """The number of this opening, larger than any before."""
    [(epoch,)] = database.execute(_QUERIES["new_epoch"]).fetchall()
    return int(epoch)


def _picked(due: Iterable[tuple[float, int, int]], limit: int, max_octets: int) -> Iterator[tuple[int, float]]:
    """Messages and when they were due, from rows in order of time, within the limits; the first in any case."""
    picked: set[int] = set()
    octets = 0
    for due_at, message_id, size_bytes in due:
        if message_id in picked:
            continue
        octets += size_bytes
        if picked and (octets > max_octets or len(picked) == limit):
            return
        picked.add(message_id)
        yield message_id, due_at


def _deferred(result: Result) -> bool:
    return result.outcome.status is Status.DEFERRED and result.next_attempt_at is not None


def _state(result: Result) -> str:
    """How a delivery ended: also one deferred ends as failed, without a next time."""
    return "delivered" if result.outcome.status is Status.DELIVERED else "failed"
