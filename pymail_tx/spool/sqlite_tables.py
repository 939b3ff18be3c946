"""
What each promise of a spool means in SQLite's tables.

Plain calls, each to be run within a transaction by whoever owns the
connection. The statements stand in sqlite_queries.sql, the tables and what
their columns mean in the newest of the numbered sqlite_….sql.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence

from attrs import asdict, define, field, fields

from pymail_tx.core.envelope import Recipient
from pymail_tx.spool.interface import (
    FIRST_INTERRUPTION_S,
    HISTORY_S,
    LONGEST_INTERRUPTION_S,
    MAX_HISTORY,
    PART_OCTETS,
    Accepted,
    Delivery,
    Due,
    KeyTaken,
    NewMessage,
    Result,
    StoredContent,
)
from pymail_tx.spool.policies import StoredPolicy
from pymail_tx.spool.queries import Value, named_queries
from pymail_tx.spool.sqlite_contents import ComingIn, SQLiteContent
from pymail_tx.spool.sqlite_rows import (
    StoredEnvelope,
    end_state,
    envelope_row,
    fingerprint,
    is_deferred,
    outcome_row,
    recipient_row,
    stored_recipient,
)

HISTORY_SLICE = 1_000
"""Attempts that end between two looks at the history's length."""

PAGES_KEPT_FREE = 4_096
"""Of 4 KiB: 16 MiB for the next burst, so that the file need not shrink and grow all the time."""

PAGES_A_SLICE = 1_000
"""Given back to the disk in one transaction: some 10 ms of moving pages to where there is room."""

_QUERIES = named_queries("sqlite_queries.sql")
_POLICY_COLUMNS = tuple(field.name for field in fields(StoredPolicy))
_INTERRUPTION: dict[str, Value] = {"first_s": FIRST_INTERRUPTION_S, "most_s": LONGEST_INTERRUPTION_S}


