"""
The protocol, command by command, against servers that keep no promise.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import FileLogObserver, formatEventAsClassicLogText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.authentication import Computation, Refusal
from pymail_tx.core.command import COMMANDS, Verb
from pymail_tx.core.errors import (
    BadArgument,
    OutOfOrder,
    ProtocolViolation,
    ReplyTimeout,
    SessionError,
    SessionLost,
    TLSFailed,
)
from pymail_tx.core.mechanisms import BearerToken, Circumstances, External, Identity
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import WITHHELD, Credentials, encode
from pymail_tx.core.secret import Secret
from pymail_tx.core.state import State
from pymail_tx.net.protocol import Run, SMTPClient, SMTPClientFactory, run_here
from pymail_tx.net.tls import ClientTLS
from tests.net.scripted import ScriptedCase, ScriptedServer, Wire, ehlo_lines, settled


def _tls() -> ClientTLS:
    return ClientTLS("mx.example", must_verify=False)


class GreetingAndHello(ScriptedCase):
    def test_nothing_is_sent_before_the_greeting(self) -> None:
        server = self.server()
        hello = server.client.ehlo("me.example")
        server.expects()
        server.says("220-mx.example", "220 at your service")
        server.expects("EHLO me.example")
        server.says("250 mx.example")
        self.assertEqual(self.code_of(hello), 250)

    def test_half_a_greeting_is_none(self) -> None:
        server = self.server()
        settled(server.client.ehlo("me.example"))
        server.says("220-mx.example")
        server.expects()

    def test_the_greeting_can_be_asked_for_after_it_came(self) -> None:
        server = self.server()
        server.says("220 mx.example")
        self.assertEqual(self.code_of(server.client.greeting()), 220)

    def test_the_greeting_of_a_session_that_ended_before_it_is_its_end(self) -> None:
        server = self.server()
        server.loses_connection()
        self.fails_with(SessionLost, server.client.greeting())

    def test_two_cannot_wait_for_one_greeting(self) -> None:
        server = self.server()
        settled(server.client.greeting())
        self.assertRaises(OutOfOrder, server.client.greeting)

    def test_after_a_refused_greeting_there_is_only_quit(self) -> None:
        server = self.server()
        server.says("554 no service here")
        self.assertIs(server.client.state, State.TURNED_AWAY)
        self.assertRaises(OutOfOrder, server.client.ehlo, "me.example")
        quitting = server.client.quit()
        server.expects("QUIT")
        server.says("221 bye")
        self.assertEqual(self.code_of(quitting), 221)
        self.assertTrue(server.is_closed)

    def test_a_command_given_before_a_greeting_that_refuses_is_never_sent(self) -> None:
        server = self.server()
        hello = server.client.ehlo("me.example")
        server.says("554 no service here")
        server.expects()
        self.fails_with(OutOfOrder, hello)

    def test_ehlo_keywords_are_remembered(self) -> None:
        server = self.server("PIPELINING", "SIZE 1000")
        self.assertIn("PIPELINING", server.client.extensions)
        self.assertEqual(server.client.extensions.size_limit_bytes, 1_000)

    def test_a_second_ehlo_replaces_what_the_first_taught(self) -> None:
        server = self.server("PIPELINING", "SIZE 1000")
        self.successResultOf(self._answered(server, server.client.ehlo("me.example"), *ehlo_lines("8BITMIME")))
        self.assertEqual(set(server.client.extensions.keywords), {"8BITMIME"})

    def test_a_refused_ehlo_teaches_nothing(self) -> None:
        server = self.server("PIPELINING")
        self.successResultOf(self._answered(server, server.client.ehlo("me.example"), "550-no", "550 SIZE 1"))
        self.assertEqual(set(server.client.extensions.keywords), {"PIPELINING"})

    def test_helo_forgets_the_extensions(self) -> None:
        server = self.server("PIPELINING")
        self.successResultOf(self._answered(server, server.client.helo("me.example"), "250 mx.example"))
        self.assertEqual(dict(server.client.extensions.keywords), {})

    def test_our_name_may_be_an_address_literal(self) -> None:
        server = self.server()
        server.says("220 mx.example")
        settled(server.client.ehlo("[192.0.2.1]"))
        server.expects("EHLO [192.0.2.1]")

    def test_nagles_algorithm_is_off(self) -> None:
        self.assertTrue(self.server().wire.no_delay)

    def _answered(self, server: ScriptedServer, replied: Deferred[Reply], *lines: str) -> Deferred[Reply]:
        server.says(*lines)
        return replied


_NO_LINE = "not an SMTP reply|does not end in CRLF"

_NOOP_REPLIES = {
    "a reply line of 2,048 octets": (b"250 " + b"x" * 2_042 + b"\r\n", None),
    "a reply line of 2,049 octets": (b"250 " + b"x" * 2_043 + b"\r\n", "more than 2048 octets"),
    "2,048 octets and no line end": (b"250 " + b"x" * 2_044, "more than 2048 octets"),
    "128 lines": (b"250-x\r\n" * 127 + b"250 x\r\n", None),
    "129 lines": (b"250-x\r\n" * 128 + b"250 x\r\n", "more than 128 lines"),
    "100,000 octets": ((b"250-" + b"x" * 1_994 + b"\r\n") * 49 + b"250 " + b"x" * 1_994 + b"\r\n", None),
    "100,001 octets": ((b"250-" + b"x" * 1_994 + b"\r\n") * 49 + b"250 " + b"x" * 1_995 + b"\r\n", "more than 100000"),
    "a bare LF": (b"250 ok\n250 ok\r\n", _NO_LINE),
    "a bare LF and nothing more": (b"250 ok\n", _NO_LINE),
    "a bare CR": (b"250 o\rk\r\n", _NO_LINE),
    "a bare CR in half a line": (b"250 o\rk", _NO_LINE),
    "NUL": (b"250 o\0k\r\n", _NO_LINE),
    "NUL in half a line": (b"250 o\0k", _NO_LINE),
    "two codes in one reply": (b"250-ok\r\n251 ok\r\n", "goes on with 251"),
    "a first digit of 1": (b"150 ok\r\n", "not an SMTP reply"),
    "a first digit of 6": (b"650 ok\r\n", "not an SMTP reply"),
    "four digits": (b"2500 ok\r\n", "not an SMTP reply"),
    "text glued to the code": (b"250ok\r\n", "not an SMTP reply"),
    "an empty line": (b"\r\n", "not an SMTP reply"),
    "a code alone": (b"250\r\n", None),
    "a code that nobody defined": (b"299 well\r\n", None),
    "a refusal that nobody defined": (b"599 well\r\n", None),
    "3yz where none is expected": (b"354 go ahead\r\n", "no reply to NOOP"),
    "octets that are not UTF-8": (b"250 caf\xe9\r\n", None),
}


class Replies(ScriptedCase):
    """Each is a reply to NOOP, and either one or a violation that closes the connection."""

    def test_what_is_a_reply_and_what_is_not(self) -> None:
        for name, (octets, problem) in _NOOP_REPLIES.items():
            for cut in (len(octets), 1):
                server = self.server("NOTHING")
                replied = settled(server.client.noop())
                for start in range(0, len(octets), cut):
                    if not server.is_closed:
                        server.sends(octets[start : start + cut])
                self.assertEqual(server.is_closed, problem is not None, name)
                self.assertEqual(len(replied), 1, name)
                if problem:
                    self.assertIsInstance(server.client.ended_by, ProtocolViolation, name)
                    self.assertRegex(str(server.client.ended_by), problem)

    def test_a_flood_of_short_lines_is_refused_at_the_first_that_nobody_asked_for(self) -> None:
        server = self.server("NOTHING")
        server.sends(b"250 ok\r\n" * 500_000)
        self.assertIsInstance(server.client.ended_by, ProtocolViolation)

    def test_a_reply_goes_on_over_the_packets_in_which_it_comes(self) -> None:
        server = self.server("NOTHING")
        replied = server.client.noop()
        lines = [f"250-{'x' * 1_000}"] * 40 + ["250 end"]
        octets = "".join(f"{line}\r\n" for line in lines).encode()
        for start in range(0, len(octets), 1_447):
            server.sends(octets[start : start + 1_447])
        self.assertEqual(len(self.successResultOf(replied).lines), 41)

    def test_what_follows_the_end_is_not_read(self) -> None:
        server = self.server("NOTHING")
        settled(server.client.noop())
        server.sends(b"garbage\r\n250 ok\r\n")
        first = server.client.ended_by
        server.client.dataReceived(b"more garbage\r\n")
        self.assertIs(server.client.ended_by, first)


class Deadlines(ScriptedCase):
    def times_out(self, server: ScriptedServer, replied: Deferred[Reply], seconds: float) -> None:
        """The whole reply may take so long; a server that drips one octet a minute does not escape."""
        result = settled(replied)
        left_s = seconds - 1.0
        for octet in b"250-" + b"x" * 1_000:
            if left_s < 60:
                break
            server.passes(60)
            server.sends(bytes([octet]))
            left_s -= 60
        server.passes(left_s)
        self.assertEqual((result, server.is_closed), ([], False))
        server.passes(1)
        self.assertTrue(server.is_closed)
        self.assertEqual(len(result), 1)
        self.assertIsInstance(server.client.ended_by, ReplyTimeout)
        self.assertIn(f"{seconds:g} s passed", str(server.client.ended_by))
        self.assertEqual(server.clock.getDelayedCalls(), [])

    def test_the_greeting_has_five_minutes(self) -> None:
        server = self.server()
        self.times_out(server, server.client.greeting(), 300)

    def test_the_deadline_of_the_greeting_runs_when_nobody_asks_for_it(self) -> None:
        server = self.server()
        server.passes(300)
        self.assertTrue(server.is_closed)

    def test_ehlo_has_five_minutes(self) -> None:
        server = self.server()
        server.says("220 mx.example")
        self.times_out(server, server.client.ehlo("me.example"), 300)

    def test_helo_has_five_minutes(self) -> None:
        server = self.server()
        server.says("220 mx.example")
        self.times_out(server, server.client.helo("me.example"), 300)

    def test_starttls_has_five_minutes(self) -> None:
        server = self.server("STARTTLS")
        self.times_out(server, server.client.starttls(_tls()), 300)

    def test_auth_has_five_minutes_and_each_of_its_steps_too(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(Credentials("joe", Secret("x" * 400)))
        server.passes(299)
        server.says("334 ")
        self.times_out(server, replied, 300)

    def test_mail_has_five_minutes(self) -> None:
        server = self.server("NOTHING")
        self.times_out(server, server.client.mail(""), 300)

    def test_rcpt_has_five_minutes(self) -> None:
        server = self.server("NOTHING")
        settled(server.client.mail(""))
        server.says("250 ok")
        self.times_out(server, server.client.rcpt("ann@example.com"), 300)

    def test_data_has_two_minutes(self) -> None:
        server = self.server("NOTHING")
        self.addressed(server)
        self.times_out(server, server.client.data(), 120)

    def test_a_block_of_content_has_three_minutes(self) -> None:
        server = self.server("NOTHING")
        self.asked_for_content(server)
        verdict = server.client.content_reply()
        server.passes(179)
        server.client.send_content(b"x" * 1_000)
        self.times_out(server, verdict, 180)
        self.assertFalse(server.client.in_doubt)

    def test_a_caller_who_sends_no_content_at_all_has_three_minutes(self) -> None:
        server = self.server("NOTHING")
        self.asked_for_content(server)
        self.times_out(server, server.client.content_reply(), 180)

    def test_end_of_data_has_ten_minutes(self) -> None:
        server = self.server("NOTHING")
        self.asked_for_content(server)
        verdict = server.client.content_reply()
        server.client.end_of_data(b"Hello\r\n")
        self.times_out(server, verdict, 600)
        self.assertTrue(server.client.in_doubt)

    def test_rset_and_noop_have_five_minutes(self) -> None:
        server = self.server("NOTHING")
        self.times_out(server, server.client.rset(), 300)
        server = self.server("NOTHING")
        self.times_out(server, server.client.noop(), 300)

    def test_quit_has_five_seconds(self) -> None:
        server = self.server("NOTHING")
        self.times_out(server, server.client.quit(), 5)

    def test_a_peer_that_does_not_let_go_after_quit_is_cut_off_within_the_same_five_seconds(self) -> None:
        server = self.server("NOTHING")
        server.lingers = True
        quitting = server.client.quit()
        server.passes(3)
        server.says("221 bye")
        self.assertEqual(self.code_of(quitting), 221)
        server.passes(1.9)
        self.assertFalse(server.wire.disconnected)
        server.passes(0.1)
        self.assertTrue(server.wire.disconnected)
        self.assertIsNone(server.client.ended_by)

    def test_a_tls_handshake_has_thirty_seconds(self) -> None:
        server = self.server("STARTTLS")
        replied = server.client.starttls(_tls())
        server.passes(299)
        server.says("220 go ahead")
        server.passes(29)
        self.assertNoResult(replied)
        server.passes(1)
        self.assertIn("30 s passed", str(self.fails_with(TLSFailed, replied)))

    def test_a_handshake_before_the_greeting_has_thirty_seconds_and_the_greeting_its_five_minutes_then(self) -> None:
        server = self.server(implicit_tls=_tls())
        greeting = server.client.greeting()
        server.passes(29)
        server.shakes_hands()
        self.times_out(server, greeting, 300)
        server = self.server(implicit_tls=_tls())
        greeting = server.client.greeting()
        server.passes(30)
        self.fails_with(TLSFailed, greeting)

    def test_in_a_pipelined_group_the_next_deadline_starts_when_the_reply_before_came(self) -> None:
        server = self.server("PIPELINING")
        with server.client.group():
            replied = [settled(server.client.mail("")), settled(server.client.rcpt("ann@example.com"))]
            data = server.client.data()
        for one in replied:
            server.passes(299)
            server.says("250 ok")
            self.assertEqual(len(one), 1)
        self.times_out(server, data, 120)

    def test_an_idle_session_has_no_deadline(self) -> None:
        server = self.server("NOTHING")
        server.passes(100_000)
        self.assertFalse(server.is_closed)

    def test_other_deadlines_can_be_given(self) -> None:
        server = self.server("NOTHING", timeouts_s={Verb.NOOP: 7})
        self.times_out(server, server.client.noop(), 7)

    def addressed(self, server: ScriptedServer) -> None:
        settled(server.client.mail(""))
        server.says("250 ok")
        settled(server.client.rcpt("ann@example.com"))
        server.says("250 ok")

    def asked_for_content(self, server: ScriptedServer) -> None:
        self.addressed(server)
        settled(server.client.data())
        server.says("354 go ahead")


def _in_greeting(server: ScriptedServer) -> Deferred[Reply]:
    return server.client.greeting()


def _in_ehlo(server: ScriptedServer) -> Deferred[Reply]:
    server.says("220 mx.example")
    return server.client.ehlo("me.example")


def _in_helo(server: ScriptedServer) -> Deferred[Reply]:
    server.says("220 mx.example")
    return server.client.helo("me.example")


def _in_starttls(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("STARTTLS")
    return server.client.starttls(_tls())


def _in_auth(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("AUTH PLAIN")
    return server.client.authenticate(Credentials("joe", Secret("correct horse")))


def _in_sasl(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("AUTH PLAIN")
    replied = server.client.authenticate(Credentials("joe", Secret("correct horse" * 40)))
    server.says("334 ")
    return replied


def _in_mail(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("NOTHING")
    return server.client.mail("joe@example.org")


def _in_rcpt(server: ScriptedServer) -> Deferred[Reply]:
    settled(_in_mail(server))
    server.says("250 ok")
    return server.client.rcpt("ann@example.com")


def _in_data(server: ScriptedServer) -> Deferred[Reply]:
    settled(_in_rcpt(server))
    server.says("250 ok")
    return server.client.data()


def _in_content(server: ScriptedServer) -> Deferred[Reply]:
    settled(_in_data(server))
    server.says("354 go ahead")
    server.client.send_content(b"Hello\r\n")
    return server.client.content_reply()


def _in_end_of_data(server: ScriptedServer) -> Deferred[Reply]:
    verdict = _in_content(server)
    server.client.end_of_data()
    return verdict


def _in_rset(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("NOTHING")
    return server.client.rset()


def _in_noop(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("NOTHING")
    return server.client.noop()


def _in_quit(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("NOTHING")
    return server.client.quit()


def _by_hand(server: ScriptedServer) -> Deferred[Reply]:
    server.opens("NOTHING")
    return server.client.by_hand("HELP")


_STAGES: tuple[Callable[[ScriptedServer], Deferred[Reply]], ...] = (
    _in_greeting, _in_ehlo, _in_helo, _in_starttls, _in_auth, _in_sasl, _in_mail, _in_rcpt, _in_data, _in_content,
    _in_end_of_data, _in_rset, _in_noop, _in_quit, _by_hand,
)  # fmt: skip


class TheEnd(ScriptedCase):
    """At every stage of a session."""

    def test_a_421_is_the_reply_and_closes_the_connection(self) -> None:
        for stage in _STAGES:
            server = self.server()
            replied = stage(server)
            server.says("421 4.3.2 shutting down")
            self.assertEqual(self.code_of(replied), 421, stage.__name__)
            self.assertTrue(server.is_closed, stage.__name__)
            self.assertEqual(server.clock.getDelayedCalls(), [], stage.__name__)

    def test_a_lost_connection_fails_what_waits_with_the_words_of_the_stage(self) -> None:
        for stage in _STAGES:
            server = self.server()
            replied = stage(server)
            server.loses_connection()
            self.assertIn("connection lost while ", str(self.fails_with(SessionLost, replied)), stage.__name__)
            self.assertEqual(server.clock.getDelayedCalls(), [], stage.__name__)

    def test_a_cancel_closes_the_connection_without_a_further_octet(self) -> None:
        for stage in _STAGES:
            server = self.server()
            replied = stage(server)
            server.wrote()
            replied.cancel()
            server.passes(0)
            self.fails_with(CancelledError, replied)
            self.assertTrue(server.wire.disconnected, stage.__name__)
            self.assertEqual(server.wrote(), b"", stage.__name__)
            self.assertEqual(server.clock.getDelayedCalls(), [], stage.__name__)

    def test_garbage_is_a_violation_and_closes_the_connection(self) -> None:
        for stage in _STAGES:
            server = self.server()
            replied = stage(server)
            server.says("HTTP/1.1 400 Bad Request")
            self.fails_with(ProtocolViolation, replied)
            self.assertTrue(server.wire.disconnected, stage.__name__)

    def test_a_3yz_is_a_violation_where_none_is_expected(self) -> None:
        for stage in _STAGES:
            if stage in (_in_auth, _in_sasl, _in_data, _by_hand):
                continue
            server = self.server()
            replied = stage(server)
            server.says("399 go on")
            self.fails_with(ProtocolViolation, replied)
            self.assertTrue(server.wire.disconnected, stage.__name__)

    def test_a_2yz_to_data_is_a_violation(self) -> None:
        server = self.server()
        replied = _in_data(server)
        server.says("250 ok")
        self.fails_with(ProtocolViolation, replied)

    def test_after_the_end_a_command_fails_with_what_ended_the_session(self) -> None:
        for stage in _STAGES[1:]:
            server = self.server()
            settled(stage(server))
            server.loses_connection()
            self.assertIs(self.fails_with(SessionLost, server.client.noop()), server.client.ended_by)

    def test_after_quit_a_command_is_misuse(self) -> None:
        server = self.server("NOTHING")
        settled(server.client.quit())
        server.says("221 bye")
        self.assertRaises(OutOfOrder, server.client.noop)

    def test_abort_fails_what_waits_and_sends_nothing(self) -> None:
        server = self.server("NOTHING")
        replied = server.client.noop()
        server.expects("NOOP")
        server.client.abort("tired")
        self.assertEqual(str(self.fails_with(SessionLost, replied)), "tired")
        server.expects()

    def test_whoever_waits_for_the_end_of_the_connection_hears_of_it(self) -> None:
        server = self.server("NOTHING")
        gone = server.client.when_gone()
        self.assertNoResult(gone)
        server.loses_connection()
        self.assertIsNone(self.successResultOf(gone))
        self.assertIsNone(self.successResultOf(server.client.when_gone()))

    def test_quit_closes_whatever_the_reply(self) -> None:
        for reply in ("221 bye", "250 ok", "554 no"):
            server = self.server("NOTHING")
            quitting = server.client.quit()
            server.says(reply)
            self.assertEqual(self.code_of(quitting), int(reply[:3]))
            self.assertTrue(server.is_closed)

    def test_what_follows_the_reply_to_quit_is_no_error(self) -> None:
        server = self.server("NOTHING")
        quitting = server.client.quit()
        server.sends(b"221 bye\r\nand another thing")
        self.assertEqual(self.code_of(quitting), 221)
        self.assertIsNone(server.client.ended_by)


class Cancel(ScriptedCase):
    def test_the_others_fail_with_session_lost(self) -> None:
        server = self.server("PIPELINING")
        with server.client.group():
            mail, rcpt = server.client.mail(""), server.client.rcpt("ann@example.com")
            data = server.client.data()
        rcpt.cancel()
        self.fails_with(CancelledError, rcpt)
        self.fails_with(SessionLost, mail)
        self.fails_with(SessionLost, data)

    def test_a_command_that_was_not_sent_yet_is_taken_back(self) -> None:
        server = self.server("NOTHING")
        first, second = server.client.noop(), server.client.rset()
        second.cancel()
        self.fails_with(CancelledError, second)
        server.says("250 ok")
        self.assertEqual(self.code_of(first), 250)
        server.expects("NOOP")
        self.assertFalse(server.is_closed)

    def test_what_needs_a_command_that_was_taken_back_is_never_sent(self) -> None:
        server = self.server("NOTHING")
        noop, mail = server.client.noop(), server.client.mail("")
        rcpt, data = server.client.rcpt("ann@example.com"), server.client.data()
        mail.cancel()
        self.fails_with(CancelledError, mail)
        server.says("250 ok")
        server.expects("NOOP")
        self.assertEqual(self.code_of(noop), 250)
        self.fails_with(OutOfOrder, rcpt)
        self.fails_with(OutOfOrder, data)


class Surplus(ScriptedCase):
    """A reply that nobody asked for ends the session and is nobody's."""

    def test_on_an_idle_connection(self) -> None:
        for words in ("250 ok", "354 go ahead", "451 oops", "550 no"):
            server = self.server("NOTHING")
            server.says(words)
            self.assertIsInstance(server.client.ended_by, ProtocolViolation)
            self.assertTrue(server.is_closed)

    def test_a_421_on_an_idle_connection_is_its_orderly_end(self) -> None:
        server = self.server("NOTHING")
        server.says("421 4.4.2 idle for too long")
        ended_by = server.client.ended_by
        assert isinstance(ended_by, SessionLost) and ended_by.reply
        self.assertEqual(ended_by.reply.code, 421)

    def test_half_a_reply_on_an_idle_connection(self) -> None:
        for octets in (b"2", b"250-ok\r\n"):
            server = self.server("NOTHING")
            server.sends(octets)
            self.assertIsInstance(server.client.ended_by, ProtocolViolation)

    def test_behind_the_greeting(self) -> None:
        server = self.server()
        hello = server.client.ehlo("me.example")
        server.says("220 mx.example", "250 mx.example")
        self.fails_with(ProtocolViolation, hello)
        server.expects()

    def test_behind_the_reply_to_the_command_before(self) -> None:
        """Though the next command was given already, the reply in the same packet is not its."""
        server = self.server("NOTHING")
        mail, rcpt = server.client.mail(""), server.client.rcpt("ann@example.com")
        server.expects("MAIL FROM:<>")
        server.says("250 ok", "250 ok")
        self.assertEqual(self.code_of(mail), 250)
        self.fails_with(ProtocolViolation, rcpt)
        server.expects()

    def test_behind_the_reply_to_the_command_before_begun_only(self) -> None:
        server = self.server("NOTHING")
        mail, rcpt = server.client.mail(""), server.client.rcpt("ann@example.com")
        server.expects("MAIL FROM:<>")
        server.sends(b"250 ok\r\n25")
        self.assertEqual(self.code_of(mail), 250)
        self.fails_with(ProtocolViolation, rcpt)
        server.expects()

    def test_behind_354(self) -> None:
        for surplus in (b"250 queued\r\n", b"250 que", b"250-queued\r\n"):
            server = self.server()
            data = _in_data(server)
            verdict = settled(data.addCallback(lambda _, client: _sends_it_all(client), server.client))
            server.wrote()
            server.sends(b"354 go ahead\r\n" + surplus)
            server.sends(b"queued\r\n")
            self.assertIsInstance(server.client.ended_by, ProtocolViolation)
            self.assertEqual(len(verdict), 1)
            self.assertFalse(server.client.in_doubt)
            server.expects()

    def test_behind_the_last_reply_of_a_group(self) -> None:
        server = self.server("PIPELINING")
        with server.client.group():
            mail, rset = server.client.mail(""), server.client.rset()
        server.says("250 ok", "250 ok", "250 ok")
        self.assertEqual((self.code_of(mail), self.code_of(rset)), (250, 250))
        self.assertIsInstance(server.client.ended_by, ProtocolViolation)

    def test_a_yes_while_content_flows(self) -> None:
        server = self.server()
        verdict = _in_content(server)
        server.says("250 queued already")
        self.fails_with(ProtocolViolation, verdict)
        self.assertTrue(server.is_closed)

    def test_half_a_yes_that_came_before_the_dot_is_no_reply_to_it(self) -> None:
        server = self.server()
        verdict = _in_content(server)
        server.sends(b"250 que")
        server.wrote()
        server.client.end_of_data()
        server.sends(b"ued\r\n")
        server.expects()
        self.fails_with(ProtocolViolation, verdict)
        self.assertFalse(server.client.in_doubt)

    def test_a_no_while_content_flows_is_the_verdict_and_the_dot_is_never_sent(self) -> None:
        for words in ("452 4.3.1 disk full", "552 5.3.4 too big", "554 5.7.1 spam"):
            server = self.server()
            verdict = _in_content(server)
            server.wrote()
            server.says(words)
            self.assertEqual(self.code_of(verdict), int(words[:3]))
            self.assertTrue(server.is_closed)
            self.assertRaises(OutOfOrder, server.client.end_of_data)
            self.assertRaises(OutOfOrder, server.client.send_content, b"more")
            server.expects()

    def test_a_no_in_the_packet_of_the_354_is_the_verdict(self) -> None:
        server = self.server()
        data = _in_data(server)
        verdict = settled(data.addCallback(lambda _: server.client.content_reply()))
        server.says("354 go ahead", "554 5.7.1 no, wait")
        [reply] = verdict
        assert isinstance(reply, Reply)
        self.assertEqual(reply.code, 554)


