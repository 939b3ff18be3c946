"""
What a server announces is heeded, and what the sender asks for is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope, Recipient
from pymail_tx.core.outcome import Outcome
from pymail_tx.net.agent import SMTPAgent
from tests.net.certificates import Certificate, self_signed
from tests.net.loopback import HOST, Script
from tests.net.memory import TARGET, Network
from tests.net.model_receiver import Fate, ModelReceiver
from tests.net.scripted import ScriptedCase, ehlo_lines, outcomes
from tests.net.scripted_agent import AgentCase
from tests.net.test_agent import AgentTestCase

DELIVERED = ("delivered", "2.0.0")

CONTENT = b"Subject: Hello\r\n\r\nIt works.\r\n"


class Limits(SynchronousTestCase):
    """RFC 9422."""

    def of(self, limits: bytes, *messages: Envelope, max_connections: int = 1) -> list[list[int]]:
        """
        Everybody gets their message, once, however the content goes.

        @return: for each session, the recipients of each transaction.
        """
        found = [self.with_offers(offers, limits, messages, max_connections) for offers in self.OFFERS]
        self.assertEqual(found[1:], found[:1] * (len(found) - 1))
        return found[0]

    OFFERS = ((b"PIPELINING",), (b"SIZE",), (b"PIPELINING", b"CHUNKING"))

    def with_offers(
        self, offers: tuple[bytes, ...], limits: bytes, messages: tuple[Envelope, ...], max_connections: int
    ) -> list[list[int]]:
        network = Network(ModelReceiver({}, (*offers, b"LIMITS " + limits)))
        agent = SMTPAgent(network.reactor, TARGET, max_connections=max_connections)
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

    def test_the_rest_of_a_split_message_goes_over_further_sessions(self) -> None:
        everybody = Envelope("joe@example.org", [f"r{number}@example.com" for number in range(5)])
        self.assertEqual(self.of(b"RCPTMAX=2 MAILMAX=1", everybody), [[2], [2], [1]])
        self.assertEqual(self.of(b"RCPTMAX=1 MAILMAX=3", everybody), [[1, 1, 1], [1, 1]])

    def test_what_waits_behind_a_split_message_waits_for_its_rest(self) -> None:
        several = Envelope("joe@example.org", [f"r{number}@example.com" for number in range(3)])
        one = Envelope("ann@example.org", ["bob@example.com"])
        found = self.of(b"RCPTMAX=2 MAILMAX=1", several, one)
        self.assertEqual(sorted(sum(session) for session in found), [1, 1, 2])

    def test_domains_are_counted_over_all_messages_of_a_session(self) -> None:
        letters = [Envelope("joe@example.org", [f"ann@{name}.example"]) for name in ("a", "b", "a", "b", "c")]
        self.assertEqual(sum(map(len, self.of(b"RCPTDOMAINMAX=2", *letters))), 5)
        self.assertEqual(self.of(b"RCPTDOMAINMAX=2", *letters), [[1, 1, 1, 1], [1]])

    def test_several_connections_have_each_their_own_count(self) -> None:
        letters = [Envelope("joe@example.org", ["ann@example.com"])] * 7
        found = self.of(b"MAILMAX=2", *letters, max_connections=2)
        self.assertEqual(sum(map(len, found)), 7)
        self.assertLessEqual(max(map(len, found)), 2)

    def test_refused_transactions_count_as_well(self) -> None:
        fates = {b"m%d@example.org" % number: Fate(rcpt=(550,)) for number in range(3)}
        network = Network(ModelReceiver(fates, (b"PIPELINING", b"LIMITS MAILMAX=2")))
        agent = SMTPAgent(network.reactor, TARGET, max_connections=1)
        sent = [agent.send(Envelope(f"m{number}@example.org", ["ann@example.com"]), CONTENT) for number in range(3)]
        closing = agent.close()
        network.run()
        self.successResultOf(closing)
        self.assertEqual([outcomes(self.successResultOf(one)) for one in sent], [[("failed", "5.0.0")]] * 3)
        self.assertEqual([session.verbs.count("MAIL") for session in network.receiver.sessions], [2, 1])


class CancelledRest(AgentCase):
    """Of a message that goes in several transactions, cancelled when it is too late for the first."""

    def test_it_is_not_sent_in_chunks(self) -> None:
        self.begins("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=1")
        self.peer.wrote()
        self.split.cancel()
        self.peer.says(*["250 ok"] * 7, *ehlo_lines("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=1"))
        self.peer.expects()

    def test_it_is_not_sent_by_data(self) -> None:
        self.begins("PIPELINING", "LIMITS RCPTMAX=1")
        self.peer.says("250 ok", "250 ok", "354 go ahead")
        self.split.cancel()
        self.peer.wrote()
        self.peer.says("250 queued", "250 reset", "250 ok", "250 ok", "354 go ahead")
        self.assertEqual(self.peer.wrote(), CONTENT + b".\r\nEHLO me.example\r\n")
        self.peer.says("250 queued", *ehlo_lines("PIPELINING"))
        self.peer.expects()

    def test_nor_if_the_message_behind_it_is_being_sent(self) -> None:
        long = b"Subject: x\r\n\r\n" + (b"y" * 62 + b"\r\n") * 3_000
        self.begins("PIPELINING", "LIMITS RCPTMAX=1", behind=long)
        self.peer.says("250 ok", "250 ok", "354 go ahead")
        self.peer.wire.window = 1
        self.peer.says("250 queued", "250 reset", "250 ok", "250 ok", "354 go ahead")
        self.split.cancel()
        self.peer.wrote()
        self.peer.wire.widen(1_000_000)
        self.assertTrue(self.peer.wrote().endswith(b"\r\n.\r\nEHLO me.example\r\n"))
        self.peer.says("250 queued", *ehlo_lines("PIPELINING"))
        self.peer.expects()

    def begins(self, *offers: str, behind: bytes = CONTENT) -> None:
        """The message, and another one behind it."""
        self.has()
        self.split = self.sends("ann@example.com", "bob@example.com", content=CONTENT)
        self.behind = self.sends("cat@example.com", content=behind)
        self.peer = self.connected(*offers)

    def tearDown(self) -> None:
        self.fails_with(CancelledError, self.split)
        self.assertEqual(self.found(self.behind), [DELIVERED])


class LimitsOfOneSession(ScriptedCase):
    """A client without an agent has no other session."""

    def test_whoever_is_left_is_deferred(self) -> None:
        server = self.server("PIPELINING", "LIMITS RCPTMAX=1 MAILMAX=1")
        sent = server.client.send(Envelope("joe@example.org", ["ann@example.com", "bob@example.com"]), CONTENT)
        server.says("250 ok", "250 ok", "354 go ahead")
        server.wrote()
        server.says("250 2.0.0 queued")
        server.expects()
        self.assertEqual(outcomes(self.successResultOf(sent)), [DELIVERED, ("deferred", "4.5.3")])

    def test_so_is_another_domain(self) -> None:
        server = self.server("PIPELINING", "LIMITS RCPTDOMAINMAX=1")
        sent = server.client.send(Envelope("joe@example.org", ["ann@example.com", "bob@example.net"]), CONTENT)
        server.says("250 ok", "250 ok", "354 go ahead")
        server.says("250 2.0.0 queued")
        self.assertEqual(outcomes(self.successResultOf(sent)), [DELIVERED, ("deferred", "4.5.3")])


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


class RequireTLS(AgentTestCase):
    """RFC 8689, over TLS that is real."""

    LETTER = Envelope("ann@example.net", ["bob@example.org"], requiretls=True)

    async def sent(self, query: str = "", *, offers_in_tls: Sequence[str] = (), certificate: Certificate) -> Outcome:
        script = Script(offers=["STARTTLS"], offers_in_tls=offers_in_tls, certificate=certificate)
        self.server, port = self.serve(script)
        agent = self.agent(port, query)
        [outcome] = (await agent.send(self.LETTER, CONTENT)).outcomes
        await agent.close()
        return outcome

    async def test_it_is_asked_for_where_it_is_offered_and_the_certificate_verified(self) -> None:
        self.is_delivered(await self.sent(offers_in_tls=["REQUIRETLS"], certificate=self.good()))
        self.assertIn(b"MAIL FROM:<ann@example.net> REQUIRETLS", self.server.lines)

    async def test_where_it_is_not_offered_the_message_fails(self) -> None:
        self.failed(await self.sent(certificate=self.good()))

    async def test_where_the_certificate_did_not_verify_the_message_fails(self) -> None:
        for query in ("", "?tls=required"):
            self.failed(await self.sent(query, offers_in_tls=["REQUIRETLS"], certificate=self_signed(HOST)))

    def failed(self, outcome: Outcome) -> None:
        self.assertEqual((outcome.status.value, outcome.reason[:6]), ("failed", "5.7.30"), outcome)
        self.assertEqual([line for line in self.server.lines if line.startswith(b"MAIL")], [])


class Notifications(AgentCase):
    """RFC 3461, through an agent."""

    def test_what_is_asked_for_is_said_where_dsn_is_offered_and_left_out_elsewhere(self) -> None:
        ann = Recipient("ann@example.com", notify=["SUCCESS", "FAILURE"], orcpt="ännchen@example.com")
        letter = Envelope("joe@example.org", [ann], ret="FULL", envid="x y")
        mail, rcpt = "MAIL FROM:<joe@example.org>", "RCPT TO:<ann@example.com>"
        orcpt = r"ORCPT=utf-8;\x{E4}nnchen@example.com"
        for offers, lines in (
            (("PIPELINING", "DSN"), (f"{mail} RET=FULL ENVID=x+20y", f"{rcpt} NOTIFY=SUCCESS,FAILURE {orcpt}", "DATA")),
            (("PIPELINING",), (mail, rcpt, "DATA")),
        ):
            self.setUp()
            self.has()
            sent = self.sends(letter=letter)
            server = self.connected(*offers)
            server.expects(*lines)
            server.says("250 ok", "250 ok", "354 go ahead")
            server.says("250 2.0.0 queued")
            self.assertEqual(self.found(sent), [DELIVERED])
