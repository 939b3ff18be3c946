"""
After a burst the file shrinks, and what is kept of the past has its bounds.
"""

from __future__ import annotations

import os

from pymail_tx.core.outcome import Peer, Status, by_reason
from pymail_tx.spool import sqlite_tables
from pymail_tx.spool.interface import HISTORY_S, Result
from pymail_tx.spool.sqlite_tables import PAGES_A_SLICE, PAGES_KEPT_FREE
from tests.spool.turns import SpoolTestCase, message

NOW = 1_700_000_000.0
PAGE_OCTETS = 4_096


class SpaceTestCase(SpoolTestCase):
    def burst(self, count: int, size: int) -> None:
        for _ in range(count):
            self.spool.accept(message(content=bytes(size)), now=NOW)
        self.turns.run()

    def deliver_all(self, now: float = NOW) -> None:
        outcome = by_reason("bob@example.net", Status.DELIVERED, "2.0.0 ok", Peer())
        while claimed := self.got(self.spool.claim(now=now, limit=500, max_octets=2**30)):
            for due in claimed:
                results = [Result(delivery_id=one.id, outcome=outcome, next_attempt_at=None) for one in due.deliveries]
                self.spool.record(results, now=now)
            self.turns.run()

    def file_octets(self) -> int:
        self.spool._tables._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return os.stat(self.path).st_size

    def history(self) -> int:
        [(count,)] = self.spool._tables._database.execute("SELECT count(*) FROM history").fetchall()
        return int(count)


class ShrinkTests(SpaceTestCase):
    def test_the_file_shrinks_to_what_the_next_burst_may_need(self) -> None:
        self.burst(1_000, 60_000)
        full = self.file_octets()
        self.assertGreater(full, 60_000_000)
        self.deliver_all()
        self.assertLess(self.file_octets(), (PAGES_KEPT_FREE + PAGES_A_SLICE + 200) * PAGE_OCTETS)

    def test_a_small_burst_leaves_the_room_for_the_next(self) -> None:
        self.burst(100, 60_000)
        full = self.file_octets()
        self.deliver_all()
        self.burst(95, 60_000)
        self.assertLessEqual(self.file_octets(), full)

    def test_what_is_handed_in_meanwhile_does_not_wait_for_all_of_it(self) -> None:
        self.burst(1_000, 60_000)
        self.deliver_all_but_shrink()
        self.spool.claim(now=NOW, limit=1, max_octets=1)
        for _ in range(6):
            self.turns.step()
        before = self.file_pages()
        self.got_soon_after(before)

    def deliver_all_but_shrink(self) -> None:
        self.spool._shrinking = True
        self.deliver_all()
        self.spool._shrinking = False

    def file_pages(self) -> int:
        [(pages,)] = self.spool._tables._database.execute("PRAGMA page_count").fetchall()
        return int(pages)

    def got_soon_after(self, before: int) -> None:
        accepting = self.spool.accept(message(), now=NOW)
        while not accepting.called:
            self.turns.step()
        self.assertGreater(self.file_pages(), before - 3 * PAGES_A_SLICE)
        self.successResultOf(accepting)


class HistoryTests(SpaceTestCase):
    def test_the_last_of_many_attempts_are_kept(self) -> None:
        self.patch(sqlite_tables, "MAX_HISTORY", 50)
        self.burst(120, 10)
        self.deliver_all()
        self.assertEqual(self.history(), 50)

    def test_under_load_it_is_bounded_too(self) -> None:
        self.patch(sqlite_tables, "MAX_HISTORY", 50)
        self.patch(sqlite_tables, "HISTORY_SLICE", 10)
        self.burst(120, 10)
        outcome = by_reason("bob@example.net", Status.DELIVERED, "2.0.0 ok", Peer())
        for due in self.got(self.spool.claim(now=NOW, limit=120, max_octets=2**30)):
            self.got(
                self.spool.record(
                    [Result(delivery_id=due.deliveries[0].id, outcome=outcome, next_attempt_at=None)], now=NOW
                )
            )
        self.assertLess(self.history(), 50 + 10)

    def test_a_week_is_kept_and_not_more(self) -> None:
        self.burst(3, 10)
        self.deliver_all()
        self.deliver_all(now=NOW + HISTORY_S)
        self.assertEqual(self.history(), 3)
        self.deliver_all(now=NOW + HISTORY_S + 1)
        self.assertEqual(self.history(), 0)
