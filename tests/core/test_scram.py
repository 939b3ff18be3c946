"""
SCRAM against the vectors of its RFCs, against scramp as the server, and against
servers that lie.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from base64 import b64decode, b64encode
from unicodedata import ucd_3_2_0

from hypothesis import example, given
from hypothesis import strategies as st
from scramp import ScramMechanism  # type: ignore[import-untyped]  # it has no types
from scramp.core import CbName, ScramException, ScramServer  # type: ignore[import-untyped]  # it has no types
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.authentication import Computation, Mechanism, Refusal, Response
from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.scram import MAX_ITERATIONS, MIN_ITERATIONS, ChannelBinding, can_prepare, scram
from pymail_tx.core.secret import Secret

PENCIL = Credentials("user", Secret("pencil"))
NONCE = "rOprNGfwEbeRWgbNEkqO"
SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
SERVER_NONCE = NONCE + "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
EXPORTER = ChannelBinding("tls-exporter", bytes(range(32)))
OLD_TEXT = st.text(
    st.characters(max_codepoint=0x2FFF).filter(lambda character: ucd_3_2_0.category(character)[0] != "C")
)
"""Of what Unicode 3.2 knows: scramp treats users, too, as stored strings."""

END_POINT = ChannelBinding("tls-server-end-point", hashlib.sha256(b"certificate").digest())


def begun(
    hash_name: str = "sha256",
    credentials: Credentials = PENCIL,
    nonce: str = NONCE,
    binding: ChannelBinding | None = None,
    plus: bool = False,
) -> tuple[Mechanism, bytes]:
    """A mechanism, and its first response."""
    mechanism = scram(hash_name, credentials, nonce=nonce, binding=binding, plus=plus)
    return mechanism, octets(next(mechanism))


def octets(step: Response | Computation | None) -> bytes:
    assert isinstance(step, Response)
    return step.octets


def answer(mechanism: Mechanism, challenge: bytes) -> Response:
    """The response to a challenge, whatever must be computed for it."""
    step = mechanism.send(challenge)
    if isinstance(step, Computation):
        step = mechanism.send(step.run())
    assert isinstance(step, Response)
    return step


def server_first(nonce: str = SERVER_NONCE, salt: str = SALT, iterations: object = 4_096, more: str = "") -> bytes:
    return f"r={nonce},s={salt},i={iterations}{more}".encode()


class VectorTests(SynchronousTestCase):
    def test_the_exchange_of_rfc_7677(self) -> None:
        mechanism, first = begun()
        self.assertEqual(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        final = answer(mechanism, server_first())
        proof = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        self.assertEqual(final.octets, b"c=biws,r=" + SERVER_NONCE.encode() + b",p=" + proof)
        thanks = answer(mechanism, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        self.assertEqual(thanks, Response(b"", complete=True))

    def test_the_exchange_of_rfc_5802(self) -> None:
        mechanism, first = begun("sha1", nonce="fyko+d2lbbFgONRv9qkxdawL")
        self.assertEqual(first, b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL")
        nonce = "fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j"
        final = answer(mechanism, server_first(nonce, "QSXCR+Q6sek8bf92"))
        self.assertEqual(final.octets, f"c=biws,r={nonce},p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=".encode())
        self.assertTrue(answer(mechanism, b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").complete)

    def test_nothing_but_the_last_response_completes_it(self) -> None:
        mechanism = scram("sha256", PENCIL, nonce=NONCE, binding=None, plus=False)
        first = next(mechanism)
        assert isinstance(first, Response)
        self.assertFalse(first.complete)
        self.assertFalse(answer(mechanism, server_first()).complete)

    def test_the_salted_password_is_left_to_the_caller(self) -> None:
        mechanism, _ = begun()
        step = mechanism.send(server_first(iterations=600_000))
        self.assertEqual(step, Computation("sha256", Secret("pencil"), b64decode(SALT), 600_000))


class PeerTests(SynchronousTestCase):
    """With scramp as the server."""

    FORMS = ("SCRAM-SHA-256", "SCRAM-SHA-1")
    BINDINGS = (EXPORTER, END_POINT)

    def setUp(self) -> None:
        # To scramp a binding is a name and octets, as it is here; but it takes no name that Python's ssl cannot fill.
        self.patch(CbName, "UNSUPPORTED_TYPES", frozenset())
        self.patch(CbName, "SUPPORTED_TYPES", frozenset(binding.name for binding in self.BINDINGS))

    def server(self, form: str, binding: ChannelBinding | None, credentials: Credentials = PENCIL) -> ScramServer:
        mechanism = ScramMechanism(form)
        known = mechanism.make_auth_info(credentials.password.reveal(), iteration_count=4_096)
        channel = (binding.name, binding.octets) if binding else None
        return mechanism.make_server(lambda _: known, channel_binding=channel)

    def converse(self, server: ScramServer, mechanism: Mechanism) -> Response:
        server.set_client_first(octets(next(mechanism)).decode())
        server.set_client_final(answer(mechanism, server.get_server_first().encode()).octets.decode())
        return answer(mechanism, server.get_server_final().encode())

    def test_both_hashes_with_neither_and_either_binding(self) -> None:
        for form in self.FORMS:
            for binding in (None, *self.BINDINGS):
                plus = binding is not None
                server = self.server(form + "-PLUS" * plus, binding)
                mechanism = scram(_hash(form), PENCIL, nonce=NONCE, binding=binding, plus=plus)
                self.assertTrue(self.converse(server, mechanism).complete)

    def test_a_server_without_channel_binding_takes_that_we_could_have(self) -> None:
        for form in self.FORMS:
            mechanism = scram(_hash(form), PENCIL, nonce=NONCE, binding=EXPORTER, plus=False)
            self.assertTrue(self.converse(self.server(form, None), mechanism).complete)

    def test_a_server_with_channel_binding_sees_that_its_offer_was_struck_out(self) -> None:
        mechanism = scram("sha256", PENCIL, nonce=NONCE, binding=EXPORTER, plus=False)
        with self.assertRaisesRegex(ScramException, "server-does-support-channel-binding"):
            self.converse(self.server("SCRAM-SHA-256-PLUS", EXPORTER), mechanism)

    def test_a_server_in_another_tls_session_does_not_take_the_proof(self) -> None:
        for binding in self.BINDINGS:
            mechanism = scram("sha256", PENCIL, nonce=NONCE, binding=binding, plus=True)
            elsewhere = ChannelBinding(binding.name, bytes(32))
            with self.assertRaisesRegex(ScramException, "channel-bindings-dont-match"):
                self.converse(self.server("SCRAM-SHA-256-PLUS", elsewhere), mechanism)

    def test_a_wrong_password_is_not_taken(self) -> None:
        mechanism, other = scram("sha256", PENCIL, nonce=NONCE, binding=None, plus=False), Secret("pen")
        with self.assertRaisesRegex(ScramException, "invalid-proof"):
            self.converse(self.server("SCRAM-SHA-256", None, Credentials("user", other)), mechanism)

    @given(OLD_TEXT, OLD_TEXT)
    @example("a=b,c", "p=,\xa0\xaa")
    def test_whatever_can_be_prepared_is_taken(self, user: str, password: str) -> None:
        credentials = Credentials(user, Secret(password))
        if can_prepare(credentials):
            mechanism = scram("sha1", credentials, nonce=NONCE, binding=None, plus=False)
            self.assertTrue(self.converse(self.server("SCRAM-SHA-1", None, credentials), mechanism).complete)


def _hash(form: str) -> str:
    return {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}[form]


class OpeningTests(SynchronousTestCase):
    def test_without_a_binding_the_flag_is_n(self) -> None:
        self.assertTrue(begun()[1].startswith(b"n,,n="))

    def test_with_a_binding_that_the_server_does_not_offer_to_use_the_flag_is_y(self) -> None:
        mechanism, first = begun(binding=EXPORTER)
        self.assertTrue(first.startswith(b"y,,n="))
        self.assertIn(b"c=" + b64encode(b"y,,") + b",", answer(mechanism, server_first()).octets)

    def test_with_the_binding_in_use_the_flag_is_p_and_its_octets_are_in_the_proof(self) -> None:
        mechanism, first = begun(binding=EXPORTER, plus=True)
        self.assertTrue(first.startswith(b"p=tls-exporter,,n="))
        bound = b64encode(b"p=tls-exporter,," + EXPORTER.octets)
        self.assertTrue(answer(mechanism, server_first()).octets.startswith(b"c=" + bound + b",r="))

    def test_equals_sign_and_comma_in_a_user_are_escaped(self) -> None:
        _, first = begun(credentials=Credentials("a=b,c", Secret("pencil")))
        self.assertEqual(first, b"n,,n=a=3Db=2Cc,r=" + NONCE.encode())

    def test_a_plus_form_without_a_binding_is_refused_here(self) -> None:
        with self.assertRaisesRegex(BadArgument, "channel binding"):
            begun(plus=True)

    def test_a_nonce_of_16_printable_characters_will_do_and_nothing_less(self) -> None:
        begun(nonce="!" * 16)
        for nonce in ("!" * 15, "!" * 15 + ",", "!" * 15 + " ", "!" * 15 + "é", "!" * 16 + "\n", "!" * 257):
            with self.assertRaisesRegex(BadArgument, "nonce"):
                begun(nonce=nonce)

    def test_what_is_no_channel_binding_is_refused(self) -> None:
        for name, data in (("tls,exporter", b"1"), ("", b"1"), ("tls-exporter", b""), ("tls-exporter\n", b"1")):
            with self.assertRaisesRegex(BadArgument, "channel binding"):
                ChannelBinding(name, data)

    def test_credentials_that_cannot_be_prepared_are_known_before_and_refused(self) -> None:
        for user, password in (("user", "tab\t"), ("", "pencil"), ("user", "")):
            credentials = Credentials(user, Secret(password))
            self.assertFalse(can_prepare(credentials))
            with self.assertRaises(BadArgument):
                begun(credentials=credentials)


class FirstChallengeTests(SynchronousTestCase):
    def refused(self, challenge: bytes, words: str) -> None:
        mechanism, _ = begun()
        with self.assertRaisesRegex(ProtocolViolation, words):
            mechanism.send(challenge)

    def test_4096_and_600000_iterations_are_computed_and_one_beyond_either_is_not(self) -> None:
        for iterations in (MIN_ITERATIONS, MAX_ITERATIONS):
            mechanism, _ = begun()
            self.assertIsInstance(mechanism.send(server_first(iterations=iterations)), Computation)
        for iterations in (MIN_ITERATIONS - 1, MAX_ITERATIONS + 1, 999_999_999):
            self.refused(server_first(iterations=iterations), f"{iterations} iterations")

    def test_iterations_that_are_no_plain_number_are_refused(self) -> None:
        for iterations in ("", "0", "04096", "+4096", "-4096", "4096.0", "4 096", "٤٠٩٦", "1" * 10, "9" * 5_000):
            self.refused(server_first(iterations=iterations), "not a first challenge")

    def test_a_nonce_that_does_not_extend_ours_is_refused(self) -> None:
        for nonce in (NONCE, NONCE[:-1], "x" + SERVER_NONCE, NONCE.lower() + "xyz", "x" * 40):
            self.refused(server_first(nonce=nonce), "does not extend ours")

    def test_a_salt_that_is_no_base64_is_refused(self) -> None:
        for salt in ("A", "AA", "AAA", "AAAAA", "AAA=A", "A=="):
            self.refused(server_first(salt=salt), "first challenge|no base64")
        self.refused(server_first(salt=""), "not a first challenge")

    def test_an_extension_that_must_be_known_is_refused_wherever_it_stands(self) -> None:
        self.refused(b"m=x," + server_first(), "extension that we do not know")
        self.refused(server_first(more=",m=x"), "extension that we do not know")

    def test_an_extension_that_need_not_be_known_is_signed_and_skipped(self) -> None:
        challenge = server_first(more=",z=whatever,y=é=")
        mechanism, first = begun()
        final = answer(mechanism, challenge)
        said = first.removeprefix(b"n,,") + b"," + challenge + b"," + final.octets.rpartition(b",p=")[0]
        salted = hashlib.pbkdf2_hmac("sha256", b"pencil", b64decode(SALT), 4_096)
        signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        self.assertTrue(answer(mechanism, b"v=" + b64encode(signature) + b",z=1").complete)


class LastChallengeTests(SynchronousTestCase):
    def refused(self, challenge: bytes, words: str) -> None:
        mechanism, _ = begun()
        answer(mechanism, server_first())
        with self.assertRaisesRegex(ProtocolViolation, words):
            mechanism.send(challenge)

    def test_a_wrong_signature_is_a_violation(self) -> None:
        for signature in (b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G8=", b"AAAA", b64encode(bytes(32))):
            self.refused(b"v=" + signature, "its signature is wrong")

    def test_no_signature_is_a_violation(self) -> None:
        for challenge in (b"", b"v=", b"v", b"r=x", b"v=AAAA,m=x", b"V=AAAA", b"v=AAAA\n"):
            self.refused(challenge, "not a last challenge")

    def test_a_signature_that_is_no_base64_is_a_violation(self) -> None:
        self.refused(b"v=A", "no base64")

    def test_a_challenge_after_the_last_is_one_too_many(self) -> None:
        mechanism, _ = begun()
        answer(mechanism, server_first())
        answer(mechanism, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        self.assertRaises(StopIteration, mechanism.send, b"")


class ErrorTests(SynchronousTestCase):
    def test_a_servers_error_is_told_in_words_and_its_reply_waited_for(self) -> None:
        mechanism, _ = begun()
        answer(mechanism, server_first())
        told = answer(mechanism, b"e=invalid-proof")
        self.assertEqual(told, Response(b"", complete=False, refusal=Refusal("invalid proof")))

    def test_it_may_come_first(self) -> None:
        mechanism, _ = begun()
        self.assertEqual(answer(mechanism, b"e=unknown-user,z=1").refusal, Refusal("unknown user"))
        self.assertRaises(StopIteration, mechanism.send, server_first())

    def test_an_error_that_the_rfc_does_not_know_is_not_repeated(self) -> None:
        for error in (b"e=pencil", "e=é".encode(), b"e=\xff"):
            mechanism, _ = begun()
            self.assertEqual(answer(mechanism, error).refusal, Refusal("other error"))


GARBAGE = st.binary() | st.from_regex(rb"[rsivem]=[ -~]*(,[a-zA-Z]=[ -~]*)*", fullmatch=True)


class GarbageTests(SynchronousTestCase):
    @given(GARBAGE)
    @example(b"r=" + SERVER_NONCE.encode())
    def test_whatever_comes_first_is_refused_or_an_error(self, challenge: bytes) -> None:
        mechanism, _ = begun()
        with contextlib.suppress(ProtocolViolation):
            self.assertIsNotNone(answer(mechanism, challenge).refusal)

    @given(GARBAGE)
    def test_whatever_comes_last_is_refused_or_an_error(self, challenge: bytes) -> None:
        mechanism, _ = begun()
        computation = mechanism.send(server_first())
        assert isinstance(computation, Computation)
        mechanism.send(bytes(32))
        try:
            step = answer(mechanism, challenge)
        except ProtocolViolation:
            return
        self.assertIsNotNone(step.refusal)
        self.assertFalse(step.complete)

    @given(st.integers(0, 60), st.binary(max_size=3))
    def test_a_first_challenge_with_octets_amiss_never_fails_otherwise(self, where: int, what: bytes) -> None:
        challenge = server_first()
        mechanism, _ = begun()
        with contextlib.suppress(ProtocolViolation):
            answer(mechanism, challenge[:where] + what + challenge[where + 1 :])


class SecrecyTests(SynchronousTestCase):
    def test_neither_password_nor_binding_is_in_what_can_be_printed(self) -> None:
        mechanism, _ = begun(binding=EXPORTER, plus=True)
        computation = mechanism.send(server_first())
        shown = repr((computation, EXPORTER, mechanism, PENCIL))
        for secret in ("pencil", "cGVuY2ls", repr(EXPORTER.octets)[2:-1]):
            self.assertNotIn(secret, shown)
