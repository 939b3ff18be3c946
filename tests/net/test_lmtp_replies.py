"""
LMTP (RFC 2033): what each reply means, and what a Unix socket changes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorUNIX
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import TestCase

from pymail_tx.core.content import BLOCK_OCTETS
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from tests.net.scripted import ehlo_lines, envelope, outcomes
from tests.net.scripted_agent import ANN, BOB, CAT, HELLO, AgentCase

LMTP = "lmtp://192.0.2.25:24?tls=none"
LONG = b"Subject: Hello\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 8_000


class LMTPCase(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.has(LMTP)

    def asked(self, *recipients: str, content: bytes = HELLO) -> Deferred[Report]:
        """A message that the server takes up to its 354; its content is sent, and nothing behind it."""
        sent = self.sends(*recipients, content=content)
        self.peer = self.connected("PIPELINING")
        self.peer.wrote()
        self.peer.says("250 ok", *["250 ok"] * len(recipients), "354 go ahead")
        return sent


class Greeting(LMTPCase):
    def test_lhlo_is_said(self) -> None:
        self.sends()
        self.connected("PIPELINING").expects("MAIL FROM:<joe@example.org>", f"RCPT TO:<{ANN}>", "DATA")

    def test_helo_never_is(self) -> None:
        for refusal in ("500 5.5.1 what?", "502 5.5.1 no", "504 5.5.1 no"):
            self.setUp()
            sent = self.sends()
            server = self.greeted()
            server.says(refusal)
            server.expects("QUIT")
            server.says("221 bye")
            self.assertEqual([status for status, _ in self.found(sent)], ["deferred"])

    def test_chunks_are_not_used(self) -> None:
        self.sends()
        self.connected("PIPELINING", "CHUNKING").expects("MAIL FROM:<joe@example.org>", f"RCPT TO:<{ANN}>", "DATA")


class EndOfData(LMTPCase):
    def test_each_accepted_recipient_has_a_reply_of_its_own(self) -> None:
        sent = self.asked(ANN, BOB, CAT)
        self.assertEqual(self.peer.wrote(), HELLO + b".\r\n")
        self.peer.says("250 2.1.5 ann", "452 4.2.2 bob is full", "550 5.7.1 cat does not want it")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("deferred", "4.2.2"), ("failed", "5.7.1")])

    def test_a_refused_recipient_has_none(self) -> None:
        sent = self.sends(ANN, BOB, CAT)
        server = self.connected("PIPELINING")
        server.says("250 ok", "250 ok", "550 5.1.1 no bob", "250 ok", "354 go ahead")
        server.says("250 2.1.5 ann", "550 5.7.1 cat")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("failed", "5.1.1"), ("failed", "5.7.1")])

    def test_a_recipient_named_twice_has_two(self) -> None:
        sent = self.asked(ANN, ANN)
        self.peer.says("250 2.1.5 once", "450 4.2.0 not twice")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("deferred", "4.2.0")])

    def test_the_report_waits_for_all_of_them(self) -> None:
        sent = self.asked(ANN, BOB)
        self.peer.says("250 2.1.5 ann")
        self.assertNoResult(sent)
        self.peer.says("250 2.1.5 bob")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5")] * 2)

    def test_one_more_than_recipients_is_a_reply_that_nobody_asked_for(self) -> None:
        sent = self.asked(ANN, BOB)
        self.peer.says("250 2.1.5 ann", "250 2.1.5 bob", "250 2.1.5 who?")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5")] * 2)
        self.assertTrue(self.peer.is_closed)

    def test_each_has_ten_minutes(self) -> None:
        sent = self.asked(ANN, BOB)
        self.peer.passes(599)
        self.peer.says("250 2.1.5 ann")
        self.peer.passes(599)
        self.assertNoResult(sent)
        self.peer.passes(1)
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("deferred?", "4.4.2")])

    def test_lost_in_the_middle_given_verdicts_stand_and_the_rest_is_uncertain(self) -> None:
        for replies, found in (
            ([], [("deferred?", "4.4.2")] * 3),
            (["550 5.7.1 no"], [("failed", "5.7.1"), ("deferred?", "4.4.2"), ("deferred?", "4.4.2")]),
            (["250 2.1.5 ann", "550 5.7.1 no"], [("delivered", "2.1.5"), ("failed", "5.7.1"), ("deferred?", "4.4.2")]),
        ):
            self.setUp()
            sent = self.asked(ANN, BOB, CAT)
            self.peer.says(*replies)
            self.peer.loses_connection()
            self.assertEqual(self.found(sent), found)

    def test_421_in_the_middle_is_that_recipients_verdict_and_leaves_the_rest_uncertain(self) -> None:
        sent = self.asked(ANN, BOB, CAT)
        self.peer.says("250 2.1.5 ann", "421 4.3.2 good night")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("deferred", "4.3.2"), ("deferred?", "4.4.2")])

    def test_content_over_a_block_ends_with_a_reply_for_each_as_well(self) -> None:
        sent = self.asked(ANN, BOB, content=LONG)
        self.assertEqual(self.peer.wrote(), LONG + b".\r\n")
        self.peer.says("250 2.1.5 ann", "550 5.7.1 no")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("failed", "5.7.1")])

    def test_a_refusal_while_content_flows_is_for_all_who_were_accepted(self) -> None:
        for refusal, verdict in (("552 5.3.4 too big", ("failed", "5.3.4")), ("451 4.3.0 no", ("deferred", "4.3.0"))):
            self.setUp()
            sent = self.sends(ANN, BOB, CAT, content=LONG)
            server = self.connected("PIPELINING")
            server.wire.window = 1
            server.says("250 ok", "250 ok", "550 5.1.1 no bob", "250 ok", "354 go ahead")
            server.wire.widen(BLOCK_OCTETS)
            server.says(refusal)
            self.assertEqual(self.found(sent), [verdict, ("failed", "5.1.1"), verdict])
            self.assertTrue(server.is_closed)

    def test_354_with_nobody_accepted_closes(self) -> None:
        sent = self.sends(ANN, BOB)
        server = self.connected("PIPELINING")
        server.wrote()
        server.says("250 ok", "550 5.1.1 no", "450 4.2.0 later", "354 go ahead")
        server.expects()
        self.assertTrue(server.is_closed)
        self.assertEqual(self.found(sent), [("failed", "5.1.1"), ("deferred", "4.2.0")])

    def test_503_with_nobody_accepted_does_not(self) -> None:
        sent = self.sends(ANN)
        server = self.connected("PIPELINING")
        server.wrote()
        server.says("250 ok", "550 5.1.1 no", "503 5.5.1 no valid recipients")
        server.expects("RSET")
        server.says("250 ok")
        self.assertEqual(self.found(sent), [("failed", "5.1.1")])
        self.assertFalse(server.is_closed)

    def test_too_many_recipients_are_followed_by_a_further_transaction(self) -> None:
        sent = self.sends(ANN, BOB, CAT)
        server = self.connected("PIPELINING")
        server.says("250 ok", "250 ok", "250 ok", "452 4.5.3 too many", "354 go ahead")
        server.wrote()
        server.says("250 2.1.5 ann", "550 5.7.1 no")
        server.expects("MAIL FROM:<joe@example.org>", f"RCPT TO:<{CAT}>", "DATA")
        server.says("250 ok", "250 ok", "354 go ahead")
        server.says("250 2.1.5 cat")
        self.assertEqual(self.found(sent), [("delivered", "2.1.5"), ("failed", "5.7.1"), ("delivered", "2.1.5")])


class InARow(LMTPCase):
    ENVELOPE = f"RSET\r\nMAIL FROM:<joe@example.org>\r\nRCPT TO:<{ANN}>\r\nRCPT TO:<{BOB}>\r\nDATA\r\n".encode()

    def test_each_message_gets_the_replies_for_its_recipients(self) -> None:
        first, second = self.both()
        self.peer.says("250 2.1.5 a1", "550 5.7.1 b1", "250 reset", "250 ok", "250 ok", "250 ok", "354 go ahead")
        self.assertEqual(self.found(first), [("delivered", "2.1.5"), ("failed", "5.7.1")])
        self.assertEqual(self.peer.wrote(), HELLO + b".\r\nLHLO me.example\r\n")
        self.peer.says("450 4.2.0 a2", "250 2.1.5 b2")
        self.assertNoResult(second)
        self.peer.says(*ehlo_lines("PIPELINING"))
        self.assertEqual(self.found(second), [("deferred", "4.2.0"), ("delivered", "2.1.5")])

    def test_a_reply_too_few_is_found_out_and_delivers_nobody(self) -> None:
        first, second = self.both()
        self.peer.says("250 2.1.5 for both", "250 reset", "250 ok", "250 ok", "250 ok", "354 go ahead")
        self.assertEqual(self.found(first), [("deferred?", "4.5.0")] * 2)
        server = self.connected("PIPELINING")
        server.says("250 ok", "250 ok", "250 ok", "354 go ahead")
        server.says("250 2.1.5 a2", "250 2.1.5 b2")
        self.assertEqual(self.found(second), [("delivered", "2.1.5")] * 2)

    def test_lost_behind_some_replies_nothing_of_them_is_proved(self) -> None:
        first, second = self.both()
        self.peer.says("250 2.1.5 a1")
        self.peer.loses_connection()
        self.assertEqual(self.found(first), [("deferred?", "4.4.2")] * 2)
        self.connected("PIPELINING").says("250 ok", "450 no", "450 no", "503 no")
        self.assertEqual(self.found(second), [("deferred", "4.0.0")] * 2)

    def both(self) -> tuple[Deferred[Report], Deferred[Report]]:
        """Two messages; the content of the first is sent, and the envelope of the second behind it."""
        first, second = self.sends(ANN, BOB), self.sends(ANN, BOB)
        self.peer = self.connected("PIPELINING")
        self.peer.wrote()
        self.peer.says("250 ok", "250 ok", "250 ok", "354 go ahead")
        self.assertEqual(self.peer.wrote(), HELLO + b".\r\n" + self.ENVELOPE)
        return first, second


class Unproven(LMTPCase):
    """A single message, one reply spoilt."""

    def test_a_reply_too_many_before_the_354_delivers_nobody(self) -> None:
        sent = self.sends(ANN, BOB)
        server = self.connected("PIPELINING")
        server.says("250 surplus", "250 ok", "250 ok", "250 ok", "354 go ahead")
        self.assertEqual(self.found(sent), [("deferred", "4.5.0")] * 2)


class _Mailboxes(LineReceiver):
    """An LMTP server without mailboxes."""

    def __init__(self, heard: list[bytes]) -> None:
        self._heard = heard

    def connectionMade(self) -> None:
        self.sendLine(b"220 local LMTP")

    def lineReceived(self, line: bytes) -> None:
        self._heard.append(line)
        for reply in _REPLIES.get(line[:4].upper(), ()):
            self.sendLine(reply)


class _Server(ServerFactory):
    noisy = False

    def __init__(self, heard: list[bytes]) -> None:
        self._heard = heard

    def buildProtocol(self, addr: IAddress | None) -> _Mailboxes:
        """See L{ServerFactory}."""
        return _Mailboxes(self._heard)


class UnixSocket(TestCase):
    """A real one."""

    timeout = 20

    async def test_a_message_goes_over_it(self) -> None:
        report = await self.sent(self.path(listens=True))
        self.assertEqual(outcomes(report), [("delivered", "2.1.5"), ("deferred", "4.2.2")])
        self.assertEqual(self.heard[0], b"LHLO me.example")
        self.assertEqual(self.heard[-1], b"QUIT")

    async def test_the_outcome_says_its_path_and_no_port(self) -> None:
        path = self.path(listens=True)
        for outcome in (await self.sent(path)).outcomes:
            self.assertEqual((outcome.host, outcome.port, outcome.tls), (path, None, None))

    async def test_where_nobody_listens_the_message_is_deferred(self) -> None:
        path = self.path(listens=False)
        for outcome in (await self.sent(path)).outcomes:
            self.assertEqual((outcome.status.value, outcome.host, outcome.port), ("deferred", path, None))
            self.assertTrue(outcome.reason.startswith(f"4.4.1 no connection to {path}: "), outcome.reason)

    async def test_a_file_that_is_no_socket_defers(self) -> None:
        path = self.path(listens=False)
        Path(path).write_text("no socket")
        for outcome in (await self.sent(path)).outcomes:
            self.assertEqual(outcome.status.value, "deferred", outcome)

    def path(self, *, listens: bool) -> str:
        """Of a socket, in a directory whose name is short enough, as trial's are not."""
        directory = tempfile.mkdtemp(prefix="lmtp-")
        self.addCleanup(shutil.rmtree, directory)
        path = f"{directory}/socket"
        self.heard: list[bytes] = []
        if listens:
            port = IReactorUNIX(reactor).listenUNIX(path, _Server(self.heard))
            self.addCleanup(port.stopListening)
        return path

    async def sent(self, path: str) -> Report:
        agent = SMTPAgent(reactor, f"lmtp+unix://{path}", hostname="me.example")
        report = await agent.send(envelope(ANN, BOB), HELLO)
        await agent.close()
        return report


_REPLIES: dict[bytes, Sequence[bytes]] = {
    b"LHLO": [b"250-local", b"250 PIPELINING"],
    b"MAIL": [b"250 ok"],
    b"RCPT": [b"250 ok"],
    b"DATA": [b"354 go ahead"],
    b".": [b"250 2.1.5 ann", b"452 4.2.2 bob is full"],
    b"QUIT": [b"221 bye"],
}
