"""
Mail transactions: one verdict for each recipient, whatever the server does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from attrs import define, field
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import BLOCK_OCTETS, encoded
from pymail_tx.core.errors import OutOfOrder
from pymail_tx.core.outcome import Report, Status
from pymail_tx.core.state import State
from tests.net.scripted import ScriptedCase, ScriptedServer, envelope, outcomes, settled

_HELLO = b"Subject: Hello\r\n\r\nHow are you?\r\n"
_LONG = b"Subject: Hello\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 8_000
_ANN, _BOB, _CAT = "ann@example.com", "bob@example.com", "cat@example.com"


class TransactionCase(ScriptedCase):
    def sends(self, *recipients: str, content: bytes = _HELLO, keywords: tuple[str, ...] = ("PIPELINING",)) -> None:
        """Open a session and have a message sent; the envelope was read."""
        self.smtp = self.server(*keywords)
        self.sent = self.smtp.client.send(envelope(*recipients), content)

    def asks(self, *recipients: str, content: bytes = _HELLO) -> None:
        """The same, up to a 354 for recipients who were all accepted."""
        self.sends(*(recipients or (_ANN,)), content=content)
        self.smtp.wrote()
        self.smtp.says(*["250 ok"] * (1 + len(recipients or (_ANN,))), "354 go ahead")

    def report(self) -> Report:
        report = self.successResultOf(self.sent)
        self.sent = succeed(report)
        return report

    def found(self) -> list[tuple[str, str]]:
        return outcomes(self.report())


class TheWay(TransactionCase):
    def test_mail_recipients_and_data_go_out_in_one_write(self) -> None:
        self.sends(_ANN, _BOB)
        self.assertEqual(
            self.smtp.wire.writes[-1:],
            [b"MAIL FROM:<joe@example.org>\r\nRCPT TO:<ann@example.com>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"],
        )

    def test_short_content_goes_out_in_one_write_with_its_dot(self) -> None:
        self.asks()
        self.assertEqual(self.smtp.wire.writes[-1], _HELLO + b".\r\n")
        self.smtp.says("250 2.0.0 queued as 12345")
        self.assertEqual(self.found(), [("delivered", "2.0.0")])
        self.assertIs(self.smtp.client.state, State.READY)

    def test_without_pipelining_commands_go_out_one_by_one(self) -> None:
        self.sends(_ANN, _BOB, keywords=("8BITMIME",))
        for command, reply in (
            ("MAIL FROM:<joe@example.org>", "250 ok"),
            (f"RCPT TO:<{_ANN}>", "250 ok"),
            (f"RCPT TO:<{_BOB}>", "550 5.1.1 no"),
            ("DATA", "354 go ahead"),
        ):
            self.smtp.expects(command)
            self.smtp.says(reply)
        self.assertEqual(self.smtp.wrote(), _HELLO + b".\r\n")
        self.smtp.says("250 queued")
        self.assertEqual(self.found(), [("delivered", "2.0.0"), ("failed", "5.1.1")])

    def test_without_pipelining_nothing_is_sent_behind_a_refused_mail(self) -> None:
        self.sends(_ANN, _BOB, keywords=("8BITMIME",))
        self.smtp.expects("MAIL FROM:<joe@example.org>")
        self.smtp.says("550 5.7.1 not you")
        self.smtp.expects()
        self.assertEqual(self.found(), [("failed", "5.7.1")] * 2)

    def test_without_pipelining_no_data_is_sent_if_all_recipients_are_refused(self) -> None:
        self.sends(_ANN, keywords=("8BITMIME",))
        self.smtp.says("250 ok")
        self.smtp.wrote()
        self.smtp.says("550 5.1.1 no")
        self.smtp.expects("RSET")
        self.smtp.says("250 ok")
        self.assertEqual(self.found(), [("failed", "5.1.1")])

    def test_the_null_reverse_path_is_sent_as_it_is(self) -> None:
        server = self.server("PIPELINING")
        settled(server.client.send(envelope(sender=""), _HELLO))
        self.assertTrue(server.wrote().startswith(b"MAIL FROM:<>\r\n"))

    def test_a_second_message_goes_over_the_same_session(self) -> None:
        self.asks()
        self.smtp.says("250 queued")
        again = self.smtp.client.send(envelope(_BOB), _HELLO)
        self.smtp.wrote()
        self.smtp.says("250 ok", "250 ok", "354 go ahead")
        self.smtp.says("250 queued")
        self.assertEqual(outcomes(self.successResultOf(again)), [("delivered", "2.0.0")])

    def test_two_messages_at_once_are_misuse_and_the_first_is_not_harmed(self) -> None:
        self.asks()
        self.fails_with(OutOfOrder, self.smtp.client.send(envelope(), _HELLO))
        self.smtp.says("250 queued")
        self.assertEqual(self.found(), [("delivered", "2.0.0")])

    def test_a_session_that_ended_just_before_is_an_outcome_and_no_misuse(self) -> None:
        server = self.server("PIPELINING")
        server.says("421 4.3.2 good night")
        self.assertEqual(
            outcomes(self.successResultOf(server.client.send(envelope(), _HELLO))), [("deferred", "4.4.2")]
        )

    def test_a_session_that_is_not_open_yet_is_misuse(self) -> None:
        self.fails_with(OutOfOrder, self.server().client.send(envelope(), _HELLO))


class Recipients(TransactionCase):
    """Each has its own verdict."""

    def test_250_251_and_252_accept_a_recipient(self) -> None:
        self.sends(_ANN, _BOB, _CAT)
        self.smtp.says("250 ok", "250 ok", "251 forwarding", "252 cannot verify", "354 go ahead")
        self.smtp.says("250 queued")
        self.assertEqual(self.found(), [("delivered", "2.0.0")] * 3)

    def test_a_code_that_nobody_defined_counts_by_its_first_digit(self) -> None:
        self.sends(_ANN, _BOB, _CAT)
        self.smtp.says("250 ok", "299 well", "499 hm", "599 no", "354 go ahead")
        self.smtp.says("298 done")
        self.assertEqual(self.found(), [("delivered", "2.0.0"), ("deferred", "4.0.0"), ("failed", "5.0.0")])

    def test_end_of_datas_verdict_is_for_the_accepted_ones_only(self) -> None:
        for verdict, status in (("250 ok", "delivered"), ("451 4.3.0 later", "deferred"), ("554 5.7.1 spam", "failed")):
            self.sends(_ANN, _BOB, _CAT)
            self.smtp.says("250 ok", "550 5.1.1 no", "250 ok", "450 4.2.0 later", "354 go ahead")
            self.smtp.says(verdict)
            self.assertEqual([found[0] for found in self.found()], ["failed", status, "deferred"])

    def test_a_refused_mail_is_everybodys_verdict(self) -> None:
        for reply, found in (("451 4.3.0 later", ("deferred", "4.3.0")), ("550 5.7.1 no", ("failed", "5.7.1"))):
            self.sends(_ANN, _BOB)
            self.smtp.says(reply, "503 MAIL first", "503 MAIL first", "503 MAIL first")
            self.assertEqual(self.found(), [found] * 2)
            self.assertIs(self.smtp.client.state, State.READY)

    def test_a_refused_data_is_the_verdict_of_the_accepted_ones(self) -> None:
        self.sends(_ANN, _BOB)
        self.smtp.wrote()
        self.smtp.says("250 ok", "250 ok", "550 5.1.1 no", "451 4.3.0 later")
        self.smtp.expects("RSET")
        self.smtp.says("250 ok")
        self.assertEqual(self.found(), [("deferred", "4.3.0"), ("failed", "5.1.1")])

    def test_all_refused_and_data_refused_too_ends_with_a_reset(self) -> None:
        self.sends(_ANN)
        self.smtp.wrote()
        self.smtp.says("250 ok", "550 5.1.1 no", "554 no valid recipients")
        self.smtp.expects("RSET")
        self.smtp.says("250 ok")
        self.assertEqual(self.found(), [("failed", "5.1.1")])

    def test_all_refused_but_354_gets_a_lone_dot_and_its_reply_is_nobodys_delivery(self) -> None:
        for reply in ("250 2.0.0 queued", "554 5.5.1 nothing", "451 later"):
            self.sends(_ANN, _BOB)
            self.smtp.wrote()
            self.smtp.says("250 ok", "550 5.1.1 no", "450 4.2.0 later", "354 go ahead")
            self.smtp.expects(".")
            self.smtp.says(reply)
            self.assertEqual(self.found(), [("failed", "5.1.1"), ("deferred", "4.2.0")])
            self.assertIs(self.smtp.client.state, State.READY)

    def test_a_loss_after_such_a_dot_leaves_the_verdicts_certain(self) -> None:
        self.sends(_ANN)
        self.smtp.says("250 ok", "550 5.1.1 no", "354 go ahead")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("failed", "5.1.1")])

    def test_recipients_come_out_in_the_envelopes_order_even_one_named_twice(self) -> None:
        self.sends(_BOB, _ANN, _BOB)
        self.smtp.says("250 ok", "250 ok", "550 5.1.1 no", "250 ok", "354 go ahead")
        self.smtp.says("250 queued")
        self.assertEqual([outcome.recipient for outcome in self.report().outcomes], [_BOB, _ANN, _BOB])
        self.assertEqual([found[0] for found in self.found()], ["delivered", "failed", "delivered"])

    def test_outcomes_say_whom_the_session_was_with(self) -> None:
        self.asks()
        self.smtp.says("250 queued")
        [outcome] = self.report().outcomes
        self.assertEqual((outcome.host, outcome.port, outcome.tls), ("mx.example", 25, None))

    def test_a_thousand_recipients_are_one_write(self) -> None:
        recipients = [f"user{number}@example.com" for number in range(1_000)]
        self.sends(*recipients)
        self.assertEqual(self.smtp.wrote().count(b"RCPT"), 1_000)
        self.assertEqual(len(self.smtp.wire.writes), 2)  # the first is EHLO
        self.smtp.says(*["250 ok"] * 1_001, "354 go ahead")
        self.smtp.says("250 queued")
        self.assertEqual(self.found(), [("delivered", "2.0.0")] * 1_000)


class TooMany(TransactionCase):
    """452 and 552 at RCPT (RFC 5321 §4.5.3.1.10)."""

    def test_the_rest_goes_out_in_a_further_transaction_at_once(self) -> None:
        for refusal in ("452 too many", "452 4.5.3 too many", "552 too many", "552 5.5.3 too many", "452 5.5.3 odd"):
            self.sends(_ANN, _BOB, _CAT)
            self.smtp.says("250 ok", "250 ok", refusal, refusal, "354 go ahead")
            self.smtp.wrote()
            self.smtp.says("250 queued")
            self.smtp.expects("MAIL FROM:<joe@example.org>", f"RCPT TO:<{_BOB}>", f"RCPT TO:<{_CAT}>", "DATA")
            self.smtp.says("250 ok", "250 ok", "550 5.1.1 no", "354 go ahead")
            self.smtp.says("250 queued")
            self.assertEqual(self.found(), [("delivered", "2.0.0"), ("delivered", "2.0.0"), ("failed", "5.1.1")])

    def test_another_enhanced_code_is_about_that_mailbox(self) -> None:
        for refusal, found in (
            ("552 5.2.2 mailbox full", ("failed", "5.2.2")),
            ("452 4.2.2 mailbox full", ("deferred", "4.2.2")),
            ("552 5.3.4 too big", ("failed", "5.3.4")),
            ("452 4.3.1 disk full", ("deferred", "4.3.1")),
        ):
            self.sends(_ANN, _BOB)
            self.smtp.says("250 ok", "250 ok", refusal, "354 go ahead")
            self.smtp.says("250 queued")
            self.assertEqual(self.found(), [("delivered", "2.0.0"), found])
            self.smtp.wrote()

    def test_an_enhanced_code_of_another_class_is_none(self) -> None:
        self.sends(_ANN)
        self.smtp.says("250 ok", "552 4.2.2 which?", "554 no valid recipients")
        self.smtp.says("250 reset")
        self.assertEqual(self.found(), [("deferred", "4.5.3")])

    def test_552_with_nobody_accepted_is_a_deferral_and_no_further_transaction(self) -> None:
        for refusal in ("452 too many", "452 4.5.3 too many", "552 too many", "552 5.5.3 too many"):
            self.sends(_ANN, _BOB)
            self.smtp.says("250 ok", refusal, refusal, "554 no valid recipients")
            self.smtp.wrote()
            self.smtp.says("250 reset")
            self.smtp.expects()
            self.assertEqual(self.found(), [("deferred", "4.5.3")] * 2)

    def test_a_server_that_takes_one_at_a_time_gets_as_many_transactions_and_no_more(self) -> None:
        self.sends(_ANN, _BOB, _CAT)
        for left in (3, 2, 1):
            self.assertEqual(self.smtp.wrote().count(b"RCPT"), left)
            self.smtp.says("250 ok", "250 ok", *["452 4.5.3 too many"] * (left - 1), "354 go ahead")
            self.smtp.wrote()
            self.smtp.says("250 queued")
        self.smtp.expects()
        self.assertEqual(self.found(), [("delivered", "2.0.0")] * 3)

    def test_what_the_first_transaction_decided_stands_when_the_second_is_lost(self) -> None:
        self.sends(_ANN, _BOB)
        self.smtp.says("250 ok", "250 ok", "452 4.5.3 too many", "354 go ahead")
        self.smtp.says("250 queued")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("delivered", "2.0.0"), ("deferred", "4.4.2")])

    def test_what_the_first_transaction_decided_stands_when_the_session_ends_with_it(self) -> None:
        self.sends(_ANN, _BOB)
        self.smtp.says("250 ok", "250 ok", "452 4.5.3 too many", "354 go ahead")
        self.smtp.says("421 4.3.2 good night")
        self.assertEqual(self.found(), [("deferred", "4.3.2"), ("deferred", "4.4.2")])

    def test_552_at_end_of_data_is_a_failure(self) -> None:
        self.asks()
        self.smtp.says("552 5.3.4 too big after all")
        self.assertEqual(self.found(), [("failed", "5.3.4")])


class Losses(TransactionCase):
    def test_before_the_dot_a_loss_is_certain(self) -> None:
        for replies in ((), ("250 ok",), ("250 ok", "250 ok")):
            self.sends(_ANN)
            self.smtp.says(*replies)
            self.smtp.loses_connection()
            self.assertEqual(self.found(), [("deferred", "4.4.2")])

    def test_after_the_dot_a_loss_is_uncertain(self) -> None:
        self.asks()
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("deferred?", "4.4.2")])
        self.assertIn("may have been delivered", self.report().outcomes[0].reason)

    def test_after_the_dot_a_deadline_is_uncertain(self) -> None:
        self.asks()
        self.smtp.passes(599)
        self.assertNoResult(self.sent)
        self.smtp.passes(1)
        self.assertEqual(self.found(), [("deferred?", "4.4.2")])

    def test_after_the_dot_a_violation_is_uncertain(self) -> None:
        for words in ("354 what?", "2500 queued", "250queued", ""):
            self.asks()
            self.smtp.says(words)
            self.assertEqual(self.found(), [("deferred?", "4.5.0")])

    def test_only_accepted_recipients_are_uncertain(self) -> None:
        self.sends(_ANN, _BOB, _CAT)
        self.smtp.says("250 ok", "250 ok", "550 5.1.1 no", "452 4.5.3 too many", "354 go ahead")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("deferred?", "4.4.2"), ("failed", "5.1.1"), ("deferred", "4.4.2")])

    def test_a_5xx_already_received_beats_a_connection_lost_after_it(self) -> None:
        self.sends(_ANN, _BOB)
        self.smtp.says("250 ok", "550 5.1.1 no")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("failed", "5.1.1"), ("deferred", "4.4.2")])

    def test_a_refused_mail_beats_a_connection_lost_after_it(self) -> None:
        self.sends(_ANN, _BOB)
        self.smtp.says("550 5.7.1 not you")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("failed", "5.7.1")] * 2)

    def test_a_refused_data_beats_a_connection_lost_after_it(self) -> None:
        self.sends(_ANN)
        self.smtp.says("250 ok", "250 ok", "554 5.3.2 no content today")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("failed", "5.3.2")])

    def test_an_accepted_end_of_data_beats_everything_after_it(self) -> None:
        for after in (b"", b"421 bye\r\n", b"garbage\r\n", b"550 no\r\n", b"25"):
            self.asks()
            self.smtp.sends(b"250 queued\r\n" + after)
            self.smtp.loses_connection()
            self.assertEqual(self.found(), [("delivered", "2.0.0")])

    def test_250_to_end_of_data_and_then_no_221_is_delivered(self) -> None:
        self.asks()
        self.smtp.says("250 queued")
        quitting = settled(self.smtp.client.quit())
        self.smtp.passes(5)
        self.assertEqual(len(quitting), 1)
        self.assertEqual(self.found(), [("delivered", "2.0.0")])

    def test_a_loss_during_the_reset_changes_no_verdict(self) -> None:
        self.sends(_ANN)
        self.smtp.says("250 ok", "550 5.1.1 no", "554 no valid recipients")
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("failed", "5.1.1")])

    def test_421_defers_the_undecided_and_verdicts_already_given_stand(self) -> None:
        for replies, expected in (
            (("421 4.3.2 bye",), ["deferred"] * 3),
            (("250 ok", "421 4.3.2 bye"), ["deferred"] * 3),
            (("250 ok", "550 no", "421 4.3.2 bye"), ["failed", "deferred", "deferred"]),
            (("250 ok", "550 no", "250 ok", "421 4.3.2 bye"), ["failed", "deferred", "deferred"]),
            (("250 ok", "550 no", "250 ok", "450 no", "421 4.3.2 bye"), ["failed", "deferred", "deferred"]),
            (("250 ok", "550 no", "250 ok", "250 ok", "354 go", "421 bye"), ["failed", "deferred", "deferred"]),
        ):
            for together in (True, False):
                self.sends(_ANN, _BOB, _CAT)
                for packet in [replies] if together else [(reply,) for reply in replies]:
                    self.smtp.says(*packet)
                self.assertEqual([found[0] for found in self.found()], expected)
                self.assertTrue(self.smtp.is_closed)

    def test_a_reply_in_the_packet_of_the_354_is_nobodys_delivery(self) -> None:
        for surplus in (b"250 queued\r\n", b"250 qu", b"250-queued\r\n"):
            self.sends(_ANN)
            self.smtp.wrote()
            self.smtp.sends(b"250 ok\r\n250 ok\r\n354 go ahead\r\n" + surplus)
            self.smtp.expects()
            self.assertEqual(self.found(), [("deferred", "4.5.0")])

    def test_one_reply_too_many_in_a_group_is_nobodys_delivery(self) -> None:
        self.sends(_ANN, _BOB)
        self.smtp.says("250 ok", "250 what I wanted to say", "250 ann", "550 no bob", "354 go ahead")
        self.assertNotIn("delivered", [found[0] for found in self.found()])
        self.assertTrue(self.smtp.is_closed)


class ContentOut(TransactionCase):
    def test_content_over_a_block_waits_for_the_transport(self) -> None:
        self.sends(_ANN, content=_LONG)
        self.smtp.wire.window = 1
        self.smtp.wrote()
        self.smtp.says("250 ok", "250 ok", "354 go ahead")
        sent = self.smtp.wrote()
        self.assertLess(len(sent), 2 * BLOCK_OCTETS)
        while not sent.endswith(b"\r\n.\r\n"):
            self.smtp.wire.widen(BLOCK_OCTETS)
            block = self.smtp.wrote()
            self.assertLess(len(block), 2 * BLOCK_OCTETS + 10)
            self.assertTrue(block)
            sent += block
        self.assertEqual(sent, _LONG + b".\r\n")
        self.assertIsNone(self.smtp.wire.producer)
        self.smtp.says("250 queued")
        self.assertEqual(self.found(), [("delivered", "2.0.0")])

    def test_a_block_is_the_limit_of_one_write_with_the_dot_and_one_octet_more_is_two(self) -> None:
        for octets, writes in ((BLOCK_OCTETS, 1), (BLOCK_OCTETS + 1, 3)):
            content = b"x" * 62 + b"\r\n"
            content = (content * (octets // 64 + 1))[: octets - 2] + b"\r\n"
            self.asks(content=content)
            self.assertEqual(len(self.smtp.wire.writes), 2 + writes)
            self.assertEqual(self.smtp.wrote(), b"".join(encoded([content])) + b".\r\n")

    def test_a_no_while_content_still_flows_is_the_verdict_and_the_dot_is_never_sent(self) -> None:
        for reply, found in (
            ("452 4.3.1 disk full", ("deferred", "4.3.1")),
            ("552 5.3.4 too big", ("failed", "5.3.4")),
            ("421 4.3.2 bye", ("deferred", "4.3.2")),
        ):
            self.paused_in_content()
            self.smtp.wrote()
            self.smtp.says(reply)
            self.assertEqual(self.found(), [found])
            self.assertTrue(self.smtp.wire.disconnected)
            self.smtp.wire.widen(1_000_000)
            self.smtp.expects()

    def test_a_no_in_the_packet_of_the_354_is_the_verdict_and_nothing_is_sent(self) -> None:
        for content in (_HELLO, _LONG):
            self.sends(_ANN, content=content)
            self.smtp.wrote()
            self.smtp.says("250 ok", "250 ok", "354 go ahead", "554 5.7.1 no, wait")
            self.smtp.expects()
            self.assertEqual(self.found(), [("failed", "5.7.1")])

    def test_a_yes_while_content_still_flows_is_nobodys_delivery(self) -> None:
        self.paused_in_content()
        self.smtp.says("250 2.0.0 queued already")
        self.assertEqual(self.found(), [("deferred", "4.5.0")])
        self.smtp.wire.widen(1_000_000)
        self.assertFalse(self.smtp.wrote().endswith(b".\r\n"))

    def test_half_a_yes_before_the_dot_is_nobodys_delivery(self) -> None:
        self.paused_in_content()
        self.smtp.sends(b"250 2.0.0 que")
        self.smtp.wire.widen(1_000_000)
        self.smtp.sends(b"ued\r\n")
        self.assertFalse(self.smtp.wrote().endswith(b"\r\n.\r\n"))
        self.assertEqual(self.found(), [("deferred", "4.5.0")])

    def test_a_loss_while_content_still_flows_is_certain(self) -> None:
        self.paused_in_content()
        self.smtp.loses_connection()
        self.assertEqual(self.found(), [("deferred", "4.4.2")])
        self.smtp.wire.widen(1_000_000)
        self.assertFalse(self.smtp.wrote().endswith(b".\r\n"))

    def test_a_server_that_stops_reading_has_three_minutes_for_a_block(self) -> None:
        self.paused_in_content()
        self.smtp.passes(179)
        self.smtp.wire.widen(BLOCK_OCTETS)
        self.smtp.passes(179)
        self.assertNoResult(self.sent)
        self.smtp.passes(1)
        self.assertEqual(self.found(), [("deferred", "4.4.2")])

    def test_a_transport_that_is_gone_stops_the_flow(self) -> None:
        self.paused_in_content()
        producer = IPushProducer(self.smtp.wire.producer)
        producer.stopProducing()
        self.smtp.wrote()
        self.smtp.loses_connection()
        producer.resumeProducing()
        self.smtp.expects()

    def test_dots_are_doubled_across_any_block_boundary(self) -> None:
        content = b"." * 7 + b"\r\n" + b".x\r\n" * 50_000
        self.asks(content=content)
        self.assertEqual(self.smtp.wrote(), b"".join(encoded([content])) + b".\r\n")

    def test_no_cr_or_lf_goes_out_alone_and_the_last_line_ends(self) -> None:
        self.asks(content=b"Subject: x\n\none\rtwo\n.\rthree")
        self.assertEqual(self.smtp.wrote(), b"Subject: x\r\n\r\none\r\ntwo\r\n..\r\nthree\r\n.\r\n")

    def test_no_content_at_all_is_a_dot(self) -> None:
        self.asks(content=b"")
        self.assertEqual(self.smtp.wrote(), b".\r\n")

    def paused_in_content(self) -> None:
        self.sends(_ANN, content=_LONG)
        self.smtp.wire.window = 1
        self.smtp.says("250 ok", "250 ok", "354 go ahead")
        self.assertIs(self.smtp.client.state, State.CONTENT)


class Cancel(TransactionCase):
    """At every stage: closed without a dot, CancelledError, nothing left over."""

    def test_at_every_stage_before_the_dot(self) -> None:
        for keywords in (("PIPELINING",), ("8BITMIME",)):
            for replies in range(4):
                self.sends(_ANN, _BOB, content=_LONG, keywords=keywords)
                self.smtp.wire.window = 1
                for reply in ("250 ok", "250 ok", "250 ok", "354 go ahead")[:replies]:
                    self.smtp.says(reply)
                self.cancelled()

    def test_while_content_flows(self) -> None:
        self.sends(_ANN, content=_LONG)
        self.smtp.wire.window = 1
        self.smtp.says("250 ok", "250 ok", "354 go ahead")
        self.cancelled()
        self.smtp.wire.widen(1_000_000)
        self.smtp.expects()

    def test_after_the_dot(self) -> None:
        self.asks()
        self.cancelled()

    def test_while_the_lone_dot_of_nobodys_message_waits(self) -> None:
        self.sends(_ANN)
        self.smtp.says("250 ok", "550 no", "354 go ahead")
        self.cancelled()

    def test_the_report_does_not_wait_for_the_reset(self) -> None:
        self.sends(_ANN)
        self.smtp.wrote()
        self.smtp.says("250 ok", "550 no", "554 no")
        self.smtp.expects("RSET")
        self.assertTrue(self.sent.called)

    def cancelled(self) -> None:
        self.smtp.wrote()
        self.sent.cancel()
        self.smtp.passes(0)
        self.fails_with(CancelledError, self.sent)
        self.smtp.expects()
        self.assertTrue(self.smtp.wire.disconnected)
        self.assertEqual(self.smtp.clock.getDelayedCalls(), [])


class Planned(TransactionCase):
    """What the server's EHLO reply decides before MAIL."""

    def sends_nothing(self, reason: str, *keywords: str, content: bytes = _HELLO, recipient: str = _ANN) -> None:
        self.sends(recipient, content=content, keywords=keywords)
        self.smtp.expects()
        self.assertEqual(self.found(), [("failed", reason)])
        self.assertIs(self.smtp.client.state, State.READY)

    def test_a_size_smaller_than_the_message_fails_it_with_no_mail_sent(self) -> None:
        self.sends_nothing("5.3.4", f"SIZE {len(_HELLO) - 1}")

    def test_a_size_as_large_as_the_message_takes_it(self) -> None:
        self.sends(_ANN, keywords=(f"SIZE {len(_HELLO)}",))
        self.smtp.expects(f"MAIL FROM:<joe@example.org> SIZE={len(_HELLO)}")

    def test_8_bit_content_is_declared_where_8bitmime_is_offered(self) -> None:
        content = _HELLO + "Grüße\r\n".encode()
        self.sends(_ANN, content=content, keywords=("8BITMIME", "PIPELINING"))
        self.assertTrue(self.smtp.wrote().startswith(b"MAIL FROM:<joe@example.org> BODY=8BITMIME\r\n"))
        self.smtp.says("250 ok", "250 ok", "354 go ahead")
        self.assertEqual(self.smtp.wrote(), content + b".\r\n")

    def test_8_bit_content_without_8bitmime_is_re_encoded(self) -> None:
        self.asks(content=_HELLO + "Grüße\r\n".encode())
        sent = self.smtp.wrote()
        self.assertTrue(sent.isascii())
        self.assertIn(b"\r\nContent-Transfer-Encoding: ", sent)

    def test_8_bit_content_that_cannot_be_re_encoded_fails_and_is_never_sent_as_it_is(self) -> None:
        signed = 'Content-Type: multipart/signed; boundary="b"\r\n\r\n--b\r\n\r\nGrüße\r\n--b--\r\n'.encode()
        self.sends_nothing("5.6.3", "PIPELINING", content=signed)

    def test_a_non_ascii_local_part_without_smtputf8_fails_with_never_a_raw_octet(self) -> None:
        self.sends_nothing("5.6.7", "PIPELINING", "8BITMIME", recipient="ännchen@example.com")

    def test_the_others_are_served_where_one_needs_smtputf8(self) -> None:
        self.sends(_ANN, "ännchen@example.com", keywords=("PIPELINING",))
        self.smtp.expects("MAIL FROM:<joe@example.org>", f"RCPT TO:<{_ANN}>", "DATA")
        self.smtp.says("250 ok", "250 ok", "354 go ahead")
        self.smtp.says("250 queued")
        self.assertEqual(self.found(), [("delivered", "2.0.0"), ("failed", "5.6.7")])

    def test_smtputf8_is_asked_for_where_it_is_needed_and_offered(self) -> None:
        self.sends("ännchen@example.com", keywords=("SMTPUTF8", "8BITMIME", "PIPELINING"))
        self.smtp.expects("MAIL FROM:<joe@example.org> SMTPUTF8", "RCPT TO:<ännchen@example.com>", "DATA")

    def test_a_non_ascii_domain_alone_becomes_a_labels(self) -> None:
        self.sends("ann@bücher.example", keywords=("PIPELINING",))
        self.smtp.expects("MAIL FROM:<joe@example.org>", "RCPT TO:<ann@xn--bcher-kva.example>", "DATA")


