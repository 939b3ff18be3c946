"""
A transcript shows what was said, and no secret.
"""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.command import Verb
from pymail_tx.core.errors import SessionLost
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import told_in
from pymail_tx.core.secret import Secret
from pymail_tx.net.transcript import Direction, Event, SessionTranscript, Transcript

_NOT_OK = "(words that hold a secret are withheld)"


def _reply(code: int, *lines: str) -> Reply:
    return Reply(code, lines or ("ok",))


class TranscriptCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(7)
        self.transcript = Transcript()
        self.session = self.new_session()

    def new_session(self, transcript: Transcript | None = None) -> SessionTranscript:
        return (transcript or self.transcript).session(self.clock.seconds)

    def shows(self, *lines: str) -> None:
        self.assertEqual(str(self.transcript).split("\n"), list(lines))


class Talking(TranscriptCase):
    def test_a_session_reads_as_people_know_it(self) -> None:
        session = self.session
        session.connected("mx.example", 25)
        session.heard(Verb.GREETING, _reply(220, "mx.example ESMTP"))
        session.said(Verb.EHLO, b"EHLO me.example\r\n")
        session.heard(Verb.EHLO, _reply(250, "mx.example", "PIPELINING", "STARTTLS"))
        session.said(Verb.STARTTLS, b"STARTTLS\r\n")
        session.heard(Verb.STARTTLS, _reply(220, "2.0.0 go ahead"))
        session.secured(TLSFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", verified=True, problem=""))
        session.said(Verb.MAIL, b"MAIL FROM:<joe@example.org>\r\n")
        session.said(Verb.DATA, b"DATA\r\n")
        session.heard(Verb.MAIL, _reply(250))
        session.heard(Verb.DATA, _reply(354, "go on"))
        session.content(1_000)
        session.content(234)
        session.said(Verb.END_OF_DATA, b".\r\n")
        session.heard(Verb.END_OF_DATA, _reply(250, "2.0.0 queued"))
        session.said(Verb.QUIT, b"QUIT\r\n")
        session.heard(Verb.QUIT, _reply(221, ""))
        session.ended(None)
        self.shows(
            "*: connected to mx.example port 25",
            "S: 220 mx.example ESMTP",
            "C: EHLO me.example",
            "S: 250-mx.example",
            "S: 250-PIPELINING",
            "S: 250 STARTTLS",
            "C: STARTTLS",
            "S: 220 2.0.0 go ahead",
            "*: TLSv1.3 with TLS_AES_256_GCM_SHA384; the certificate verified",
            "C: MAIL FROM:<joe@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 354 go on",
            "C: <1234 octets of content>",
            "C: .",
            "S: 250 2.0.0 queued",
            "C: QUIT",
            "S: 221",
            "*: over",
        )

    def test_an_event_says_when_in_which_session_and_who(self) -> None:
        self.session.said(Verb.NOOP, b"NOOP\r\n")
        self.clock.advance(1.5)
        self.new_session().heard(Verb.GREETING, _reply(220))
        self.assertEqual(
            list(self.transcript),
            [Event(7, 1, Direction.CLIENT, "NOOP"), Event(8.5, 2, Direction.SERVER, "220 ok")],
        )
        self.assertEqual([event.direction.value for event in self.transcript], [">", "<"])

    def test_lines_of_several_sessions_are_numbered(self) -> None:
        self.session.said(Verb.NOOP, b"NOOP\r\n")
        self.new_session().said(Verb.RSET, b"RSET\r\n")
        self.shows("[1] C: NOOP", "[2] C: RSET")

    def test_a_certificate_that_does_not_verify_says_why(self) -> None:
        self.session.secured(TLSFacts(version="TLSv1.2", cipher="X", verified=False, problem="it has expired"))
        self.shows("*: TLSv1.2 with X; the certificate did not verify: it has expired")

    def test_a_unix_socket_has_no_port(self) -> None:
        self.session.connected("/run/lmtp", 0)
        self.shows("*: connected to /run/lmtp")

    def test_content_that_was_cut_short_is_counted_before_the_end_is_told(self) -> None:
        self.session.content(17)
        self.session.ended(SessionLost("connection lost"))
        self.shows("C: <17 octets of content>", "*: over: connection lost")

    def test_control_characters_do_not_reach_a_terminal(self) -> None:
        self.session.heard(Verb.NOOP, _reply(250, "\x1b[2J\x9b"))
        self.session.ended(SessionLost("a\nb"))
        self.shows("S: 250 �[2J�", "*: over: a�b")

    def test_a_transcript_is_one_before_anything_is_said(self) -> None:
        self.assertTrue(self.transcript)

    def test_a_transcript_without_events_is_empty(self) -> None:
        self.assertEqual((str(self.transcript), len(list(self.transcript))), ("", 0))


class Secrets(TranscriptCase):
    def test_of_an_authentication_only_the_mechanism_is_kept(self) -> None:
        self.session.said(Verb.AUTH, b"AUTH PLAIN AGpvZQBacTc=\r\n")
        self.session.said(Verb.AUTH, b"AUTH LOGIN\r\n")
        self.session.heard(Verb.AUTH, _reply(334, "VXNlcm5hbWU6"))
        self.session.said(Verb.AUTH, b"am9l\r\n")
        self.session.said(Verb.AUTH, b"*\r\n")
        self.session.heard(Verb.AUTH, _reply(235, "2.7.0 welcome"))
        self.shows(
            "C: AUTH PLAIN <secret>",
            "C: AUTH LOGIN",
            "S: 334 <secret>",
            "C: <secret>",
            "C: <secret>",
            "S: 235 2.7.0 welcome",
        )

    def test_words_that_give_a_secret_away_are_withheld_whoever_says_them(self) -> None:
        self.session.confides([Secret("Zq7")])
        self.session.heard(Verb.AUTH, _reply(535, "5.7.8 not zQ7, surely"))
        self.session.heard(Verb.AUTH, _reply(535, "Z", "q7"))
        self.session.ended(SessionLost("the server said Zq7"))
        self.session.said(Verb.OTHER, b"XLOGIN Zq7\r\n")
        self.session.heard(Verb.NOOP, _reply(250, "fine"))
        self.shows(f"S: 535 5.7.8 {_NOT_OK}", f"S: 535 {_NOT_OK}", f"*: {_NOT_OK}", f"C: {_NOT_OK}", "S: 250 fine")

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=3, max_size=40))
    def test_no_password_gets_in(self, password: str) -> None:
        transcript = Transcript()
        response = base64.b64encode(f"\0joe\0{password}".encode())
        session = self.new_session(transcript)
        session.confides(told_in(b"\0joe\0" + password.encode(), [Secret(password)]))
        session.said(Verb.AUTH, b"AUTH PLAIN " + response + b"\r\n")
        session.said(Verb.AUTH, response + b"\r\n")
        session.heard(Verb.AUTH, _reply(334, response.decode()))
        session.heard(Verb.AUTH, _reply(535, f"what is {response.decode()}?"))
        for event in transcript:
            self.assertNotIn(response.decode(), event.text)
            self.assertIn(event.text, ("AUTH PLAIN <secret>", "<secret>", "334 <secret>", f"535 {_NOT_OK}", _NOT_OK))
        self.assertNotIn(repr(password), repr(session))


