"""
Content on its way through DATA (RFC 5321 §2.3.8, §4.5.2), and what to know of
it before MAIL.

Content comes in blocks, cut anywhere, under any line-ending convention. It goes
out with every line ending in CRLF, no CR or LF alone and every leading dot
doubled, so that no line of it can be taken for the end of data, by a server
that believes in bare LF or bare CR either. L{Encoder} does this for blocks as
they come; L{END_OF_DATA} is said by whoever holds the mail transaction.

All of it works on whole blocks, never line by line: this is the one place that
touches every octet of every message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import define, frozen

END_OF_DATA = b".\r\n"
"""The line that ends the content (RFC 5321 §4.1.1.4). The CRLF before it belongs to the content."""

MAX_LINE_OCTETS = 998
"""A line without its CRLF (RFC 5321 §4.5.3.1.6, RFC 5322 §2.1.1)."""

_CR, _LF = b"\r", b"\n"


@define
class Encoder:
    """
    Makes blocks of content fit for DATA.

    What C{feed} and C{finish} return, joined, is the same however the content
    was cut into blocks. One encoder is for one content.
    """

    _at_line_start: bool = True
    _after_cr: bool = False

    def feed(self, block: bytes) -> bytes:
        """
        Take the next block. A CR at its end is held back: its LF may follow.

        @return: what can be sent now; the very same object if nothing in it
            had to be mended.
        """
        if self._after_cr:
            block = _CR + block
        self._after_cr = block.endswith(_CR)
        if self._after_cr:
            block = block[:-1]
        if not block:
            return b""
        block = with_crlf(block).replace(b"\r\n.", b"\r\n..")
        if self._at_line_start and block.startswith(b"."):
            block = b"." + block
        self._at_line_start = block.endswith(_LF)
        return block

    def finish(self) -> bytes:
        """The CRLF that the last line lacks, or nothing."""
        complete = self._at_line_start and not self._after_cr
        return b"" if complete else b"\r\n"


def encoded(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks as they go out with DATA, without L{END_OF_DATA}; nothing for empty content."""
    encoder = Encoder()
    yield from filter(None, map(encoder.feed, blocks))
    yield from filter(None, (encoder.finish(),))


def with_crlf(content: bytes) -> bytes:
    """The content with each CRLF, lone LF and lone CR as a CRLF; the very same object if that changes nothing."""
    if content.count(_CR) == content.count(_LF) == content.count(b"\r\n"):
        return content
    return content.replace(b"\r\n", _LF).replace(_CR, _LF).replace(_LF, b"\r\n")


@frozen(kw_only=True)
class Survey:
    """
    What to know of a content before it is sent.

    @ivar size_bytes: its size as SIZE counts it: with CRLF line ends, without
        doubled dots and the end of data (RFC 1870 §5).
    @ivar is_8bit: whether an octet is over 127, so that 8BITMIME is needed
        (RFC 6152 §3).
    @ivar has_nul: whether a NUL is in it, which neither 7bit nor 8bit data may
        hold (RFC 2045 §2.7, §2.8).
    @ivar has_long_lines: whether a line is over L{MAX_LINE_OCTETS}.
    """

    size_bytes: int
    is_8bit: bool
    has_nul: bool
    has_long_lines: bool


def survey(blocks: Iterable[bytes]) -> Survey:
    """Look through a content once. How it is cut into blocks makes no difference."""
    counted, lines = _Counted(), _LongLines()
    is_8bit = has_nul = False
    for block in filter(None, blocks):
        counted.feed(block)
        lines.feed(block)
        is_8bit = is_8bit or not block.isascii()
        has_nul = has_nul or b"\0" in block
    return Survey(size_bytes=counted.total(), is_8bit=is_8bit, has_nul=has_nul, has_long_lines=lines.found)


def is_7bit(content: bytes) -> bool:
    """Whether the content, its lines ending in CRLF, is 7bit data as RFC 2045 §2.7 defines it."""
    lines = _LongLines()
    lines.feed(content)
    return content.isascii() and b"\0" not in content and not lines.found


@define
class _Counted:
    """The size of content with its line ends mended: a lone CR or LF counts two octets."""

    _octets: int = 0
    _last: bytes = _LF

    def feed(self, block: bytes) -> None:
        whole = block.count(b"\r\n") + (self._last == _CR and block.startswith(_LF))
        lone = block.count(_CR) + block.count(_LF) - 2 * whole
        self._octets += len(block) + lone
        self._last = block[-1:]

    def total(self) -> int:
        return self._octets + (0 if self._last in (_CR, _LF) else 2)


@define
class _LongLines:
    """
    Looks for a line over the limit in jumps: from the start of a line to the
    last line end within the limit. Two jumps pass the limit's octets at least,
    whatever the content, so its lines may be as short as they like.
    """

    found: bool = False
    _octets: int = 0

    def feed(self, block: bytes) -> None:
        """Take the next block. C{_octets} is the length so far of the line that it goes on with."""
        position = 0
        while not self.found:
            limit = position + MAX_LINE_OCTETS + 1 - self._octets
            line_end = max(block.rfind(_LF, position, limit), block.rfind(_CR, position, limit))
            if line_end < 0:
                self._octets += len(block) - position
                self.found = self._octets > MAX_LINE_OCTETS
                return
            position, self._octets = line_end + 1, 0
