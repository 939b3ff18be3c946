"""
What a server offers: its EHLO reply, read (RFC 5321 §4.1.1.1).

Reading is liberal, since servers are: keywords in any case, the old C{AUTH=}
form, a keyword on several lines; what cannot be read is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache

from attrs import field, frozen

from pymail_tx.core.reply import Reply

_KEYWORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:[ =](.*))?\Z")
_LIMIT = re.compile(r"([A-Za-z0-9_-]+)=([0-9]{1,6})\Z")


@frozen
class Extensions:
    """
    @ivar keywords: for each keyword, in capitals, its parameters as they came.
    """

    keywords: Mapping[str, tuple[str, ...]] = field(factory=dict)

    @classmethod
    def of(cls, reply: Reply) -> Extensions:
        """Read an accepted EHLO reply, whose first line names the server."""
        return _offered(reply.lines[1:])

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    @cached_property
    def size_limit_bytes(self) -> int | None:
        """The largest message that the server takes, C{None} if unlimited or unsaid (RFC 1870 §3)."""
        values = [value for value in self.keywords.get("SIZE", ()) if value.isascii() and value.isdigit()]
        return int(values[0][:20]) or None if values else None

    @property
    def auth_mechanisms(self) -> frozenset[str]:
        """The SASL mechanisms on offer, in capitals (RFC 4954 §3)."""
        return frozenset(mechanism.upper() for mechanism in self.keywords.get("AUTH", ()))

    def limit(self, name: str) -> int | None:
        """
        A limit that the server announces, C{None} if unsaid (RFC 9422 §3).

        @param name: in capitals, such as C{"RCPTMAX"}. Of several values the
            first that can be read counts.
        """
        found = (_LIMIT.match(word) for word in self.keywords.get("LIMITS", ()))
        values = (int(each[2]) for each in found if each and each[1].upper() == name)
        return next((value for value in values if value), None)


@lru_cache(maxsize=64)
def _offered(lines: tuple[str, ...]) -> Extensions:
    """Read once: the sessions with a server share what it offers."""
    keywords: dict[str, tuple[str, ...]] = {}
    for line in lines:
        found = _KEYWORD.match(line.strip())
        if found:
            keyword, parameters = found[1].upper(), (found[2] or "").split()
            keywords[keyword] = (*keywords.get(keyword, ()), *parameters)
    return Extensions(keywords)
