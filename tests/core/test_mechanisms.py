"""
The mechanisms but SCRAM, and which one is chosen.
"""

from __future__ import annotations

from base64 import b64encode

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.cred.credentials import CramMD5Credentials
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.authentication import Authentication, Computation, Mechanism, Refusal, Response
from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.mechanisms import (
    MAX_TOKEN_CHARACTERS,
    MECHANISMS,
    BearerToken,
    Circumstances,
    External,
    Identity,
    begin,
    choose,
)
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import Credentials
from pymail_tx.core.scram import ChannelBinding
from pymail_tx.core.secret import Secret

TIM = Credentials("tim", Secret("tanstaaftanstaaf"))
TOKEN = "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="
BEARER = BearerToken("someuser@example.com", Secret(TOKEN))
CERTIFICATE = External()
BINDING = ChannelBinding("tls-exporter", bytes(32))
HERE = Circumstances(nonce="x" * 24, binding=BINDING, host="server.example.com", port=587)
YES = Reply(235, ("2.7.0 welcome",))
NO = Reply(535, ("5.7.8 no",))
IDENTITIES: tuple[Identity, ...] = (TIM, BEARER, CERTIFICATE)


def started(name: str, identity: Identity, circumstances: Circumstances = HERE) -> Mechanism:
    return MECHANISMS[name].start(identity, circumstances)


def said(name: str, identity: Identity, *challenges: bytes, circumstances: Circumstances = HERE) -> list[Response]:
    """Every response, to no challenge first and then to each of these."""
    mechanism = started(name, identity, circumstances)
    steps = [next(mechanism), *(mechanism.send(challenge) for challenge in challenges)]
    return [step for step in steps if isinstance(step, Response)]


class PlainTests(SynchronousTestCase):
    def test_the_example_of_rfc_4616(self) -> None:
        self.assertEqual(said("PLAIN", TIM), [Response(b"\0tim\0tanstaaftanstaaf", complete=True)])

    def test_user_and_password_are_utf_8(self) -> None:
        [response] = said("PLAIN", Credentials("tëm", Secret("€")))
        self.assertEqual(response.octets, "\0tëm\0€".encode())


class LoginTests(SynchronousTestCase):
    def test_whatever_the_prompts_say_the_user_comes_first_and_then_the_password(self) -> None:
        expected = [Response(b"tim"), Response(b"tanstaaftanstaaf", complete=True)]
        prompts = [(b"Username:", b"Password:"), (b"User Name\0", b"Password\0"), (b"", b""), (b"Password:", b"\xff")]
        for prompt in prompts:
            self.assertEqual(said("LOGIN", TIM, *prompt), expected)

    def test_it_waits_for_the_first_prompt(self) -> None:
        self.assertEqual(begin("LOGIN", TIM, HERE).command(), b"AUTH LOGIN")

    def test_a_yes_to_the_user_alone_is_not_believed(self) -> None:
        authentication = begin("LOGIN", TIM, HERE)
        authentication.command()
        authentication.answer("VXNlcm5hbWU6")
        with self.assertRaises(ProtocolViolation):
            authentication.verdict(YES)


class CramMD5Tests(SynchronousTestCase):
    CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"

    def test_the_example_of_rfc_2195(self) -> None:
        self.assertEqual(
            said("CRAM-MD5", TIM, self.CHALLENGE),
            [Response(b"tim b913a602c7eda7a495b4e6e7334d3890", complete=True)],
        )

    def test_twisted_as_the_server_takes_it(self) -> None:
        server = CramMD5Credentials(host="example.org")
        [response] = said("CRAM-MD5", TIM, server.getChallenge())
        server.setResponse(response.octets)
        self.assertTrue(server.checkPassword(TIM.password.reveal().encode()))

    def test_an_empty_challenge_is_refused(self) -> None:
        with self.assertRaisesRegex(ProtocolViolation, "empty challenge"):
            said("CRAM-MD5", TIM, b"")


