"""
The agent keeps its policy of TLS and credentials, and leaves nothing behind.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock

from pymail_tx.core.command import COMMANDS, Verb
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument, Misuse, OutOfOrder
from pymail_tx.core.outcome import Outcome, Report
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.connector import CONNECT_TIMEOUT_S
from pymail_tx.net.login import CREDENTIALS_PAUSE_S
from tests.net.certificates import Certificate, self_signed
from tests.net.loopback import HANG_UP, HOST, SILENCE, LoopbackTestCase, Script
from tests.peers import free_port

CONTENT = b"Subject: Hello\r\n\r\nIt works.\r\n"
LETTER = Envelope("ann@example.net", ["bob@example.org"])

IN_PLAIN_TEXT = "EHLO MAIL RCPT DATA . QUIT"
IN_TLS = "EHLO STARTTLS (TLS) EHLO MAIL RCPT DATA . QUIT"


class AgentTestCase(LoopbackTestCase):
    def agent(
        self, port: int, query: str = "", *, login: str = "", host: str = HOST, scheme: str = "smtp"
    ) -> SMTPAgent:
        """Its C{close} belongs to the test."""
        return SMTPAgent(
            self.reactor,
            f"{scheme}://{login}{host}:{port}{query}",
            hostname="client.example.net",
            trust_root=self.trust_root,
        )

    async def send(self, script: Script, query: str = "", *, login: str = "", scheme: str = "smtp") -> Outcome:
        """One message to a server of its own, and good-bye; what the server heard is in C{self.server}."""
        self.server, port = self.serve(script, implicit_tls=scheme == "smtps")
        self.port = port
        agent = self.agent(port, query, login=login, scheme=scheme)
        report = await agent.send(LETTER, CONTENT)
        await agent.close()
        (outcome,) = report.outcomes
        self.assertEqual((outcome.recipient, outcome.host, outcome.port), ("bob@example.org", HOST, port))
        self.assertFalse(outcome.uncertain)
        return outcome

    async def greeting_is_due(self) -> None:
        """The client is connected: its only deadline is the greeting's."""
        while self.clock.getDelayedCalls()[0].getTime() != COMMANDS[Verb.GREETING].timeout_s:
            await deferLater(IReactorTime(reactor), 0)

    def good(self) -> Certificate:
        """A certificate that verifies."""
        return self.authority.issue(HOST)

    def heard(self, *conversations: str) -> None:
        """The server heard these, connection by connection."""
        self.assertEqual(self.server.conversations, list(conversations))

    def is_delivered(self, outcome: Outcome) -> None:
        self.assertEqual(outcome.status.value, "delivered", outcome)

    def is_deferred(self, outcome: Outcome, *words: str) -> None:
        self.assertEqual(outcome.status.value, "deferred", outcome)
        self.assertTrue(outcome.reason.startswith(words[0]), outcome.reason)
        for word in words[1:]:
            self.assertIn(word, outcome.reason)


class WithoutTLS(AgentTestCase):
    async def test_none_speaks_plain_text_even_where_tls_is_offered(self) -> None:
        outcome = await self.send(Script(offers=["STARTTLS"], certificate=self.good()), "?tls=none")
        self.is_delivered(outcome)
        self.assertIsNone(outcome.tls)
        self.heard(IN_PLAIN_TEXT)


