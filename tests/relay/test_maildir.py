"""
A message is in the maildir whole or not at all.
"""

from __future__ import annotations

import errno
import io
import mailbox
import os
import stat
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, execute
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import BLOCK_OCTETS
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report, Status
from pymail_tx.relay.courier import Content
from pymail_tx.relay.maildir import MaildirCourier

_CONTENT = b"Subject: x\r\n\r\n.line\r\nd\xc3\xa9j\xc3\xa0\r\n"


def _at_once(function: Callable[[], None]) -> Deferred[None]:
    return execute(function)


class Maildirs(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        self.tokens = iter(f"T{number}" for number in range(100))

    def test_a_message_is_found_by_a_reader(self) -> None:
        report = self._send(sender="joe@example.org", recipients=["ann@example.com"])
        self.assertEqual([outcome.status for outcome in report.outcomes], [Status.DELIVERED])
        [message] = mailbox.Maildir(self.path, create=False)
        self.assertEqual(message["Return-Path"], "<joe@example.org>")
        self.assertEqual(message["Delivered-To"], "ann@example.com")
        self.assertEqual(message["Subject"], "x")

    def test_lines_end_in_lf(self) -> None:
        self._send()
        expected = b"Return-Path: <>\nDelivered-To: ann@example.com\n" + _CONTENT.replace(b"\r\n", b"\n")
        self.assertEqual(self._files("new")[0].getContent(), expected)

    def test_a_file_is_delivered_as_what_is_in_it_wherever_its_blocks_end(self) -> None:
        for size in (0, BLOCK_OCTETS - 1, BLOCK_OCTETS, BLOCK_OCTETS + 1, 3 * BLOCK_OCTETS):
            content = (b"x\r" * size)[: size - 1] + b"\r\n" if size else b""
            self._send(content=io.BytesIO(content), recipients=["ann@example.com"])
            [file] = self._files("new")
            rest = file.getContent().partition(b"Delivered-To: ann@example.com\n")[2]
            self.assertEqual(rest, content.replace(b"\r\n", b"\n"), size)
            file.remove()

    def test_a_file_that_cannot_be_read_defers_and_leaves_nothing_behind(self) -> None:
        class Unreadable(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                raise OSError("gone")

        [outcome] = self._send(content=Unreadable()).outcomes
        self.assertIs(outcome.status, Status.DEFERRED)
        self.assertEqual([self._files("tmp"), self._files("new")], [[], []])

    def test_all_recipients_of_an_attempt_share_a_file_that_names_them(self) -> None:
        report = self._send(recipients=["ann@example.com", "bob@example.com"])
        self.assertEqual([outcome.recipient for outcome in report.outcomes], ["ann@example.com", "bob@example.com"])
        [message] = mailbox.Maildir(self.path, create=False)
        self.assertEqual(message.get_all("Delivered-To"), ["ann@example.com", "bob@example.com"])

    def test_a_file_is_named_by_time_token_and_host(self) -> None:
        self._send()
        self.assertEqual(self._files("new")[0].basename(), "1700000000.T0.relay.example")
        self._send(hostname="[IPv6:::1]/x")
        self.assertIn("1700000000.T1.[IPv6\\072\\072\\0721]\\057x", [file.basename() for file in self._files("new")])

    def test_a_missing_maildir_is_made_for_its_owner_only(self) -> None:
        self.path = os.path.join(self.path, "deep", "mail")
        self._send()
        for part in ("", "tmp", "new", "cur"):
            self.assertEqual(stat.S_IMODE(os.stat(os.path.join(self.path, part)).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(self._files("new")[0].path).st_mode), 0o600)
        self.assertEqual(self._files("tmp"), [])

    def test_a_name_that_is_taken_is_never_overwritten(self) -> None:
        self._send()
        theirs = FilePath(self.path).child("tmp").child("1700000000.T1.relay.example")
        theirs.setContent(b"somebody else's")
        self._deferred("File exists")
        self.assertEqual(theirs.getContent(), b"somebody else's")

    def test_a_directory_that_cannot_be_made_defers_and_names_it(self) -> None:
        FilePath(self.path).setContent(b"a file")
        self._deferred("4.2.0 cannot write into maildir")

    def test_a_full_disk_defers_and_leaves_nothing_behind(self) -> None:
        for code, enhanced in ((errno.ENOSPC, "4.3.1"), (errno.EDQUOT, "4.2.2"), (errno.EACCES, "4.2.0")):
            self._send()
            before = len(self._files("new"))

            def broken(descriptor: int, code: int = code) -> None:
                raise OSError(code, os.strerror(code))

            patch = self.patch(os, "fsync", broken)
            self._deferred(f"{enhanced} cannot write into maildir")
            patch.restore()
            self.assertEqual((len(self._files("new")), self._files("tmp")), (before, []))

    def test_content_is_durable_before_it_has_its_name_and_the_name_before_delivered_is_said(self) -> None:
        self._send()
        synced: list[tuple[str, int]] = []
        real = os.fsync

        def watched(descriptor: int) -> None:
            target = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), os.path.realpath(self.path))
            synced.append((target.partition("/")[0], len(self._files("new"))))
            real(descriptor)

        self.patch(os, "fsync", watched)
        self._send()
        self.assertEqual(synced, [("tmp", 1), ("new", 2)])

    def _deferred(self, words: str) -> None:
        [outcome] = self._send().outcomes
        self.assertIs(outcome.status, Status.DEFERRED)
        self.assertIn(words, outcome.reason)
        self.assertIn(self.path, outcome.reason)

    def _send(
        self,
        *,
        sender: str = "",
        recipients: Sequence[str] = ("ann@example.com",),
        hostname: str = "relay.example",
        content: Content = _CONTENT,
    ) -> Report:
        courier = MaildirCourier(
            key="maildir:m",
            path=self.path,
            hostname=hostname,
            wall_clock=lambda: 1_700_000_000.5,
            new_token=lambda: next(self.tokens),
            run_in_thread=_at_once,
        )
        report = self.successResultOf(courier.send(Envelope(sender, recipients), content))
        self.assertIsNone(self.successResultOf(courier.close()))
        return report

    def _files(self, part: str) -> list[FilePath[str]]:
        return sorted(FilePath(self.path).child(part).children(), key=lambda file: file.path)
