"""
The blocking Session against a real Postfix.
"""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.client import ClientException, Session
from tests.peers.postfix import Postfix

CONTENT = b"Subject: Hello\r\n\r\n..It works.\r\n"


class SessionToPostfix(SynchronousTestCase):
    timeout = 60

    def setUp(self) -> None:
        self.postfix = Postfix.start(self)

    def test_a_plain_message_is_found_in_the_mailbox(self) -> None:
        session = self.session({25: self.postfix.port})
        self.send(session)
        self.assertEqual((session.host, session.port), ("localhost", 25))
        self.assertNotIn(b"using TLS", self.delivered())

    def test_a_message_over_starttls_is_found_in_the_mailbox(self) -> None:
        self.send(self.session({25: self.postfix.starttls_port}))
        self.assertIn(b"using TLS", self.delivered())

    def test_a_message_over_tls_is_found_in_the_mailbox(self) -> None:
        self.send(self.session({465: self.postfix.tls_port}))
        self.assertIn(b"using TLS", self.delivered())

    def test_a_message_with_auth_is_found_in_the_mailbox(self) -> None:
        self.send(self.authenticating(self.postfix.password))
        self.assertIn(b"using TLS", self.delivered())
        self.assertIn(f"sasl_username={self.postfix.user}", self.postfix.log)

    def test_a_wrong_password_raises_with_the_servers_reply(self) -> None:
        refused = self.assertRaises(ClientException, self.authenticating("wrong").start)
        self.assertEqual(refused.reply.code, 535)

    def test_credentials_are_not_sent_to_a_server_of_an_unknown_authority(self) -> None:
        session = self.session(
            {587: self.postfix.auth_port}, credentials=(self.postfix.user, self.postfix.password), trust_root=None
        )
        self.assertRaises(ClientException, session.start)
        self.assertNotIn("auth=", self.postfix.log)

    def test_a_recipient_that_postfix_refuses_raises_with_its_reply(self) -> None:
        session = self.session({25: self.postfix.port}, destination="bob@elsewhere.example")
        refused = self.assertRaises(ClientException, session.start)
        self.assertEqual(refused.reply.code, 554)
        session.close()

    def authenticating(self, password: str) -> Session:
        """A session with credentials, to the port that wants them."""
        return self.session(
            {587: self.postfix.auth_port},
            credentials=(self.postfix.user, password),
            trust_root=str(self.postfix.ca_file),
        )

    def session(
        self,
        ports: dict[int, int],
        *,
        destination: str = "bob@example.org",
        credentials: tuple[str | None, str | None] = (None, None),
        trust_root: str | None = None,
    ) -> Session:
        """
        @param ports: where Postfix listens for each of the ports that C{start} tries; nobody listens at the others.
        """

        def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
            if address[1] not in ports:
                raise ConnectionRefusedError(address)
            return socket.create_connection((address[0], ports[address[1]]), timeout_s)

        return Session(
            ["localhost"], "client.example.net", "a test", "ann@example.net", destination, credentials,
            trust_root=trust_root, connect=connect,
        )  # fmt: skip

    def send(self, session: Session) -> None:
        """The whole message, and good-bye."""
        session.start()
        session.startData()
        session.sendData(CONTENT)
        session.endData()
        session.close()

    def delivered(self) -> bytes:
        """The one message in the mailbox, which ends as it should."""
        (message,) = self.postfix.await_messages(1)
        self.assertTrue(message.endswith(b"\n\n.It works.\n"), message)
        return message