class Opportunistic(AgentTestCase):
    async def test_a_good_certificate_is_told(self) -> None:
        outcome = await self.send(Script(offers=["STARTTLS"], certificate=self.good()))
        self.is_delivered(outcome)
        assert outcome.tls
        self.assertEqual((outcome.tls.verified, outcome.tls.problem), (True, ""))
        self.assertTrue(outcome.tls.version.startswith("TLSv1."))
        self.heard(IN_TLS)

    async def test_a_bad_certificate_is_taken_and_told(self) -> None:
        outcome = await self.send(Script(offers=["STARTTLS"], certificate=self_signed(HOST)))
        self.is_delivered(outcome)
        assert outcome.tls
        self.assertFalse(outcome.tls.verified)
        self.assertEqual(outcome.tls.problem, f"certificate of {HOST}: depth zero self signed cert")
        self.heard(IN_TLS)

    async def test_starttls_not_offered_means_plain_text_on_the_same_connection(self) -> None:
        outcome = await self.send(Script())
        self.is_delivered(outcome)
        self.assertIsNone(outcome.tls)
        self.heard(IN_PLAIN_TEXT)

    async def test_starttls_refused_for_now_means_plain_text_on_a_fresh_connection(self) -> None:
        script = Script({"STARTTLS": b"454 4.7.0 TLS not available"}, offers=["STARTTLS"])
        self.is_delivered(await self.send(script))
        self.heard("EHLO STARTTLS QUIT", IN_PLAIN_TEXT)

    async def test_starttls_refused_for_good_means_plain_text_on_a_fresh_connection(self) -> None:
        script = Script({"STARTTLS": b"502 5.5.1 not implemented"}, offers=["STARTTLS"])
        self.is_delivered(await self.send(script))
        self.heard("EHLO STARTTLS QUIT", IN_PLAIN_TEXT)

    async def test_a_handshake_answered_in_plain_text_means_plain_text_on_a_fresh_connection(self) -> None:
        script = Script({"ClientHello": b"500 5.5.2 what?"}, offers=["STARTTLS"])
        self.is_delivered(await self.send(script))
        self.heard("EHLO STARTTLS ClientHello", IN_PLAIN_TEXT)

    async def test_a_connection_lost_in_the_handshake_means_plain_text_on_a_fresh_one(self) -> None:
        self.is_delivered(await self.send(Script({"ClientHello": HANG_UP}, offers=["STARTTLS"])))
        self.heard("EHLO STARTTLS ClientHello", IN_PLAIN_TEXT)

    async def test_a_connection_lost_instead_of_a_reply_to_starttls_means_plain_text_on_a_fresh_one(self) -> None:
        self.is_delivered(await self.send(Script({"STARTTLS": HANG_UP}, offers=["STARTTLS"])))
        self.heard("EHLO STARTTLS", IN_PLAIN_TEXT)

    async def test_a_server_that_wants_a_certificate_of_ours_gets_plain_text_on_a_fresh_connection(self) -> None:
        script = Script(offers=["STARTTLS"], certificate=self.good(), wants_certificate=True)
        self.is_delivered(await self.send(script))
        self.heard("EHLO STARTTLS", IN_PLAIN_TEXT)

    async def test_a_handshake_that_stalls_means_plain_text_after_30_s(self) -> None:
        server, port = self.serve(Script(offers=["STARTTLS"]))
        agent = self.agent(port)
        sending = agent.send(LETTER, CONTENT)
        await server.hears("ClientHello")
        self.clock.advance(29)
        self.assertEqual(len(server.sessions), 1)
        self.clock.advance(1)
        (outcome,) = (await sending).outcomes
        self.is_delivered(outcome)
        await agent.close()
        self.assertEqual(server.conversations, ["EHLO STARTTLS ClientHello", IN_PLAIN_TEXT])

    async def test_octets_behind_the_reply_to_starttls_are_an_attack_and_no_reason_for_plain_text(self) -> None:
        script = Script({"STARTTLS": b"220 go\r\n250 injected"}, offers=["STARTTLS"], certificate=self.good())
        self.is_deferred(await self.send(script), "4.5.0", "STARTTLS")
        self.heard("EHLO STARTTLS")

    async def test_a_refused_greeting_is_no_reason_to_ask_again_in_plain_text(self) -> None:
        outcome = await self.send(Script(greeting=b"554 5.7.1 go away", offers=["STARTTLS"]))
        self.is_deferred(outcome, "4.7.1", "554 5.7.1 go away")
        self.heard("QUIT")