def _sends_it_all(client: SMTPClient) -> Deferred[Reply]:
    verdict = client.content_reply()
    if client.state is State.CONTENT:
        client.end_of_data(b"Hello\r\n")
    return verdict


class Pipelining(ScriptedCase):
    def test_mail_recipients_and_data_go_out_in_one_write(self) -> None:
        server = self.server("PIPELINING")
        server.wire.writes.clear()
        with server.client.group():
            settled(server.client.mail("joe@example.org"))
            settled(server.client.rcpt("ann@example.com"))
            settled(server.client.rcpt("bob@example.com"))
            settled(server.client.data())
        self.assertEqual(
            server.wire.writes,
            [
                b"MAIL FROM:<joe@example.org>\r\nRCPT TO:<ann@example.com>\r\n"
                b"RCPT TO:<bob@example.com>\r\nDATA\r\n"
            ],
        )  # fmt: skip

    def test_nothing_is_written_behind_data_before_its_reply(self) -> None:
        server = self.server("PIPELINING")
        for said in (server.client.mail(""), server.client.rcpt("ann@example.com"), server.client.data()):
            settled(said)
        server.wrote()
        self.assertRaises(OutOfOrder, server.client.send_content, b"Hello\r\n")
        self.assertRaises(OutOfOrder, server.client.end_of_data)
        server.expects()

    def test_without_pipelining_commands_go_out_one_by_one(self) -> None:
        server = self.server("NOTHING")
        for said in (server.client.mail(""), server.client.rcpt("ann@example.com"), server.client.data()):
            settled(said)
        server.expects("MAIL FROM:<>")
        server.says("250 ok")
        server.expects("RCPT TO:<ann@example.com>")
        server.says("250 ok")
        server.expects("DATA")

    def test_nothing_is_sent_behind_a_refused_mail(self) -> None:
        server = self.server("NOTHING")
        mail, rcpt = server.client.mail(""), server.client.rcpt("ann@example.com")
        data = server.client.data()
        server.expects("MAIL FROM:<>")
        server.says("550 not you")
        server.expects()
        self.assertEqual(self.code_of(mail), 550)
        self.fails_with(OutOfOrder, rcpt)
        self.fails_with(OutOfOrder, data)
        self.assertIs(server.client.state, State.READY)

    def test_verbs_that_end_a_group_are_not_followed(self) -> None:
        """RFC 2920 §3.1: EHLO, DATA, QUIT and NOOP can only be the last of a group."""
        for verb in (Verb.EHLO, Verb.HELO, Verb.STARTTLS, Verb.AUTH, Verb.DATA, Verb.QUIT, Verb.NOOP, Verb.OTHER):
            self.assertFalse(COMMANDS[verb].pipelined, verb)
        server = self.server("PIPELINING")
        settled(server.client.noop())
        settled(server.client.mail(""))
        server.expects("NOOP")

    def test_a_reply_that_does_not_fit_the_state_is_a_violation(self) -> None:
        server = self.server("PIPELINING")
        with server.client.group():
            mail, rcpt = server.client.mail(""), server.client.rcpt("ann@example.com")
        server.says("550 not you", "250 but he is welcome")
        self.assertEqual(self.code_of(mail), 550)
        self.fails_with(ProtocolViolation, rcpt)


