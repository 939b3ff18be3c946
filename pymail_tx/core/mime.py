"""
8bit content for servers that take 7bit only (RFC 6152 §3), and lines that are
too long for any.

L{seven_bit} re-encodes the leaf parts that are not 7bit data, as
quoted-printable or base64 (RFC 2045 §6), and leaves every other octet as it
is: it finds what to replace by looking at header fields and boundary lines and
never writes a message anew. To be exact, it replaces

  - the body of a leaf that is not 7bit data,
  - its C{Content-Transfer-Encoding} field, or adds one,
  - that field of the entities around it, where it said C{8bit} or C{binary}
    and now must say C{7bit} (RFC 2045 §6.4),
  - nothing else, but adds C{MIME-Version} (and for 8bit text without a type
    C{text/plain; charset=unknown-8bit}, RFC 1428 §3) to a message without.

What may not be re-encoded is refused with L{CannotDowngrade} if it is 8bit, and
stays as it is if it is 7bit and only its lines are too long, since most servers
take those. A DKIM signature over a re-encoded body no longer verifies: RFC 6376
§5.3 has signers make their messages 7bit for this reason.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from itertools import islice

from attrs import define, field, frozen

from pymail_tx.core.content import is_7bit, with_crlf

MAX_DEPTH = 32
"""Entities within entities. Each level is looked through once more, so this bounds the work; forwarded mail has 10."""

MAX_PARTS = 10_000
"""Entities in a message. The longest digests have some hundreds."""

MAX_BOUNDARY_OCTETS = 256
"""RFC 2046 §5.1.1 says 70; longer ones do no harm."""

_NEEDED = "5.6.3"  # conversion required but not supported (RFC 3463 §3.7)
_UTF8_HEADER = "5.6.9"  # UTF-8 header message cannot be transferred (RFC 6531 §3.5)


class CannotDowngrade(Exception):
    """
    The message cannot be made 7bit. The text begins with the enhanced status
    code and says what is in the way.

    @ivar enhanced: C{"5.6.3"} where 8BITMIME would help, C{"5.6.9"} where
        only SMTPUTF8 would (RFC 6532): the 8bit octets are in a header.
    """

    def __init__(self, enhanced: str, problem: str) -> None:
        super().__init__(f"{enhanced} {problem}")
        self.enhanced = enhanced


def seven_bit(content: bytes) -> bytes:
    """
    The content as 7bit data.

    @param content: a message, under any line-ending convention.
    @return: the same message with CRLF line ends and without any octet over
        127; NULs and lines over 998 octets are left only where they may not be
        re-encoded. The very same object, whatever its line ends, if it is 7bit
        data already.
    @raise CannotDowngrade: some of it is 8bit and may not be re-encoded, or
        L{MAX_DEPTH} or L{MAX_PARTS} is passed on the way.
    """
    message = with_crlf(content)
    if is_7bit(message):
        return content
    downgrade = _Downgrade(message, had_crlf=message is content)
    downgrade.entity(_Place(0, len(message), is_message=True))
    return b"".join(_applied(message, downgrade.edits))


@frozen
class _Edit:
    """Put C{text} in the place of the message's octets from C{start} to C{end}."""

    start: int
    end: int
    text: bytes


def _applied(message: bytes, edits: list[_Edit]) -> Iterator[bytes]:
    done = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        yield message[done : edit.start]
        yield edit.text
        done = edit.end
    yield message[done:]


@frozen
class _Place:
    """
    Where an entity (RFC 2045 §2.4) stands in the message.

    @ivar depth: how many entities are around it.
    @ivar is_message: a whole message, not a part of a multipart.
    @ivar in_digest: its default type is message/rfc822 (RFC 2046 §5.1.5).
    """

    start: int
    end: int
    depth: int = 0
    is_message: bool = False
    in_digest: bool = False


_MIME_VERSION, _TYPE, _ENCODING = b"mime-version", b"content-type", b"content-transfer-encoding"

_MIME_FIELD = re.compile(
    rb"^(mime-version|content-type|content-transfer-encoding):([^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)",
    re.IGNORECASE | re.MULTILINE,
)
_NO_FIELD = re.compile(rb"^(?![ \t]|[!-9;-~]+:|\Z)", re.MULTILINE)
_MEDIA_TYPE = re.compile(rb"([\w!#$&.+^-]{1,127}/[\w!#$&.+^-]{1,127})\s*(?=[;(]|\Z)")  # RFC 6838 §4.2
_PARAMETER = re.compile(rb';\s*([^\s=;"()]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"()]+))\s*', re.DOTALL)
_BOUNDARY = re.compile(rb"[ -~]{0,%d}[!-~]" % (MAX_BOUNDARY_OCTETS - 1))


@frozen
class _Field:
    start: int
    end: int
    value: bytes


