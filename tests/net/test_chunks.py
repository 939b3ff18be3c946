"""
Content that goes with BDAT (RFC 3030): whole transactions in one write.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from pymail_tx.core.content import BLOCK_OCTETS
from pymail_tx.net.pipeline import MAX_BURST_MESSAGES, MAX_BURST_OCTETS
from tests.net.scripted import ScriptedPeer, ehlo_lines
from tests.net.scripted_agent import ANN, BOB, HELLO, AgentCase

OFFERS = ("PIPELINING", "CHUNKING")
ENVELOPE = b"MAIL FROM:<joe@example.org>\r\nRCPT TO:<ann@example.com>\r\n"
PROOF = b"EHLO me.example\r\n"
LONG = b"Subject: Hello\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 8_000


def chunk(content: bytes) -> bytes:
    """The only one of its message."""
    return b"BDAT %d LAST\r\n" % len(content) + content


def filled(octets: int) -> bytes:
    """Content of this size."""
    return (b"x" * 62 + b"\r\n") * (octets // 64) + b"y" * (octets % 64 - 2) + b"\r\n" * (octets % 64 > 0)


class ChunkCase(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.has()

    def takes(self, server: ScriptedPeer, count: int) -> None:
        """So many messages of a burst: MAIL, RCPT, BDAT, and RSET before each but the first."""
        server.says(*["250 ok"] * (4 * count - 1))

    def proves(self, server: ScriptedPeer) -> None:
        """The EHLO behind a burst is answered."""
        server.says(*ehlo_lines(*OFFERS))


class Bursts(ChunkCase):
    def test_whole_transactions_go_out_in_one_write(self) -> None:
        sent = [self.sends() for _ in range(3)]
        server = self.connected(*OFFERS)
        one = ENVELOPE + chunk(HELLO)
        self.assertEqual(server.wire.writes[1:], [one + b"RSET\r\n" + one + b"RSET\r\n" + one + PROOF])
        self.takes(server, 3)
        self.proves(server)
        self.assertEqual([self.found(each) for each in sent], [[("delivered", "2.0.0")]] * 3)

    def test_several_recipients_are_parted_from_the_verdict_by_a_chunk_of_its_own(self) -> None:
        sent = self.sends(ANN, BOB)
        server = self.connected(*OFFERS)
        envelope = ENVELOPE + b"RCPT TO:<bob@example.com>\r\n"
        self.assertEqual(server.wrote(), envelope + b"BDAT %d\r\n" % len(HELLO) + HELLO + chunk(b"") + PROOF)
        server.says("250 ok", "250 ok", "550 5.1.1 no", "250 chunk", "250 queued")
        self.proves(server)
        self.assertEqual(self.found(sent), [("delivered", "2.0.0"), ("failed", "5.1.1")])

    def test_a_refusal_of_the_first_chunk_is_the_verdict(self) -> None:
        sent = self.sends(ANN, BOB)
        server = self.connected(*OFFERS)
        server.says("250 ok", "250 ok", "550 5.1.1 no", "552 5.3.4 too big", "503 5.5.1 no chunk before")
        self.proves(server)
        self.assertEqual(self.found(sent), [("failed", "5.3.4"), ("failed", "5.1.1")])

    def test_a_yes_behind_the_refusal_of_a_chunk_is_nobodys_delivery(self) -> None:
        sent = self.sends(ANN, BOB)
        server = self.connected(*OFFERS)
        server.says("250 ok", "250 ok", "250 ok", "552 5.3.4 too big", "250 queued")
        self.assertTrue(server.is_closed)
        self.assertEqual(self.found(sent), [("deferred?", "4.5.0")] * 2)

    def test_a_single_message_is_proved_as_well_for_want_of_a_354(self) -> None:
        sent = self.sends()
        server = self.connected(*OFFERS)
        self.assertEqual(server.wire.writes[1:], [ENVELOPE + chunk(HELLO) + PROOF])
        self.takes(server, 1)
        self.assertNoResult(sent)
        self.proves(server)
        self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_a_reply_too_many_does_not_make_a_refused_single_message_delivered(self) -> None:
        for packets in (
            [["250 surplus", "250 ok", "250 ok"], ["550 5.7.1 no"]],
            [["250 a"] * 3 + ["550 d"]],
        ):
            self.setUp()
            sent = self.sends()
            server = self.connected(*OFFERS)
            for packet in packets:
                server.says(*packet)
            if not server.is_closed:
                self.proves(server)
            self.assertEqual(self.found(sent), [("deferred?", "4.5.0")])

    def test_the_limit_of_messages_in_one_write(self) -> None:
        for count, in_first in ((MAX_BURST_MESSAGES, 50), (MAX_BURST_MESSAGES + 1, 50)):
            self.setUp()
            sent = [self.sends() for _ in range(count)]
            server = self.connected(*OFFERS)
            self.assertEqual(server.wrote().count(b"BDAT"), in_first)
            self.takes(server, in_first)
            server.expects()
            self.proves(server)
            self.assertEqual(server.wrote().count(b"BDAT"), count - in_first)
            if count > in_first:
                self.takes(server, 1)
                self.proves(server)
            self.assertEqual([self.found(each) for each in sent], [[("delivered", "2.0.0")]] * count)

    def test_the_limit_of_octets_in_one_write(self) -> None:
        self.assertEqual(MAX_BURST_OCTETS % BLOCK_OCTETS, 0)
        blocks = MAX_BURST_OCTETS // BLOCK_OCTETS
        for last, in_first in ((BLOCK_OCTETS, blocks), (BLOCK_OCTETS - 1, blocks + 1)):
            self.setUp()
            contents = [filled(BLOCK_OCTETS)] * (blocks - 1) + [filled(last), HELLO]
            sent = [self.sends(content=content) for content in contents]
            server = self.connected(*OFFERS)
            self.assertEqual(server.wrote().count(b"BDAT"), in_first)
            self.takes(server, in_first)
            self.proves(server)
            if in_first < len(sent):
                self.takes(server, 1)
                self.proves(server)
            self.assertEqual([self.found(each) for each in sent], [[("delivered", "2.0.0")]] * len(sent))

    def test_nothing_more_is_written_until_the_ehlo_is_answered(self) -> None:
        first = self.sends()
        server = self.connected(*OFFERS)
        server.wrote()
        second = self.sends()
        self.takes(server, 1)
        server.expects()
        self.proves(server)
        self.assertEqual(server.wrote(), ENVELOPE + chunk(HELLO) + PROOF)
        self.takes(server, 1)
        self.proves(server)
        self.assertEqual((self.found(first), self.found(second)), ([("delivered", "2.0.0")], [("delivered", "2.0.0")]))

    def test_bdat_is_for_servers_with_chunking_and_pipelining_only(self) -> None:
        for offers, written in (
            (("PIPELINING",), ENVELOPE + b"DATA\r\n"),
            (("CHUNKING",), b"MAIL FROM:<joe@example.org>\r\n"),
            (("CHUNKING", "BINARYMIME"), b"MAIL FROM:<joe@example.org>\r\n"),
        ):
            self.setUp()
            sent = self.sends()
            server = self.connected(*offers)
            self.assertEqual(server.wrote(), written)
            server.says(*["250 ok", "250 ok", "354 go ahead"][: len(written.splitlines())])
            if "PIPELINING" not in offers:
                server.says("250 ok")
                server.says("354 go ahead")
            self.assertTrue(server.wrote().endswith(HELLO + b".\r\n"))
            server.says("250 queued")
            self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_empty_content_is_a_chunk_of_no_octets(self) -> None:
        sent = self.sends(content=b"")
        server = self.connected(*OFFERS)
        self.assertEqual(server.wrote(), ENVELOPE + b"BDAT 0 LAST\r\n" + PROOF)
        self.takes(server, 1)
        self.proves(server)
        self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_dots_stay_as_they_are_and_line_ends_are_mended(self) -> None:
        self.sends(content=b".\n..\r.x")
        server = self.connected(*OFFERS)
        self.assertEqual(server.wrote(), ENVELOPE + chunk(b".\r\n..\r\n.x\r\n") + PROOF)
        self.takes(server, 1)
        self.proves(server)

    def test_binary_content_goes_raw_where_binarymime_is_offered(self) -> None:
        content = b"Subject: x\r\n\r\n\0\n\r.\n\xff"
        sent = self.sends(content=content)
        server = self.connected(*OFFERS, "BINARYMIME", "8BITMIME")
        envelope = ENVELOPE.replace(b"org>", b"org> BODY=BINARYMIME")
        self.assertEqual(server.wrote(), envelope + chunk(content) + PROOF)
        self.takes(server, 1)
        self.proves(server)
        self.assertEqual(self.found(sent), [("delivered", "2.0.0")])


class Unknown(ChunkCase):
    """CHUNKING is offered, and BDAT is not known."""

    def test_500_or_502_behind_an_accepted_recipient_closes_and_leaves_the_message_in_doubt(self) -> None:
        for code in ("500", "502"):
            self.setUp()
            sent = self.sends()
            server = self.connected(*OFFERS)
            server.says("250 ok", "250 ok", f"{code} 5.5.1 what?")
            self.assertTrue(server.is_closed)
            self.assertEqual(self.found(sent), [("deferred?", "4.5.0")])

    def test_its_content_taken_for_commands_in_the_same_packet_changes_nothing(self) -> None:
        sent = self.sends()
        server = self.connected(*OFFERS)
        server.says("250 ok", "250 ok", *["500 5.5.1 what?"] * 4, *ehlo_lines(*OFFERS))
        self.assertEqual(self.found(sent), [("deferred?", "4.5.0")])

    def test_the_agent_remembers_it_and_goes_on_by_data_in_a_row(self) -> None:
        self.sends()
        self.connected(*OFFERS).says("250 ok", "250 ok", "500 5.5.1 what?")
        first, second = self.sends(), self.sends()
        server = self.connected(*OFFERS)
        self.assertEqual(server.wrote(), ENVELOPE + b"DATA\r\n")
        server.says("250 ok", "250 ok", "354 go ahead")
        self.assertEqual(server.wrote(), HELLO + b".\r\nRSET\r\n" + ENVELOPE + b"DATA\r\n")
        server.says("250 queued", "250 ok", "250 ok", "250 ok", "354 go ahead")
        self.assertEqual(server.wrote(), HELLO + b".\r\n" + PROOF)
        server.says("250 queued", *ehlo_lines(*OFFERS))
        self.assertEqual((self.found(first), self.found(second)), ([("delivered", "2.0.0")], [("delivered", "2.0.0")]))

    def test_long_content_of_which_not_all_is_sent_is_certainly_not_delivered(self) -> None:
        sent = self.sends(content=LONG)
        server = self.connected(*OFFERS)
        server.wire.window = 1
        server.says("250 ok", "250 ok")
        server.says("502 5.5.1 not implemented")
        self.assertTrue(server.is_closed)
        self.assertEqual(self.found(sent), [("deferred", "4.5.0")])

    def test_with_nobody_accepted_a_refusal_is_only_that(self) -> None:
        for refusal in ("503 5.5.1 no valid recipients", "554 5.5.1 no valid recipients", "500 5.5.1", "502 5.5.1"):
            self.setUp()
            sent = self.sends()
            server = self.connected(*OFFERS)
            server.says("250 ok", "550 5.1.1 no", refusal)
            self.proves(server)
            self.assertEqual(self.found(sent), [("failed", "5.1.1")])
            server.wrote()
            again = self.sends()
            self.assertEqual(server.wrote(), ENVELOPE + chunk(HELLO) + PROOF)
            self.takes(server, 1)
            self.proves(server)
            self.assertEqual(self.found(again), [("delivered", "2.0.0")])

    def test_another_refusal_of_the_chunk_is_the_verdict(self) -> None:
        for refusal, found in (("552 5.3.4 too big", ("failed", "5.3.4")), ("451 4.3.0 later", ("deferred", "4.3.0"))):
            self.setUp()
            sent = self.sends()
            server = self.connected(*OFFERS)
            server.says("250 ok", "250 ok", refusal)
            self.proves(server)
            self.assertEqual(self.found(sent), [found])


class LongContent(ChunkCase):
    """Of more than a block."""

    def test_it_waits_until_a_recipient_is_accepted(self) -> None:
        sent = self.sends(ANN, BOB, content=LONG)
        server = self.connected(*OFFERS)
        server.expects("MAIL FROM:<joe@example.org>", f"RCPT TO:<{ANN}>", f"RCPT TO:<{BOB}>")
        server.says("250 ok", "250 ok")
        server.expects()
        server.says("550 5.1.1 no")
        self.assertEqual(server.wrote(), chunk(LONG) + PROOF)
        server.says("250 queued")
        self.proves(server)
        self.assertEqual(self.found(sent), [("delivered", "2.0.0"), ("failed", "5.1.1")])

    def test_it_is_not_sent_for_nobody(self) -> None:
        sent = self.sends(content=LONG)
        server = self.connected(*OFFERS)
        server.wrote()
        server.says("250 ok", "550 5.1.1 no")
        server.expects("RSET")
        self.proves(server)
        self.assertEqual(self.found(sent), [("failed", "5.1.1")])

    def test_it_waits_for_the_transport(self) -> None:
        sent = self.sends(content=LONG)
        server = self.connected(*OFFERS)
        server.wire.window = 1
        server.wrote()
        server.says("250 ok", "250 ok")
        octets = server.wrote()
        while not octets.endswith(PROOF):
            server.wire.widen(BLOCK_OCTETS)
            block = server.wrote()
            self.assertTrue(block)
            self.assertLess(len(block), 2 * BLOCK_OCTETS + len(PROOF))
            octets += block
        self.assertEqual(octets, chunk(LONG) + PROOF)
        self.assertIsNone(server.wire.producer)
        server.says("250 queued")
        self.proves(server)
        self.assertEqual(self.found(sent), [("delivered", "2.0.0")])

    def test_a_no_in_its_middle_is_the_verdict_and_the_connection_closes(self) -> None:
        for refusal, found in (("552 5.3.4 too big", ("failed", "5.3.4")), ("452 4.3.1 full", ("deferred", "4.3.1"))):
            self.setUp()
            sent = self.sends(content=LONG)
            server = self.paused()
            server.says(refusal)
            self.assertEqual(self.found(sent), [found])
            self.assertTrue(server.is_closed)
            server.wire.widen(1_000_000)
            server.expects()

    def test_a_no_in_its_middle_writes_nothing_of_the_next_message(self) -> None:
        sent, behind = self.sends(content=LONG), self.sends()
        server = self.paused()
        server.says("552 5.3.4 too big")
        server.expects()
        self.assertEqual(self.found(sent), [("failed", "5.3.4")])
        server = self.connected(*OFFERS)
        self.takes(server, 1)
        self.proves(server)
        self.assertEqual(self.found(behind), [("delivered", "2.0.0")])

    def test_a_yes_in_its_middle_is_nobodys_delivery(self) -> None:
        sent = self.sends(content=LONG)
        server = self.paused()
        server.says("250 2.0.0 queued already")
        self.assertEqual(self.found(sent), [("deferred", "4.5.0")])
        self.assertTrue(server.is_closed)

    def test_421_in_its_middle_defers(self) -> None:
        sent = self.sends(content=LONG)
        self.paused().says("421 4.3.2 good night")
        self.assertEqual(self.found(sent), [("deferred", "4.3.2")])

    def test_lost_in_its_middle_it_is_certainly_not_delivered(self) -> None:
        sent = self.sends(content=LONG)
        self.paused().loses_connection()
        self.assertEqual(self.found(sent), [("deferred", "4.4.2")])

    def test_cancelled_in_its_middle_the_connection_closes(self) -> None:
        sent = self.sends(content=LONG)
        server = self.paused()
        sent.cancel()
        server.passes(0)
        self.fails_with(CancelledError, sent)
        self.assertTrue(server.is_closed)
        server.wire.widen(1_000_000)
        server.expects()

    def test_cancelled_before_the_recipients_are_known_it_is_not_sent(self) -> None:
        sent = self.sends(content=LONG)
        server = self.connected(*OFFERS)
        server.wrote()
        sent.cancel()
        server.passes(0)
        self.fails_with(CancelledError, sent)
        server.expects()
        self.assertTrue(server.is_closed)

    def test_a_message_behind_it_goes_out_with_its_end(self) -> None:
        sent, behind = self.sends(content=LONG), self.sends()
        server = self.connected(*OFFERS)
        server.wrote()
        server.says("250 ok", "250 ok")
        self.assertEqual(server.wrote(), chunk(LONG) + b"RSET\r\n" + ENVELOPE + chunk(HELLO) + PROOF)
        server.says("250 queued", *["250 ok"] * 4)
        self.proves(server)
        self.assertEqual((self.found(sent), self.found(behind)), ([("delivered", "2.0.0")], [("delivered", "2.0.0")]))

    def paused(self) -> ScriptedPeer:
        """The server has read a block of it, and no more."""
        server = self.connected(*OFFERS)
        server.wire.window = 1
        server.says("250 ok", "250 ok")
        self.assertIn(b"BDAT %d LAST\r\n" % len(LONG), server.wrote())
        return server


class Losses(ChunkCase):
    def test_a_chunk_whose_reply_is_lost_is_uncertain(self) -> None:
        for replies in ([], ["250 ok"], ["250 ok", "250 ok"], ["250 ok", "250 ok", "250 queued"]):
            self.setUp()
            sent = self.sends()
            server = self.connected(*OFFERS)
            server.says(*replies)
            server.loses_connection()
            self.assertEqual(self.found(sent), [("deferred?", "4.4.2")])

    def test_so_is_everything_that_is_not_proved(self) -> None:
        sent = [self.sends() for _ in range(3)]
        server = self.connected(*OFFERS)
        server.says("250 ok", "550 5.1.1 no", "554 5.5.1 no", *["250 ok"] * 4)
        server.loses_connection()
        self.assertEqual([self.found(each) for each in sent], [[("deferred?", "4.4.2")]] * 3)

    def test_a_burst_that_is_proved_is_certain_whatever_comes_then(self) -> None:
        sent = [self.sends() for _ in range(2)]
        server = self.connected(*OFFERS)
        self.takes(server, 2)
        server.says(*ehlo_lines(*OFFERS), "421 4.3.2 good night")
        self.assertEqual([self.found(each) for each in sent], [[("delivered", "2.0.0")]] * 2)

    def test_what_came_in_the_same_packet_does_not_put_right_what_is_out_of_step(self) -> None:
        refused, taken = self.sends(), self.sends()
        server = self.connected(*OFFERS)
        server.says("250 ok", "250 ok", "250 of RSET", "550 5.7.1 no", *["250 ok"] * 3, *ehlo_lines(*OFFERS))
        self.assertEqual([self.found(each) for each in (refused, taken)], [[("deferred?", "4.5.0")]] * 2)


class Deadlines(ChunkCase):
    def test_a_server_that_stops_reading_has_three_minutes_for_a_block(self) -> None:
        sent = self.sends(content=LONG)
        server = self.connected(*OFFERS)
        server.wire.window = 1
        server.says("250 ok", "250 ok")
        server.passes(179)
        server.wire.widen(BLOCK_OCTETS)
        server.passes(179)
        self.assertNoResult(sent)
        server.passes(1)
        self.assertEqual(self.found(sent), [("deferred", "4.4.2")])

    def test_the_reply_to_the_last_chunk_has_ten_minutes(self) -> None:
        for content in (HELLO, LONG):
            self.setUp()
            sent = self.sends(content=content)
            server = self.connected(*OFFERS)
            server.says("250 ok", "250 ok")
            server.passes(599)
            self.assertNoResult(sent)
            server.passes(1)
            self.assertEqual(self.found(sent), [("deferred?", "4.4.2")])