class Order(ScriptedCase):
    def test_commands_out_of_order_are_refused_and_nothing_is_sent(self) -> None:
        server = self.server("STARTTLS", "AUTH PLAIN")
        for command in (
            lambda: server.client.rcpt("ann@example.com"),
            server.client.data,
            lambda: server.client.send_content(b"x"),
            server.client.end_of_data,
            server.client.content_reply,
        ):
            self.assertRaises(OutOfOrder, command)
        settled(server.client.mail(""))
        for command in (lambda: server.client.mail(""), lambda: server.client.starttls(_tls())):
            self.assertRaises(OutOfOrder, command)
        server.expects("MAIL FROM:<>")

    def test_two_cannot_wait_for_one_verdict(self) -> None:
        server = self.server()
        settled(_in_content(server))
        self.assertRaises(OutOfOrder, server.client.content_reply)

    def test_a_verdict_is_asked_for_before_it_comes_or_never(self) -> None:
        server = self.server()
        settled(_in_end_of_data(server))
        server.says("250 queued")
        self.assertRaises(OutOfOrder, server.client.content_reply)

    def test_an_argument_that_cannot_be_sent_is_refused_with_not_one_octet_sent(self) -> None:
        server = self.server("SMTPUTF8")
        client = server.client
        for bad in "\r\n\0\x01\x1f\x7f":
            for command in (
                lambda bad=bad: client.ehlo(f"me{bad}.example"),
                lambda bad=bad: client.helo(f"me{bad}.example"),
                lambda bad=bad: client.mail(f"joe{bad}@example.org"),
                lambda bad=bad: client.mail(f"joe@example{bad}.org"),
                lambda bad=bad: client.mail("", f"SIZE=1{bad}"),
                lambda bad=bad: client.by_hand(f"NOOP{bad}"),
            ):
                self.assertRaises(BadArgument, command)
        for path in ("joe>", "<joe", "joe x", 'joe"x', "joe,ann", "joe@x>SIZE=1 "):
            self.assertRaises(BadArgument, client.mail, f"{path}@example.org")
        for parameter in ("", "SIZE=", "SIZE 1", "=1", "SIZE=1 BODY=8BITMIME", "SIZE==1", "SIZÉ"):
            self.assertRaises(BadArgument, client.mail, "", parameter)
        server.expects()

    def test_a_non_ascii_local_part_goes_out_with_smtputf8_only(self) -> None:
        server = self.server("SMTPUTF8")
        self.assertRaises(BadArgument, server.client.mail, "jürgen@example.org")
        server.expects()
        settled(server.client.mail("jürgen@example.org", "SMTPUTF8"))
        server.expects("MAIL FROM:<jürgen@example.org> SMTPUTF8")
        server.says("250 ok")
        settled(server.client.rcpt("ännchen@example.com"))
        server.expects("RCPT TO:<ännchen@example.com>")

    def test_a_mail_that_is_refused_here_does_not_change_the_transaction_under_way(self) -> None:
        server = self.server("SMTPUTF8")
        settled(server.client.mail(""))
        server.says("250 ok")
        self.assertRaises(OutOfOrder, server.client.mail, "", "SMTPUTF8")
        self.assertRaises(BadArgument, server.client.rcpt, "ännchen@example.com")

    def test_a_non_ascii_domain_becomes_a_labels(self) -> None:
        server = self.server("NOTHING")
        settled(server.client.mail("joe@bücher.example"))
        server.expects("MAIL FROM:<joe@xn--bcher-kva.example>")


