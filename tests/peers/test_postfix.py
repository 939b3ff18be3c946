"""
Our mail, taken by a real Postfix: plain, with STARTTLS, with TLS, with AUTH.
"""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import peers
from tests.peers.postfix import Postfix

CONTENT = b"Subject: Hello\r\n\r\n.It works.\r\n"


class TheFixture(SynchronousTestCase):
    """That the servers are what the other tests take them for, by Python's own client."""

    timeout = 60

    def setUp(self) -> None:
        self.postfix = Postfix.start(self)

    def test_a_plain_message_is_found_in_the_mailbox(self) -> None:
        with smtplib.SMTP(self.postfix.host, self.postfix.port, timeout=20) as client:
            client.sendmail("ann@example.net", ["bob@example.org"], CONTENT)
            self.assertFalse(client.has_extn("starttls"))
        (message,) = self.postfix.await_messages(1)
        self.assertIn(b"Delivered-To: bob@example.org\n", message)
        self.assertTrue(message.endswith(b"\n\n.It works.\n"))

    def test_a_message_over_starttls_is_found_in_the_mailbox(self) -> None:
        with smtplib.SMTP("localhost", self.postfix.starttls_port, timeout=20) as client:
            client.starttls(context=self.trust())
            client.sendmail("ann@example.net", ["bob@example.org"], CONTENT)
        self.assertEqual(len(self.postfix.await_messages(1)), 1)

    def test_a_message_over_tls_is_found_in_the_mailbox(self) -> None:
        with smtplib.SMTP_SSL("localhost", self.postfix.tls_port, timeout=20, context=self.trust()) as client:
            client.sendmail("ann@example.net", ["bob@example.org"], CONTENT)
        self.assertEqual(len(self.postfix.await_messages(1)), 1)

    def test_a_message_with_auth_is_found_in_the_mailbox(self) -> None:
        with self.authenticating() as client:
            client.login(self.postfix.user, self.postfix.password)
            client.sendmail("ann@example.net", ["bob@example.org"], CONTENT)
        self.assertEqual(len(self.postfix.await_messages(1)), 1)

    def test_a_wrong_password_is_refused(self) -> None:
        with self.authenticating() as client:
            self.assertRaises(smtplib.SMTPAuthenticationError, client.login, self.postfix.user, "wrong")

    def test_without_auth_no_recipient_is_taken_where_auth_is_due(self) -> None:
        with self.authenticating() as client:
            arguments = ("ann@example.net", ["bob@example.org"], CONTENT)
            self.assertRaises(smtplib.SMTPRecipientsRefused, client.sendmail, *arguments)

    def test_a_message_for_held_example_is_found_in_the_queue(self) -> None:
        with smtplib.SMTP(self.postfix.host, self.postfix.port, timeout=20) as client:
            client.sendmail("ann@example.net", ["bob@held.example"], CONTENT)
        (queued,) = self.postfix.await_queue(1)
        self.assertEqual((queued["queue_name"], queued["sender"]), ("hold", "ann@example.net"))
        self.assertEqual([one["address"] for one in queued["recipients"]], ["bob@held.example"])

    def test_any_other_domain_is_refused(self) -> None:
        with smtplib.SMTP(self.postfix.host, self.postfix.port, timeout=20) as client:
            arguments = ("ann@example.net", ["bob@elsewhere.example"], CONTENT)
            self.assertRaises(smtplib.SMTPRecipientsRefused, client.sendmail, *arguments)

    def test_stopped_it_leaves_no_process_and_no_file(self) -> None:
        self.postfix.stop()
        self.assertFalse(self.postfix.root.exists())
        self.assertFalse(peers.is_listening(self.postfix.port))
        left = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        self.assertEqual([line for line in left if bytes(self.postfix.root) in line], [])

    def authenticating(self) -> smtplib.SMTP:
        """A client at the port that wants AUTH, under TLS."""
        client = smtplib.SMTP("localhost", self.postfix.auth_port, timeout=20)
        client.starttls(context=self.trust())
        return client

    def trust(self) -> ssl.SSLContext:
        """A context that trusts the fixture's authority and no other."""
        return ssl.create_default_context(cafile=str(self.postfix.ca_file))
