"""
What a server announces is heeded, and what the sender asks for is said.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.net.agent import SMTPAgent
from tests.net.memory import TARGET, Network
from tests.net.model_receiver import ModelReceiver
from tests.net.scripted import ScriptedCase, outcomes

DELIVERED = ("delivered", "2.0.0")

CONTENT = b"Subject: Hello\r\n\r\nIt works.\r\n"


class Limits(SynchronousTestCase):
    """RFC 9422."""

    def of(self, limits: bytes, *messages: Envelope) -> list[list[int]]:
        """
        Everybody gets their message, once.

        @return: for each session, the recipients of each transaction.
        """
        network = Network(ModelReceiver({}, (b"PIPELINING", b"LIMITS " + limits)))
        agent = SMTPAgent(network.reactor, TARGET, max_connections=1)
        sent = [agent.send(message, CONTENT) for message in messages]
        closing = agent.close()
        network.run()
        self.successResultOf(closing)
        for message, one in zip(messages, sent, strict=True):
            self.assertEqual(outcomes(self.successResultOf(one)), [DELIVERED] * len(message.recipients))
        self.assertEqual(len(network.receiver.stored), sum(len(message.recipients) for message in messages))
        verbs = ["".join(f"{verb} " for verb in session.verbs) for session in network.receiver.sessions]
        return [[part.count("RCPT") for part in session.split("MAIL")[1:]] for session in verbs]

    def test_no_more_recipients_than_it_takes_are_named_in_a_transaction(self) -> None:
        everybody = Envelope("joe@example.org", [f"r{number}@example.com" for number in range(5)])
        self.assertEqual(self.of(b"RCPTMAX=2", everybody), [[2, 2, 1]])

    def test_no_more_transactions_than_it_takes_are_begun_in_a_session(self) -> None:
        letter = Envelope("joe@example.org", ["ann@example.com"])
        self.assertEqual(self.of(b"MAILMAX=2", *[letter] * 5), [[1, 1], [1, 1], [1]])

    def test_a_further_domain_is_named_in_a_further_session(self) -> None:
        everybody = Envelope("joe@example.org", ["ann@example.com", "bob@example.net", "cat@example.com"])
        self.assertEqual(self.of(b"RCPTDOMAINMAX=1", everybody), [[2], [1]])


class Wishes(ScriptedCase):
    def test_each_recipient_has_the_notifications_that_are_asked_for(self) -> None:
        server = self.server("PIPELINING", "DSN")
        ann = Recipient("ann@example.com", notify=["SUCCESS", "DELAY"], orcpt="friends@example.com")
        bob = Recipient("bob@example.com", notify="NEVER")
        sent = server.client.send(
            Envelope("joe@example.org", [ann, bob, "cat@example.com"], ret="HDRS", envid="a+b"), CONTENT
        )
        server.expects(
            "MAIL FROM:<joe@example.org> RET=HDRS ENVID=a+2Bb",
            "RCPT TO:<ann@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;friends@example.com",
            "RCPT TO:<bob@example.com> NOTIFY=NEVER",
            "RCPT TO:<cat@example.com>",
            "DATA",
        )
        server.client.abort()
        self.assertEqual(outcomes(self.successResultOf(sent)), [("deferred", "4.4.2")] * 3)

    def test_requiretls_is_not_asked_for_in_plain_text_and_nothing_is_sent(self) -> None:
        server = self.server("PIPELINING", "REQUIRETLS")
        sent = server.client.send(Envelope("joe@example.org", ["ann@example.com"], requiretls=True), CONTENT)
        server.expects()
        self.assertEqual(outcomes(self.successResultOf(sent)), [("failed", "5.7.30")])
