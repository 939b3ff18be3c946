"""
Content on its way through DATA (RFC 5321 §2.3.8, §4.5.2) or BDAT (RFC 3030),
and what to know of it before MAIL.

Content comes in blocks, cut anywhere, under any line-ending convention. It goes
out with every line ending in CRLF, no CR or LF alone and every leading dot
doubled, so that no line of it can be taken for the end of data, by a server
that believes in bare LF or bare CR either. L{Encoder} does this for blocks as
they come; L{END_OF_DATA} is said by whoever holds the mail transaction.

All of it works on whole blocks, never line by line: this is the one place that
touches every octet of every message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attrs import define, field, frozen

END_OF_DATA = b".\r\n"
"""The line that ends the content (RFC 5321 §4.1.1.4). The CRLF before it belongs to the content."""

MAX_LINE_OCTETS = 998
"""A line without its CRLF (RFC 5321 §4.5.3.1.6, RFC 5322 §2.1.1)."""

_CR, _LF = b"\r", b"\n"

BLOCK_OCTETS = 65_536
"""What is read, encoded and handed on at a time; a transport asks to pause at about this much."""


@define
class Encoder:
    """
    Makes blocks of content fit for DATA, or for BDAT.

    What C{feed} and C{finish} return, joined, is the same however the content
    was cut into blocks. One encoder is for one content.

    @ivar double_dots: as DATA needs it; BDAT counts octets instead (RFC 3030 §2).
    """

    double_dots: bool = True
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
        block = with_crlf(block)
        if self.double_dots:
            block = _with_doubled_dots(block, at_line_start=self._at_line_start)
        self._at_line_start = block.endswith(_LF)
        return block

    def finish(self) -> bytes:
        """The CRLF that the last line lacks, or nothing."""
        complete = self._at_line_start and not self._after_cr
        return b"" if complete else b"\r\n"


def encoded(blocks: Iterable[bytes], *, double_dots: bool = True) -> Iterator[bytes]:
    """The blocks as they go out with DATA or BDAT, without L{END_OF_DATA}; nothing for empty content."""
    encoder = Encoder(double_dots)
    yield from filter(None, map(encoder.feed, blocks))
    yield from filter(None, (encoder.finish(),))


def encoded_whole(content: Content, *, double_dots: bool = True) -> bytes:
    """L{encoded} for content in memory."""
    octets = content.read()
    if not content.survey.is_in_lines:
        octets = with_crlf(octets)
    if double_dots:
        octets = _with_doubled_dots(octets, at_line_start=True)
    return octets if octets.endswith(_LF) or not octets else octets + b"\r\n"


def _with_doubled_dots(octets: bytes, *, at_line_start: bool) -> bytes:
    octets = octets.replace(b"\r\n.", b"\r\n..")
    return b"." + octets if at_line_start and octets.startswith(b".") else octets


def with_crlf(content: bytes) -> bytes:
    """The content with each CRLF, lone LF and lone CR as a CRLF; the very same object if that changes nothing."""
    if content.count(_CR) == content.count(_LF) == content.count(b"\r\n"):
        return content
    return content.replace(b"\r\n", _LF).replace(_CR, _LF).replace(_LF, b"\r\n")


@frozen(kw_only=True)
class Survey:
    """
    What to know of a content before it is sent.

    @ivar raw_bytes: its size as it is.
    @ivar size_bytes: its size as SIZE counts it: with CRLF line ends, without
        doubled dots and the end of data (RFC 1870 §5).
    @ivar is_8bit: whether an octet is over 127, so that 8BITMIME is needed
        (RFC 6152 §3).
    @ivar has_nul: whether a NUL is in it, which neither 7bit nor 8bit data may
        hold (RFC 2045 §2.7, §2.8).
    @ivar has_long_lines: whether a line is over L{MAX_LINE_OCTETS}.
    @ivar is_in_lines: whether every line ends in CRLF, the last one too, and no
        CR or LF stands alone.
    """

    raw_bytes: int
    size_bytes: int
    is_8bit: bool
    has_nul: bool
    has_long_lines: bool
    is_in_lines: bool

    @property
    def is_binary(self) -> bool:
        """Whether it is neither 7bit nor 8bit data (RFC 2045 §2.9)."""
        return self.has_nul or (self.is_8bit and self.has_long_lines)


def survey(blocks: Iterable[bytes]) -> Survey:
    """Look through a content once. How it is cut into blocks makes no difference."""
    surveyor = Surveyor()
    for block in blocks:
        surveyor.feed(block)
    return surveyor.survey()


def survey_of(octets: bytes) -> Survey:
    """The same for content in memory, which most is, in a fraction of the time."""
    if len(octets) > BLOCK_OCTETS:
        return survey([octets])
    lines = octets.split(b"\r\n")
    whole, line_ends = len(lines) - 1, octets.count(_CR) + octets.count(_LF)
    missing = 0 if not octets or octets.endswith((_CR, _LF)) else 2
    is_in_lines = line_ends == 2 * whole and not missing
    return Survey(
        raw_bytes=len(octets),
        size_bytes=len(octets) + line_ends - 2 * whole + missing,
        is_8bit=not octets.isascii(),
        has_nul=b"\0" in octets,
        has_long_lines=max(map(len, lines)) > MAX_LINE_OCTETS if is_in_lines else _has_long_lines(octets),
        is_in_lines=is_in_lines,
    )


def _has_long_lines(octets: bytes) -> bool:
    lines = _LongLines()
    lines.feed(octets)
    return lines.found


@define
class _Counted:
    """The size of content with its line ends mended: a lone CR or LF counts two octets."""

    raw: int = 0
    _octets: int = 0
    _last: bytes = _LF

    def feed(self, block: bytes) -> None:
        self.raw += len(block)
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


@define
class Surveyor:
    """Looks through a content, block by block."""

    _counted: _Counted = field(factory=_Counted)
    _lines: _LongLines = field(factory=_LongLines)
    _is_8bit: bool = False
    _has_nul: bool = False

    def feed(self, block: bytes) -> None:
        """Take the next block."""
        if not block:
            return
        self._counted.feed(block)
        self._lines.feed(block)
        self._is_8bit = self._is_8bit or not block.isascii()
        self._has_nul = self._has_nul or b"\0" in block

    def survey(self) -> Survey:
        """What there is to know."""
        return Survey(
            raw_bytes=self._counted.raw,
            size_bytes=self._counted.total(),
            is_8bit=self._is_8bit,
            has_nul=self._has_nul,
            has_long_lines=self._lines.found,
            is_in_lines=self._counted.raw == self._counted.total(),
        )


@frozen(eq=False, repr=False)
class Content:
    """
    Header and body of a message, and what to know of them before they are sent.

    @ivar octets: all of it, if it is in memory.
    @ivar _read: reads it from its start, in blocks; as often as it is asked.
    """

    survey: Survey
    octets: bytes | None
    _read: Callable[[], Iterator[bytes]] | None = None

    @classmethod
    def of(cls, octets: bytes) -> Content:
        """Content in memory."""
        return cls(survey_of(octets), octets)

    def blocks(self) -> Iterator[bytes]:
        """It, in blocks of L{BLOCK_OCTETS} at most."""
        if self._read:
            return self._read()
        octets = self.octets or b""
        return (octets[start : start + BLOCK_OCTETS] for start in range(0, len(octets), BLOCK_OCTETS))

    def read(self) -> bytes:
        """All of it, in memory."""
        return b"".join(self.blocks()) if self.octets is None else self.octets

    @property
    def is_short(self) -> bool:
        """Whether it is in memory and no more than a block."""
        return self.octets is not None and len(self.octets) <= BLOCK_OCTETS


def is_7bit(content: bytes) -> bool:
    """Whether the content, its lines ending in CRLF, is 7bit data as RFC 2045 §2.7 defines it."""
    return content.isascii() and b"\0" not in content and not _has_long_lines(content)