class ByHand(ScriptedCase):
    def test_a_verb_with_a_method_moves_the_session_as_the_method_does(self) -> None:
        server = self.server("NOTHING")
        for line, reply, state in (
            ("mail from:<joe@example.org>", "250 ok", State.TRANSACTION),
            ("RCPT TO:<ann@example.com>", "250 ok", State.ADDRESSED),
            ("DATA", "354 go ahead", State.CONTENT),
        ):
            replied = server.client.by_hand(line)
            server.expects(line)
            server.says(reply)
            self.assertEqual((self.code_of(replied), server.client.state), (int(reply[:3]), state))

    def test_another_verb_takes_any_reply(self) -> None:
        for reply in ("214 help", "334 VXNlcm5hbWU6", "502 no"):
            server = self.server("NOTHING")
            replied = server.client.by_hand("HELP me")
            server.expects("HELP me")
            server.says(reply)
            self.assertEqual(self.code_of(replied), int(reply[:3]))
            self.assertIs(server.client.state, State.READY)

    def test_a_verb_out_of_order_is_sent_and_the_server_may_say_what_it_thinks(self) -> None:
        server = self.server("NOTHING")
        replied = server.client.by_hand("RCPT TO:<ann@example.com>")
        server.says("503 MAIL first")
        self.assertEqual(self.code_of(replied), 503)

    def test_starttls_cannot_be_given_by_hand(self) -> None:
        server = self.server("STARTTLS")
        self.assertRaises(OutOfOrder, server.client.by_hand, "starttls")
        server.expects()


