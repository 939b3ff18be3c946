"""
Content on the wire: line ends, dots, any cut; and what a survey says of it.
"""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.content import (
    BLOCK_OCTETS,
    END_OF_DATA,
    MAX_LINE_OCTETS,
    Encoder,
    encoded,
    is_7bit,
    survey,
    survey_of,
    with_crlf,
)

CONTENTS = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\xe9", b"\0", b"x" * 500, b"y" * 998])
).map(b"".join)


@st.composite
def cut_contents(draw: st.DrawFn) -> list[bytes]:
    """A content in blocks, empty ones among them."""
    content = draw(CONTENTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=8)))
    return [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]


def every_cut(content: bytes) -> list[list[bytes]]:
    """The content octet by octet, and in two blocks in every way."""
    halves = [[content[:at], content[at:]] for at in range(len(content) + 1)]
    return [[content[at : at + 1] for at in range(len(content))], *halves]


def mended(content: bytes) -> bytes:
    """What a receiver is to get, one octet at a time."""
    lines = re.split(rb"\r\n|\r|\n", content)
    unfinished = lines.pop()
    return b"".join(line + b"\r\n" for line in lines) + (unfinished and unfinished + b"\r\n")


def received(wire: bytes) -> bytes:
    """What a strict server makes of all that follows 354 (RFC 5321 §4.5.2)."""
    content, rest = [], wire
    while rest != END_OF_DATA:
        line, end, rest = rest.partition(b"\r\n")
        assert end, "the end of data is missing"
        assert line != b".", "the end of data comes too early"
        content.append(line.removeprefix(b".") + end)
    return b"".join(content)


def sent(blocks: list[bytes]) -> bytes:
    return b"".join(encoded(blocks))


