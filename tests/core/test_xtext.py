"""
Free text in a parameter's value, and back.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core import xtext
from pymail_tx.core.errors import BadArgument

_ASCII = st.text(st.characters(max_codepoint=127))


class Xtext(SynchronousTestCase):
    def test_a_plus_an_equals_sign_a_space_and_controls_are_written_as_hexadecimal(self) -> None:
        self.assertEqual(xtext.encode("a+b=c d\r\n\x7f"), "a+2Bb+3Dc+20d+0D+0A+7F")

    def test_everything_else_stands_as_it_is(self) -> None:
        kept = "".join(chr(code) for code in range(33, 127) if chr(code) not in "+=")
        self.assertEqual(xtext.encode(kept), kept)

    @given(_ASCII)
    def test_what_is_decoded_is_what_was_encoded(self, text: str) -> None:
        self.assertEqual(xtext.decode(xtext.encode(text)), text)

    @given(_ASCII)
    def test_it_is_always_a_parameters_value(self, text: str) -> None:
        self.assertRegex(xtext.encode(text), r"\A[!-<>-~]*\Z")

    def test_what_is_not_ascii_is_refused(self) -> None:
        with self.assertRaises(BadArgument):
            xtext.encode("ä")

    def test_what_is_no_xtext_is_refused(self) -> None:
        for bad in ("a b", "a=b", "+", "+2", "+2b", "+GG", "ä", "a\n", "a\x7f"):
            with self.assertRaises(BadArgument):
                xtext.decode(bad)


class Internationalized(SynchronousTestCase):
    def test_characters_are_written_by_their_number(self) -> None:
        """Each kind of character that RFC 6533 §3 names."""
        for character, written in (
            ("ä", r"\x{E4}"), ("你", r"\x{4F60}"), ("😀", r"\x{1F600}"),
            ("+", r"\x{2B}"), ("=", r"\x{3D}"), ("\\", r"\x{5C}"), (" ", r"\x{20}"),
        ):  # fmt: skip
            self.assertEqual(xtext.encode_internationalized(f"a{character}b"), f"a{written}b")

    @given(st.text())
    def test_it_is_always_xtext_that_decodes_to_itself(self, address: str) -> None:
        written = xtext.encode_internationalized(address)
        self.assertEqual(xtext.decode(written), written)
