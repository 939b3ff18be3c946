"""
The header field C{TLS-Required: No} (RFC 8689 §5): its message puts delivery
before protection.
"""

from __future__ import annotations

import re

from pymail_tx.core.content import Content

MAX_HEADER_OCTETS = 65_536
"""In which the field is looked for: one block. Headers of real messages stay well below."""

_FIELD = re.compile(rb"(?:\A|[\r\n])TLS-Required[ \t]*:[ \t]*No[ \t]*(?:\Z|[\r\n])", re.IGNORECASE)
_ENDS = (b"\r\n\r\n", b"\n\n", b"\r\r")


def says_tls_is_optional(content: Content) -> bool:
    """
    Whether the header has the field, with the one value that means anything.

    @raise OSError: the content is a file and cannot be read.
    """
    start = next(iter(content.blocks()), b"")[:MAX_HEADER_OCTETS]
    if start.startswith((b"\r", b"\n")):
        return False  # there is no header
    ends = [start.find(end) for end in _ENDS]
    header = start[: min((end for end in ends if end >= 0), default=None)]
    return b"tls-required" in header.lower() and _FIELD.search(header) is not None
