"""
Content as it comes in behind DATA: where it ends, and whether it can be taken.

A message ends at CRLF, dot, CRLF, and nowhere else (RFC 5321 §4.1.1.4). What
cannot be taken is read to that end all the same, so that the session stays in
step, and is refused as a whole.
"""

from __future__ import annotations

import re

from attrs import define, field

MAX_MESSAGE_OCTETS = 52_428_800
"""50 MiB, header and body, dots not doubled (RFC 1870 §3). A message is held in memory while it comes in."""

MAX_RECEIVED_LINES = 100
"""A message that passed more hosts is in a loop (RFC 5321 §6.3)."""

_END_OF_DATA = b"\r\n.\r\n"

_HEADER = re.compile(rb"[!-9;-~]+[ \t]*:|\r\n")
"""A header line's name (RFC 5322 §2.2, §4.5.3), or the empty line that ends a header."""


@define
class Content:
    """
    One message's content as it comes in behind DATA.

    Works on whole chunks and holds what has come, behind the CRLF of DATA's
    own line: so the first line needs no rule of its own.
    """

    _octets: bytearray = field(factory=lambda: bytearray(b"\r\n"))
    _doubled: int = 0
    _dropping: bool = False

    def take(self, chunk: bytes) -> bytes | None:
        """
        Take the next chunk.

        @return: what stands behind end of data; C{None} if that has not come.
        """
        octets, unsettled = self._octets, max(0, len(self._octets) - 4)
        octets += chunk
        at = octets.find(_END_OF_DATA, unsettled)
        ended = at >= 0
        # A dot counts as doubled when it is sure that it does not end the data.
        self._doubled += octets.count(b"\r\n.", unsettled, at + 2 if ended else len(octets) - 2)
        rest = bytes(octets[at + 5 :]) if ended else None
        if ended:
            del octets[at + 2 :]
        if len(octets) - 2 - self._doubled > MAX_MESSAGE_OCTETS + (0 if ended else len(_END_OF_DATA)):
            self._dropping = True
        if self._dropping:
            del octets[:-4]
        return rest

    def problem(self) -> bytes | None:
        """The reply that refuses the content, now that it is whole; C{None} if it is fine."""
        octets = self._octets
        if self._dropping:
            return b"552 5.3.4 more than %d octets are not taken" % MAX_MESSAGE_OCTETS
        if not octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n"):
            return b"550 5.6.0 a CR or LF that is not part of a CRLF is not taken (RFC 5321 2.3.8)"
        header = octets[: octets.find(b"\r\n\r\n")] if b"\r\n\r\n" in octets else octets
        if header.lower().count(b"\r\nreceived:") > MAX_RECEIVED_LINES:
            return b"554 5.4.6 more than %d Received lines: the message is in a loop" % MAX_RECEIVED_LINES
        return None

    def message(self, received: bytes) -> bytes:
        """
        The content, dots not doubled.

        @param received: a header line to go before it.
        """
        octets = self._octets.replace(b"\r\n.", b"\r\n") if self._doubled else self._octets
        if _HEADER.match(octets, 2):
            return b"".join((received, memoryview(octets)[2:]))
        # Without a header of its own, what there is must not become part of ours.
        return b"".join((received, octets))
