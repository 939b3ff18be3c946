"""
Mailboxes as they stand in MAIL and RCPT (RFC 5321 §4.1.2, RFC 6531 §3.3).

What could end a path early, smuggle a parameter or a second command is refused
here, before any command is built. Otherwise this is as liberal as the mail
that exists: long local parts (VERP, SRS, reply tokens) and dots in odd places
pass, and the server says what it thinks of them.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from attrs import field, frozen

from pymail_tx.core.errors import BadArgument

MAX_DOMAIN_OCTETS = 255
"""RFC 5321 §4.5.3.1.2."""

MAX_LABEL_OCTETS = 63
"""RFC 1035 §2.3.4."""

MAX_PATH_OCTETS = 1_000
"""RFC 5321 §4.5.3.1.3 says 256; tokens in the wild are longer, command lines end at 2,048."""

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_DOT_STRING = re.compile(r"[^\s()<>\[\]\\,;:@\"]+\Z")
_QUOTED_STRING = re.compile(r'"(?:[^"\\<>]|\\[^<>])*"\Z')  # some servers end a path at any ">"
_LITERAL = re.compile(r"\[(IPv6:)?([0-9A-Fa-f:.]+)\]\Z", re.ASCII | re.IGNORECASE)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\Z")


@frozen
class Mailbox:
    """
    A parsed mailbox.

    @ivar local_part: as given, quotes included.
    @ivar domain: in ASCII, A-labels for an internationalized one (RFC 5890);
        C{"[192.0.2.1]"} for an address literal; C{""} for the bare C{postmaster}
        that RFC 5321 §4.1.1.3 reserves.
    @ivar needs_smtputf8: whether only a server with SMTPUTF8 can take it: the
        domain alone never needs that.
    """

    local_part: str
    domain: str
    needs_smtputf8: bool = field(init=False, repr=False, eq=False)
    _octets: bytes = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "needs_smtputf8", not self.local_part.isascii())
        object.__setattr__(self, "_octets", str(self).encode())

    @classmethod
    def parse(cls, field: str, address: str) -> Mailbox:
        """
        @param field: what the address is to the caller, for the error.
        @param address: C{local-part@domain}, without angle brackets.
        @raise BadArgument: it cannot go out on the wire.
        """
        refuse_controls(field, address)
        local_part, at, domain = address.rpartition("@")
        if not at and address.lower() == "postmaster":
            return cls(address, "")
        if not at:
            raise BadArgument(field, f"{address!r} has no domain")
        if not (_DOT_STRING.match(local_part) or _QUOTED_STRING.match(local_part)):
            raise BadArgument(field, f"{local_part!r} is no local part of an address")
        mailbox = cls(local_part, ascii_domain(field, domain))
        if len(mailbox.path(utf8=True)) > MAX_PATH_OCTETS:
            raise BadArgument(field, f"longer than {MAX_PATH_OCTETS} octets")
        return mailbox

    def path(self, *, utf8: bool) -> bytes:
        """
        The mailbox as it stands between the angle brackets.

        @param utf8: whether SMTPUTF8 is in force.
        @raise BadArgument: the local part needs SMTPUTF8 and it is not.
        """
        if not utf8 and self.needs_smtputf8:
            raise BadArgument("address", f"{self} needs SMTPUTF8")
        return self._octets

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}" if self.domain else self.local_part


@lru_cache(maxsize=1_024)
def ascii_domain(field: str, domain: str) -> str:
    """
    A domain or address literal, checked, in ASCII.

    @raise BadArgument: it is neither.
    """
    refuse_controls(field, domain)
    if domain.startswith("["):
        return _literal(field, domain)
    ascii_only = domain if domain.isascii() else _a_labels(field, domain)
    if len(ascii_only) > MAX_DOMAIN_OCTETS:
        raise BadArgument(field, f"a domain of more than {MAX_DOMAIN_OCTETS} octets")
    for label in ascii_only.split("."):
        if len(label) > MAX_LABEL_OCTETS:
            raise BadArgument(field, f"a label of more than {MAX_LABEL_OCTETS} octets in {domain!r}")
        if not _LABEL.match(label):
            raise BadArgument(field, f"{domain!r} is no domain")
    return ascii_only


def refuse_controls(field: str, text: str) -> None:
    """
    @raise BadArgument: a control character, CR, LF and NUL among them, or a
        lone surrogate is in the text.
    """
    found = _FORBIDDEN.search(text)
    if found:
        raise BadArgument(field, f"U+{ord(found[0]):04X} at character {found.start()} cannot be sent")


def before_port(host: str) -> str:
    """A name or an address as it stands before a colon and a port: an IPv6 address in brackets (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _literal(field: str, domain: str) -> str:
    found = _LITERAL.match(domain)
    try:
        if not found:
            raise ValueError
        kind = ipaddress.IPv6Address if found[1] else ipaddress.IPv4Address
        kind(found[2])
    except ValueError:
        raise BadArgument(field, f"{domain!r} is no address literal") from None
    return domain


def _a_labels(field: str, domain: str) -> str:
    import idna  # takes 10 ms to import, and most domains are ASCII

    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError as problem:
        raise BadArgument(field, f"{domain!r} is no domain: {problem}") from None
