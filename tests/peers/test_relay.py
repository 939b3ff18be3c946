"""
Our relay between real programs: Python's smtplib or swaks in front of it, Postfix behind it.
"""

from __future__ import annotations

import smtplib
import subprocess
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests import peers
from tests.peers.postfix import Postfix
from tests.peers.relay import Relay

CONTENT = b"Subject: Hello\r\n\r\n.It works.\r\n"


def swaks(relay: Relay, *recipients: str) -> None:
    """Send a message with swaks, which must be content."""
    words = [peers.command("swaks"), "--server", relay.host, "--port", str(relay.port), "--from", "ann@example.net"]
    words += ["--to", ",".join(recipients), "--helo", "client.example.net", "--timeout", "20"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if run.returncode:
        raise AssertionError(run.stdout + run.stderr + relay.log)


class RelayToPostfix(SynchronousTestCase):
    timeout = 120

    def setUp(self) -> None:
        self.postfix = Postfix.start(self)

    def test_three_lines_of_smtplib_put_a_message_into_postfixs_queue(self) -> None:
        relay = self.relay(f"smtp://{self.postfix.host}:{self.postfix.port}")
        self.send(relay, "bob@held.example")
        (queued,) = self.postfix.await_queue(1)
        self.assertEqual((queued["queue_name"], queued["sender"]), ("hold", "ann@example.net"))
        self.assertEqual([one["address"] for one in queued["recipients"]], ["bob@held.example"])

    def test_the_message_arrives_as_it_was_sent_with_one_received_line_of_ours(self) -> None:
        self.send(self.relay(f"smtp://{self.postfix.host}:{self.postfix.port}"), "bob@example.org")
        (message,) = self.postfix.await_messages(1)
        self.assertTrue(message.endswith(b"\n\n.It works.\n"), message)
        self.assertEqual(message.count(b"by relay.example.net "), 1, message)

    def test_tls_is_used_where_it_is_offered(self) -> None:
        self.send(self.relay(f"smtp://localhost:{self.postfix.starttls_port}"), "bob@example.org")
        (message,) = self.postfix.await_messages(1)
        self.assertIn(b"using TLS", message)

    def test_a_route_with_credentials_authenticates_over_verified_tls(self) -> None:
        user, password = quote(self.postfix.user), quote(self.postfix.password)
        target = f"smtp://{user}:{password}@localhost:{self.postfix.auth_port}"
        self.send(Relay.start(self, f"*={target}", SSL_CERT_FILE=str(self.postfix.ca_file)), "bob@example.org")
        self.postfix.await_messages(1)
        self.assertIn(f"sasl_username={self.postfix.user}", self.postfix.log)

    def test_a_recipient_that_postfix_refuses_comes_back_as_a_bounce(self) -> None:
        relay = self.relay(f"smtp://{self.postfix.host}:{self.postfix.port}")
        self.send(relay, "bob@elsewhere.example", sender="ann@example.org")
        (bounce,) = self.postfix.await_messages(1)
        self.assertTrue(bounce.startswith(b"Return-Path: <>\n"), bounce)
        for expected in (b"Final-Recipient: rfc822;", b"bob@elsewhere.example", b"Action: failed", b"5.7.1"):
            self.assertIn(expected, bounce)

    def test_swaks_delivers_through_the_relay(self) -> None:
        peers.require("swaks")
        swaks(self.relay(f"smtp://{self.postfix.host}:{self.postfix.port}"), "bob@example.org", "carol@example.org")
        messages = b"".join(self.postfix.await_messages(2))
        for recipient in (b"bob@example.org", b"carol@example.org"):
            self.assertIn(b"Delivered-To: " + recipient, messages)

    def relay(self, target: str) -> Relay:
        """A relay that sends everything to one target."""
        return Relay.start(self, f"*={target}")

    def send(self, relay: Relay, recipient: str, *, sender: str = "ann@example.net") -> None:
        """The three lines."""
        with smtplib.SMTP(relay.host, relay.port, timeout=20) as client:
            client.sendmail(sender, [recipient], CONTENT)


class RelayToMaildir(SynchronousTestCase):
    timeout = 60

    def test_swaks_puts_a_message_into_the_maildir(self) -> None:
        peers.require("swaks")
        relay = Relay.start(self, "*=maildir:var/mail")
        swaks(relay, "bob@example.org")
        new = relay.root / "var" / "mail" / "new"
        (message,) = peers.eventually("a message", lambda: [path.read_bytes() for path in new.glob("*")])
        self.assertIn(b"This is a test mailing", message)
