"""
Content goes in and comes out a part at a time, and none is left behind.
"""

from __future__ import annotations

import io
import os
import sqlite3
import tracemalloc
from contextlib import closing

from hypothesis import given, settings
from hypothesis import strategies as st

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Peer, Status, by_reason
from pymail_tx.spool.interface import PART_OCTETS, ContentWriter, Due, NewMessage, Result, SpoolError, StoredContent
from tests.spool.test_group_commit import a_full_disk
from tests.spool.turns import SpoolTestCase, message, octets

NOW = 1_700_000_000.0
SIZES = (0, 1, PART_OCTETS - 1, PART_OCTETS, PART_OCTETS + 1, 2 * PART_OCTETS, 3 * PART_OCTETS + 7)
ENVELOPE = Envelope("alice@example.org", ["bob@example.net"])


def content(size: int) -> bytes:
    """No two parts of it are the same."""
    return b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]


class ContentsTestCase(SpoolTestCase):
    def written(self, whole: bytes, block: int) -> ContentWriter:
        writer = self.spool.begin_content()
        for start in range(0, len(whole), block):
            self.got(writer.write(whole[start : start + block]))
        return writer

    def claimed(self) -> Due:
        [due] = self.got(self.spool.claim(now=NOW, limit=10, max_octets=1))
        return due

    def deliver(self, due: Due) -> None:
        outcome = by_reason("bob@example.net", Status.DELIVERED, "2.0.0 ok", Peer())
        results = [Result(delivery_id=one.id, outcome=outcome, next_attempt_at=None) for one in due.deliveries]
        self.got(self.spool.record(results, now=NOW))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as reader:
            return reader.execute(query).fetchall()


class RoundTripTests(ContentsTestCase):
    def test_what_was_handed_in_whole_comes_out_whatever_its_size(self) -> None:
        for size in SIZES:
            self.got(self.spool.accept(message(content=content(size)), now=NOW))
            due = self.claimed()
            self.assertEqual([octets(due), isinstance(due.content, bytes)], [content(size), size <= PART_OCTETS])
            self.deliver(due)
        self.assertEqual(self.rows("SELECT * FROM parts"), [])

    def test_what_was_written_in_blocks_comes_out_whatever_their_size(self) -> None:
        for size in SIZES:
            for block in (5_000, PART_OCTETS, 3 * PART_OCTETS):
                writer = self.written(content(size), block)
                self.assertEqual(writer.size_bytes, size)
                self.got(self.spool.accept(NewMessage(envelope=ENVELOPE, content=writer), now=NOW))
                due = self.claimed()
                self.assertEqual(octets(due), content(size))
                self.deliver(due)
        self.assertEqual(self.rows("SELECT * FROM parts"), [])

    def test_a_written_message_is_claimed_in_the_commit_that_accepts_it(self) -> None:
        whole = content(3 * PART_OCTETS)
        new = NewMessage(envelope=ENVELOPE, content=self.written(whole, 50_000))
        accepted = self.got(self.spool.accept_and_claim(new, now=NOW))
        assert accepted.due
        self.assertEqual([octets(accepted.due), accepted.due.held_octets], [whole, PART_OCTETS])

    def test_other_messages_come_in_meanwhile(self) -> None:
        first, second = self.written(content(100_000), 9_999), self.spool.begin_content()
        self.got(self.spool.accept(message(content=b"small"), now=NOW))
        self.got(second.write(content(200_000)))
        for writer in (second, first):
            self.got(self.spool.accept(NewMessage(envelope=ENVELOPE, content=writer), now=NOW))
        claimed = self.got(self.spool.claim(now=NOW, limit=10, max_octets=2**20))
        self.assertEqual([octets(due) for due in claimed], [content(100_000), b"small", content(200_000)])

    def test_memory_does_not_grow_with_the_message(self) -> None:
        block, count = content(32_768), 1_024
        writer = self.spool.begin_content()
        self.got(writer.write(block))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(count - 1):
            self.got(writer.write(block))
        self.got(self.spool.accept(NewMessage(envelope=ENVELOPE, content=writer), now=NOW))
        due = self.claimed()
        assert not isinstance(due.content, bytes)
        with due.content.open() as file:
            while file.read(10_000):
                pass
        self.assertEqual(due.content.size_bytes, 32 * 2**20)
        self.assertLess(tracemalloc.get_traced_memory()[1], 4 * PART_OCTETS)


