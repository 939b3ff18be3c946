"""
Replies: their grammar, their limits, and that nothing else gets through.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.errors import ProtocolViolation
from pymail_tx.core.reply import (
    MAX_REPLY_LINE_OCTETS,
    MAX_REPLY_LINES,
    MAX_REPLY_OCTETS,
    Reply,
    ReplyReader,
    printable,
)

CODES = st.integers(200, 599)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=30)


def read(*lines: bytes) -> Reply | None:
    """What the last of the lines completes; none before it may complete anything."""
    reader = ReplyReader()
    *before, last = lines
    for line in before:
        assert reader.line(line) is None
    return reader.line(last)


class GrammarTests(SynchronousTestCase):
    REPLIES = (
        ((b"250 ok",), Reply(250, ("ok",))),
        ((b"250",), Reply(250, ("",))),
        ((b"250 ",), Reply(250, ("",))),
        ((b"250  two blanks ",), Reply(250, (" two blanks ",))),
        ((b"250-one", b"250 two"), Reply(250, ("one", "two"))),
        ((b"250-", b"250-", b"250"), Reply(250, ("", "", ""))),
        ((b"250-250 ok", b"250 -"), Reply(250, ("250 ok", "-"))),
        ((b"200 x",), Reply(200, ("x",))),
        ((b"299 undefined but well-formed",), Reply(299, ("undefined but well-formed",))),
        ((b"354 go on",), Reply(354, ("go on",))),
        ((b"599 x",), Reply(599, ("x",))),
        ((b"250 a\tb\x01\x7f",), Reply(250, ("a\tb\x01\x7f",))),
        ((b"250 gr\xc3\xbc\xc3\x9fe",), Reply(250, ("grüße",))),
        ((b"250 gr\xfc\xdfe",), Reply(250, ("gr\\xfc\\xdfe",))),
    )

    def test_replies_are_read_as_the_table_says(self) -> None:
        for lines, reply in self.REPLIES:
            self.assertEqual(read(*lines), reply, lines)

    NO_REPLY_LINES = (
        b"",
        b" ",
        b"2",
        b"25",
        b"25 ok",
        b"2500",
        b"2500 ok",
        b"250text",
        b"250\tok",
        b"250_ok",
        b" 250 ok",
        b"-250 ok",
        b"+250 ok",
        b"150 ok",
        b"050 ok",
        b"600 ok",
        b"999 ok",
        b"2x0 ok",
        b"abc ok",
        b"ok",
        b"\xb2\xb5\xb0 ok",
        "٢٥٠ ok".encode(),
        b"250 ok\n",
        b"250 ok\r",
        b"250 ok\r\r",
        b"250\n",
        b"250\r",
        b"250\0",
        b"250 bare\nLF",
        b"250 bare\rCR",
        b"250 a\0NUL",
        b"250-bare\nLF",
        b"250 ok\n250 ok",
        b"HTTP/1.1 400 Bad Request",
        b"\x16\x03\x01\x02\x00",
    )

    def test_every_other_line_is_a_violation_at_the_start_and_within_a_reply(self) -> None:
        for line in self.NO_REPLY_LINES:
            with self.assertRaises(ProtocolViolation, msg=line):
                read(line)
            with self.assertRaises(ProtocolViolation, msg=line):
                read(b"250-first", line)

    def test_differing_codes_in_one_reply_are_a_violation_that_names_both(self) -> None:
        for line in (b"251 two", b"550 two", b"251-two", b"550"):
            with self.assertRaisesRegex(ProtocolViolation, "began with 250 goes on with " + line[:3].decode()):
                read(b"250-one", line)

    def test_a_reader_reads_one_reply_after_the_other(self) -> None:
        reader = ReplyReader()
        self.assertIsNone(reader.line(b"250-one"))
        self.assertEqual(reader.line(b"250 two"), Reply(250, ("one", "two")))
        self.assertEqual(reader.line(b"550 no"), Reply(550, ("no",)))

    def test_a_reader_knows_whether_it_is_inside_a_reply(self) -> None:
        reader = ReplyReader()
        self.assertFalse(reader.inside)
        reader.line(b"250-one")
        self.assertTrue(reader.inside)
        reader.line(b"250 two")
        self.assertFalse(reader.inside)


class LimitTests(SynchronousTestCase):
    def test_a_reply_line_of_2048_octets_with_its_crlf_is_read(self) -> None:
        text = "x" * (MAX_REPLY_LINE_OCTETS - len("250 \r\n"))
        self.assertEqual(read(b"250 " + text.encode()), Reply(250, (text,)))

    def test_a_reply_line_of_2049_octets_is_refused(self) -> None:
        line = b"250 ".ljust(MAX_REPLY_LINE_OCTETS - 1, b"x")
        with self.assertRaisesRegex(ProtocolViolation, "a reply line of more than 2048 octets"):
            read(line)
        with self.assertRaises(ProtocolViolation):
            read(b"250-first", line)

    def test_a_reply_of_128_lines_is_read(self) -> None:
        reply = read(*[b"250-x"] * (MAX_REPLY_LINES - 1), b"250 x")
        self.assertEqual(reply, Reply(250, ("x",) * MAX_REPLY_LINES))

    def test_a_reply_of_129_lines_is_refused(self) -> None:
        with self.assertRaisesRegex(ProtocolViolation, "a reply of more than 128 lines"):
            read(*[b"250-x"] * MAX_REPLY_LINES, b"250 x")

    @staticmethod
    def reply_of(octets: int) -> list[bytes]:
        """A reply of so many octets with its line ends, in lines of 1,000."""
        whole, rest = divmod(octets, 1_000)
        return [b"250-".ljust(998, b"x")] * (whole - 1) + [b"250 ".ljust(998 + rest, b"x")]

    def test_a_reply_of_100000_octets_is_read(self) -> None:
        self.assertIsNotNone(read(*self.reply_of(MAX_REPLY_OCTETS)))

    def test_a_reply_of_100001_octets_is_refused(self) -> None:
        with self.assertRaisesRegex(ProtocolViolation, "a reply of more than 100000 octets"):
            read(*self.reply_of(MAX_REPLY_OCTETS + 1))

    def test_the_limits_count_anew_for_each_reply(self) -> None:
        reader = ReplyReader()
        for _ in range(2):
            replies = [reader.line(line) for line in self.reply_of(MAX_REPLY_OCTETS)]
            self.assertIsNotNone(replies[-1])

    def test_a_violation_quotes_little_of_the_line_and_only_what_is_printable(self) -> None:
        with self.assertRaises(ProtocolViolation) as caught:
            read(b"\x1b[2J\r\n\x9b" + b"x" * 100_000)
        self.assertLess(len(str(caught.exception)), 500)
        self.assertTrue(str(caught.exception).replace("\N{REPLACEMENT CHARACTER}", "").isprintable())


class ReplyTests(SynchronousTestCase):
    ENHANCED = (
        ("5.1.1 no such user", 550, "5.1.1"),
        ("5.1.1", 550, "5.1.1"),
        ("5.1.1\tno", 550, "5.1.1"),
        ("5.123.123 x", 550, "5.123.123"),
        ("4.2.2 full", 452, "4.2.2"),
        ("2.0.0 ok", 250, "2.0.0"),
        ("4.1.1 of another class", 550, None),
        ("5.1.1 of another class", 450, None),
        ("2.0.0 of another class", 354, None),
        ("3.0.0 no class", 354, None),
        ("5.1234.1 x", 550, None),
        ("5.1 x", 550, None),
        ("5.1.1.1 x", 550, None),
        ("5.1.1x", 550, None),
        (" 5.1.1 x", 550, None),
        ("#5.1.1 x", 550, None),
        ("٥.1.1 x", 550, None),
        ("", 550, None),
    )

    def test_the_enhanced_code_is_that_of_the_first_line_if_its_class_is_the_codes(self) -> None:
        for text, code, enhanced in self.ENHANCED:
            self.assertEqual(Reply(code, (text, "5.9.9 second line")).enhanced, enhanced, text)

    def test_the_severity_is_the_first_digit(self) -> None:
        self.assertEqual([Reply(code, ("",)).severity for code in (200, 299, 354, 421, 599)], [2, 2, 3, 4, 5])

    def test_the_text_is_all_lines_on_one_without_empty_ones(self) -> None:
        self.assertEqual(Reply(250, ("a", "", "b ")).text, "a b ")
        self.assertEqual(str(Reply(250, ("a", "b"))), "250 a b")
        self.assertEqual(str(Reply(250, ("",))), "250")

    def test_control_characters_are_replaced_for_people(self) -> None:
        for code in (0x00, 0x09, 0x0A, 0x0D, 0x1B, 0x1F, 0x7F, 0x80, 0x9B, 0x9F, 0x2028, 0x2029):
            self.assertEqual(printable(f"a{chr(code)}b"), "a\N{REPLACEMENT CHARACTER}b")
            self.assertNotIn(chr(code), str(Reply(250, (f"a{chr(code)}b",))))
        self.assertEqual(printable(" ~\u00a0é€🙂"), " ~\u00a0é€🙂")


class AnyLinesTests(SynchronousTestCase):
    @given(CODES, st.lists(TEXTS, min_size=1, max_size=MAX_REPLY_LINES))
    def test_what_a_server_may_say_is_read_back_whole(self, code: int, texts: list[str]) -> None:
        *before, last = texts
        lines = [f"{code}-{text}".encode() for text in before]
        self.assertEqual(read(*lines, f"{code} {last}".encode()), Reply(code, tuple(texts)))

    @given(
        st.lists(
            st.tuples(st.sampled_from([b"", b"250-", b"250 ", b"250", b"550 ", b"25", b"\r"]), st.binary(max_size=20)),
            max_size=20,
        )
    )
    def test_any_garbage_is_a_reply_part_of_one_or_a_violation(self, pairs: list[tuple[bytes, bytes]]) -> None:
        reader = ReplyReader()
        try:
            for start, rest in pairs:
                reply = reader.line(start + rest)
                self.assertEqual(reader.inside, reply is None)
                if reply is not None:
                    self.assertIn(reply.severity, (2, 3, 4, 5))
                    self.assertTrue(reply.enhanced is None or reply.enhanced[0] == str(reply.code)[0])
                    self.assertNotRegex(str(reply), r"[\x00-\x1f\x7f-\x9f]")
        except ProtocolViolation as violation:
            self.assertNotRegex(str(violation), r"[\x00-\x1f\x7f-\x9f]")