class StartTLS(ScriptedCase):
    def test_the_handshake_begins_after_220_and_the_reply_is_told_after_the_handshake(self) -> None:
        server = self.server("STARTTLS")
        replied = server.client.starttls(_tls())
        server.expects("STARTTLS")
        self.assertFalse(server.wire.tls_started)
        server.says("220 go ahead")
        self.assertTrue(server.wire.tls_started)
        self.assertNoResult(replied)
        server.shakes_hands()
        self.assertEqual(self.code_of(replied), 220)
        self.assertIsNotNone(server.client.tls)

    def test_data_behind_220_closes_the_connection_before_any_client_hello(self) -> None:
        for injected in (b"250 mx.example\r\n", b"2", b"250-half a reply\r\n", b"\r\n", b"\0", b"250 x\r\n" * 10_000):
            server = self.server("STARTTLS")
            replied = server.client.starttls(_tls())
            server.sends(b"220 go ahead\r\n" + injected)
            self.assertIn("behind the reply to STARTTLS", str(self.fails_with(ProtocolViolation, replied)))
            self.assertFalse(server.wire.tls_started)
            self.assertTrue(server.wire.disconnected)

    def test_data_behind_220_that_came_in_fragments_closes_the_connection_before_any_client_hello(self) -> None:
        for cut in range(1, len(b"220 go ahead\r\n")):
            server = self.server("STARTTLS")
            replied = server.client.starttls(_tls())
            octets = b"220 go ahead\r\n250 injected\r\n"
            server.sends(octets[:cut])
            server.sends(octets[cut:])
            self.fails_with(ProtocolViolation, replied)
            self.assertFalse(server.wire.tls_started)

    def test_plain_text_during_the_handshake_is_never_a_reply(self) -> None:
        server = self.server("STARTTLS")
        replied = server.client.starttls(_tls())
        server.says("220 go ahead")
        server.says("250 mx.example")
        self.fails_with(ProtocolViolation, replied)

    def test_nothing_is_written_during_the_handshake(self) -> None:
        server = self.server("STARTTLS")
        settled(server.client.starttls(_tls()))
        self.assertRaises(OutOfOrder, server.client.noop)
        server.says("220 go ahead")
        server.wrote()
        settled(server.client.ehlo("me.example"))
        server.expects()
        server.shakes_hands()
        server.expects("EHLO me.example")

    def test_everything_learnt_before_tls_is_forgotten(self) -> None:
        server = self.server("STARTTLS", "PIPELINING", "AUTH PLAIN")
        settled(server.client.starttls(_tls()))
        server.says("220 go ahead")
        server.shakes_hands()
        self.assertEqual(dict(server.client.extensions.keywords), {})
        self.assertIs(server.client.state, State.CONNECTED)
        self.assertRaises(OutOfOrder, server.client.mail, "")

    def test_a_refused_starttls_leaves_the_session_as_it_was(self) -> None:
        server = self.server("STARTTLS", "PIPELINING")
        replied = server.client.starttls(_tls())
        server.says("454 not now")
        self.assertEqual(self.code_of(replied), 454)
        self.assertFalse(server.wire.tls_started)
        self.assertIs(server.client.state, State.READY)
        self.assertIn("PIPELINING", server.client.extensions)

    def test_a_handshake_that_breaks_fails_with_tls_failed(self) -> None:
        server = self.server("STARTTLS")
        replied = server.client.starttls(_tls())
        server.says("220 go ahead")
        server.loses_connection()
        self.fails_with(TLSFailed, replied)

    def test_a_connection_lost_before_220_is_no_failure_of_tls(self) -> None:
        server = self.server("STARTTLS")
        replied = server.client.starttls(_tls())
        server.loses_connection()
        self.fails_with(SessionLost, replied)

    def test_a_cancel_during_the_handshake_closes_the_connection(self) -> None:
        server = self.server("STARTTLS")
        replied = server.client.starttls(_tls())
        server.says("220 go ahead")
        replied.cancel()
        server.passes(0)
        self.fails_with(CancelledError, replied)
        self.assertTrue(server.wire.disconnected)

    def test_a_handshake_that_ends_after_the_session_changes_nothing(self) -> None:
        server = self.server("STARTTLS")
        settled(server.client.starttls(_tls()))
        server.says("220 go ahead")
        server.client.abort()
        server.client.handshakeCompleted()
        self.assertIs(server.client.state, State.CLOSED)
        self.assertIsNone(server.client.tls)

    def test_a_second_starttls_is_refused_and_does_not_change_the_tls_of_the_first(self) -> None:
        server = self.server("STARTTLS")
        strict = ClientTLS("mx.example", must_verify=True)
        settled(server.client.starttls(strict))
        self.assertRaises(OutOfOrder, server.client.starttls, _tls())
        server.says("220 go ahead")
        self.assertEqual(server.wire.tls, [strict])

    def test_implicit_tls_begins_before_the_greeting(self) -> None:
        server = self.server(implicit_tls=_tls())
        self.assertTrue(server.wire.tls_started)
        hello = server.client.ehlo("me.example")
        server.shakes_hands()
        server.expects()
        server.says("220 mx.example")
        server.expects("EHLO me.example")
        server.says("250 mx.example")
        self.assertEqual(self.code_of(hello), 250)

    def test_a_plain_greeting_on_an_implicit_tls_port_is_a_violation(self) -> None:
        server = self.server(implicit_tls=_tls())
        greeting = server.client.greeting()
        server.says("220 mx.example")
        self.fails_with(ProtocolViolation, greeting)

    def test_starttls_given_before_the_connection_is_there_waits_for_its_turn(self) -> None:
        client, wire = SMTPClient(Clock()), Wire()
        for said in (client.ehlo("me.example"), client.starttls(_tls())):
            settled(said)
        client.makeConnection(wire)
        self.assertFalse(wire.tls_started)


