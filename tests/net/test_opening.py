"""
The steps that open a session, and what a refusal of each means.
"""

from __future__ import annotations

from collections.abc import Coroutine

from twisted.internet.defer import CancelledError, Deferred

from pymail_tx.core.errors import BadArgument, NotOffered, ProtocolViolation, Refused, ReplyTimeout, SessionLost
from pymail_tx.core.mechanisms import BearerToken, External, Identity
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import Credentials, decode
from pymail_tx.core.secret import Secret
from pymail_tx.core.state import State
from pymail_tx.net import opening
from pymail_tx.net.tls import ClientTLS
from tests.net.certificates import Authority
from tests.net.scripted import ScriptedCase, ScriptedServer, ehlo_lines
from tests.net.test_tls import Shaking

_JOE = Credentials("joe", Secret("correct horse"))
_VERIFIED = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", verified=True, problem="")
_UNVERIFIED = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", verified=False, problem="self-signed certificate")


class OpeningCase(ScriptedCase):
    def begins(self, step: Coroutine[Deferred[Reply], object, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(step)

    def refused(self, step: Deferred[None]) -> Refused:
        return self.fails_with(Refused, step)


class Greet(OpeningCase):
    def greets(self, *, helo: bool = True) -> tuple[ScriptedServer, Deferred[None]]:
        server = self.server()
        return server, self.begins(opening.greet(server.client, "me.example", helo=helo))

    def test_the_greeting_is_answered_with_ehlo(self) -> None:
        server, greeted = self.greets()
        server.expects()
        server.says("220 mx.example ESMTP")
        server.expects("EHLO me.example")
        self.assertNoResult(greeted)
        server.says(*ehlo_lines("PIPELINING"))
        self.assertIsNone(self.successResultOf(greeted))
        self.assertIs(server.client.state, State.READY)

    def test_ehlo_refused_with_500_502_or_504_is_followed_by_helo_once(self) -> None:
        for code in (500, 502, 504):
            server, greeted = self.greets()
            server.says("220 mx.example")
            server.wrote()
            server.says(f"{code} EHLO?")
            server.expects("HELO me.example")
            server.says("250 mx.example")
            self.assertIsNone(self.successResultOf(greeted))

    def test_a_helo_refused_as_well_is_the_end(self) -> None:
        server, greeted = self.greets()
        server.says("220 mx.example")
        server.says("502 EHLO?")
        server.wrote()
        server.says("502 HELO?")
        server.expects()
        self.assertEqual(self.refused(greeted).step, "EHLO")

    def test_ehlo_refused_with_another_code_is_not_followed_by_helo(self) -> None:
        for code in (501, 503, 550, 554, 450, 451):
            server, greeted = self.greets()
            server.says("220 mx.example")
            server.wrote()
            server.says(f"{code} no")
            server.expects()
            self.assertFalse(self.refused(greeted).final)

    def test_helo_will_not_do_where_an_extension_is_needed(self) -> None:
        server, greeted = self.greets(helo=False)
        server.says("220 mx.example")
        server.wrote()
        server.says("502 EHLO?")
        server.expects()
        self.assertEqual(self.refused(greeted).enhanced, "4.3.2")

    def test_a_refused_greeting_is_worth_another_try(self) -> None:
        for words, enhanced in (
            ("450 later", "4.3.2"), ("554 no", "4.3.2"), ("554 5.7.1 blocked", "4.7.1"), ("421 4.3.2 busy", "4.3.2"),
        ):  # fmt: skip
            server, greeted = self.greets()
            server.says(words)
            error = self.refused(greeted)
            self.assertEqual((error.step, error.enhanced, error.final), ("greeting", enhanced, False))
            server.expects()

    def test_521_and_556_say_that_the_host_takes_no_mail_at_all(self) -> None:
        for code, enhanced in ((521, "5.3.2"), (556, "5.1.10")):
            server, greeted = self.greets()
            server.says(f"{code} no mail here")
            error = self.refused(greeted)
            self.assertEqual((error.enhanced, error.final), (enhanced, True))

    def test_a_greeting_of_3yz_is_a_violation(self) -> None:
        server, greeted = self.greets()
        server.says("354 go ahead")
        self.fails_with(ProtocolViolation, greeted)

    def test_a_server_that_talks_before_it_is_spoken_to_gets_no_ehlo(self) -> None:
        server, greeted = self.greets()
        server.says("220 mx.example", "250 mx.example")
        server.expects()
        self.fails_with(ProtocolViolation, greeted)

    def test_a_loss_and_a_deadline_and_a_cancel_end_it(self) -> None:
        server, greeted = self.greets()
        server.loses_connection()
        self.fails_with(SessionLost, greeted)
        server, greeted = self.greets()
        server.passes(300)
        self.fails_with(ReplyTimeout, greeted)
        server, greeted = self.greets()
        greeted.cancel()
        server.passes(0)
        self.fails_with(CancelledError, greeted)
        self.assertTrue(server.wire.disconnected)


class Secure(OpeningCase):
    def secures(self, *keywords: str) -> tuple[ScriptedServer, Deferred[None]]:
        server = self.server(*keywords)
        creator = ClientTLS("mx.example", must_verify=False)
        return server, self.begins(opening.secure(server.client, "me.example", creator))

    def test_after_the_handshake_ehlo_is_said_again(self) -> None:
        server, secured = self.secures("STARTTLS", "AUTH LOGIN")
        server.expects("STARTTLS")
        server.says("220 go ahead")
        server.expects()
        server.shakes_hands()
        server.expects("EHLO me.example")
        server.says(*ehlo_lines("AUTH PLAIN"))
        self.assertIsNone(self.successResultOf(secured))
        self.assertEqual(server.client.extensions.auth_mechanisms, {"PLAIN"})

    def test_not_offered_it_is_not_asked_for(self) -> None:
        server, secured = self.secures("PIPELINING")
        server.expects()
        self.assertEqual(self.fails_with(NotOffered, secured).enhanced, "4.7.4")

    def test_refused_it_is_a_refusal_and_no_client_hello_is_sent(self) -> None:
        for words in ("454 not now", "501 what?", "554 no"):
            server, secured = self.secures("STARTTLS")
            server.says(words)
            self.assertEqual(self.refused(secured).step, "STARTTLS")
            self.assertFalse(server.wire.tls_started)

    def test_ehlo_refused_behind_the_handshake_is_not_followed_by_helo(self) -> None:
        server, secured = self.secures("STARTTLS")
        server.says("220 go ahead")
        server.shakes_hands()
        server.wrote()
        server.says("502 EHLO?")
        server.expects()
        self.assertEqual(self.refused(secured).step, "EHLO")

    def test_data_behind_220_sends_no_client_hello(self) -> None:
        server, secured = self.secures("STARTTLS")
        server.sends(b"220 go ahead\r\n250-mx.example\r\n250 AUTH PLAIN\r\n")
        self.fails_with(ProtocolViolation, secured)
        self.assertFalse(server.wire.tls_started)


class Authenticate(OpeningCase):
    def setUp(self) -> None:
        super().setUp()
        creator = ClientTLS("mx.example", must_verify=False)
        shaking = Shaking(creator, Authority().issue("mx.example").context())
        shaking.run()
        self.connection = shaking.client

    def authenticates(
        self, *keywords: str, tls: TLSFacts | None, identity: Identity = _JOE, minimum: str | None = None
    ) -> tuple[ScriptedServer, Deferred[None]]:
        server = self.server(*keywords)
        server.client.tls = tls
        server.wire.handle = self.connection
        authenticating = opening.authenticate(server.client, identity, nonce="x" * 24, minimum=minimum)
        return server, self.begins(authenticating)

    def test_a_verified_host_that_offers_plain_gets_it(self) -> None:
        server, authenticated = self.authenticates("AUTH LOGIN PLAIN", tls=_VERIFIED)
        server.expects("AUTH PLAIN AGpvZQBjb3JyZWN0IGhvcnNl")
        server.says("235 2.7.0 welcome")
        self.assertIsNone(self.successResultOf(authenticated))

    def test_the_old_form_of_the_offer_will_do(self) -> None:
        server, authenticated = self.authenticates("auth=plain", tls=_VERIFIED)
        self.assertTrue(server.wrote().startswith(b"AUTH PLAIN "))
        server.says("235 welcome")
        self.assertIsNone(self.successResultOf(authenticated))

    def test_without_tls_or_with_a_certificate_that_does_not_verify_nothing_is_sent(self) -> None:
        for tls, words in ((None, "no TLS"), (_UNVERIFIED, "self-signed certificate")):
            server, authenticated = self.authenticates("AUTH PLAIN", tls=tls)
            server.expects()
            self.assertIn(words, str(self.fails_with(NotOffered, authenticated)))

    def test_a_server_that_does_not_offer_auth_or_not_plain_gets_no_credentials(self) -> None:
        for keyword, words in (
            ("PIPELINING", "AUTH is not offered"),
            ("AUTH", "AUTH is not offered"),
            ("AUTH XOAUTH2 GSSAPI", "no AUTH mechanism is offered that will do, only GSSAPI, XOAUTH2"),
            ("AUTHPLAIN", "AUTH is not offered"),
        ):
            server, authenticated = self.authenticates(keyword, tls=_VERIFIED)
            server.expects()
            error = self.fails_with(NotOffered, authenticated)
            self.assertEqual((str(error), error.enhanced, error.final), (words, "4.7.4", False))

    def test_the_strongest_that_is_offered_is_chosen(self) -> None:
        scram = ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]
        offered = ["CRAM-MD5", "LOGIN", "PLAIN", *scram]
        while offered:
            server, authenticated = self.authenticates(f"AUTH {' '.join(offered)}", tls=_VERIFIED)
            self.assertEqual(server.wrote().split()[1].decode(), offered.pop())
            server.says("454 enough")
            self.refused(authenticated)

    def test_a_minimum_is_not_gone_below(self) -> None:
        server, authenticated = self.authenticates("AUTH PLAIN LOGIN", tls=_VERIFIED, minimum="SCRAM-SHA-1")
        server.expects()
        self.assertIn("only LOGIN, PLAIN", str(self.fails_with(NotOffered, authenticated)))
        server, authenticated = self.authenticates("AUTH SCRAM-SHA-256", tls=_VERIFIED, minimum="SCRAM-SHA-1")
        self.assertIn(b"AUTH SCRAM-SHA-256 ", server.wrote())
        server.says("454 enough")
        self.refused(authenticated)

    def test_a_minimum_that_is_no_mechanism_is_refused(self) -> None:
        server, authenticated = self.authenticates("AUTH PLAIN", tls=_VERIFIED, minimum="SCRAM")
        server.expects()
        self.fails_with(BadArgument, authenticated)

    def test_a_token_and_a_certificate_use_mechanisms_of_their_own(self) -> None:
        every = "AUTH PLAIN SCRAM-SHA-256 XOAUTH2 OAUTHBEARER EXTERNAL"
        bearer = BearerToken("joe", Secret("ya29.token"))
        for identity, keyword, words in (
            (bearer, every, b"AUTH XOAUTH2 "),
            (bearer, "AUTH OAUTHBEARER", b"AUTH OAUTHBEARER "),
            (External(), every, b"AUTH EXTERNAL ="),
        ):
            server, authenticated = self.authenticates(keyword, tls=_VERIFIED, identity=identity)
            self.assertIn(words, server.wrote())
            server.says("235 welcome")
            self.assertIsNone(self.successResultOf(authenticated))

    def test_oauthbearer_tells_host_and_port(self) -> None:
        bearer = BearerToken("joe", Secret("ya29.token"))
        server, authenticated = self.authenticates("AUTH OAUTHBEARER", tls=_VERIFIED, identity=bearer)
        told = decode(server.wrote().split()[2].decode())
        self.assertEqual(told, b"n,a=joe,\1host=mx.example\1port=25\1auth=Bearer ya29.token\1\1")
        server.says("235 welcome")
        self.assertIsNone(self.successResultOf(authenticated))

    def test_scram_tells_that_the_channel_could_have_been_bound(self) -> None:
        server, authenticated = self.authenticates("AUTH SCRAM-SHA-256", tls=_VERIFIED)
        self.assertTrue(decode(server.wrote().split()[2].decode()).startswith(b"y,,n=joe,r="))
        server.says("454 enough")
        self.refused(authenticated)

    def test_why_a_token_was_refused_is_told_besides_the_reply(self) -> None:
        bearer = BearerToken("joe", Secret("ya29.token"))
        server, authenticated = self.authenticates("AUTH XOAUTH2", tls=_VERIFIED, identity=bearer)
        server.says("334 eyJzdGF0dXMiOiI0MDMifQ==")
        server.says("535 5.7.8 no")
        words = "AUTH refused: 535 5.7.8 no (the token was not taken: status 403)"
        self.assertEqual(str(self.refused(authenticated)), words)

    def test_refused_credentials_are_worth_another_try_with_reason_4_7_8_and_the_reply_kept(self) -> None:
        for words in ("535 5.7.8 no", "535 no"):
            server, authenticated = self.authenticates("AUTH PLAIN", tls=_VERIFIED)
            server.says(words)
            error = self.refused(authenticated)
            self.assertEqual((error.step, error.enhanced, error.final), ("AUTH", "4.7.8", False))
            assert error.reply
            self.assertEqual(error.reply.code, 535)

    def test_another_refusal_is_worth_another_try(self) -> None:
        for words, enhanced in (
            ("454 4.7.0 later", "4.7.0"),
            ("534 5.7.9 too weak", "4.7.9"),
            ("432 change it", "4.3.2"),
        ):
            server, authenticated = self.authenticates("AUTH PLAIN", tls=_VERIFIED)
            server.says(words)
            error = self.refused(authenticated)
            self.assertEqual((error.enhanced, error.final), (enhanced, False))

    def test_no_error_holds_the_password_or_its_base64_though_the_server_repeats_them(self) -> None:
        for echo in ("correct horse", "AGpvZQBjb3JyZWN0IGhvcnNl", "Y29ycmVjdCBob3JzZQ=="):
            server, authenticated = self.authenticates("AUTH PLAIN", tls=_VERIFIED)
            server.says(f"535 5.7.8 bad: {echo}")
            error = self.refused(authenticated)
            self.assertNotIn(echo, f"{error} {error!r} {error.reply!r} {vars(error)}")
            self.assertEqual(error.enhanced, "4.7.8")