class ExternalTests(SynchronousTestCase):
    def test_the_certificates_own_identity_is_an_equals_sign(self) -> None:
        self.assertEqual(begin("EXTERNAL", CERTIFICATE, HERE).command(), b"AUTH EXTERNAL =")

    def test_another_to_act_as_is_named(self) -> None:
        self.assertEqual(said("EXTERNAL", External("fred@example.com")), [Response(b"fred@example.com", complete=True)])

    def test_what_cannot_be_sent_is_refused(self) -> None:
        for authzid in ("a\0b", "\ud800", "a\r\n"):
            with self.assertRaisesRegex(BadArgument, "authzid"):
                External(authzid)


class TokenTests(SynchronousTestCase):
    def test_the_example_of_googles_page(self) -> None:
        bearer = BearerToken("someuser@example.com", Secret("ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"))
        [response] = said("XOAUTH2", bearer)
        self.assertEqual(
            b64encode(response.octets),
            b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0"
            b"Q2cBAQ==",
        )

    def test_the_example_of_rfc_7628(self) -> None:
        bearer = BearerToken("user@example.com", Secret(TOKEN))
        [response] = said("OAUTHBEARER", bearer)
        expected = b"n,a=user@example.com,\1host=server.example.com\1port=587\1auth=Bearer " + TOKEN.encode() + b"\1\1"
        self.assertEqual(response, Response(expected, complete=True))

    def test_host_and_port_are_left_out_where_unknown(self) -> None:
        [response] = said("OAUTHBEARER", BEARER, circumstances=Circumstances(nonce="x" * 24))
        self.assertTrue(response.octets.startswith(b"n,a=someuser@example.com,\1auth=Bearer "))

    def test_equals_sign_and_comma_in_a_user_are_escaped(self) -> None:
        [response] = said("OAUTHBEARER", BearerToken("a=b,c", Secret(TOKEN)))
        self.assertTrue(response.octets.startswith(b"n,a=a=3Db=2Cc,\1"))

    def test_each_answers_an_error_its_own_way_and_believes_no_yes_after_it(self) -> None:
        for name, dummy in (("XOAUTH2", b""), ("OAUTHBEARER", b"\1")):
            _, response = said(name, BEARER, b'{"status":"invalid_token"}')
            self.assertEqual(response.octets, dummy)
            self.assertFalse(response.complete)

    def test_401_and_invalid_token_ask_for_another_token(self) -> None:
        for status in ('"401"', "401", '"invalid_token"', '"400"'):
            error = b'{"status":%s,"schemes":"bearer","scope":"https://mail.example/"}' % status.encode()
            _, response = said("OAUTHBEARER", BEARER, error)
            words = f"the token was not taken: status {status.strip(chr(34))}"
            self.assertEqual(response.refusal, Refusal(words, stale_token=True))

    def test_another_status_does_not(self) -> None:
        for status in ("403", "500", "invalid_request", "insufficient_scope"):
            _, response = said("OAUTHBEARER", BEARER, b'{"status":"%s"}' % status.encode())
            self.assertEqual(response.refusal, Refusal(f"the token was not taken: status {status}"))

    def test_a_status_of_the_servers_own_making_is_not_repeated(self) -> None:
        for error in (b'{"status":"%s"}' % TOKEN.encode(), b'{"status":[401]}', b'{"status":true}', b"{}", b"[]"):
            _, response = said("XOAUTH2", BEARER, error)
            self.assertEqual(response.refusal, Refusal("the token was not taken"))

    def test_the_refusal_waits_for_the_reply(self) -> None:
        authentication = begin("XOAUTH2", BEARER, HERE)
        authentication.command()
        self.assertEqual(authentication.answer(b64encode(b'{"status":"401"}').decode()), b"")
        self.assertEqual(authentication.verdict(NO), NO)
        self.assertEqual(authentication.refusal, Refusal("the token was not taken: status 401", stale_token=True))

    @given(st.binary() | st.text(alphabet='{}[]":,0123456789status').map(str.encode))
    @example(b"[" * 1_500)
    @example(b'{"status":' + b"[" * 400 + b"]" * 400 + b"}")
    @example(b'{"status":' + b"9" * 5_000 + b"}")
    @example(b'{"status":NaN}')
    def test_an_error_that_cannot_be_read_is_an_error_still(self, error: bytes) -> None:
        _, response = said("OAUTHBEARER", BEARER, error)
        self.assertIsNotNone(response.refusal)

    def test_a_token_of_8192_characters_is_taken_and_one_more_is_not(self) -> None:
        BearerToken("user", Secret("x" * MAX_TOKEN_CHARACTERS))
        for token in ("x" * (MAX_TOKEN_CHARACTERS + 1), "", "a b", "a\1", "é", "token\n"):
            with self.assertRaisesRegex(BadArgument, "token"):
                BearerToken("user", Secret(token))

    def test_a_user_who_could_end_the_field_is_refused(self) -> None:
        for user in ("a\1auth=Bearer x", "", "a\r\n", "\ud800"):
            with self.assertRaisesRegex(BadArgument, "user"):
                BearerToken(user, Secret(TOKEN))

    def test_a_host_that_could_end_the_field_is_refused(self) -> None:
        with self.assertRaisesRegex(BadArgument, "host"):
            Circumstances(nonce="x" * 24, host="a\1port=1")