_PASSWORD = "correct horse battery"
_JOE = Credentials("joe", Secret(_PASSWORD))
_RESPONSE = encode(b"\0joe\0" + _PASSWORD.encode()).decode()


def _long_credentials(line_octets: int) -> Credentials:
    """Credentials whose AUTH command with initial response and CRLF has so many octets."""
    response_octets = (line_octets - len("AUTH PLAIN \r\n")) // 4 * 3
    return Credentials("joe", Secret("x" * (response_octets - len("\0joe\0"))))


class Auth(ScriptedCase):
    def test_the_initial_response_is_sent_with_the_command(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_JOE)
        server.expects(f"AUTH PLAIN {_RESPONSE}")
        server.says("235 2.7.0 welcome")
        self.assertEqual(self.code_of(replied), 235)
        self.assertIs(server.client.state, State.READY)

    def test_a_line_of_512_octets_carries_the_initial_response_and_a_longer_one_does_not(self) -> None:
        server = self.server("AUTH PLAIN")  # base64 grows by four octets: 509 fit, 513 do not
        settled(server.client.authenticate(_long_credentials(509)))
        self.assertEqual(len(server.wrote()), 509)
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_long_credentials(513))
        server.expects("AUTH PLAIN")
        server.says("334 ")
        self.assertEqual(len(server.wrote()), 513 - len("AUTH PLAIN "))
        server.says("235 welcome")
        self.assertEqual(self.code_of(replied), 235)

    def test_a_challenge_that_plain_has_no_answer_to_is_answered_with_a_star_and_ends_the_session(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_JOE)
        server.wrote()
        server.says("334 ")
        server.expects("*")
        server.says("501 cancelled")
        self.assertEqual(str(self.fails_with(ProtocolViolation, replied)), "PLAIN: a challenge too many")
        self.assertTrue(server.wire.disconnected)

    def test_a_challenge_that_is_no_base64_is_answered_with_a_star(self) -> None:
        for challenge in ("334 !", "334 abc", "334 é", "334 a===", "334 go ahead"):
            server = self.server("AUTH PLAIN")
            settled(server.client.authenticate(_long_credentials(513)))
            server.wrote()
            server.says(challenge)
            server.expects("*")

    def test_a_yes_to_a_star_is_a_violation(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_JOE)
        server.says("334 ")
        server.says("235 come in all the same")
        self.fails_with(ProtocolViolation, replied)
        self.assertTrue(server.wire.disconnected)

    def test_a_challenge_after_the_star_ends_the_session(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_JOE)
        server.wrote()
        server.says("334 ")
        server.says("334 ")
        server.expects("*")
        self.fails_with(ProtocolViolation, replied)
        self.assertTrue(server.wire.disconnected)

    def test_a_command_given_meanwhile_waits_for_the_end_of_the_authentication(self) -> None:
        server = self.server("AUTH PLAIN", "PIPELINING")
        replied, noop = server.client.authenticate(_long_credentials(513)), server.client.noop()
        server.expects("AUTH PLAIN")
        server.says("334 ")
        self.assertNotIn(b"NOOP", server.wrote())
        server.says("235 welcome")
        server.expects("NOOP")
        server.says("250 ok")
        self.assertEqual((self.code_of(replied), self.code_of(noop)), (235, 250))

    def test_a_refusal_is_the_reply(self) -> None:
        for code in (432, 454, 530, 534, 535, 538):
            server = self.server("AUTH PLAIN")
            replied = server.client.authenticate(_JOE)
            server.says(f"{code} no")
            self.assertEqual(self.code_of(replied), code)
            self.assertFalse(server.is_closed)


_TOKEN = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"
_BEARER = BearerToken("joe", Secret(_TOKEN))
_PENCIL = Credentials("user", Secret("pencil"))
_NONCE = "rOprNGfwEbeRWgbNEkqO"  # this and what follows: RFC 7677 §3
_SERVER_FIRST = f"r={_NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
_PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
_CLIENT_FINAL = f"c=biws,r={_NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p={_PROOF}"
_SERVER_FINAL = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def _in_base64(text: str) -> str:
    return encode(text.encode()).decode()


def _at_a_later_time() -> tuple[Run, Deferred[bytes]]:
    """Runs nothing; the result is to be given."""
    result: Deferred[bytes] = Deferred()
    return lambda computation: result, result