class Limits(TranscriptCase):
    def test_the_oldest_events_make_way_and_are_counted(self) -> None:
        self.transcript = Transcript(max_events=2)
        session = self.new_session()
        for name in (b"EHLO a", b"EHLO b"):
            session.said(Verb.EHLO, name)
        self.assertEqual(self.transcript.evicted, 0)
        session.said(Verb.EHLO, b"EHLO c")
        self.assertEqual((self.transcript.evicted, len(list(self.transcript))), (1, 2))
        self.shows("*: 1 earlier events are left out", "C: EHLO b", "C: EHLO c")

    def test_it_can_be_read_while_it_goes_on(self) -> None:
        self.session.said(Verb.NOOP, b"NOOP")
        for _ in self.transcript:
            self.session.said(Verb.NOOP, b"NOOP")
        self.assertEqual(len(list(self.transcript)), 2)


class Listening(TranscriptCase):
    def test_a_listener_hears_each_event_as_it_happens(self) -> None:
        heard: list[str] = []
        self.transcript = Transcript(max_events=0, listener=lambda event: heard.append(str(event)))
        session = self.new_session()
        session.said(Verb.NOOP, b"NOOP\r\n")
        self.assertEqual(heard, ["C: NOOP"])
        session.heard(Verb.NOOP, _reply(250))
        self.assertEqual(heard, ["C: NOOP", "S: 250 ok"])
        self.assertEqual(len(list(self.transcript)), 0)

    def test_a_listener_that_raises_harms_nobody_and_is_left_in_peace(self) -> None:
        called: list[Event] = []

        def listener(event: Event) -> None:
            called.append(event)
            raise OSError("broken pipe")

        self.transcript = Transcript(listener=listener)
        session = self.new_session()
        session.said(Verb.NOOP, b"NOOP\r\n")
        session.said(Verb.RSET, b"RSET\r\n")
        self.assertEqual((len(called), len(list(self.transcript))), (1, 2))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