class FileTests(ContentsTestCase):
    whole = content(3 * PART_OCTETS + 7)

    def stored(self) -> StoredContent:
        self.got(self.spool.accept(message(content=self.whole), now=NOW))
        stored = self.claimed().content
        assert not isinstance(stored, bytes)
        return stored

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 4 * PART_OCTETS), st.integers(0, 2) | st.integers(0, 2 * PART_OCTETS))))
    def test_it_reads_like_any_file_wherever_it_is_sought(self, steps: list[tuple[int, int]]) -> None:
        self.setUp()
        with self.stored().open() as file:
            like = io.BytesIO(self.whole)
            for position, size in steps:
                self.assertEqual(file.seek(position), like.seek(position))
                self.assertEqual(file.read(size), like.read(size))
                self.assertEqual(file.tell(), like.tell())
        self.doCleanups()

    def test_it_is_sought_from_its_end_and_from_here(self) -> None:
        with self.stored().open() as file:
            self.assertEqual(file.seek(-7, os.SEEK_END), 3 * PART_OCTETS)
            self.assertEqual(file.read(2), self.whole[-7:-5])
            file.seek(-1, os.SEEK_CUR)
            self.assertEqual(file.read(), self.whole[-6:])
            self.assertEqual([file.seekable(), file.readable(), file.writable()], [True, True, False])

    def test_two_read_the_same_content_at_once(self) -> None:
        stored = self.stored()
        with stored.open() as one, stored.open() as other:
            self.assertEqual(one.read(100_000), other.read(100_000))

    def test_a_message_that_is_gone_is_an_error_and_not_an_end(self) -> None:
        stored = self.stored()
        with stored.open() as file:
            with closing(sqlite3.connect(self.path)) as other:
                other.execute("DELETE FROM parts")
                other.commit()
            with self.assertRaisesRegex(OSError, "message 1 is not in the spool any more"):
                file.read()

    def test_a_spool_that_cannot_be_read_is_an_error_of_the_system(self) -> None:
        stored = self.stored()
        self.closed(self.spool)
        os.rename(self.path, f"{self.path}.away")
        with self.assertRaises(OSError), stored.open() as file:
            file.read()


class AbandonedTests(ContentsTestCase):
    def test_what_is_abandoned_leaves_nothing(self) -> None:
        for size in (10, 200_000):
            writer = self.written(content(size), 50_000)
            writer.abandon()
            writer.abandon()
            self.turns.run()
            self.assertEqual(self.rows("SELECT id FROM parts UNION ALL SELECT id FROM messages"), [])

    def test_what_is_abandoned_while_a_block_is_on_its_way_leaves_nothing(self) -> None:
        writer = self.spool.begin_content()
        writing = writer.write(content(200_000))
        writer.abandon()
        self.got(writing)
        self.turns.run()
        self.assertEqual(self.rows("SELECT id FROM parts UNION ALL SELECT id FROM messages"), [])

    def test_a_message_is_not_abandoned_any_more(self) -> None:
        writer = self.written(content(200_000), 50_000)
        self.got(self.spool.accept(NewMessage(envelope=ENVELOPE, content=writer), now=NOW))
        writer.abandon()
        self.turns.run()
        self.assertEqual(octets(self.claimed()), content(200_000))

    def test_what_a_dead_process_left_is_removed_at_the_next_start(self) -> None:
        self.got(self.spool.accept(message(content=content(100_000)), now=NOW))
        self.written(content(200_000), 50_000)
        self.assertEqual(self.rows("SELECT count(*) FROM parts"), [(2 + 3,)])
        self.reopened()
        self.assertEqual(self.rows("SELECT count(*) FROM parts"), [(2,)])
        self.assertEqual(octets(self.claimed()), content(100_000))

    def test_a_block_that_cannot_be_stored_fails_and_the_rest_can_be_abandoned(self) -> None:
        writer = self.written(content(100_000), 50_000)
        writing = writer.write(content(100_000))
        with a_full_disk():
            self.turns.run()
        self.failureResultOf(writing, SpoolError)
        writer.abandon()
        self.turns.run()
        self.assertEqual(self.rows("SELECT id FROM parts UNION ALL SELECT id FROM messages"), [])

    def test_an_accept_that_fails_can_be_made_again_with_the_same_content(self) -> None:
        new = NewMessage(envelope=ENVELOPE, content=self.written(content(200_000), 50_000))
        accepting = self.spool.accept(new, now=NOW)
        with a_full_disk():
            self.turns.run()
        self.failureResultOf(accepting, SpoolError)
        self.got(self.spool.accept(new, now=NOW))
        self.assertEqual(octets(self.claimed()), content(200_000))
