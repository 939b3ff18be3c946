"""
A disk that is full, fails or forgets, a file that is locked or damaged: nothing
that was answered is lost, each is told in words, and work goes on once it can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from twisted.internet.defer import Deferred

from pymail_tx.spool.interface import SpoolError, SpoolLost
from tests import peers
from tests.spool.test_group_commit import a_full_disk
from tests.spool.turns import SpoolTestCase, message, octets

NOW = 1_700_000_000.0
ROOT = Path(__file__).parents[2]


class FaultTestCase(SpoolTestCase):
    def accept(self, content: bytes) -> Deferred[int]:
        accepting = self.spool.accept(message(content=content), now=NOW)
        self.turns.run()
        return accepting

    def contents(self) -> list[bytes]:
        """Of all messages, in order."""
        self.got(self.spool.release(now=NOW))
        return [octets(due) for due in self.got(self.spool.claim(now=NOW + 60, limit=1_000, max_octets=2**30))]

    def check(self, failing: Deferred[int], words: str) -> None:
        problem = self.failureResultOf(failing, SpoolError).value
        self.assertIn(words, str(problem))
        self.assertIn(self.path, str(problem))
        self.assertNotIsInstance(problem, SpoolLost)


class PassingTests(FaultTestCase):
    def test_a_full_disk_refuses_and_takes_again_when_there_is_room(self) -> None:
        self.successResultOf(self.accept(b"before"))
        with self.no_room():
            for _ in range(2):
                self.check(self.accept(bytes(200_000)), "full; make room on its disk")
        self.successResultOf(self.accept(b"after"))
        self.assertEqual(self.contents(), [b"before", b"after"])

    def test_a_full_disk_is_no_reason_to_keep_a_claim(self) -> None:
        self.successResultOf(self.accept(bytes(200_000)))
        [due] = self.got(self.spool.claim(now=NOW, limit=1, max_octets=1))
        with self.no_room():
            self.got(self.spool.give_back(due, now=NOW, lane=""))
        self.assertEqual(self.contents(), [bytes(200_000)])

    def test_a_disk_that_does_not_take_writes_refuses_and_takes_again(self) -> None:
        self.successResultOf(self.accept(b"before"))
        with a_full_disk():
            self.check(self.accept(b"meanwhile"), "look at its disk")
        self.successResultOf(self.accept(b"after"))
        self.assertEqual(self.contents(), [b"before", b"after"])

    def test_a_spool_that_another_program_locks_refuses_and_takes_again(self) -> None:
        self.spool._tables._database.execute("PRAGMA busy_timeout = 10")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.check(self.accept(b"meanwhile"), "another program keeps it locked")
        self.successResultOf(self.accept(b"after"))
        self.assertEqual(self.contents(), [b"after"])

    def test_a_damaged_spool_is_told_and_takes_nothing_it_cannot_keep(self) -> None:
        for number in range(50):
            self.spool.accept(message(content=b"%d" % number + bytes(4_000)), now=NOW)
        self.turns.run()
        self.closed(self.spool)  # which empties the log into the file
        whole = Path(self.path).read_bytes()
        Path(self.path).write_bytes(whole[:4096] + b"\xaa" * (len(whole) - 4096))
        try:
            self.spool = self.opened()
        except SpoolError as problem:
            self.assertIn("the file is damaged; move it away, or restore it", str(problem))
        else:
            self.check(self.accept(b"x"), "the file is damaged; move it away, or restore it")

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """SQLite says of a file at its limit what it says of a full disk."""
        database = self.spool._tables._database
        [(pages,)] = database.execute("PRAGMA page_count").fetchall()
        database.execute(f"PRAGMA max_page_count = {pages}")
        try:
            yield
        finally:
            database.execute("PRAGMA max_page_count = 1000000000")


FORGETFUL_DISK = """
import sys
from tests.spool.failing_sync import fail_syncs
from tests.spool.turns import Turns, message
from pymail_tx.spool.sqlite import SQLiteSpool

turns = Turns()
def lost(problem):
    print("lost:", type(problem).__name__, problem, flush=True)
threads = {"run_in_thread": turns.run_in_thread, "call_in_caller": turns.call_in_caller}
spool = SQLiteSpool.open(sys.argv[1], on_lost=lost, **threads)
def accept(content):
    accepting = spool.accept(message(content=content), now=0)
    accepting.addCallbacks(lambda number: f"accepted {number}", lambda failure: type(failure.value).__name__)
    accepting.addCallback(lambda words: print(words, flush=True))
    turns.run()
accept(b"one")
fail_syncs()
accept(b"two")
accept(b"three")
"""

FORGETFUL_RELAY = """
import signal
from tests.spool.failing_sync import fail_syncs
from twisted.scripts.twistd import run
signal.signal(signal.SIGUSR1, lambda number, frame: fail_syncs())
run()
"""


class FsyncTests(FaultTestCase):
    def test_an_fsync_that_fails_is_the_end_and_nothing_is_answered_behind_it(self) -> None:
        path = Path(self.mktemp(), "spool.sqlite").absolute()
        done = subprocess.run(
            [sys.executable, "-c", FORGETFUL_DISK, path],
            cwd=ROOT,
            capture_output=True,
            timeout=60,
            check=True,
            text=True,
        )
        first, lost, second, third = done.stdout.splitlines()
        self.assertEqual([first, second, third], ["accepted 1", "SpoolLost", "SpoolLost"])
        words = "the disk failed to keep what was written (fsync); look at it, then start the relay again"
        self.assertEqual(lost, f"lost: SpoolLost spool {path}: {words}")
        self.spool = self.opened(str(path))
        self.assertIn(b"one", self.contents())

    def test_it_ends_the_relay_which_says_so_once_and_promises_nothing(self) -> None:
        directory, port = Path(self.mktemp()), peers.free_port()
        directory.mkdir()
        with (directory / "log").open("wb") as log:
            relay = subprocess.Popen(
                [
                    sys.executable, "-c", FORGETFUL_RELAY, "--nodaemon", "--pidfile=", "pymail-tx", "--hostname",
                    "relay.example", "--smtp", f"tcp:{port}:interface=127.0.0.1", "--route", "*=maildir:mail",
                ],
                cwd=directory, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.addCleanup(relay.wait)
        self.addCleanup(relay.kill)
        peers.eventually("the relay listening", lambda: peers.is_listening(port))
        with contextlib.suppress(smtplib.SMTPServerDisconnected), smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.sendmail("alice@example.org", ["bob@example.net"], b"Subject: kept\r\n\r\n")
            relay.send_signal(signal.SIGUSR1)
            with self.assertRaises(smtplib.SMTPServerDisconnected):
                for _ in range(100):
                    client.sendmail("alice@example.org", ["bob@example.net"], b"Subject: lost\r\n\r\n")
        self.assertEqual(relay.wait(30), os.EX_IOERR)
        log_text = (directory / "log").read_text()
        self.assertEqual(log_text.count("the disk failed to keep what was written (fsync)"), 1, log_text)