class Mechanisms(ScriptedCase):
    """Each of them, line by line."""

    def begins(
        self, mechanism: str, identity: Identity, run: Run = run_here, *, nonce: str = _NONCE
    ) -> tuple[ScriptedServer, Deferred[Reply]]:
        server = self.server(f"AUTH {mechanism}")
        circumstances = Circumstances(nonce=nonce, host="mx.example", port=25)
        return server, server.client.authenticate(identity, mechanism=mechanism, circumstances=circumstances, run=run)

    def challenges(self, server: ScriptedServer, challenge: str, response: str) -> None:
        server.says(f"334 {_in_base64(challenge)}")
        server.expects(_in_base64(response))

    def is_taken(self, server: ScriptedServer, replied: Deferred[Reply]) -> None:
        self.assertNoResult(replied)
        server.says("235 2.7.0 welcome")
        self.assertEqual(self.code_of(replied), 235)
        self.assertIs(server.client.state, State.READY)
        self.assertIsNone(server.client.refusal)

    def test_login_tells_user_and_password_as_it_is_asked(self) -> None:
        server, replied = self.begins("LOGIN", _JOE)
        server.expects("AUTH LOGIN")
        self.challenges(server, "Username:", "joe")
        self.challenges(server, "Password:", _PASSWORD)
        self.is_taken(server, replied)

    def test_cram_md5_proves_the_password(self) -> None:
        server, replied = self.begins("CRAM-MD5", Credentials("tim", Secret("tanstaaftanstaaf")))
        server.expects("AUTH CRAM-MD5")
        challenge = "<1896.697170952@postoffice.reston.mci.net>"
        self.challenges(server, challenge, "tim b913a602c7eda7a495b4e6e7334d3890")
        self.is_taken(server, replied)

    def test_external_names_nobody_but_whom_the_certificate_does(self) -> None:
        for identity, word in ((External(), "="), (External("joe"), "am9l")):
            server, replied = self.begins("EXTERNAL", identity)
            server.expects(f"AUTH EXTERNAL {word}")
            self.is_taken(server, replied)

    def test_the_tokens_are_told_in_the_command(self) -> None:
        for mechanism, told in (
            ("XOAUTH2", f"user=joe\1auth=Bearer {_TOKEN}\1\1"),
            ("OAUTHBEARER", f"n,a=joe,\1host=mx.example\1port=25\1auth=Bearer {_TOKEN}\1\1"),
        ):
            server, replied = self.begins(mechanism, _BEARER)
            server.expects(f"AUTH {mechanism} {_in_base64(told)}")
            self.is_taken(server, replied)

    def test_a_token_that_makes_the_line_longer_than_512_octets_waits_for_its_challenge(self) -> None:
        server, replied = self.begins("XOAUTH2", BearerToken("joe", Secret("x" * 512)))
        server.expects("AUTH XOAUTH2")
        self.challenges(server, "", f"user=joe\1auth=Bearer {'x' * 512}\1\1")
        self.is_taken(server, replied)

    def test_why_a_token_is_not_taken_is_kept_and_the_reply_follows(self) -> None:
        for mechanism, thanks in (("XOAUTH2", ""), ("OAUTHBEARER", "\1")):
            server, replied = self.begins(mechanism, _BEARER)
            server.wrote()
            self.challenges(server, '{"status":"401","schemes":"bearer"}', thanks)
            server.says("535 5.7.8 no")
            self.assertEqual(self.code_of(replied), 535)
            self.assertEqual(server.client.refusal, Refusal("the token was not taken: status 401", stale_token=True))

    def test_another_authentication_begins_without_the_refusal_of_the_one_before(self) -> None:
        server, _ = self.begins("XOAUTH2", _BEARER)
        server.says(f"334 {_in_base64('{}')}")
        server.says("535 no")
        self.assertIsNotNone(server.client.refusal)
        server.wrote()
        self.is_taken(server, server.client.authenticate(_JOE))

    def test_scram_as_in_rfc_7677(self) -> None:
        server, replied = self.begins("SCRAM-SHA-256", _PENCIL)
        server.expects(f"AUTH SCRAM-SHA-256 {_in_base64(f'n,,n=user,r={_NONCE}')}")
        self.challenges(server, _SERVER_FIRST, _CLIENT_FINAL)
        self.challenges(server, _SERVER_FINAL, "")
        self.is_taken(server, replied)

    def test_a_server_that_does_not_know_the_password_is_not_believed(self) -> None:
        server, replied = self.begins("SCRAM-SHA-256", _PENCIL)
        server.says(f"334 {_in_base64(_SERVER_FIRST)}")
        server.wrote()
        server.says(f"334 {_in_base64('v=' + 'A' * 43 + '=')}")
        server.expects("*")
        server.says("235 2.7.0 welcome all the same")
        self.assertIn("its signature is wrong", str(self.fails_with(ProtocolViolation, replied)))
        self.assertTrue(server.wire.disconnected)

    def test_a_yes_before_the_server_proved_anything_is_not_believed(self) -> None:
        for rounds in range(2):
            server, replied = self.begins("SCRAM-SHA-256", _PENCIL)
            for _ in range(rounds):
                server.says(f"334 {_in_base64(_SERVER_FIRST)}")
            server.says("235 2.7.0 welcome")
            self.assertIn("a yes before its time", str(self.fails_with(ProtocolViolation, replied)))
            self.assertTrue(server.wire.disconnected)

    def test_challenges_that_weaken_scram_are_answered_with_a_star(self) -> None:
        for challenge in (
            _SERVER_FIRST.replace("4096", "4095"), _SERVER_FIRST.replace("4096", "600001"),
            _SERVER_FIRST.replace(_NONCE, "another"), _SERVER_FIRST.replace("r=", "m=1,r="), "",
        ):  # fmt: skip
            server, replied = self.begins("SCRAM-SHA-256", _PENCIL)
            server.wrote()
            server.says(f"334 {_in_base64(challenge)}")
            server.expects("*")
            server.says("501 cancelled")
            self.fails_with(ProtocolViolation, replied)

    def test_the_computation_is_run_where_the_caller_says_and_nothing_is_written_meanwhile(self) -> None:
        result: Deferred[bytes] = Deferred()
        computations: list[Computation] = []

        def run(computation: Computation) -> Deferred[bytes]:
            computations.append(computation)
            return result

        server, replied = self.begins("SCRAM-SHA-256", _PENCIL, run)
        server.wrote()
        server.says(f"334 {_in_base64(_SERVER_FIRST)}")
        server.expects()
        server.passes(10_000)
        (computation,) = computations
        result.callback(computation.run())
        server.expects(_in_base64(_CLIENT_FINAL))
        self.challenges(server, _SERVER_FINAL, "")
        self.is_taken(server, replied)

    def test_a_cancel_during_the_computation_closes_the_connection(self) -> None:
        server, replied = self.begins("SCRAM-SHA-256", _PENCIL, _at_a_later_time()[0])
        server.says(f"334 {_in_base64(_SERVER_FIRST)}")
        replied.cancel()
        self.fails_with(CancelledError, replied)
        self.assertTrue(server.wire.disconnected)

    def test_a_server_that_leaves_or_talks_during_the_computation_ends_the_session(self) -> None:
        for lines in ((), ("421 4.3.2 bye",), ("235 2.7.0 never mind",)):
            run, result = _at_a_later_time()
            server, replied = self.begins("SCRAM-SHA-256", _PENCIL, run)
            server.says(f"334 {_in_base64(_SERVER_FIRST)}")
            server.says(*lines) if lines else server.loses_connection()
            result.callback(bytes(32))
            self.fails_with(SessionError, replied)

    def test_a_mechanism_that_is_none_or_cannot_do_with_the_identity_is_refused_before_a_word(self) -> None:
        server = self.server("AUTH PLAIN")
        for mechanism, identity in (("GSSAPI", _JOE), ("PLAIN", _BEARER), ("SCRAM-SHA-256", _JOE)):
            with self.assertRaises(BadArgument):
                server.client.authenticate(identity, mechanism=mechanism)
        server.expects()


_ECHOES = {
    "the password": _PASSWORD,
    "the password in capitals": _PASSWORD.upper(),
    "the response": _RESPONSE,
    "the response in capitals": _RESPONSE.upper(),
    "the beginning of the response": _RESPONSE[:16],
    "the password in base64": encode(_PASSWORD.encode()).decode(),
}


class Secrets(ScriptedCase):
    """Whatever a server says after AUTH: no secret, nor its base64, in a log, an exception, a repr."""

    def setUp(self) -> None:
        super().setUp()
        self.log = io.StringIO()
        observer = FileLogObserver(self.log, formatEventAsClassicLogText)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def assert_hidden(self, server: ScriptedServer, *things: object) -> None:
        seen = [self.log.getvalue(), repr(server.client.ended_by), repr(vars(server.client))]
        for thing in things:
            seen += [str(thing), repr(thing)]
        for secret in _ECHOES.values():
            self.assertNotIn(secret.casefold(), " ".join(seen).casefold())

    def test_an_echo_in_a_reply_to_auth_is_withheld(self) -> None:
        for echo in _ECHOES.values():
            for reply in (f"535 5.7.8 bad: {echo}", f"501 {echo}", f"235 2.7.0 welcome, {echo}"):
                server = self.server("AUTH PLAIN")
                replied = server.client.authenticate(_JOE)
                server.says(reply)
                told = self.successResultOf(replied)
                self.assertEqual(told.code, int(reply[:3]))
                self.assertIn(WITHHELD, told.text)
                self.assert_hidden(server, told)

    def test_the_enhanced_code_of_a_withheld_reply_stays(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_JOE)
        server.says(f"535 5.7.8 {_PASSWORD}")
        self.assertEqual(self.successResultOf(replied).enhanced, "5.7.8")

    def test_words_without_an_echo_stay(self) -> None:
        server = self.server("AUTH PLAIN")
        replied = server.client.authenticate(_JOE)
        server.says("535 5.7.8 application-specific password required")
        self.assertEqual(self.successResultOf(replied).text, "5.7.8 application-specific password required")

    def test_an_echo_over_two_lines_is_withheld(self) -> None:
        for first, second in (
            (_RESPONSE[:10], _RESPONSE[10:]),
            ("bad: correct", "horse battery"),
            ("correct hor", "se battery"),
        ):
            server = self.server("AUTH PLAIN")
            replied = server.client.authenticate(_JOE)
            server.says(f"535-{first}", f"535 {second}")
            told = self.successResultOf(replied)
            self.assertEqual(told.lines, (WITHHELD,))
            self.assert_hidden(server, told)

    def test_an_echo_in_a_line_that_is_no_reply_is_withheld(self) -> None:
        for echo in _ECHOES.values():
            for line in (f"unknown command {echo}", echo, f"535-x\r\n536 {echo}", f"535 {echo}\0"):
                server = self.server("AUTH PLAIN")
                replied = server.client.authenticate(_JOE)
                server.says(line)
                error = self.failureResultOf(replied)
                self.assertIsInstance(error.value, ProtocolViolation)
                self.assert_hidden(server, error.value, error.getTraceback())

    def test_an_echo_in_a_421_or_a_surplus_or_a_later_reply_is_withheld(self) -> None:
        for echo in _ECHOES.values():
            for lines in (
                (f"421 {echo}",),
                ("235 ok", f"250 {echo}"),
                ("535 no", f"535 {echo}"),
                ("235 ok", f"334 {echo}"),
            ):
                server = self.server("AUTH PLAIN")
                replied = server.client.authenticate(_JOE)
                server.says(*lines)
                self.assertTrue(server.is_closed)
                self.assert_hidden(server, self.successResultOf(replied))
            server = self.server("AUTH PLAIN")
            settled(server.client.authenticate(_JOE))
            server.says("235 ok")
            noop = server.client.noop()
            server.says(f"250 {echo}")
            self.assert_hidden(server, self.successResultOf(noop))

    def test_a_loss_or_a_deadline_or_a_cancel_during_auth_tells_no_secret(self) -> None:
        def loses(server: ScriptedServer, replied: Deferred[Reply]) -> None:
            server.loses_connection()

        def waits(server: ScriptedServer, replied: Deferred[Reply]) -> None:
            server.passes(300)

        def cancels(server: ScriptedServer, replied: Deferred[Reply]) -> None:
            replied.cancel()

        for happens in (loses, waits, cancels):
            server = self.server("AUTH PLAIN")
            replied = server.client.authenticate(_JOE)
            happens(server, replied)
            error = self.failureResultOf(replied)
            self.assert_hidden(server, error.value, error.getTraceback())

    def test_no_mechanisms_secret_is_told_in_any_form(self) -> None:
        proof = "tim b913a602c7eda7a495b4e6e7334d3890"
        for mechanism, identity, challenges, secrets in (
            ("LOGIN", _JOE, ("User Name", "Password"), (_PASSWORD,)),
            ("CRAM-MD5", Credentials("tim", Secret("tanstaaftanstaaf")),
             ("<1896.697170952@postoffice.reston.mci.net>",), ("tanstaaftanstaaf", proof, proof[4:])),
            ("XOAUTH2", _BEARER, (), (_TOKEN, f"user=joe\1auth=Bearer {_TOKEN}\1\1")),
            ("XOAUTH2", _BEARER, ('{"status":"401"}',), (_TOKEN,)),
            ("OAUTHBEARER", _BEARER, (), (_TOKEN, f"n,a=joe,\1host=mx.example\1port=25\1auth=Bearer {_TOKEN}\1\1")),
            ("SCRAM-SHA-256", _PENCIL, (), ("pencil",)),
            ("SCRAM-SHA-256", _PENCIL, (_SERVER_FIRST,), ("pencil", _PROOF, _CLIENT_FINAL)),
        ):  # fmt: skip
            for secret in secrets:
                for form in (secret, _in_base64(secret), _in_base64(secret).rstrip("=").upper()):
                    server = self.server(f"AUTH {mechanism}")
                    circumstances = Circumstances(nonce=_NONCE, host="mx.example", port=25)
                    replied = server.client.authenticate(identity, mechanism=mechanism, circumstances=circumstances)
                    for challenge in challenges:
                        server.says(f"334 {_in_base64(challenge)}")
                    server.says(f"535 5.7.8 bad: {form}")
                    told = self.successResultOf(replied)
                    seen = " ".join(map(repr, (told, str(told), vars(server.client), self.log.getvalue())))
                    self.assertNotIn(form.casefold(), seen.casefold())
                    self.assertEqual(told.enhanced, "5.7.8")

    def test_before_auth_nothing_is_withheld(self) -> None:
        server = self.server("AUTH PLAIN")
        noop = server.client.noop()
        server.says(f"250 {_PASSWORD}")
        self.assertIn(_PASSWORD, self.successResultOf(noop).text)