@define
class _Honest:
    """
    A server that answers each command it reads with a reply that is drawn, and
    perhaps says something more in the same packet. It knows who was really
    accepted.
    """

    draw: Callable[[str], str]
    delivered: list[str] = field(factory=list)
    _accepted: list[str] = field(factory=list)
    _unread: bytes = b""
    _in_content: bool = False

    def reads(self, octets: bytes) -> Iterator[str]:
        """Take what the client wrote; give the replies."""
        self._unread += octets
        while self._in_content or b"\r\n" in self._unread:
            if self._in_content:
                if not self._unread.startswith(b".\r\n") and b"\r\n.\r\n" not in self._unread:
                    return
                self._unread = self._unread.partition(b"." if self._unread[:3] == b".\r\n" else b"\r\n.")[2][2:]
                self._in_content = False
                yield self._ends()
            else:
                line, _, self._unread = self._unread.partition(b"\r\n")
                yield self._answers(line.decode())

    def _ends(self) -> str:
        reply = self.draw("end of data")
        if reply.startswith("2"):
            self.delivered += self._accepted
        self._accepted = []
        return reply

    def _answers(self, line: str) -> str:
        verb = line[:4]
        reply = self.draw(verb)
        if verb == "RCPT" and reply.startswith("2"):
            found = re.search("<(.*)>", line)
            assert found
            self._accepted.append(found[1])
        elif verb == "DATA":
            self._in_content = reply.startswith("3")
        elif verb in ("MAIL", "RSET"):
            self._accepted = []
        return reply


