"""
SASLprep against RFC 4013's own examples, and against scramp's.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scramp.core import ScramException  # type: ignore[import-untyped]  # it has no types
from scramp.utils import saslprep as scramps  # type: ignore[import-untyped]  # it has no types
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.saslprep import saslprep


class SaslprepTests(SynchronousTestCase):
    def test_the_examples_of_rfc_4013_come_out_as_it_says(self) -> None:
        examples = {"I\xadX": "IX", "user": "user", "USER": "USER", "\xaa": "a", "\u2168": "IX"}
        self.assertEqual({text: saslprep("user", text, stored=True) for text in examples}, examples)

    def test_the_examples_that_rfc_4013_prohibits_are_refused(self) -> None:
        for text in ("\x07", "\u06271"):
            with self.assertRaises(BadArgument):
                saslprep("user", text, stored=True)

    def test_every_space_becomes_the_one_space(self) -> None:
        self.assertEqual(saslprep("password", "a\xa0b\u3000c", stored=True), "a b c")

    def test_right_to_left_letters_stand_alone(self) -> None:
        self.assertEqual(saslprep("user", "\u05d0\u05d11\u05d2", stored=True), "\u05d0\u05d11\u05d2")
        for text in ("\u05d0a\u05d1", "a\u05d0", "\u05d0a", "1\u05d0"):
            with self.assertRaisesRegex(BadArgument, "right-to-left"):
                saslprep("user", text, stored=True)

    def test_a_character_newer_than_unicode_3_2_stands_in_a_query_and_not_in_a_stored_string(self) -> None:
        self.assertEqual(saslprep("user", "py\U0001f40d", stored=False), "py\U0001f40d")
        with self.assertRaisesRegex(BadArgument, "newer"):
            saslprep("password", "py\U0001f40d", stored=True)

    def test_nothing_is_refused(self) -> None:
        for nothing in ("", "\xad"):
            with self.assertRaisesRegex(BadArgument, "user: is empty"):
                saslprep("user", nothing, stored=False)

    def test_the_error_names_the_field_and_does_not_quote_it(self) -> None:
        with self.assertRaisesRegex(BadArgument, "^password: holds a character") as caught:
            saslprep("password", "hunter2\t", stored=True)
        self.assertNotIn("hunter2", str(caught.exception))

    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1))
    def test_printable_ascii_stays_as_it_is(self, text: str) -> None:
        self.assertEqual(saslprep("password", text, stored=True), text)

    @given(st.text(min_size=1))
    def test_scramp_prepares_a_stored_string_to_the_same(self, text: str) -> None:
        try:
            theirs = scramps(text) or None
        except ScramException:
            theirs = None
        try:
            ours: str | None = saslprep("password", text, stored=True)
        except BadArgument:
            ours = None
        self.assertEqual(ours, theirs)
