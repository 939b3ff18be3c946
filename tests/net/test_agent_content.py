"""
What an agent sends: an EmailMessage, a file, and how far it is.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from email.message import EmailMessage
from typing import BinaryIO

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import BLOCK_OCTETS
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from tests.net.memory import TARGET, Network
from tests.net.model_receiver import ModelReceiver
from tests.net.scripted import outcomes

BY_DATA, BY_CHUNK = (b"PIPELINING",), (b"PIPELINING", b"CHUNKING")

LETTER = Envelope("joe@example.org", ["ann@example.com"])

SEVERAL_BLOCKS = b"Subject: Minutes\r\n\r\n" + b".nobody objects\r\n" * 20_000


class ContentCase(SynchronousTestCase):
    """An agent on a network in memory. In the end it is closed, and leaves nothing behind."""

    def on(self, *offers: bytes) -> None:
        """There is a receiver that offers that, and an agent for it."""
        self.network = Network(ModelReceiver({}, offers))
        self.agent = SMTPAgent(self.network.reactor, TARGET, max_connections=1)
        self.addCleanup(self.nothing_is_left, self.agent, self.network)

    def nothing_is_left(self, agent: SMTPAgent, network: Network) -> None:
        closing = agent.close()
        network.run()
        self.successResultOf(closing)
        self.assertEqual(network.reactor.getDelayedCalls(), [])

    def sends(
        self, content: bytes | EmailMessage | BinaryIO, progress: Callable[[int], object] | None = None
    ) -> Deferred[Report]:
        sent = self.agent.send(LETTER, content, progress=progress)
        self.goes_on()
        return sent

    def goes_on(self) -> None:
        """As far as it goes while no time passes."""
        self.network.run()
        while any(call.getTime() <= self.network.reactor.seconds() for call in self.network.reactor.getDelayedCalls()):
            self.network.passes(0)

    def is_stored(self, sent: Deferred[Report], content: bytes) -> None:
        self.assertEqual(outcomes(self.successResultOf(sent)), [("delivered", "2.0.0")])
        self.assertEqual(self.network.receiver.stored[-1].content, content)


class Email(ContentCase):
    def test_it_goes_out_in_lines_with_crlf_and_without_its_bcc(self) -> None:
        message = EmailMessage()
        message["Subject"], message["Bcc"] = "Dinner", "eve@example.com"
        message.set_content("At eight?\n.\n")
        self.on(*BY_DATA)
        self.sends(message)
        [stored] = self.network.receiver.stored
        self.assertTrue(stored.content.startswith(b"Subject: Dinner\r\n"), stored)
        self.assertTrue(stored.content.endswith(b"\r\n\r\nAt eight?\r\n.\r\n"), stored)
        self.assertNotIn(b"eve", stored.content)
        self.assertEqual(message["Bcc"], "eve@example.com")


class Files(ContentCase):
    def test_one_is_sent_from_where_it_stands_with_data_and_with_bdat(self) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            self.on(*offers)
            file = io.BytesIO(b"not this" + SEVERAL_BLOCKS)
            file.seek(len(b"not this"))
            self.is_stored(self.sends(file), SEVERAL_BLOCKS)
            self.assertEqual("BDAT" in self.network.receiver.sessions[0].verbs, offers is BY_CHUNK)

    def test_its_line_ends_are_mended_wherever_it_is_cut(self) -> None:
        self.on(*BY_DATA)
        content = b"a" * 900 + b"\n.\r"
        self.is_stored(self.sends(io.BytesIO(content * 400)), (b"a" * 900 + b"\r\n.\r\n") * 400)

    def test_of_one_that_nobody_takes_in_no_more_than_a_block_is_read(self) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            self.on(*offers)
            self.network.replies = 2
            sent = self.sends(io.BytesIO(SEVERAL_BLOCKS))
            [line] = self.network.lines
            line.wire.window = 1_000
            self.network.all_replies_arrive()
            self.assertNoResult(sent)
            self.assertLess(len(line.wire.value()), 2 * BLOCK_OCTETS)
            line.wire.widen(2 * len(SEVERAL_BLOCKS))
            self.network.run()
            self.is_stored(sent, SEVERAL_BLOCKS)

    def test_several_at_once_may_be_one_file(self) -> None:
        self.on(*BY_DATA)
        file = io.BytesIO(SEVERAL_BLOCKS)
        first = self.agent.send(LETTER, file)
        file.seek(0)
        second = self.sends(file)
        self.is_stored(first, SEVERAL_BLOCKS)
        self.is_stored(second, SEVERAL_BLOCKS)

    def test_one_that_changed_its_length_meanwhile_defers_and_is_not_delivered(self) -> None:
        for octets in (b"", SEVERAL_BLOCKS * 2):
            self.on(*BY_DATA)
            self.network.replies = 2
            file = io.BytesIO(SEVERAL_BLOCKS)
            sent = self.sends(file)
            file.seek(0)
            file.truncate()
            file.write(octets)
            self.network.all_replies_arrive()
            [(status, _)] = outcomes(self.successResultOf(sent))
            self.assertEqual(status, "deferred")
            self.assertEqual(self.network.receiver.stored, [])

    def test_what_is_no_binary_seekable_file_is_refused(self) -> None:
        self.on(*BY_DATA)
        closed = io.BytesIO()
        closed.close()
        with tempfile.TemporaryFile("w+") as text:
            for wrong in (closed, text, "octets", None):
                self.failureResultOf(self.agent.send(LETTER, wrong), BadArgument)  # type: ignore[arg-type]
        self.assertEqual(self.network.lines, [])

    def test_one_can_be_cancelled_while_it_is_looked_through(self) -> None:
        self.on(*BY_DATA)
        sent = self.agent.send(LETTER, io.BytesIO(SEVERAL_BLOCKS * 10))
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.goes_on()
        self.assertEqual(self.network.lines, [])


class Progress(ContentCase):
    def test_it_rises_to_all_of_the_content(self) -> None:
        for offers in (BY_DATA, BY_CHUNK):
            for content in (SEVERAL_BLOCKS, io.BytesIO(SEVERAL_BLOCKS), b"Subject: short\r\n\r\n"):
                self.on(*offers)
                heard: list[int] = []
                self.sends(content, heard.append)
                self.assertEqual(heard, sorted(heard))
                size = len(content) if isinstance(content, bytes) else len(SEVERAL_BLOCKS)
                self.assertEqual(heard[-1], size)