@frozen
class _Header:
    """
    The header of an entity.

    @ivar end: where a further field would stand.
    @ivar body: where the body begins, the blank line passed.
    @ivar fields: those of MIME, by name in lower case.
    @ivar problem: why it cannot be relied on, or C{""}.
    """

    end: int
    body: int
    fields: dict[bytes, _Field]
    problem: str

    @classmethod
    def read(cls, message: bytes, place: _Place) -> _Header:
        end, body = _header_ends(message, place)
        found = list(islice(_MIME_FIELD.finditer(message, place.start, end), 4))  # among four, one stands there twice
        fields = {one[1].lower(): _Field(one.start(), one.end(), one[2].strip()) for one in found}
        problem = "a MIME header field that stands there twice" if len(fields) < len(found) else ""
        if _NO_FIELD.search(message, place.start, end):
            problem = "a header line that is no field"
        return cls(end, body, fields, problem)

    def media_type(self, default: bytes) -> bytes:
        """Type and subtype in lower case, C{b"unreadable"} if they cannot be read."""
        if _TYPE not in self.fields:
            return default
        found = _MEDIA_TYPE.match(self.fields[_TYPE].value)
        return found[1].lower() if found else b"unreadable"

    @property
    def boundary(self) -> bytes | None:
        """The parameter of that name, if there is one and all readers will see the same."""
        value = self.fields[_TYPE].value
        found = _MEDIA_TYPE.match(value)
        named: list[bytes] = []
        while found and len(named) < 2:
            position = found.end()
            found = _PARAMETER.match(value, position)
            if found and found[1].lower() == b"boundary":
                named.append(found[3] or re.sub(rb"\\(.)", rb"\1", found[2]))
        usable = len(named) == 1 and _BOUNDARY.fullmatch(named[0]) and not value[position:].strip(b"; \t\r\n")
        return named[0] if usable else None

    @property
    def encoding(self) -> bytes:
        """The transfer encoding in lower case; 7bit is what holds without the field (RFC 2045 §6.1)."""
        return self.fields[_ENCODING].value.lower() if _ENCODING in self.fields else b"7bit"


def _header_ends(message: bytes, place: _Place) -> tuple[int, int]:
    if message.startswith(b"\r\n", place.start, place.end):
        return place.start, place.start + 2
    blank = message.find(b"\r\n\r\n", place.start, place.end)
    return (blank + 2, blank + 4) if blank >= 0 else (place.end, place.end)


@frozen
class _Piece:
    """
    A stretch of a multipart's body.

    @ivar is_part: a body part; else the preamble or the epilogue.
    """

    start: int
    end: int
    is_part: bool


