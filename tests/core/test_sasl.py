"""
SASL mechanisms, and what a server must not be quoted with afterwards.
"""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.reply import Reply
from pymail_tx.core.sasl import (
    WITHHELD,
    Credentials,
    decode,
    encode,
    gives_away,
    told_in,
    without_secrets,
)
from pymail_tx.core.secret import Secret

_JOE = Credentials("joe", Secret("correct horse"))
_SECRETS = told_in(b"\0joe\0correct horse", [_JOE.password])


class CredentialsTests(SynchronousTestCase):
    def test_nul_is_refused_by_name(self) -> None:
        for user, password, field in (("jo\0e", "x", "user"), ("joe", "\0", "password")):
            error = self.assertRaises(BadArgument, Credentials, user, Secret(password))
            self.assertEqual(error.field, field)

    def test_what_has_no_octets_is_refused_and_the_error_does_not_hold_it(self) -> None:
        error = self.assertRaises(BadArgument, Credentials, "joe", Secret("correct\udc80horse"))
        self.assertNotIn("correct", f"{error} {error!r} {error.__cause__!r} {error.__context__!r}")

    def test_their_repr_holds_no_password(self) -> None:
        self.assertNotIn("correct", f"{_JOE} {_JOE!r}")


class Base64(SynchronousTestCase):
    @given(st.binary())
    def test_what_was_encoded_is_decoded(self, octets: bytes) -> None:
        self.assertEqual(decode(encode(octets).decode()), octets)

    def test_an_empty_challenge_is_one(self) -> None:
        self.assertEqual(decode(""), b"")
        self.assertEqual(decode(" "), b"")

    def test_what_is_no_base64_is_a_violation(self) -> None:
        for challenge in ("!", "abc", "a===", "YWJj YWJj", "é", "YWJj-", "=YWJ"):
            self.assertRaises(ProtocolViolation, decode, challenge)

    @given(st.text(max_size=40))
    def test_any_challenge_is_decoded_or_a_violation(self, challenge: str) -> None:
        try:
            self.assertEqual(base64.b64encode(decode(challenge)).decode().rstrip("="), challenge.strip().rstrip("="))
        except ProtocolViolation as violation:
            self.assertEqual(str(violation), "a challenge that is no base64")


class WithoutSecrets(SynchronousTestCase):
    def told(self, *lines: str) -> tuple[str, ...]:
        return without_secrets(Reply(535, lines), _SECRETS).lines

    def test_the_password_and_its_base64_and_the_response_are_given_away_by_words_that_hold_them(self) -> None:
        for form in ("correct horse", "Y29ycmVjdCBob3JzZQ==", "Y29ycmVjdCBob3JzZQ", "AGpvZQBjb3JyZWN0IGhvcnNl"):
            for text in (form, form.upper(), form.lower(), f"bad: <{form}>"):
                self.assertTrue(gives_away(text, _SECRETS), text)

    def test_eight_characters_of_the_response_give_it_away_and_seven_do_not(self) -> None:
        self.assertTrue(gives_away("AGpvZQBj", _SECRETS))
        self.assertFalse(gives_away("AGpvZQB", _SECRETS))

    def test_of_words_that_give_a_secret_away_only_the_enhanced_code_is_left(self) -> None:
        self.assertEqual(self.told("5.7.8 bad: correct horse"), (f"5.7.8 {WITHHELD}",))
        self.assertEqual(self.told("bad: correct horse", "really"), (WITHHELD,))

    def test_a_secret_that_goes_on_from_line_to_line_is_found(self) -> None:
        self.assertEqual(self.told("correct", "horse"), (WITHHELD,))
        self.assertEqual(self.told("AGpvZ", "QBjb3JyZWN0IGhvcnNl"), (WITHHELD,))

    def test_other_words_stay(self) -> None:
        reply = Reply(535, ("5.7.8 no", "such luck"))
        self.assertIs(without_secrets(reply, _SECRETS), reply)

    def test_without_secrets_there_is_nothing_to_hide(self) -> None:
        reply = Reply(250, ("ok",))
        self.assertIs(without_secrets(reply, ()), reply)

    def test_an_empty_password_is_in_no_words(self) -> None:
        reply = Reply(535, ("5.7.8 no",))
        self.assertIs(without_secrets(reply, told_in(b"\0joe\0", [Secret("")])), reply)

    def test_a_response_that_tells_no_secret_is_not_given_away(self) -> None:
        self.assertEqual(told_in(b"joe", []), ())

    def test_the_secrets_are_shown_by_no_repr(self) -> None:
        self.assertEqual(set(map(repr, _SECRETS)), {"<secret>"})

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8), st.text(), st.text())
    def test_whatever_the_password_no_words_with_it_are_left(self, password: str, before: str, after: str) -> None:
        secrets = told_in(b"\0joe\0" + password.encode(), [Secret(password)])
        told = without_secrets(Reply(535, (before + password + after,)), secrets)
        self.assertTrue(told.text.endswith(WITHHELD))
