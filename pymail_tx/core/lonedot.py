"""
A guard for content that is sent as it is: no line of it may be a lone dot.

Servers differ in what ends a line. One that takes a bare LF or a bare CR for
it, or drops NULs first, would see the end of data where such a line stands, and
commands in what follows. L{LoneDot} finds it under every such convention and
however the content is cut into pieces.
"""

from __future__ import annotations

import re

from attrs import define

_LONE_DOT = re.compile(rb"[\r\n]\.[\r\n]")
_DOT_AT_END = re.compile(rb"[\r\n]\.\Z")


@define
class LoneDot:
    """
    Looks at pieces of one content.

    @ivar _tail: what of the content so far a lone dot could begin with. The
        start of the content is the start of a line.
    """

    _tail: bytes = b"\n"

    def found_in(self, piece: bytes) -> bool:
        """Whether the content up to the end of this next piece has a line of one dot."""
        content = self._tail + piece.replace(b"\0", b"")
        self._tail = content[-2:]
        return _LONE_DOT.search(content) is not None

    def found_at_end(self) -> bool:
        """Whether the last line, which a CRLF is about to end, is one dot."""
        return _DOT_AT_END.search(self._tail) is not None