class Required(AgentTestCase):
    async def test_any_certificate_will_do(self) -> None:
        script = Script(offers=["STARTTLS"], certificate=self_signed("elsewhere.example"))
        outcome = await self.send(script, "?tls=required")
        self.is_delivered(outcome)
        self.assertTrue(outcome.tls and not outcome.tls.verified)
        self.heard(IN_TLS)

    async def test_starttls_not_offered_defers(self) -> None:
        self.is_deferred(await self.send(Script(), "?tls=required"), "4.7.4 STARTTLS is not offered")
        self.heard("EHLO QUIT")

    async def test_starttls_refused_for_now_defers_with_the_servers_words(self) -> None:
        script = Script({"STARTTLS": b"454 4.7.0 TLS not available"}, offers=["STARTTLS"])
        outcome = await self.send(script, "?tls=required")
        self.is_deferred(outcome, "4.7.0 STARTTLS refused: 454 4.7.0 TLS not available")
        self.assertEqual(outcome.reply and outcome.reply.code, 454)
        self.heard("EHLO STARTTLS QUIT")

    async def test_starttls_refused_for_good_is_worth_another_try(self) -> None:
        script = Script({"STARTTLS": b"502 5.5.1 not implemented"}, offers=["STARTTLS"])
        self.is_deferred(await self.send(script, "?tls=required"), "4.5.1 STARTTLS refused: 502")
        self.heard("EHLO STARTTLS QUIT")

    async def test_a_broken_handshake_defers(self) -> None:
        script = Script({"ClientHello": b"500 5.5.2 what?"}, offers=["STARTTLS"])
        outcome = await self.send(script, "?tls=required")
        self.is_deferred(outcome, "4.7.5 TLS handshake: ")
        self.assertIsNone(outcome.tls)
        self.heard("EHLO STARTTLS ClientHello")

    async def test_a_server_that_knows_no_ehlo_is_not_asked_with_helo(self) -> None:
        self.is_deferred(await self.send(Script({"EHLO": b"502 what?"}), "?tls=required"), "4.3.2 EHLO refused: 502")
        self.heard("EHLO QUIT")


class Verified(AgentTestCase):
    async def test_a_good_certificate_delivers(self) -> None:
        outcome = await self.send(Script(offers=["STARTTLS"], certificate=self.good()), "?tls=verified")
        self.is_delivered(outcome)
        self.assertTrue(outcome.tls and outcome.tls.verified)
        self.heard(IN_TLS)

    async def test_a_bad_certificate_breaks_the_handshake_inside_it(self) -> None:
        script = Script(offers=["STARTTLS"], certificate=self.authority.issue("elsewhere.example"))
        outcome = await self.send(script, "?tls=verified")
        self.is_deferred(outcome, f"4.7.5 certificate is not for {HOST}")
        self.assertIsNone(outcome.tls)
        self.heard("EHLO STARTTLS")

    async def test_starttls_not_offered_defers(self) -> None:
        self.is_deferred(await self.send(Script(), "?tls=verified"), "4.7.4 STARTTLS is not offered")
        self.heard("EHLO QUIT")

    async def test_starttls_refused_for_now_defers(self) -> None:
        script = Script({"STARTTLS": b"454 no"}, offers=["STARTTLS"])
        self.is_deferred(await self.send(script, "?tls=verified"), "4.3.2 STARTTLS refused: 454 no")
        self.heard("EHLO STARTTLS QUIT")

    async def test_starttls_refused_for_good_defers(self) -> None:
        script = Script({"STARTTLS": b"554 5.7.3 no"}, offers=["STARTTLS"])
        self.is_deferred(await self.send(script, "?tls=verified"), "4.7.3 STARTTLS refused: 554 5.7.3 no")
        self.heard("EHLO STARTTLS QUIT")

    async def test_a_broken_handshake_defers(self) -> None:
        outcome = await self.send(Script({"ClientHello": HANG_UP}, offers=["STARTTLS"]), "?tls=verified")
        self.is_deferred(outcome, "4.7.5 TLS handshake: ")
        self.heard("EHLO STARTTLS ClientHello")

    async def test_a_server_that_hangs_up_behind_the_handshake_defers(self) -> None:
        script = Script(offers=["STARTTLS"], certificate=self.good(), wants_certificate=True)
        self.is_deferred(await self.send(script, "?tls=verified"), "4.7.5 STARTTLS: connection lost while saying EHLO")
        self.heard("EHLO STARTTLS")