class ChoiceTests(SynchronousTestCase):
    EVERY = frozenset(MECHANISMS)
    PASSWORD_MECHANISMS = (
        "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5",
    )  # fmt: skip

    def test_with_a_password_the_strongest_comes_first_and_cram_md5_last(self) -> None:
        offered, chosen = self.EVERY, []
        while name := choose(offered, TIM, binding=BINDING):
            chosen.append(name)
            offered -= {name}
        self.assertEqual(tuple(chosen), self.PASSWORD_MECHANISMS)

    def test_without_a_binding_no_plus_form_is_chosen(self) -> None:
        self.assertEqual(choose(self.EVERY, TIM), "SCRAM-SHA-256")
        self.assertIsNone(choose(frozenset({"SCRAM-SHA-256-PLUS"}), TIM))

    def test_with_a_token_only_the_token_is_used(self) -> None:
        self.assertEqual(choose(self.EVERY, BEARER, binding=BINDING), "XOAUTH2")
        self.assertEqual(choose(self.EVERY - {"XOAUTH2"}, BEARER), "OAUTHBEARER")
        self.assertIsNone(choose(self.EVERY - {"XOAUTH2", "OAUTHBEARER"}, BEARER))

    def test_with_a_certificate_only_external_is_used(self) -> None:
        self.assertEqual(choose(self.EVERY, CERTIFICATE), "EXTERNAL")
        self.assertIsNone(choose(self.EVERY - {"EXTERNAL"}, CERTIFICATE))

    def test_credentials_that_scram_cannot_prepare_use_the_next(self) -> None:
        self.assertEqual(choose(self.EVERY, Credentials("tim", Secret("py\U0001f40d"))), "PLAIN")

    def test_what_we_do_not_know_is_passed_over(self) -> None:
        self.assertIsNone(choose(frozenset({"GSSAPI", "NTLM", "DIGEST-MD5", "ANONYMOUS"}), TIM))
        self.assertIsNone(choose(frozenset(), TIM))

    def test_nothing_weaker_than_the_minimum_is_chosen(self) -> None:
        for minimum in self.PASSWORD_MECHANISMS:
            weaker = frozenset(name for name in self.EVERY if MECHANISMS[name].strength < MECHANISMS[minimum].strength)
            self.assertIsNone(choose(weaker, TIM, minimum=minimum, binding=BINDING))
            self.assertEqual(choose(weaker | {minimum}, TIM, minimum=minimum, binding=BINDING), minimum)

    def test_something_stronger_than_the_minimum_is_chosen(self) -> None:
        self.assertEqual(choose(self.EVERY, TIM, minimum="SCRAM-SHA-1"), "SCRAM-SHA-256")

    def test_of_equal_strength_either_will_do(self) -> None:
        self.assertEqual(choose(frozenset({"LOGIN", "CRAM-MD5"}), TIM, minimum="PLAIN"), "LOGIN")
        self.assertEqual(choose(frozenset({"OAUTHBEARER"}), BEARER, minimum="XOAUTH2"), "OAUTHBEARER")

    def test_a_minimum_that_is_no_mechanism_is_refused(self) -> None:
        with self.assertRaisesRegex(BadArgument, "'SCRAM' is none of SCRAM-SHA-256-PLUS, "):
            choose(self.EVERY, TIM, minimum="SCRAM")

    def test_the_table_goes_from_the_strongest_to_the_weakest(self) -> None:
        strengths = [kind.strength for kind in MECHANISMS.values()]
        self.assertEqual(strengths, sorted(strengths, reverse=True))

    @given(st.frozensets(st.sampled_from(sorted(MECHANISMS))), st.sampled_from(IDENTITIES), st.booleans())
    def test_what_is_chosen_can_begin(self, offered: frozenset[str], identity: Identity, bound: bool) -> None:
        binding = BINDING if bound else None
        name = choose(offered, identity, binding=binding)
        if name:
            begun = begin(name, identity, Circumstances(nonce="x" * 24, binding=binding))
            self.assertTrue(begun.command().startswith(b"AUTH " + name.encode()))


