"""
Replies: what a server says (RFC 5321 §4.2).

L{ReplyReader} takes one line at a time and gives a L{Reply} when one is whole.
It believes nothing: whatever is not a reply raises L{ProtocolViolation}, and
the caller closes the connection. Limits keep a hostile server from filling
memory; they are far above what servers in the wild send.
"""

from __future__ import annotations

import re
from functools import lru_cache

from attrs import define, field, frozen

from pymail_tx.core.errors import ProtocolViolation

MAX_REPLY_LINE_OCTETS = 2_048
"""A reply line with its CRLF. RFC 5321 §4.5.3.1.5 promises 512; servers that quote long URLs go beyond."""

MAX_REPLY_LINES = 128
"""Lines in a reply. The longest EHLO replies in the wild have about 30."""

MAX_REPLY_OCTETS = 100_000
"""A whole reply with its line ends."""

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n\0]*))?\Z")
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s|\Z)")
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), "�")


def printable(text: str) -> str:
    """
    Make somebody else's words safe for a log line or a terminal: control
    characters become U+FFFD.
    """
    return text.translate(_CONTROLS)


@frozen
class Reply:
    """
    One reply of a server.

    @ivar code: the reply code, 200 to 599.
    @ivar lines: the text of each line without code and separator, an enhanced
        status code included. What is not UTF-8 stands there as C{\\xNN}.
    @ivar severity: the code's first digit: 2 done, 3 go on, 4 not now, 5 never
        (RFC 5321 §4.2.1).
    @ivar enhanced: the enhanced status code of the first line (RFC 2034), or
        C{None}. One of another class than the reply code contradicts it and is
        ignored.
    """

    code: int
    lines: tuple[str, ...]
    severity: int = field(init=False, repr=False, eq=False)
    enhanced: str | None = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "severity", self.code // 100)
        found = _ENHANCED.match(self.lines[0])
        agrees = found is not None and found[1][0] == str(self.severity)
        object.__setattr__(self, "enhanced", found[1] if found and agrees else None)

    @property
    def text(self) -> str:
        """All lines on one, printable."""
        whole = self.lines[0] if len(self.lines) == 1 else " ".join(filter(None, self.lines))
        return whole if whole.isascii() and whole.isprintable() else printable(whole)

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


@define
class ReplyReader:
    """
    Puts lines together into replies.
    """

    _code: bytes = b""
    _lines: list[str] = field(factory=list)
    _octets: int = 0

    @property
    def inside(self) -> bool:
        """Whether a reply has begun and not ended."""
        return bool(self._lines)

    def line(self, line: bytes) -> Reply | None:
        """
        Take the next line, without its CRLF.

        @return: the reply that the line completes, or C{None}.
        @raise ProtocolViolation: the line is no reply line, its code differs
            from that of the lines before it, or a limit is passed.
        """
        if not self._lines and (whole := whole_reply(line)):
            return whole
        found = _LINE.match(line)
        if not found:
            raise ProtocolViolation(f"not an SMTP reply: {_shown(line)}")
        code, separator, text = found.groups()
        if self._code not in (b"", code):
            raise ProtocolViolation(f"a reply that began with {self._code.decode()} goes on with {code.decode()}")
        self._take(line, code, text or b"")
        return None if separator == b"-" else self._whole()

    def _take(self, line: bytes, code: bytes, text: bytes) -> None:
        octets = len(line) + 2
        self._code = code
        self._octets += octets
        if octets > MAX_REPLY_LINE_OCTETS:
            raise ProtocolViolation(f"a reply line of more than {MAX_REPLY_LINE_OCTETS} octets")
        if len(self._lines) == MAX_REPLY_LINES:
            raise ProtocolViolation(f"a reply of more than {MAX_REPLY_LINES} lines")
        if self._octets > MAX_REPLY_OCTETS:
            raise ProtocolViolation(f"a reply of more than {MAX_REPLY_OCTETS} octets")
        self._lines.append(text.decode("utf-8", "backslashreplace"))

    def _whole(self) -> Reply:
        reply = Reply(int(self._code), tuple(self._lines))
        self._code, self._lines, self._octets = b"", [], 0
        return reply


@lru_cache(maxsize=512)
def whole_reply(line: bytes) -> Reply | None:
    """The reply that a line is all by itself; C{None} if it is none. Servers say much the same again and again."""
    found = _LINE.match(line)
    if not found or found[2] == b"-" or len(line) + 2 > MAX_REPLY_LINE_OCTETS:
        return None
    return Reply(int(found[1]), ((found[3] or b"").decode("utf-8", "backslashreplace"),))


def _shown(line: bytes) -> str:
    return printable(line[:80].decode("utf-8", "backslashreplace"))