_REPLIES = {
    "MAIL": ("250 ok", "250 ok", "250 ok", "451 no", "550 no", "421 no"),
    "RCPT": ("250 ok", "250 ok", "251 ok", "450 no", "550 no", "452 4.5.3 many", "552 5.2.2 full", "421 no"),
    "DATA": ("354 go", "354 go", "354 go", "451 no", "554 no"),
    "RSET": ("250 ok", "550 no"),
    "end of data": ("250 ok", "250 ok", "451 no", "554 no", "421 no", "399 hm"),
}
_SURPLUS = (b"", b"", b"", b"", b"", b"", b"250 and more\r\n", b"550 no\r\n", b"25", b"garbage\r\n", b"421 bye\r\n")


class NeverDeliveredWithoutAYes(SynchronousTestCase):
    @given(st.data(), st.booleans(), st.booleans())
    @settings(max_examples=400, deadline=None)
    def test_whoever_is_delivered_was_accepted_and_so_was_the_content(
        self, data: st.DataObject, pipelining: bool, long: bool
    ) -> None:
        server = ScriptedServer(self)
        server.opens("PIPELINING" if pipelining else "8BITMIME")
        result = settled(server.client.send(envelope(_ANN, _BOB, _CAT), _LONG if long else _HELLO))
        peer = _Honest(lambda verb: data.draw(st.sampled_from(_REPLIES[verb])))
        turns = 0
        while not result and not server.is_closed:
            turns += 1
            packet = b"".join(reply.encode() + b"\r\n" for reply in peer.reads(server.wrote()))
            surplus = data.draw(st.sampled_from(_SURPLUS))
            server.sends(packet + surplus)
            if not packet + surplus:
                server.passes(600)
            self.assertLess(turns, 100)
        server.ends()
        [report] = result
        assert isinstance(report, Report)
        told = [one.recipient for one in report.outcomes if one.status is Status.DELIVERED]
        self.assertEqual([one for one in told if one not in peer.delivered], [])

    @given(st.lists(st.sampled_from(_SURPLUS[6:] + tuple(
        reply.encode() + b"\r\n" for replies in _REPLIES.values() for reply in replies
    )) | st.binary(max_size=20), max_size=20), st.booleans(), st.booleans())  # fmt: skip
    @settings(max_examples=300, deadline=None)
    @example([b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 ok\r\n"], True, False)
    def test_any_garbage_ends_in_outcomes(self, packets: list[bytes], pipelining: bool, cancels: bool) -> None:
        server = ScriptedServer(self)
        server.opens("PIPELINING" if pipelining else "8BITMIME")
        sending = server.client.send(envelope(_ANN, _BOB), _HELLO)
        result = settled(sending)
        for packet in packets:
            if not server.is_closed:
                server.sends(packet)
        if cancels:
            sending.cancel()
        server.passes(100_000)
        server.ends()
        self.assertEqual(len(result), 1)
        self.assert_fits(result[0], b"".join(packets))

    def assert_fits(self, result: Report | Failure, octets: bytes) -> None:
        if isinstance(result, Failure):
            self.assertIsInstance(result.value, CancelledError)
        elif any(outcome.status is Status.DELIVERED for outcome in result.outcomes):
            self.assertRegex(octets, rb"(?s)2..[^\n]*\r\n.*2..[^\n]*\r\n.*3..[^\n]*\r\n.*2..")