def _pieces(message: bytes, boundary: bytes, start: int, end: int) -> Iterator[_Piece]:
    """
    What the boundary lines separate. The CRLF before such a line belongs to
    it, white space behind it is padding (RFC 2046 §5.1.1). A part without a
    close-delimiter goes on to the end of what is around the multipart.
    """
    delimiter = re.compile(rb"\r\n--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    is_part = False
    for found in delimiter.finditer(message, start - 2, end):
        yield _Piece(start, max(start, found.start()), is_part)
        start = min(found.end() + 2, end)
        is_part = not found[1]
        if not is_part:
            break
    yield _Piece(start, end, is_part)


@define
class _Downgrade:
    """
    One walk through a message.

    @ivar edits: what is to be replaced so far, no two overlapping.
    """

    _message: bytes
    _had_crlf: bool
    edits: list[_Edit] = field(factory=list)
    _parts: int = 0

    def entity(self, place: _Place) -> None:
        """Make an entity 7bit, in whichever way its type allows."""
        self._count(place)
        if is_7bit(self._message[place.start : place.end]):
            return
        header = _Header.read(self._message, place)
        if header.problem:
            self._leave(place.start, place.end, header.problem)
        elif not self._message[place.start : header.end].isascii():
            raise CannotDowngrade(_UTF8_HEADER, "8-bit octets in a header need SMTPUTF8")
        elif header.encoding not in (b"7bit", b"8bit", b"binary"):
            self._leave(header.body, place.end, "8-bit octets in what is declared as encoded already")
        else:
            media_type = header.media_type(b"message/rfc822" if place.in_digest else b"text/plain")
            way = next(way for prefix, way in _WAYS if media_type.startswith(prefix))
            way(self, place, header, media_type)

    def _count(self, place: _Place) -> None:
        self._parts += 1
        if place.depth > MAX_DEPTH:
            raise CannotDowngrade(_NEEDED, f"nested more than {MAX_DEPTH} deep")
        if self._parts > MAX_PARTS:
            raise CannotDowngrade(_NEEDED, f"more than {MAX_PARTS} parts")

    def _leave(self, start: int, end: int, problem: str) -> None:
        """Change nothing here, which is an error only if it is 8bit."""
        if not self._message[start:end].isascii():
            raise CannotDowngrade(_NEEDED, problem)

    def _sealed(self, place: _Place, header: _Header, media_type: bytes) -> None:
        self._leave(header.body, place.end, f"8-bit octets in {media_type.decode()}, which must stay as it is")

    def _unreadable(self, place: _Place, header: _Header, media_type: bytes) -> None:
        self._leave(header.body, place.end, "a Content-Type that cannot be read")

    def _multipart(self, place: _Place, header: _Header, media_type: bytes) -> None:
        if header.boundary is None:
            self._leave(header.body, place.end, "a multipart without a usable boundary")
        else:
            self._parted(place, header, header.boundary, in_digest=media_type == b"multipart/digest")

    def _parted(self, place: _Place, header: _Header, boundary: bytes, *, in_digest: bool) -> None:
        before = len(self.edits)
        for piece in _pieces(self._message, boundary, header.body, place.end):
            if piece.is_part:
                self.entity(_Place(piece.start, piece.end, place.depth + 1, in_digest=in_digest))
            else:
                self._leave(piece.start, piece.end, "8-bit octets in a multipart, outside of its parts")
        if len(self.edits) > before:
            self._declare_composite(place, header)

    def _embedded(self, place: _Place, header: _Header, media_type: bytes) -> None:
        before = len(self.edits)
        self.entity(_Place(header.body, place.end, place.depth + 1, is_message=True))
        if len(self.edits) > before:
            self._declare_composite(place, header)

    def _leaf(self, place: _Place, header: _Header, media_type: bytes) -> None:
        body = self._message[header.body : place.end]
        if header.encoding == b"binary" and not self._had_crlf:
            # Mending its line ends has changed its octets already; encoding them would make that final.
            self._leave(header.body, place.end, "a binary part with a CR or LF alone")
        elif not is_7bit(body):
            encoded = _encoded(body, is_text=media_type.startswith(b"text/"))
            self._declare(place, header, encoded.name, is_8bit=not body.isascii())
            self.edits.append(_Edit(header.body, place.end, encoded.octets))

    def _declare_composite(self, place: _Place, header: _Header) -> None:
        self._declare(place, header, None if header.encoding == b"7bit" else b"7bit", is_8bit=False)

    def _declare(self, place: _Place, header: _Header, encoding: bytes | None, *, is_8bit: bool) -> None:
        """Write the transfer encoding, if one is given, and what makes a message a MIME message."""
        added = []
        if place.is_message and _MIME_VERSION not in header.fields:
            added.append(b"MIME-Version: 1.0\r\n")
            if is_8bit and _TYPE not in header.fields:
                added.append(b"Content-Type: text/plain; charset=unknown-8bit\r\n")
        if encoding is not None:
            line = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
            if _ENCODING in header.fields:
                declared = header.fields[_ENCODING]
                self.edits.append(_Edit(declared.start, declared.end, line))
            else:
                added.append(line)
        self.edits.append(_Edit(header.end, header.end, b"".join(added)))


_Way = Callable[[_Downgrade, _Place, _Header, bytes], None]

# The first prefix of the media type decides. Signatures cover octets (RFC 1847 §2.1); message/global may be
# encoded (RFC 6532 §3.7), all other message types may not (RFC 2046 §5.2), and of those only message/rfc822 is
# known to hold entities that may.
_WAYS: tuple[tuple[bytes, _Way], ...] = (
    (b"multipart/signed", _Downgrade._sealed),
    (b"multipart/encrypted", _Downgrade._sealed),
    (b"multipart/", _Downgrade._multipart),
    (b"message/rfc822", _Downgrade._embedded),
    (b"message/global", _Downgrade._leaf),
    (b"message/", _Downgrade._sealed),
    (b"unreadable", _Downgrade._unreadable),
    (b"", _Downgrade._leaf),
)

_COSTLY = b"\0=" + bytes(range(128, 256))
_LINE_OF_77 = re.compile(rb"^([^\r\n]{74})(?==(?:20|09)\r\n)", re.MULTILINE)


@frozen
class _Encoded:
    name: bytes
    octets: bytes


def _encoded(body: bytes, *, is_text: bool) -> _Encoded:
    if is_text and _is_mostly_ascii(body):
        lines = _quoted_printable(body)
        if b"=\r\n--" not in lines:  # a soft line break must not make a boundary line
            return _Encoded(b"quoted-printable", lines)
    return _Encoded(b"base64", _base64(body))


def _is_mostly_ascii(body: bytes) -> bool:
    """Whether quoted-printable, 2 octets more for each that it encodes, is no longer than base64, a third more."""
    return 6 * (len(body) - len(body.translate(None, _COSTLY))) <= len(body)


def _quoted_printable(body: bytes) -> bytes:
    # The CRLF at the end makes binascii break all lines with CRLF and protect a blank at the very end.
    lines = binascii.b2a_qp(body + b"\r\n")[:-2]
    # Where it encodes a blank at the end of a line it leaves one octet more than RFC 2045 §6.7 (5) allows.
    return _LINE_OF_77.sub(rb"\1=\r\n", lines)


def _base64(body: bytes) -> bytes:
    lines = base64.encodebytes(body).replace(b"\n", b"\r\n")
    return lines if body.endswith(b"\r\n") else lines[:-2]
