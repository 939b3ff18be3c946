"""
The asynchronous agent against a real Postfix.
"""

from __future__ import annotations

from urllib.parse import quote

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from tests.peers.postfix import Postfix

CONTENT = b"Subject: Hello\r\n\r\n.It works.\r\n"


class AgentToPostfix(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.postfix = Postfix.start(self)

    async def test_each_recipient_gets_its_own_outcome(self) -> None:
        report = await self.send(f"smtp://127.0.0.1:{self.postfix.port}", "bob@example.org", "eve@elsewhere.example")
        taken, refused = report.outcomes
        self.assertEqual((taken.recipient, taken.status.value), ("bob@example.org", "delivered"))
        self.assertEqual((refused.recipient, refused.status.value), ("eve@elsewhere.example", "failed"))
        self.assertEqual(refused.reply.code if refused.reply else None, 554)
        (message,) = self.postfix.await_messages(1)
        self.assertTrue(message.endswith(b"\n\n.It works.\n"), message)

    async def test_tls_is_used_where_it_is_offered(self) -> None:
        report = await self.send(f"smtp://localhost:{self.postfix.starttls_port}", "bob@example.org")
        (outcome,) = report.outcomes
        self.assertIsNotNone(outcome.tls)
        self.assertIn(b"using TLS", self.postfix.await_messages(1)[0])

    async def test_smtps_delivers_over_a_certificate_that_verifies(self) -> None:
        report = await self.send(f"smtps://localhost:{self.postfix.tls_port}", "bob@example.org")
        (outcome,) = report.outcomes
        self.assertTrue(outcome.tls and outcome.tls.verified, outcome)
        self.postfix.await_messages(1)

    async def test_credentials_are_used_over_verified_starttls(self) -> None:
        await self.send(self.authenticating(self.postfix.password), "bob@example.org")
        self.postfix.await_messages(1)
        self.assertIn(f"sasl_username={self.postfix.user}", self.postfix.log)

    async def test_a_wrong_password_defers(self) -> None:
        report = await self.send(self.authenticating("wrong"), "bob@example.org")
        (outcome,) = report.outcomes
        self.assertEqual((outcome.status.value, outcome.reason[:5]), ("deferred", "4.7.8"))
        self.assertEqual(outcome.reply.code if outcome.reply else None, 535)

    def authenticating(self, password: str) -> str:
        """The target that wants credentials."""
        return f"smtp://{quote(self.postfix.user)}:{quote(password)}@localhost:{self.postfix.auth_port}"

    async def send(self, server: str, *recipients: str) -> Report:
        """Send one message, and close the agent."""
        agent = SMTPAgent(reactor, server, hostname="client.example.net", trust_root=str(self.postfix.ca_file))
        try:
            return await agent.send(Envelope("ann@example.net", recipients), CONTENT)
        finally:
            await agent.close()
