"""
EHLO replies as servers write them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.extensions import Extensions
from pymail_tx.core.reply import Reply


def _offered(*lines: str) -> Extensions:
    return Extensions.of(Reply(250, ("mx.example greets you", *lines)))


class Keywords(SynchronousTestCase):
    def test_a_keyword_may_come_in_any_case(self) -> None:
        for line in ("PIPELINING", "pipelining", "PipeLining"):
            self.assertIn("PIPELINING", _offered(line))

    def test_the_first_line_names_the_server_and_offers_nothing(self) -> None:
        self.assertEqual(dict(Extensions.of(Reply(250, ("PIPELINING",))).keywords), {})

    def test_duplicates_are_joined(self) -> None:
        self.assertEqual(_offered("AUTH PLAIN", "auth LOGIN").auth_mechanisms, {"PLAIN", "LOGIN"})

    def test_the_form_with_an_equals_sign_is_read_and_joined(self) -> None:
        self.assertEqual(_offered("AUTH=PLAIN LOGIN").auth_mechanisms, {"PLAIN", "LOGIN"})
        self.assertEqual(_offered("AUTH CRAM-MD5", "AUTH=PLAIN").auth_mechanisms, {"CRAM-MD5", "PLAIN"})

    def test_mechanisms_may_come_in_any_case(self) -> None:
        self.assertEqual(_offered("AUTH plain Scram-Sha-256").auth_mechanisms, {"PLAIN", "SCRAM-SHA-256"})

    def test_a_keyword_without_parameters_has_none(self) -> None:
        self.assertEqual(_offered("AUTH").auth_mechanisms, frozenset())
        self.assertEqual(dict(_offered("8BITMIME", "X-FOO ").keywords), {"8BITMIME": (), "X-FOO": ()})

    def test_what_is_no_keyword_is_left_out_and_the_rest_stays(self) -> None:
        odd = ("", " ", "-X", "!", "STARTTLS!", "STARTTLS\tnow", "ÉTÉ", "PIPELINING;", "\x00", "8BIT_MIME")
        self.assertEqual(dict(_offered(*odd, "SIZE 5").keywords), {"SIZE": ("5",)})

    def test_a_keyword_within_another_line_is_none(self) -> None:
        offered = _offered("XSTARTTLS", "STARTTLSX", "X STARTTLS")
        self.assertNotIn("STARTTLS", offered)

    @given(st.lists(st.text(max_size=40), min_size=1, max_size=10))
    def test_whatever_stands_there_is_read_without_an_error(self, lines: list[str]) -> None:
        offered = Extensions.of(Reply(250, tuple(lines)))
        for keyword in offered.keywords:
            self.assertRegex(keyword, r"\A[A-Z0-9][A-Z0-9-]*\Z")
        self.assertGreaterEqual(offered.size_limit_bytes or 1, 1)
        self.assertNotIn("", offered.auth_mechanisms)


class Size(SynchronousTestCase):
    def test_a_number_is_the_limit(self) -> None:
        self.assertEqual(_offered("SIZE 52428800").size_limit_bytes, 52_428_800)
        self.assertEqual(_offered("size=1000").size_limit_bytes, 1_000)

    def test_0_means_no_limit(self) -> None:
        self.assertIsNone(_offered("SIZE 0").size_limit_bytes)

    def test_no_number_means_unknown(self) -> None:
        self.assertIsNone(_offered("SIZE").size_limit_bytes)
        self.assertIsNone(_offered("PIPELINING").size_limit_bytes)

    def test_garbage_means_unknown(self) -> None:
        for garbage in ("-1", "+5", "1e6", "10MB", "0x10", "٣", "1_000", "1,000", "²"):
            self.assertIsNone(_offered(f"SIZE {garbage}").size_limit_bytes, garbage)

    def test_the_first_number_counts(self) -> None:
        self.assertEqual(_offered("SIZE garbage", "SIZE 7", "SIZE 9").size_limit_bytes, 7)

    def test_a_number_of_20_digits_is_read_and_a_longer_one_is_no_smaller(self) -> None:
        """RFC 1870 §3 allows 20 digits."""
        self.assertEqual(_offered("SIZE " + "9" * 20).size_limit_bytes, 10**20 - 1)
        self.assertEqual(_offered("SIZE " + "9" * 2_000).size_limit_bytes, 10**20 - 1)