@define(eq=False)
class Tables:
    """
    @ivar path: of the file, for contents that are read apart.
    @ivar owner: the relay's name in its claims.
    @ivar epoch: marks the claims of this process; see L{new_epoch}.
    """

    _database: sqlite3.Connection
    _path: str
    owner: str
    epoch: int
    _ended: int = field(init=False, default=0)

    # Messages in

    def accept(self, message: NewMessage, content: ComingIn, now: float, lanes: Sequence[str] = ()) -> int:
        """See L{Spool.accept<pymail_tx.spool.interface.Spool.accept>}; likewise below."""
        known = self._known(message, content, now)
        if known is not None:
            return known
        message_id = self._accept_message(message, content, now)
        self._database.executemany(
            _QUERIES["accept_delivery"],
            [
                {"message_id": message_id, "now": now, "lane": lane, **recipient_row(one)}
                for one, lane in _with_lanes(message, lanes)
            ],
        )
        return message_id

    def accept_and_claim(self, message: NewMessage, content: ComingIn, now: float, lanes: Sequence[str]) -> Accepted:
        known = self._known(message, content, now)
        if known is not None:
            return Accepted(message_id=known, due=None)
        message_id = self._accept_message(message, content, now)
        due = Due(
            message_id=message_id,
            envelope=message.envelope,
            deliveries=tuple(
                self._accept_claimed(message_id, recipient, lane, now)
                for recipient, lane in _with_lanes(message, lanes)
            ),
            due_at=now,
            accepted_at=now,
            content=content.rest if content.size_bytes <= PART_OCTETS else self._stored(message_id, content.size_bytes),
            submitter=message.submitter,
        )
        return Accepted(message_id=message_id, due=due)

    def add_parts(self, coming_in: ComingIn) -> int:
        """Store what has come of a content. The number of the message that it will be."""
        message_id = coming_in.message_id
        if message_id is None:
            message_id = self._insert("begin_content")
        self._add_parts(message_id, coming_in)
        return message_id

    def _add_parts(self, message_id: int, content: ComingIn) -> None:
        for number, octets in content.rest_in_parts():
            self._run("add_part", message_id=message_id, number=number, octets=octets)

    def drop_content(self, message_id: int) -> None:
        """Of content that becomes no message."""
        self._run("remove_message", message_id=message_id)

    def drop_orphans(self) -> None:
        """What came in for an earlier process, and was never accepted."""
        for (message_id,) in self._run("coming_in").fetchall():
            self.drop_content(message_id)

    def _known(self, message: NewMessage, content: ComingIn, now: float) -> int | None:
        """The number under which the same was accepted before; its content is not needed again."""
        if message.key is None:
            return None
        rows = self._run("known_key", submitter=message.submitter, key=message.key.text, now=now).fetchall()
        if not rows:
            return None
        [(message_id, known)] = rows
        if known != fingerprint(message.envelope, message.key):
            raise KeyTaken(f"key {message.key.text!r} stands for another message")
        if content.message_id is not None:
            self.drop_content(content.message_id)
        return int(message_id)

    def _accept_message(self, message: NewMessage, content: ComingIn, now: float) -> int:
        row = envelope_row(message.envelope)
        row |= {"submitter": message.submitter, "now": now, "size_bytes": content.size_bytes}
        message_id = content.message_id
        if message_id is None:
            message_id = self._insert("accept_message", **row)
        else:
            self._run("accept_coming_in", message_id=message_id, **row)
        self._add_parts(message_id, content)
        if message.key:
            self._run(
                "remember_key",
                submitter=message.submitter,
                key=message.key.text,
                message_id=message_id,
                fingerprint=fingerprint(message.envelope, message.key),
            )
        return message_id

    def _accept_claimed(self, message_id: int, recipient: Recipient, lane: str, now: float) -> Delivery:
        delivery_id = self._insert(
            "accept_claimed_delivery",
            message_id=message_id,
            due_at=now + FIRST_INTERRUPTION_S,
            lane=lane,
            owner=self.owner,
            epoch=self.epoch,
            **recipient_row(recipient),
        )
        return Delivery(id=delivery_id)

    def _stored(self, message_id: int, size_bytes: int) -> StoredContent:
        return SQLiteContent(self._path, message_id, size_bytes)

    # Attempts

    def claim(self, now: float, limit: int, max_octets: int, busy: Collection[str]) -> list[Due]:
        due = sorted(
            row
            for lane in self._lanes(busy)
            for row in self._run("due_in_lane", lane=lane, now=now, limit=limit).fetchall()
        )
        if not due:
            self._forget(now)
        return [
            self._claim_message(message_id, due_at, now, busy) for message_id, due_at in _picked(due, limit, max_octets)
        ]

    def record(self, results: Sequence[Result], now: float, lane: str, notices: Sequence[NewMessage]) -> None:
        """What it causes, the tables do: see delivery_ended in sqlite_2.sql."""
        ended = sum(self._end_attempt(result, now, lane) for result in results)
        if ended:
            for notice in notices:
                assert isinstance(notice.content, bytes), "a notice is written here, and short"
                self.accept(notice, ComingIn.of(notice.content), now)
        self._forget_now_and_then(now, ended)

    def give_back(self, due: Due, lane: str, now: float) -> None:
        for delivery in due.deliveries:
            self._run(
                "give_back",
                delivery_id=delivery.id,
                now=now,
                due_at=due.due_at,
                lane=lane,
                epoch=self.epoch,
                owner=self.owner,
            )

    def release(self, now: float) -> int:
        return self._run("release", now=now, **_INTERRUPTION).rowcount

    def next_due_at(self, busy: Collection[str]) -> float | None:
        return min(
            (at for lane in self._lanes(busy) for (at,) in self._run("next_due_in_lane", lane=lane).fetchall()),
            default=None,
        )

    # Policies

    def load_policy(self, domain: str) -> StoredPolicy | None:
        rows = self._run("load_policy", domain=domain).fetchall()
        return StoredPolicy(**dict(zip(_POLICY_COLUMNS, rows[0], strict=True))) if rows else None

    def save_policy(self, policy: StoredPolicy) -> None:
        self._run("save_policy", **asdict(policy))

    def forget_policy(self, domain: str) -> None:
        self._run("forget_policy", domain=domain)

    def policies_due(self, now: float) -> list[str]:
        return [domain for (domain,) in self._run("policies_due", now=now).fetchall()]

    # Space

    def give_space_back(self) -> bool:
        """
        Give some of the free pages that end the file back to the disk.

        @return: whether there are more to give.
        """
        self._database.execute(f"PRAGMA incremental_vacuum({PAGES_A_SLICE})").fetchall()
        return self.has_space_to_give_back()

    def has_space_to_give_back(self) -> bool:
        """Whether more is free than the next burst is worth."""
        [(free,)] = self._database.execute("PRAGMA freelist_count").fetchall()
        return bool(free > PAGES_KEPT_FREE + PAGES_A_SLICE)

    def _lanes(self, busy: Collection[str]) -> list[str]:
        return [lane for (lane,) in self._run("lanes").fetchall() if lane not in busy]

    def _claim_message(self, message_id: int, due_at: float, now: float, busy: Collection[str]) -> Due:
        claimed = sorted(
            self._run(
                "claim",
                message_id=message_id,
                owner=self.owner,
                epoch=self.epoch,
                now=now,
                busy=json.dumps([*busy]),
                **_INTERRUPTION,
            ).fetchall()
        )
        [row] = self._run("claimed_message", message_id=message_id, part_octets=PART_OCTETS).fetchall()
        *envelope, submitter, accepted_at, size_bytes, octets = row
        return Due(
            message_id=message_id,
            envelope=StoredEnvelope(*envelope).to(stored_recipient(*columns[1:4]) for columns in claimed),
            deliveries=tuple(_delivery(columns[0], *columns[4:]) for columns in claimed),
            due_at=due_at,
            accepted_at=accepted_at,
            content=self._stored(message_id, size_bytes) if octets is None else octets,
            submitter=submitter,
        )

    def _end_attempt(self, result: Result, now: float, lane: str) -> int:
        """How many deliveries that changed: none if the claim is not ours any more."""
        row = outcome_row(result.outcome)
        row |= {"delivery_id": result.delivery_id, "owner": self.owner, "epoch": self.epoch, "now": now}
        if is_deferred(result):
            row |= {"due_at": result.next_attempt_at, "lane": lane, "warned": result.warned}
            return self._run("defer", **row).rowcount
        return self._run("finish", state=end_state(result), **row).rowcount

    def _forget_now_and_then(self, now: float, ended: int) -> None:
        self._ended += ended
        if self._ended >= HISTORY_SLICE:
            self._ended = 0
            self._forget(now)

    def _forget(self, now: float) -> None:
        """What is kept of the past has its limits."""
        self._run("forget_beyond", most=MAX_HISTORY)
        self._run("forget_older", oldest=now - HISTORY_S)
        self._run("forget_keys", now=now)

    def _insert(self, name: str, **values: Value) -> int:
        """The new row's number."""
        number = self._run(name, **values).lastrowid
        assert number is not None
        return number

    def _run(self, name: str, **values: Value) -> sqlite3.Cursor:
        return self._database.execute(_QUERIES[name], values)


def new_epoch(database: sqlite3.Connection, owner: str) -> int:
    """The number of this opening, larger than any before."""
    [(epoch,)] = database.execute(_QUERIES["new_epoch"], {"owner": owner}).fetchall()
    return int(epoch)


def _with_lanes(message: NewMessage, lanes: Sequence[str]) -> Iterable[tuple[Recipient, str]]:
    recipients = message.envelope.recipients
    return zip(recipients, lanes or ("",) * len(recipients), strict=True)


def _delivery(delivery_id: int, attempt: int, warned: int, target: str, returned: str) -> Delivery:
    return Delivery(id=delivery_id, attempt=attempt, warned=bool(warned), target=target, returned=returned)


def _picked(due: Iterable[tuple[float, int, int]], limit: int, max_octets: int) -> Iterator[tuple[int, float]]:
    """Messages and when they were due, from rows in order of time, within the limits; the first in any case."""
    picked: set[int] = set()
    octets = 0
    for due_at, message_id, size_bytes in due:
        if message_id in picked:
            continue
        octets += min(size_bytes, PART_OCTETS)
        if picked and (octets > max_octets or len(picked) == limit):
            return
        picked.add(message_id)
        yield message_id, due_at