class ImplicitTLS(AgentTestCase):
    async def test_a_good_certificate_delivers(self) -> None:
        outcome = await self.send(Script(certificate=self.good()), scheme="smtps")
        self.is_delivered(outcome)
        self.assertTrue(outcome.tls and outcome.tls.verified)
        self.heard("(TLS) EHLO MAIL RCPT DATA . QUIT")

    async def test_the_certificate_must_verify(self) -> None:
        outcome = await self.send(Script(certificate=self_signed(HOST)), scheme="smtps")
        self.is_deferred(outcome, f"4.7.5 certificate of {HOST}: depth zero self signed cert")
        self.heard("")

    async def test_required_takes_any_certificate(self) -> None:
        outcome = await self.send(Script(certificate=self_signed(HOST)), "?tls=required", scheme="smtps")
        self.is_delivered(outcome)
        self.heard("(TLS) EHLO MAIL RCPT DATA . QUIT")

    async def test_a_server_that_speaks_plain_text_defers(self) -> None:
        self.server, port = self.serve(Script())
        agent = self.agent(port, scheme="smtps")
        (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
        await agent.close()
        self.is_deferred(outcome, "4.7.5 TLS handshake: wrong version number")


LOGIN = "ann:tulip%20fever@"
RESPONSE = "AGFubgB0dWxpcCBmZXZlcg=="  # of PLAIN


class WithCredentials(AgentTestCase):
    def script(self, replies: dict[str, bytes | list[bytes]] | None = None, offers: str = "AUTH PLAIN LOGIN") -> Script:
        """A server that authenticates inside TLS."""
        return Script(replies or {}, offers=["STARTTLS"], offers_in_tls=[offers], certificate=self.good())

    async def test_they_are_sent_inside_tls_that_verified(self) -> None:
        self.is_delivered(await self.send(self.script(), login=LOGIN))
        self.heard("EHLO STARTTLS (TLS) EHLO AUTH MAIL RCPT DATA . QUIT")
        self.assertIn(f"AUTH PLAIN {RESPONSE}".encode(), self.server.lines)

    async def test_they_are_sent_over_smtps(self) -> None:
        self.is_delivered(await self.send(self.script(), login=LOGIN, scheme="smtps"))
        self.heard("(TLS) EHLO AUTH MAIL RCPT DATA . QUIT")

    async def test_a_certificate_that_does_not_verify_never_sees_them(self) -> None:
        script = self.script()
        script.certificate = self_signed(HOST)
        self.is_deferred(await self.send(script, login=LOGIN), "4.7.5 certificate of")
        self.heard("EHLO STARTTLS")

    async def test_plain_text_never_sees_them(self) -> None:
        self.is_deferred(await self.send(Script(offers=["AUTH PLAIN"]), login=LOGIN), "4.7.4 STARTTLS")
        self.heard("EHLO QUIT")

    async def test_auth_not_offered_defers_and_nothing_is_sent_unauthenticated(self) -> None:
        outcome = await self.send(self.script(offers="SIZE"), login=LOGIN)
        self.is_deferred(outcome, "4.7.4 AUTH is not offered")
        self.assertTrue(outcome.tls and outcome.tls.verified)
        self.heard("EHLO STARTTLS (TLS) EHLO QUIT")

    async def test_auth_offered_before_tls_only_is_not_offered(self) -> None:
        script = self.script(offers="SIZE")
        script.offers = ["STARTTLS", "AUTH PLAIN"]
        self.is_deferred(await self.send(script, login=LOGIN), "4.7.4 AUTH is not offered")

    async def test_a_refusal_defers_keeps_the_reply_and_tells_of_tls(self) -> None:
        outcome = await self.send(self.script({"AUTH": b"535 5.7.8 wrong"}), login=LOGIN)
        self.is_deferred(outcome, "4.7.8 AUTH refused: 535 5.7.8 wrong")
        self.assertEqual(outcome.reply and outcome.reply.code, 535)
        self.assertTrue(outcome.tls and outcome.tls.verified)
        self.heard("EHLO STARTTLS (TLS) EHLO AUTH QUIT")

    async def test_a_refusal_for_now_defers_and_the_next_message_tries_again(self) -> None:
        server, port = self.serve(self.script({"AUTH": b"454 4.7.0 later"}))
        agent = self.agent(port, login=LOGIN)
        for _ in range(2):
            (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
            self.is_deferred(outcome, "4.7.0 AUTH refused: 454 4.7.0 later")
        await agent.close()
        self.assertEqual(len(server.sessions), 2)

    async def test_refused_credentials_are_left_in_peace_for_5_minutes(self) -> None:
        server, port = self.serve(self.script({"AUTH": b"535 5.7.8 wrong"}))
        agent = self.agent(port, login=LOGIN)
        await agent.send(LETTER, CONTENT)
        self.clock.advance(CREDENTIALS_PAUSE_S - 1)
        (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
        self.is_deferred(outcome, "4.7.8 AUTH, last tried 299 s ago, refused: 535 5.7.8 wrong")
        self.assertEqual(outcome.reply and outcome.reply.code, 535)
        self.assertEqual(len(server.sessions), 1)
        self.clock.advance(1)
        server.script.replies.clear()
        (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
        self.is_delivered(outcome)
        await agent.close()

    async def test_a_refusal_stops_the_other_messages_that_were_about_to_try(self) -> None:
        server, port = self.serve(self.script({"AUTH": SILENCE}))
        agent = self.agent(port, login=LOGIN)
        first = agent.send(LETTER, CONTENT)
        await server.hears("AUTH")
        server.script.replies["EHLO"] = SILENCE
        second = agent.send(LETTER, CONTENT)
        await server.hears("EHLO", times=3)
        server.sessions[0].sendLine(b"535 5.7.8 wrong")
        await server.hears("QUIT")
        server.script.replies.clear()
        server.sessions[1].sendLine(b"250-mx\r\n250 STARTTLS")
        for report in (await first, await second):
            self.is_deferred(report.outcomes[0], "4.7.8 AUTH, last tried 0 s ago, refused")
        await agent.close()
        self.assertEqual(server.conversations[1], "EHLO STARTTLS (TLS) EHLO QUIT")

    async def test_another_servers_refusal_is_none_of_this_ones(self) -> None:
        await self.send(self.script({"AUTH": b"535 5.7.8 wrong"}), login=LOGIN)
        self.is_delivered(await self.send(self.script(), login=LOGIN))

    async def test_a_reason_never_holds_a_secret(self) -> None:
        for echo in (RESPONSE, "tulip fever", f'unrecognized command "AUTH PLAIN {RESPONSE}"'):
            for code in (b"535", b"500", b"454", b"421", b"what"):
                outcome = await self.send(self.script({"AUTH": code + b" " + echo.encode()}), login=LOGIN)
                self.is_deferred(outcome, "4.")
                for secret in (RESPONSE, "tulip", "fever"):
                    self.assertNotIn(secret, repr(outcome))

    async def test_an_agent_shows_no_password(self) -> None:
        with self.assertRaises(BadArgument) as caught:
            self.agent(25, "?tls=none", login=LOGIN)
        self.assertNotIn("tulip", str(caught.exception))


class Opening(AgentTestCase):
    async def test_a_greeting_refused_for_now_defers(self) -> None:
        self.is_deferred(await self.send(Script(greeting=b"421 4.3.2 busy")), "4.")
        self.heard("")

    async def test_a_greeting_refused_with_450_defers(self) -> None:
        outcome = await self.send(Script(greeting=b"450 4.7.1 not now"))
        self.is_deferred(outcome, "4.7.1 greeting refused: 450 4.7.1 not now")
        self.heard("QUIT")

    async def test_a_greeting_refused_for_good_defers(self) -> None:
        self.is_deferred(await self.send(Script(greeting=b"554 no")), "4.3.2 greeting refused: 554 no")
        self.heard("QUIT")

    async def test_a_server_that_takes_no_mail_fails(self) -> None:
        for code, enhanced in (("521", "5.3.2"), ("556", "5.1.10")):
            outcome = await self.send(Script(greeting=f"{code} no mail here".encode()))
            self.assertEqual(outcome.status.value, "failed")
            self.assertEqual(outcome.reason, f"{enhanced} greeting refused: {code} no mail here")

    async def test_a_server_that_knows_no_ehlo_gets_helo_once(self) -> None:
        for code in (b"500", b"502", b"504"):
            self.is_delivered(await self.send(Script({"EHLO": code + b" what?"})))
            self.heard("EHLO HELO MAIL RCPT DATA . QUIT")

    async def test_helo_refused_defers(self) -> None:
        outcome = await self.send(Script({"EHLO": b"502 what?", "HELO": b"502 what?"}))
        self.is_deferred(outcome, "4.3.2 EHLO refused: 502 what?")
        self.heard("EHLO HELO QUIT")

    async def test_550_to_ehlo_defers(self) -> None:
        outcome = await self.send(Script({"EHLO": b"550 5.7.1 not you"}))
        self.is_deferred(outcome, "4.7.1 EHLO refused: 550 5.7.1 not you")
        self.heard("EHLO QUIT")

    async def test_helo_will_not_do_for_an_address_that_needs_smtputf8(self) -> None:
        server, port = self.serve(Script({"EHLO": b"502 what?"}))
        agent = self.agent(port)
        (outcome,) = (await agent.send(Envelope("ann@example.net", ["böb@example.org"]), CONTENT)).outcomes
        await agent.close()
        self.is_deferred(outcome, "4.3.2 EHLO refused")
        self.assertEqual(server.conversations, ["EHLO QUIT"])

    async def test_helo_will_not_do_where_credentials_are_needed(self) -> None:
        script = Script({"EHLO": b"502 what?"}, certificate=self.good())
        self.is_deferred(await self.send(script, login=LOGIN, scheme="smtps"), "4.3.2 EHLO refused: 502")
        self.heard("(TLS) EHLO QUIT")

    async def test_a_server_that_is_not_smtp_defers(self) -> None:
        self.is_deferred(await self.send(Script(greeting=b"SSH-2.0-OpenSSH_9.2")), "4.5.0", "SSH-2.0-OpenSSH_9.2")

    async def test_a_greeting_that_does_not_come_defers_after_5_minutes(self) -> None:
        _, port = self.serve(Script(greeting=SILENCE))
        agent = self.agent(port)
        sending = agent.send(LETTER, CONTENT)
        await self.greeting_is_due()
        self.clock.advance(300)
        (outcome,) = (await sending).outcomes
        self.is_deferred(outcome, "4.4.2 300 s passed waiting for the greeting")
        await agent.close()


class Connecting(AgentTestCase):
    """Where no connection comes about."""

    def outcome_of(self, sending: Deferred[Report]) -> Outcome:
        """What came of a message without a turn of the reactor."""
        (outcome,) = self.successResultOf(sending).outcomes
        self.assertEqual((outcome.reply, outcome.tls, outcome.uncertain), (None, None, False))
        return outcome

    async def test_a_connection_refused_defers(self) -> None:
        agent = self.agent(free_port(), host="127.0.0.1")
        (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
        await agent.close()
        self.is_deferred(outcome, "4.4.1 no connection to 127.0.0.1 port ", "refused")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_answer_within_30_s_defers(self) -> None:
        reactor = MemoryReactorClock()
        agent = SMTPAgent(reactor, "smtp://192.0.2.25")
        sending = agent.send(LETTER, CONTENT)
        self.assertEqual(reactor.tcpClients[0][:2], ("192.0.2.25", 25))
        reactor.advance(CONNECT_TIMEOUT_S - 1)
        self.assertNoResult(sending)
        reactor.advance(1)
        self.is_deferred(self.outcome_of(sending), "4.4.1 no connection to 192.0.2.25 port 25: no answer within 30 s")
        self.assertEqual(reactor.getDelayedCalls(), [])
        self.successResultOf(agent.close())

    def test_an_unknown_host_defers(self) -> None:
        self.reactor.nameResolver.unknown.add("gone.example.org")
        sending = self.agent(25, host="gone.example.org").send(LETTER, CONTENT)
        self.is_deferred(self.outcome_of(sending), "4.4.1 no connection to gone.example.org port 25: ", "DNS lookup")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_resolver_that_never_answers_defers_after_30_s(self) -> None:
        self.reactor.nameResolver.unanswered.add("slow.example.org")
        sending = self.agent(25, host="slow.example.org").send(LETTER, CONTENT)
        self.clock.advance(CONNECT_TIMEOUT_S)
        self.is_deferred(self.outcome_of(sending), "4.4.1", "no answer within 30 s")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_names_that_only_containers_have_are_looked_up_as_they_are(self) -> None:
        for host in ("mail_server", "ab--c.example.org"):
            _, port = self.serve(Script())
            agent = self.agent(port, host=host)
            self.is_delivered((await agent.send(LETTER, CONTENT)).outcomes[0])
            await agent.close()

    def test_an_ipv6_address_is_connected_to_as_it_is(self) -> None:
        reactor = MemoryReactorClock()
        sending = SMTPAgent(reactor, "smtp://[2001:db8::25]").send(LETTER, CONTENT)
        self.assertEqual(reactor.tcpClients[0][:2], ("2001:db8::25", 25))
        sending.cancel()
        self.failureResultOf(sending, CancelledError)


class Cancelled(AgentTestCase):
    """Whatever the stage: CancelledError, no connection, no delayed call."""

    async def at(self, stage: str, script: Script, *, query: str = "", login: str = "") -> None:
        """Cancel when the server hears of a stage that it does not answer."""
        server, port = self.serve(script)
        agent = self.agent(port, query, login=login)
        sending = agent.send(LETTER, CONTENT)
        await server.hears(stage)
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        await server.is_left()
        await agent.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(server.sessions), 1)

    def test_while_the_name_is_looked_up(self) -> None:
        self.reactor.nameResolver.unanswered.add(HOST)
        agent = self.agent(25)
        sending = agent.send(LETTER, CONTENT)
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(agent.close())

    def test_while_connecting(self) -> None:
        reactor = MemoryReactorClock()
        agent = SMTPAgent(reactor, "smtp://192.0.2.25")
        sending = agent.send(LETTER, CONTENT)
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        self.assertTrue(reactor.connectors[0].stoppedConnecting)
        self.assertEqual(reactor.getDelayedCalls(), [])
        self.successResultOf(agent.close())

    async def test_while_waiting_for_the_greeting(self) -> None:
        _, port = self.serve(Script(greeting=SILENCE))
        agent = self.agent(port)
        sending = agent.send(LETTER, CONTENT)
        await self.greeting_is_due()
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        await agent.close()

    async def test_in_every_step_of_the_opening(self) -> None:
        for verb in ("EHLO", "STARTTLS"):
            await self.at(verb, Script({verb: SILENCE}, offers=["STARTTLS"]))

    async def test_in_the_handshake(self) -> None:
        await self.at("ClientHello", Script(offers=["STARTTLS"]))

    async def test_in_the_authentication(self) -> None:
        script = Script({"AUTH": SILENCE}, offers=["STARTTLS"], offers_in_tls=["AUTH PLAIN"], certificate=self.good())
        await self.at("AUTH", script, login=LOGIN)

    async def test_in_every_step_of_the_transaction(self) -> None:
        for verb in ("MAIL", "RCPT", "DATA", "."):
            await self.at(verb, Script({verb: SILENCE}))
            await self.at(verb, Script({verb: SILENCE}, offers=["PIPELINING"]))

    async def test_another_message_is_not_harmed(self) -> None:
        server, port = self.serve(Script({".": SILENCE}))
        agent = self.agent(port)
        first, second = agent.send(LETTER, CONTENT), agent.send(LETTER, CONTENT)
        await server.hears(".", times=2)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        for session in server.sessions:
            session.sendLine(b"250 2.0.0 queued")
        self.is_delivered((await second).outcomes[0])
        await agent.close()


class Closing(AgentTestCase):
    async def test_nothing_is_sent_after_it(self) -> None:
        agent = self.agent(25)
        await agent.close()
        with self.assertRaises(OutOfOrder) as caught:
            await agent.send(LETTER, CONTENT)
        self.assertIsInstance(caught.exception, ValueError)

    async def test_an_agent_that_did_nothing_is_closed_at_once_and_more_than_once(self) -> None:
        agent = self.agent(25)
        self.successResultOf(agent.close())
        self.successResultOf(agent.close())

    async def test_what_is_under_way_is_finished(self) -> None:
        server, port = self.serve(Script({".": SILENCE}))
        agent = self.agent(port)
        sending = agent.send(LETTER, CONTENT)
        await server.hears(".")
        closing = agent.close()
        self.assertNoResult(closing)
        server.sessions[0].sendLine(b"250 2.0.0 queued")
        self.is_delivered((await sending).outcomes[0])
        await closing
        self.assertEqual(server.conversations, [IN_PLAIN_TEXT])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_a_server_that_does_not_answer_quit_is_given_5_s(self) -> None:
        server, port = self.serve(Script({"QUIT": SILENCE}))
        agent = self.agent(port)
        self.is_delivered((await agent.send(LETTER, CONTENT)).outcomes[0])
        closing = agent.close()
        await server.hears("QUIT")
        self.clock.advance(4)
        self.assertNoResult(closing)
        self.clock.advance(1)
        await closing
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_a_server_that_does_not_finish_its_tls_closure_is_given_5_s(self) -> None:
        server, port = self.serve(Script(offers=["STARTTLS"], certificate=self.good(), deaf_behind="QUIT"))
        agent = self.agent(port)
        self.is_delivered((await agent.send(LETTER, CONTENT)).outcomes[0])
        closing = agent.close()
        await server.hears("QUIT")
        self.clock.advance(4)
        self.assertNoResult(closing)
        self.clock.advance(1)
        await closing
        self.assertEqual(self.clock.getDelayedCalls(), [])
        server.sessions[0].listen_again()

    async def test_a_server_that_hangs_up_instead_of_answering_quit_did_deliver(self) -> None:
        self.is_delivered(await self.send(Script({"QUIT": HANG_UP})))

    async def test_everybody_who_asks_is_told(self) -> None:
        _, port = self.serve(Script())
        agent = self.agent(port)
        sending = agent.send(LETTER, CONTENT)
        first, second = agent.close(), agent.close()
        self.is_delivered((await sending).outcomes[0])
        await first
        await second

    async def test_a_closing_that_is_cancelled_harms_no_other(self) -> None:
        _, port = self.serve(Script())
        agent = self.agent(port)
        sending = agent.send(LETTER, CONTENT)
        first, second = agent.close(), agent.close()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.is_delivered((await sending).outcomes[0])
        await second


class Making(AgentTestCase):
    def refuses(self, field: str, server: str, trust_root: str | None = None, hostname: str = "localhost") -> str:
        with self.assertRaises(Misuse) as caught:
            SMTPAgent(self.reactor, server, trust_root=trust_root, hostname=hostname)
        assert isinstance(caught.exception, BadArgument)
        self.assertEqual(caught.exception.field, field)
        return str(caught.exception)

    def test_a_server_that_is_none_is_refused(self) -> None:
        for server in ("example.org", "maildir:var/mail", "discard:"):
            self.refuses("server" if ":" in server else "target", server)

    def test_a_hostname_that_is_none_is_refused(self) -> None:
        self.refuses("hostname", "smtp://mx.example.org", hostname="a\r\nMAIL FROM:<>")

    def test_a_ca_file_that_is_none_is_refused_at_once(self) -> None:
        empty = self.mktemp()
        Path(empty).touch()
        self.assertIn("No such file", self.refuses("trust_root", "smtp://mx.example.org", trust_root="missing.pem"))
        self.assertIn("no certificate", self.refuses("trust_root", "smtp://mx.example.org", trust_root=empty))

    async def test_a_ca_file_that_went_away_leaves_no_session_behind(self) -> None:
        server, port = self.serve(Script(offers=["STARTTLS"]))
        agent = self.agent(port)
        Path(self.trust_root).unlink()
        with patch.dict(os.environ, {"SSL_CERT_FILE": "another, so that all is read again"}):
            report = await agent.send(LETTER, CONTENT)
        self.is_delivered(report.outcomes[0])  # opportunistic: what breaks TLS strands no mail
        await agent.close()
        self.assertEqual(server.conversations[0], "EHLO QUIT")
