"""
A file that is sent, and what becomes of it meanwhile.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import default
from typing import BinaryIO

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pymail_tx.core.content import BLOCK_OCTETS
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Report
from pymail_tx.net.file_content import BLOCKS_A_TURN
from tests.net.loopback import Script
from tests.net.scripted import ScriptedPeer, ehlo_lines, envelope
from tests.net.scripted_agent import ANN, HELLO, AgentCase
from tests.net.test_agent import LETTER, AgentTestCase

BY_DATA, BY_CHUNK = ("PIPELINING",), ("PIPELINING", "CHUNKING")

LONG = b"Subject: Minutes\r\n\r\n" + b".nobody objects\r\n" * 20_000
"""Of 5 blocks."""


class Watched(io.BytesIO):
    """
    @ivar reads: how many octets each read gave.
    @ivar breaks: with what further reads fail.
    """

    def __init__(self, octets: bytes = LONG) -> None:
        super().__init__(octets)
        self.reads: list[int] = []
        self.breaks: OSError | None = None

    def read(self, octets: int | None = -1, /) -> bytes:
        if self.breaks:
            raise self.breaks
        block = super().read(octets)
        self.reads.append(len(block))
        return block


class ContentCase(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.has()

    def looked_through(self, file: BinaryIO, progress: Callable[[int], object] | None = None) -> Deferred[Report]:
        """A message from a file that has been looked through."""
        sent = self.agent.send(envelope(), file, progress=progress)
        while not self.connections and not sent.called:
            self.reactor.advance(0)
        return sent

    def flows(self, *offers: str, window: int = 1) -> ScriptedPeer:
        """The server reads so much of it, and no more for now."""
        server = self.connected(*offers)
        server.wire.window = window
        server.wrote()
        server.says("250 ok", "250 ok", *([] if "CHUNKING" in offers else ["354 go ahead"]))
        return server


class Streamed(ContentCase):
    def test_no_more_is_read_than_the_transport_takes(self) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            self.setUp()
            file = Watched()
            sent = self.looked_through(file)
            file.reads.clear()
            server = self.flows(*offers)
            self.assertLessEqual(len(file.reads), 1)
            written = b""
            while server.wire.producer:
                server.wire.widen(BLOCK_OCTETS)
                block = server.wrote()
                self.assertLess(len(block), 3 * BLOCK_OCTETS)
                written += block
            self.assertLessEqual(max(file.reads), BLOCK_OCTETS)
            self.assertTrue(written)
            server.says("250 2.0.0 queued", *(ehlo_lines(*offers) if offers is BY_CHUNK else ()))
            self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_an_empty_one_is_a_message_without_lines(self) -> None:
        for offers, content in ((BY_DATA, b".\r\n"), (BY_CHUNK, b"BDAT 0 LAST\r\nEHLO me.example\r\n")):
            self.setUp()
            sent = self.looked_through(io.BytesIO())
            server = self.flows(*offers, window=1_000)
            self.assertEqual(server.wrote(), content)
            server.says("250 2.0.0 queued", *(ehlo_lines(*offers) if offers is BY_CHUNK else ()))
            self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_one_on_a_disk_is_left_open(self) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(LONG)
            file.seek(0)
            sent = self.looked_through(file)
            server = self.flows(*BY_DATA, window=1_000_000)
            self.assertTrue(server.wrote().endswith(b"\r\n.\r\n"))
            server.says("250 2.0.0 queued")
            self.assertEqual(self.found(sent), [("delivered", "2.0.0")])
            self.assertFalse(file.closed)


class Spoilt(ContentCase):
    """While it is sent: deferred, and the server never has it whole."""

    def is_deferred(self, spoil: Callable[[Watched], object], words: str) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            for window in (0, 1, 2 * BLOCK_OCTETS):
                self.setUp()
                file = Watched()
                sent = self.looked_through(file)
                if not window:
                    spoil(file)
                server = self.flows(*offers, window=window or 1)
                if window:
                    spoil(file)
                server.wire.widen(1_000_000)
                [outcome] = self.successResultOf(sent).outcomes
                self.assertEqual((outcome.status.value, outcome.uncertain), ("deferred", False), outcome)
                self.assertRegex(outcome.reason, f"^4.3.0 the content cannot be read: .*{words}")
                self.assertTrue(server.is_closed)
                self.assertFalse(server.wrote().endswith((b"\r\n.\r\n", b"EHLO me.example\r\n")))

    def test_it_shrank(self) -> None:
        self.is_deferred(lambda file: file.truncate(100), "become shorter")

    def test_it_grew(self) -> None:
        self.is_deferred(lambda file: file.seek(0, os.SEEK_END) and file.write(b"x"), "grown")

    def test_it_was_closed(self) -> None:
        self.is_deferred(lambda file: file.close(), "closed file")

    def test_it_cannot_be_read_any_more(self) -> None:
        self.is_deferred(lambda file: setattr(file, "breaks", OSError("input/output error")), "input/output error")

    def test_it_is_gone_when_it_is_to_be_re_encoded(self) -> None:
        file = Watched("Subject: x\r\n\r\nGrüße\r\n".encode())
        sent, behind = self.looked_through(file), self.sends()
        file.close()
        server = self.flows(*BY_DATA, window=1_000)
        [outcome] = self.successResultOf(sent).outcomes
        self.assertEqual(outcome.status.value, "deferred", outcome)
        self.assertRegex(outcome.reason, "^4.3.0 the content cannot be read: .*closed file")
        server.says("250 2.0.0 queued")
        self.assertEqual(self.found(behind), [("delivered", "2.0.0")])

    def test_the_next_message_goes_over_another_connection(self) -> None:
        file = Watched()
        self.looked_through(file)
        behind = self.sends()
        server = self.flows(*BY_DATA)
        file.close()
        server.wire.widen(1_000_000)
        server = self.flows(*BY_DATA, window=1_000)
        server.says("250 2.0.0 queued")
        self.assertEqual(self.found(behind), [("delivered", "2.0.0")])


class Refused(ContentCase):
    def test_what_cannot_be_sent_is_misuse_and_nobody_is_connected_to(self) -> None:
        reading, writing = os.pipe()
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            for wrong in (pipe, io.StringIO("text"), 7, object(), bytearray(b"x")):
                sent = self.agent.send(envelope(), wrong)  # type: ignore[arg-type]
                self.fails_with(BadArgument, sent)
        self.assertEqual(self.connections, 0)

    def test_one_that_fails_while_it_is_looked_through_is_misuse(self) -> None:
        file = Watched(LONG * BLOCKS_A_TURN)
        sent = self.agent.send(envelope(), file)
        file.breaks = OSError("input/output error")
        self.reactor.advance(0)
        self.assertIn("input/output error", str(self.fails_with(BadArgument, sent)))
        self.assertEqual(self.connections, 0)

    def test_an_email_message_that_cannot_be_written_is_misuse(self) -> None:
        message = EmailMessage(policy=default)
        message["From"] = "jörg@example.org"
        self.assertIn("SMTPUTF8", str(self.fails_with(BadArgument, self.sends(content=message))))
        self.assertEqual(self.connections, 0)


class Email(ContentCase):
    """Its header beyond ASCII (RFC 6531, RFC 6532)."""

    SERVER = ("PIPELINING", "8BITMIME")
    UTF8 = "ännchen@example.com"

    def message(self, to: str) -> EmailMessage:
        message = EmailMessage()
        message["Subject"], message["To"] = "Grüße", to
        message.set_content("Hello")
        return message

    def test_a_utf8_address_in_it_needs_smtputf8_for_every_recipient(self) -> None:
        sent = self.sends(ANN, self.UTF8, content=self.message(f"{ANN}, {self.UTF8}"))
        server = self.connected(*self.SERVER)
        server.expects()
        self.assertEqual(self.found(sent), [("failed", "5.6.7")] * 2)

    def test_it_is_written_in_utf8_where_smtputf8_is_offered(self) -> None:
        sent = self.sends(self.UTF8, content=self.message(self.UTF8))
        server = self.connected(*self.SERVER, "SMTPUTF8")
        self.assertIn(b" SMTPUTF8", server.wrote())
        server.says("250 ok", "250 ok", "354 go ahead")
        self.assertIn(f"Subject: Grüße\r\nTo: {self.UTF8}\r\n".encode(), server.wrote())
        server.says("250 2.0.0 queued")
        self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_without_such_an_address_it_is_ascii_and_others_than_a_blind_recipient_are_served(self) -> None:
        sent = self.sends(ANN, self.UTF8, content=self.message(ANN))
        server = self.connected(*self.SERVER)
        server.says("250 ok", "250 ok", "354 go ahead")
        self.assertTrue(server.wrote().isascii())
        server.says("250 2.0.0 queued")
        self.assertEqual(self.found(sent), [("delivered", "2.0.0"), ("failed", "5.6.7")])


class LookedThrough(ContentCase):
    """The reactor does other things meanwhile."""

    def begins(self) -> Deferred[Report]:
        self.file = Watched(LONG * BLOCKS_A_TURN)
        sent = self.agent.send(envelope(), self.file)
        self.assertLess(sum(self.file.reads), (BLOCKS_A_TURN + 1) * BLOCK_OCTETS)
        return sent

    def test_cancelled_nothing_more_is_read(self) -> None:
        sent = self.begins()
        read = len(self.file.reads)
        sent.cancel()
        self.fails_with(CancelledError, sent)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual((len(self.file.reads), self.connections), (read, 0))

    def test_an_agent_that_is_closed_sends_it_first(self) -> None:
        sent = self.begins()
        closing = self.agent.close()
        self.assertNoResult(closing)
        while not self.connections:
            self.reactor.advance(0)
        server = self.flows(*BY_DATA, window=10_000_000)
        server.says("250 2.0.0 queued")
        self.assertEqual(self.found(sent), [("delivered", "2.0.0")])
        self.assertTrue(server.wrote().endswith(b"QUIT\r\n"))
        server.says("221 bye")
        self.successResultOf(closing)

    def test_an_agent_that_is_closed_waits_for_nothing_if_it_is_cancelled(self) -> None:
        sent = self.begins()
        closing = self.agent.close()
        sent.cancel()
        self.fails_with(CancelledError, sent)
        self.successResultOf(closing)

    def test_an_agent_that_is_closed_waits_for_nothing_if_it_cannot_be_sent(self) -> None:
        sent = self.begins()
        closing = self.agent.close()
        self.file.breaks = OSError("input/output error")
        self.reactor.advance(0)
        self.fails_with(BadArgument, sent)
        self.successResultOf(closing)

    def test_a_message_that_is_given_meanwhile_goes_first(self) -> None:
        long, short = self.begins(), self.sends()
        server = self.flows(*BY_DATA, window=10_000_000)
        self.assertEqual(server.wrote(), HELLO + b".\r\n")
        server.says("250 2.0.0 queued")
        self.assertEqual(self.found(short), [("delivered", "2.0.0")])
        long.cancel()
        self.fails_with(CancelledError, long)


class Progress(ContentCase):
    def test_it_grows_with_each_block(self) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            self.setUp()
            heard: list[int] = []
            self.looked_through(Watched(), heard.append)
            server = self.flows(*offers)
            before = len(heard)
            server.wire.widen(2 * BLOCK_OCTETS)
            self.assertGreater(len(heard), before)
            self.assertLess(heard[-1], len(LONG))
            server.wire.widen(1_000_000)
            self.assertEqual((sorted(heard), heard[-1]), (heard, len(LONG)))
            server.loses_connection()

    def test_doubled_dots_and_mended_line_ends_are_not_more_than_all(self) -> None:
        heard: list[int] = []
        self.looked_through(Watched(b".\n" * 100_000), heard.append)
        server = self.flows(*BY_DATA, window=10_000_000)
        self.assertEqual((max(heard), heard[-1]), (300_000, 300_000))
        server.loses_connection()

    def test_a_function_that_raises_harms_no_message_and_is_left_in_peace(self) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            for content in (io.BytesIO(LONG), HELLO):
                self.setUp()
                heard: list[int] = []

                def progress(octets: int, heard: list[int] = heard) -> None:
                    heard.append(octets)
                    raise RuntimeError("no terminal")

                sent = self.agent.send(envelope(), content, progress=progress)
                self.reactor.advance(0)
                server = self.flows(*offers, window=10_000_000)
                server.says("250 2.0.0 queued", *(ehlo_lines(*offers) if offers is BY_CHUNK else ()))
                self.assertEqual(self.found(sent), [("delivered", "2.0.0")])
                self.assertEqual(len(heard), 1)
                self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class OverTLS(AgentTestCase):
    """Sockets and TLS that are real, and a server that does not read for a while."""

    async def test_a_file_arrives_whole_after_the_server_was_deaf(self) -> None:
        script = Script(offers=["STARTTLS"], certificate=self.good(), deaf_behind="DATA")
        self.server, port = self.serve(script)
        agent = self.agent(port)
        file = Watched(LONG * 30)
        sent = agent.send(LETTER, file)
        hears = self.server.hears("DATA")
        while not hears.called:
            self.clock.advance(0)
            await deferLater(IReactorTime(reactor), 0)
        file.reads.clear()
        await deferLater(IReactorTime(reactor), 0.1)
        self.assertLess(sum(file.reads), len(LONG * 30))
        script.deaf_behind = ""
        self.server.sessions[0].listen_again()
        self.is_delivered((await sent).outcomes[0])
        self.assertEqual(sum(file.reads), len(LONG * 30))
        await agent.close()
