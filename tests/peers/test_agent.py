"""
The asynchronous agent against a real Postfix.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.mechanisms import BearerToken, Identity
from pymail_tx.core.outcome import Outcome, Report
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.secret import Secret
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.login import TokenSource
from tests.peers.deliveries import MESSAGES, REFUSED_EVERY, DeliveryCase
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


class ManyToPostfix(DeliveryCase):
    async def test_fifty_in_a_burst_by_bdat_are_found_as_they_were_sent(self) -> None:
        postfix = Postfix.start(self)
        await self.fifty_are_delivered(self.agent(f"smtp://127.0.0.1:{postfix.port}"), postfix)
        with_two = MESSAGES // REFUSED_EVERY  # recipients, and so with an empty last chunk
        self.assertEqual((self.said("DATA"), self.said("BDAT")), (0, MESSAGES + with_two))


class Mechanisms(TestCase):
    """What Dovecot knows, one at a time."""

    timeout = 60

    async def test_passwords(self) -> None:
        for mechanism in ("scram-sha-256", "scram-sha-1", "plain", "login", "cram-md5"):
            await self.taken(mechanism, lambda postfix: Credentials(postfix.user, Secret(postfix.password)))
            await self.refused(mechanism, lambda postfix: Credentials(postfix.user, Secret("wrong")))

    async def test_of_all_of_them_the_strongest(self) -> None:
        log = await self.taken(
            "plain login cram-md5 scram-sha-1 scram-sha-256",
            lambda postfix: Credentials(postfix.user, Secret(postfix.password)),
        )
        self.assertIn("sasl_method=SCRAM-SHA-256,", log)

    async def test_tokens(self) -> None:
        for mechanism in ("xoauth2", "oauthbearer"):
            await self.taken(mechanism, lambda postfix: BearerToken(postfix.user, Secret(postfix.token())))
            await self.refused(mechanism, lambda postfix: BearerToken(postfix.user, Secret("wrong")))

    async def test_an_expired_token_is_replaced(self) -> None:
        def source(postfix: Postfix) -> TokenSource:
            tokens = iter([postfix.token(valid_s=-60), postfix.token()])
            return TokenSource(postfix.user, lambda: next(tokens))

        for mechanism in ("xoauth2", "oauthbearer"):
            await self.taken(mechanism, source)

    async def taken(self, mechanisms: str, credentials: Callable[[Postfix], Identity | TokenSource]) -> str:
        """A message is; what Postfix logged."""
        postfix, outcome = await self.sent(mechanisms, credentials)
        self.assertEqual(outcome.status.value, "delivered", outcome)
        self.assertIn(f"sasl_username={postfix.user}", postfix.log)
        if " " not in mechanisms:
            self.assertIn(f"sasl_method={mechanisms.upper()},", postfix.log)
        return postfix.log

    async def refused(self, mechanism: str, credentials: Callable[[Postfix], Identity]) -> None:
        _, outcome = await self.sent(mechanism, credentials)
        self.assertEqual((outcome.status.value, outcome.reason[:10]), ("deferred", "4.7.8 AUTH"), outcome)

    async def sent(
        self, mechanisms: str, credentials: Callable[[Postfix], Identity | TokenSource]
    ) -> tuple[Postfix, Outcome]:
        postfix = Postfix.start(self, mechanisms=mechanisms)
        server = f"smtp://localhost:{postfix.auth_port}"
        agent = SMTPAgent(reactor, server, trust_root=str(postfix.ca_file), credentials=credentials(postfix))
        (outcome,) = (await agent.send(Envelope("ann@example.net", ["bob@example.org"]), CONTENT)).outcomes
        await agent.close()
        return postfix, outcome