_SESSION = (
    b"220 mx.example\r\n", b"250-mx.example\r\n250-PIPELINING\r\n250 SIZE 1000\r\n", b"250 2.1.0 sender ok\r\n",
    b"250 2.1.5 ok\r\n550-5.1.1 no\r\n550 5.1.1 such user\r\n354 go ahead\r\n", b"250 2.0.0 queued\r\n",
    b"221 bye\r\n",
)  # fmt: skip


class AnySplit(SynchronousTestCase):
    """What a server says in one turn may arrive in any pieces."""

    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def test_any_split_of_a_servers_octets_gives_the_same_events(self, data: st.DataObject) -> None:
        turns = [_pieces(data, octets) for octets in _SESSION]
        self.assertEqual(self.events(turns), self.events([[octets] for octets in _SESSION]))

    def events(self, turns: list[list[bytes]]) -> list[tuple[str, object]]:
        server = ScriptedServer(self)
        client, events = server.client, list[tuple[str, object]]()

        def told(replied: Deferred[Reply], name: str) -> None:
            replied.addBoth(lambda result: events.append((name, result)))

        def says_envelope() -> None:
            with client.group():
                told(client.rcpt("ann@example.com"), "RCPT")
                told(client.rcpt("bob@example.com"), "RCPT")
                told(client.data(), "DATA")

        def sends_content() -> None:
            told(client.content_reply(), "content")
            client.end_of_data(b"Hello\r\n")

        steps = (
            lambda: told(client.greeting(), "greeting"), lambda: told(client.ehlo("me.example"), "EHLO"),
            lambda: told(client.mail(""), "MAIL"), says_envelope, sends_content, lambda: told(client.quit(), "QUIT"),
        )  # fmt: skip
        for step, pieces in zip(steps, turns, strict=True):
            step()
            for piece in pieces:
                server.sends(piece)
            events.append((client.state.name, server.wrote()))
        server.ends()
        return events


def _pieces(data: st.DataObject, octets: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(octets) - 1), max_size=len(octets))))
    return [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


_ANYTHING = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda code, separator, text, end: f"{code}{separator}{text}".encode() + end,
        st.sampled_from((220, 221, 235, 250, 251, 334, 354, 421, 450, 452, 503, 535, 550, 552, 554, 150, 650)),
        st.sampled_from((" ", "-", "", "x")),
        st.sampled_from(("ok", "5.1.1 no", "PIPELINING", "STARTTLS", "AUTH PLAIN", "VXNlcg==", "")),
        st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"")),
    ),
)


class Garbage(SynchronousTestCase):
    @given(st.lists(_ANYTHING, max_size=30), st.booleans())
    @settings(max_examples=200, deadline=None)
    @example([b"220 \r\n", b"250-x\r\n250 AUTH PLAIN\r\n", b"334 \r\n", b"235 \r\n"], True)
    def test_whatever_a_server_says_a_command_gets_a_reply_or_a_session_error(
        self, packets: list[bytes], stays: bool
    ) -> None:
        server = ScriptedServer(self)
        results: list[list[object]] = []
        for packet in packets:
            if not server.is_closed:
                _tries_everything(server.client, results)
                server.sends(packet)
        if stays:
            server.passes(10_000)
        server.ends()
        for result in results:
            self.assertEqual(len(result), 1)
            self.assertIsInstance(getattr(result[0], "value", result[0]), Reply | SessionError | OutOfOrder)

    def test_a_connection_that_says_nothing_at_all_ends(self) -> None:
        server = ScriptedServer(self)
        greeting = settled(server.client.greeting())
        server.loses_connection(ConnectionDone())
        self.assertEqual(len(greeting), 1)
        server.ends()


def _tries_everything(client: SMTPClient, results: list[list[object]]) -> None:
    for command in (
        lambda: client.ehlo("me.example"), lambda: client.authenticate(_JOE), lambda: client.mail("joe@example.org"),
        lambda: client.rcpt("ann@example.com"), client.data, client.content_reply, client.rset,
    ):  # fmt: skip
        try:
            results.append(list[object]())
            command().addBoth(results[-1].append)
        except OutOfOrder:
            results.pop()
    if client.state in (State.CONTENT, State.NOTHING_TO_SEND):
        client.end_of_data(b"Hello\r\n")


class Factory(SynchronousTestCase):
    def test_it_makes_a_client_for_each_connection(self) -> None:
        server = ScriptedServer(self)
        factory = SMTPClientFactory(server.clock, host="mx.example", implicit_tls=_tls, timeouts_s={Verb.HANDSHAKE: 7})
        first, second = factory.buildProtocol(None), factory.buildProtocol(None)
        self.assertIsNot(first, second)
        first.makeConnection(server.wire)
        self.assertEqual((first.peer().host, first.peer().port), ("mx.example", 25))
        self.assertTrue(server.wire.tls_started)
        server.clock.advance(7)
        self.assertIsInstance(first.ended_by, TLSFailed)

    def test_without_a_name_the_host_is_the_peers_address(self) -> None:
        server = ScriptedServer(self)
        client = SMTPClientFactory(server.clock).buildProtocol(None)
        client.makeConnection(server.wire)
        self.assertEqual(client.peer().host, "192.0.2.25")
