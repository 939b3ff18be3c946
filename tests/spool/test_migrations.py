"""
A spool of any earlier schema is brought to the present one, with all that is in it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.outcome import Peer, Status, by_reason
from pymail_tx.spool.administration import Selection
from pymail_tx.spool.interface import PART_OCTETS, Result, SpoolError
from pymail_tx.spool.queries import sql
from pymail_tx.spool.sqlite import SQLiteSpool
from pymail_tx.spool.sqlite_administration import SQLiteAdministration
from pymail_tx.spool.sqlite_file import SCHEMA_VERSION
from tests.spool.turns import SpoolTestCase, Turns, message, octets

NOW = 1_700_000_000.0

VERSION_1 = f"""
    UPDATE relay SET epoch = 7;
    INSERT INTO messages VALUES (3, 'alice@example.org', {NOW}, 5), (4, '', {NOW + 1}, 150000), (5, '', {NOW + 2}, 0);
    INSERT INTO contents VALUES (3, 'hello'), (4, zeroblob(150000)), (5, x'');
    UPDATE contents SET content = CAST(content AS BLOB);
    INSERT INTO deliveries (id, message_id, recipient, state, due_at, lane, attempt, interruptions, epoch) VALUES
        (11, 3, '"a@b"@Example.NET', 'waiting', {NOW + 60}, 'slow', 2, 1, NULL),
        (12, 3, 'postmaster', 'delivered', {NOW + 10}, 'slow', 1, 0, NULL),
        (13, 4, 'bob@example.net', 'claimed', {NOW + 10}, '', 1, 0, 7),
        (14, 5, 'eve@example.net', 'waiting', {NOW}, '', 0, 0, NULL);
    INSERT INTO events (message_id, delivery_id, at, what, words) VALUES
        (3, 11, {NOW}, 'deferred', '4.2.0 busy'), (3, 12, {NOW}, 'delivered', '2.0.0 ok'),
        (3, 11, {NOW + 30}, 'deferred', '4.2.1 busy again');
    DELETE FROM messages WHERE id = 5;
"""
"""As main of November 2026 left it: one message half delivered, one under way, one gone."""


class FromVersion1Tests(SpoolTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = f"{self.mktemp()}/old.sqlite"
        Path(self.path).parent.mkdir()
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(sql("sqlite_1.sql"))
            database.execute("PRAGMA foreign_keys = ON")
            database.executescript(VERSION_1.replace("'hello'", "x'68656c6c6f'"))
        self.spool = self.opened()
        self.operator = SQLiteAdministration.open(self.path)
        self.addCleanup(self.operator.close)

    def test_every_delivery_is_where_it_was(self) -> None:
        self.assertEqual(
            [
                (entry.message_id, entry.delivery_id, entry.recipient, entry.state.value, entry.due_at, entry.lane,
                 entry.attempt, entry.owner, entry.why)
                for entry in self.got(self.operator.entries(Selection()))
            ],
            [
                (3, 11, '"a@b"@Example.NET', "waiting", NOW + 60, "slow", 2, "", "4.2.1 busy again"),
                (3, 12, "postmaster", "delivered", None, "slow", 1, "", "2.0.0 ok"),
                (4, 13, "bob@example.net", "claimed", NOW + 10, "", 1, "relay", ""),
            ],
        )  # fmt: skip

    def test_recipients_are_found_by_their_domain(self) -> None:
        found = [
            [entry.delivery_id for entry in self.got(self.operator.entries(Selection(domain=domain)))]
            for domain in ("example.net", "")
        ]
        self.assertEqual(found, [[11, 13], [12]])

    def test_contents_of_any_size_come_out_as_they_were(self) -> None:
        self.got(self.spool.release(now=NOW))
        claimed = self.got(self.spool.claim(now=NOW + 60, limit=10, max_octets=2**20))
        self.assertEqual({due.message_id: octets(due) for due in claimed}, {3: b"hello", 4: bytes(150_000)})
        self.assertGreater(150_000, PART_OCTETS)

    def test_what_happened_is_still_told(self) -> None:
        shown = self.got(self.operator.show(3))
        assert shown
        self.assertEqual(
            [(event.at, event.what, event.words) for event in shown.events],
            [
                (NOW, "deferred", "4.2.0 busy"),
                (NOW, "delivered", "2.0.0 ok"),
                (NOW + 30, "deferred", "4.2.1 busy again"),
            ],
        )

    def test_numbers_and_epochs_go_on(self) -> None:
        self.assertEqual(self.got(self.spool.accept(message(), now=NOW)), 6)
        self.assertEqual(self.spool._tables.epoch, 8)
        self.assertEqual(max(entry.delivery_id for entry in self.got(self.operator.entries(Selection()))), 15)

    def test_a_claim_of_the_earlier_version_is_released(self) -> None:
        self.assertEqual(self.got(self.spool.release(now=NOW)), 1)

    def test_the_file_can_shrink_from_now_on(self) -> None:
        with closing(sqlite3.connect(self.path)) as database:
            self.assertEqual(database.execute("PRAGMA auto_vacuum").fetchall(), [(2,)])
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            self.assertEqual(database.execute("PRAGMA foreign_key_check").fetchall(), [])

    def test_it_ends_like_any_other(self) -> None:
        self.got(self.spool.release(now=NOW))
        for due in self.got(self.spool.claim(now=NOW + 60, limit=10, max_octets=2**20)):
            outcome = by_reason("x@example.net", Status.DELIVERED, "2.0.0 ok", Peer())
            results = [Result(delivery_id=one.id, outcome=outcome, next_attempt_at=None) for one in due.deliveries]
            self.got(self.spool.record(results, now=NOW))
        self.assertEqual(self.got(self.operator.entries(Selection())), [])


class SchemaTests(SynchronousTestCase):
    def test_an_old_spool_gets_the_tables_that_a_new_one_has(self) -> None:
        old, new = f"{self.mktemp()}.old", f"{self.mktemp()}.new"
        with closing(sqlite3.connect(old)) as database:
            database.executescript(sql("sqlite_1.sql"))
        schemas = []
        for path in (old, new):
            turns = Turns()
            spool = SQLiteSpool.open(path, run_in_thread=turns.run_in_thread, call_in_caller=turns.call_in_caller)
            spool.close()
            turns.run()
            with closing(sqlite3.connect(path)) as database:
                schemas.append(database.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").fetchall())
                self.assertEqual(database.execute("PRAGMA user_version").fetchall(), [(SCHEMA_VERSION,)])
        self.assertEqual(schemas[0], schemas[1])

    def test_a_step_that_fails_leaves_the_file_as_it_was(self) -> None:
        path = self.mktemp()
        with closing(sqlite3.connect(path)) as database:
            database.executescript(sql("sqlite_1.sql"))
            database.executescript("CREATE TABLE parts (somebody_elses INTEGER)")
        with self.assertRaisesRegex(SpoolError, "table parts already exists"):
            SQLiteSpool.open(path, run_in_thread=lambda job: job(), call_in_caller=lambda job: job())
        with closing(sqlite3.connect(path)) as database:
            self.assertEqual(database.execute("PRAGMA user_version").fetchall(), [(1,)])
            self.assertEqual(database.execute("SELECT epoch FROM relay").fetchall(), [(0,)])
