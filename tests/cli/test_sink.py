"""
C{pymail-tx sink} shows what comes, and what it shows is safe to look at.
"""

from __future__ import annotations

import mailbox
import smtplib
import socket
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.cli.sink import shown
from pymail_tx.core.envelope import Envelope
from pymail_tx.spool.interface import NewMessage
from tests.cli.processes import COMMAND, LIMIT_S, ProcessCase
from tests.peers import eventually, free_port, is_listening


class Showing(SynchronousTestCase):
    def shown(self, content: bytes, *, sender: str = "joe@example.org", verbose: bool = False) -> list[str]:
        message = NewMessage(envelope=Envelope(sender, ("ann@example.com", "bob@example.com")), content=content)
        return shown(message, verbose=verbose).split("\n")

    def test_who_to_whom_about_what_and_how_much(self) -> None:
        self.assertEqual(
            self.shown(b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n at\r\n eight\r\n\r\nhi\r\n"),
            [
                "From:    joe@example.org",
                "To:      ann@example.com, bob@example.com",
                "Subject: Grüße at eight",
                "Size:    57 octets",
                "",
            ],
        )

    def test_a_message_from_nobody_about_nothing(self) -> None:
        self.assertEqual(self.shown(b"\r\nhi\r\n", sender="")[0:3:2], ["From:    <>", "Subject: (none)"])

    def test_a_subject_that_cannot_be_decoded_is_shown_as_it_is(self) -> None:
        for subject in ("=?utf-8?b?a?=", "=?no-such-charset?q?x?=", "=?utf-8?q?=FF?="):
            self.assertEqual(self.shown(f"Subject: {subject}\r\n\r\n".encode())[2], f"Subject: {subject}")

    def test_the_content_is_shown_if_asked_for(self) -> None:
        lines = self.shown(b"Subject: x\r\n\r\na\tb\r\n\xff\r\n", verbose=True)
        self.assertEqual(lines[4:], ["", "  Subject: x", "", "  a       b", "  \\xff", "", ""])

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        for line in self.shown(b"Subject: =?utf-8?q?=1B[2J?=\r\nX: \x1b[2J\r\n\r\n\x9b\x07", verbose=True):
            self.assertTrue(line.isprintable(), line)


class Receiving(ProcessCase):
    def test_it_takes_everything_and_shows_it_and_ends_on_ctrl_c(self) -> None:
        sink = self.sink("--hostname", "sink.example", "--verbose")
        with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as session:
            self.assertEqual(session.ehlo()[1].split(b"\n")[0], b"sink.example")
            session.sendmail("joe@example.org", ["ann@example.com"], "Subject: one\r\n\r\n.hello\r\n")
            session.sendmail("", ["bob@example.net"], "Subject: two\r\n\r\n")
        eventually("both are shown", lambda: "Subject: two" in sink.out)
        self.assertEqual(sink.out.count("From:    "), 2)
        self.assertIn("\n  .hello\n", sink.out)
        self.assertEqual(sink.err, f"pymail-tx: taking mail at 127.0.0.1 port {sink.port}; Ctrl-C stops\n")
        self.assertEqual(sink.stop(), 0)

    def test_it_keeps_messages_in_a_maildir(self) -> None:
        sink = self.sink("--maildir", "deep/mail")
        with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as session:
            session.sendmail("joe@example.org", ["ann@example.com"], "Subject: one\r\n\r\nhi\r\n")
        [message] = mailbox.Maildir(self.directory / "deep" / "mail", create=False)
        self.assertEqual((message["Subject"], message["Delivered-To"]), ("one", "ann@example.com"))

    def test_what_cannot_be_kept_is_not_taken(self) -> None:
        (self.directory / "file").write_text("")
        sink = self.sink("--maildir", "file")
        with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as session:
            error = self.assertRaises(
                smtplib.SMTPDataError, session.sendmail, "joe@example.org", ["ann@example.com"], "Subject: x\r\n\r\n"
            )
        self.assertEqual(error.smtp_code, 451)
        self.assertIn("\npymail-tx: 4.2.0 cannot write into maildir file: ", sink.err)
        self.assertEqual((sink.out, sink.err.count("\n")), ("", 2))

    def test_it_ends_when_nobody_looks_any_more(self) -> None:
        port = free_port()
        words = [*COMMAND, "sink", "--listen", f"tcp:{port}:interface=127.0.0.1"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.close()
            eventually("the sink listens", lambda: is_listening(port), within_s=LIMIT_S)
            session = smtplib.SMTP("127.0.0.1", port, timeout=10)
            session.sendmail("joe@example.org", ["ann@example.com"], "Subject: one\r\n\r\n")
            session.close()
            self.assertEqual(process.wait(LIMIT_S), 1)
            assert process.stderr is not None
            self.assertEqual(process.stderr.read().splitlines()[1:], ["pymail-tx: cannot show what comes: Broken pipe"])

    def test_a_mistake_gets_one_line_and_status_1(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for words, expected in (
                (("--listen", f"tcp:{port}:interface=127.0.0.1"), "--listen: cannot listen at 'tcp:"),
                (("--listen", "2526"), "--listen: '2526' is no endpoint"),
                (("--hostname", "a b"), "--hostname: 'a b' is no domain"),
            ):
                ended = self.run_command("sink", *words)
                self.assertEqual((ended.status, ended.out), (1, ""))
                self.assertRegex(ended.err, r"\Apymail-tx: [^\n]+\n\Z")
                self.assertIn(expected, ended.err)