class BeginTests(SynchronousTestCase):
    def test_a_mechanism_that_we_do_not_know_is_refused(self) -> None:
        with self.assertRaisesRegex(BadArgument, "'NTLM' is none of"):
            begin("NTLM", TIM, HERE)

    def test_a_mechanism_that_needs_something_else_is_refused(self) -> None:
        for name, needed in (("XOAUTH2", "BearerToken"), ("EXTERNAL", "External")):
            with self.assertRaisesRegex(BadArgument, f"not {needed}, which"):
                begin(name, TIM, HERE)
        with self.assertRaisesRegex(BadArgument, "not Credentials, which"):
            begin("PLAIN", BEARER, HERE)

    def test_only_the_minus_plus_forms_bind_the_channel(self) -> None:
        for form in ("SCRAM-SHA-256", "SCRAM-SHA-1"):
            self.assertTrue(said(form + "-PLUS", TIM)[0].octets.startswith(b"p=tls-exporter,,"))
            self.assertTrue(said(form, TIM)[0].octets.startswith(b"y,,"))


def any_authentication() -> st.SearchStrategy[Authentication]:
    pairs = [
        (name, identity) for name, kind in MECHANISMS.items() for identity in IDENTITIES if kind.can(identity, BINDING)
    ]
    return st.sampled_from(pairs).map(lambda pair: begin(*pair, HERE))


class AnyMechanismTests(SynchronousTestCase):
    @given(any_authentication(), st.lists(st.binary(), min_size=1, max_size=12))
    def test_garbage_ends_in_a_violation_or_a_refusal_and_never_in_another_exception(
        self, authentication: Authentication, challenges: list[bytes]
    ) -> None:
        authentication.command()
        try:
            for challenge in challenges:
                line = authentication.answer(b64encode(challenge).decode())
                assert not isinstance(line, Computation)
            authentication.verdict(NO)
        except ProtocolViolation as violation:
            self.assertIn(authentication.name, str(violation))

    def test_no_secret_nor_its_base64_can_be_printed(self) -> None:
        shown = repr([IDENTITIES, *(said("PLAIN", TIM) + said("XOAUTH2", BEARER) + said("LOGIN", TIM, b"", b""))])
        for secret in ("tanstaaf", "dGFuc3Rh", TOKEN[:8], b64encode(TOKEN.encode()).decode()[:8]):
            self.assertNotIn(secret, shown)