class EncoderTests(SynchronousTestCase):
    WIRE = (
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a\n", b"a\r\n"),
        (b"a\r", b"a\r\n"),
        (b"\r", b"\r\n"),
        (b"\n", b"\r\n"),
        (b"\r\n", b"\r\n"),
        (b"\n\r", b"\r\n\r\n"),
        (b"\r\r\n", b"\r\n\r\n"),
        (b"\r\n\r\n", b"\r\n\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"..\r\n", b"...\r\n"),
        (b"a.\r\n", b"a.\r\n"),
        (b"a\r\n.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\n.\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\n.\rb", b"a\r\n..\r\nb\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b".\r\n.\r\n.\r\n", b"..\r\n..\r\n..\r\n"),
    )

    def test_line_ends_and_dots_come_out_as_the_table_says_however_they_are_cut(self) -> None:
        for content, wire in self.WIRE:
            for blocks in every_cut(content):
                self.assertEqual(sent(blocks), wire, blocks)

    @given(cut_contents())
    def test_any_cut_gives_the_same_octets(self, blocks: list[bytes]) -> None:
        self.assertEqual(sent(blocks), sent([b"".join(blocks)]))

    @given(cut_contents())
    def test_a_receiver_gets_the_content_with_its_line_ends_mended(self, blocks: list[bytes]) -> None:
        self.assertEqual(received(sent(blocks) + END_OF_DATA), mended(b"".join(blocks)))

    @given(cut_contents())
    def test_no_cr_or_lf_stands_alone(self, blocks: list[bytes]) -> None:
        self.assertNotRegex(sent(blocks).replace(b"\r\n", b""), rb"[\r\n]")

    @given(cut_contents())
    def test_no_line_is_a_lone_dot(self, blocks: list[bytes]) -> None:
        self.assertNotIn(b"\r\n.\r\n", b"\r\n" + sent(blocks))

    @given(cut_contents())
    def test_the_last_line_is_ended(self, blocks: list[bytes]) -> None:
        wire = sent(blocks)
        self.assertTrue(wire == b"" or wire.endswith(b"\r\n"))

    @given(cut_contents())
    def test_at_most_one_octet_is_held_back(self, blocks: list[bytes]) -> None:
        encoder, given_out, taken = Encoder(), b"", b""
        for block in blocks:
            given_out += encoder.feed(block)
            taken += block
            self.assertLessEqual(len(sent([taken])) - len(given_out), 2)

    def test_a_block_with_nothing_to_mend_is_not_copied(self) -> None:
        block = b"a line\r\n" * 100
        self.assertIs(Encoder().feed(block), block)

    def test_empty_content_is_the_end_of_data_alone(self) -> None:
        self.assertEqual(list(encoded([])), [])
        self.assertEqual(list(encoded([b"", b""])), [])

    @given(CONTENTS)
    def test_mended_line_ends_stay_as_they_are(self, content: bytes) -> None:
        once = with_crlf(content)
        self.assertIs(with_crlf(once), once)


class SurveyTests(SynchronousTestCase):
    SIZES = (
        (b"", 0),
        (b"a", 3),
        (b"a\r\n", 3),
        (b"a\n", 3),
        (b"a\r", 3),
        (b"\r\r\n", 4),
        (b"\n\r", 4),
        (b".\r\n", 3),
        (b"..\r\n", 4),
    )

    def test_the_size_is_with_crlf_and_without_doubled_dots(self) -> None:
        for content, size_bytes in self.SIZES:
            for blocks in every_cut(content):
                self.assertEqual(survey(blocks).size_bytes, size_bytes, blocks)

    @given(cut_contents())
    def test_the_size_is_that_of_what_a_receiver_gets(self, blocks: list[bytes]) -> None:
        self.assertEqual(survey(blocks).size_bytes, len(mended(b"".join(blocks))))

    @given(cut_contents())
    @example([b"\r", b"\n"])
    def test_any_cut_gives_the_same_survey(self, blocks: list[bytes]) -> None:
        self.assertEqual(survey(blocks), survey([b"".join(blocks)]))

    def test_octets_over_127_are_8bit(self) -> None:
        self.assertFalse(survey([b"a", b"\x7f"]).is_8bit)
        self.assertTrue(survey([b"a\x80", b"a"]).is_8bit)

    def test_a_nul_is_seen(self) -> None:
        self.assertFalse(survey([b"a\x01"]).has_nul)
        self.assertTrue(survey([b"a\0", b"b"]).has_nul)

    def test_a_line_of_998_octets_is_not_long_and_one_of_999_is(self) -> None:
        for before in (b"", b"\r\n", b"a\n", b"b\r", b"c" * 998 + b"\r\n"):
            for end in (b"", b"\r\n", b"\n", b"\r", b"\r\nz"):
                self.assertFalse(survey([before + b"x" * MAX_LINE_OCTETS + end]).has_long_lines)
                self.assertTrue(survey([before + b"x" * (MAX_LINE_OCTETS + 1) + end]).has_long_lines)

    def test_a_long_line_is_seen_across_blocks(self) -> None:
        for at in (1, 2, 500, 997, 998):
            fitting = [b"\r\n" + b"x" * at, b"x" * (MAX_LINE_OCTETS - at), b"\r", b"\n"]
            self.assertFalse(survey(fitting).has_long_lines, at)
            self.assertTrue(survey([fitting[0] + b"x", *fitting[1:]]).has_long_lines, at)

    @given(cut_contents())
    def test_content_in_memory_has_the_same_survey(self, blocks: list[bytes]) -> None:
        self.assertEqual(survey_of(b"".join(blocks)), survey(blocks))

    def test_so_it_has_at_the_size_up_to_which_its_lines_are_split(self) -> None:
        for octets in (BLOCK_OCTETS, BLOCK_OCTETS + 1):
            for line in (b"x" * 998 + b"\r\n", b"x" * 999 + b"\r\n", b"x\n", b"\r\r\n"):
                content = (line * (octets // len(line) + 1))[:octets]
                self.assertEqual(survey_of(content), survey([content]))

    @given(cut_contents())
    def test_long_lines_are_those_over_the_limit(self, blocks: list[bytes]) -> None:
        lines = mended(b"".join(blocks)).split(b"\r\n")
        self.assertEqual(survey(blocks).has_long_lines, max(map(len, lines)) > MAX_LINE_OCTETS)


class SevenBitDataTests(SynchronousTestCase):
    def test_it_is_what_rfc_2045_says(self) -> None:
        self.assertTrue(is_7bit(b""))
        self.assertTrue(is_7bit(b"x" * 998 + b"\r\n\x7f"))
        for other in (b"\x80", b"\0", b"x" * 999, b"a\r\n" + b"x" * 999 + b"\r\n"):
            self.assertFalse(is_7bit(other))
