"""
The texts of single keys, read strictly: each function takes a text and gives
its value, or raises L{BadArgument}, whose words quote no secret.
"""

from __future__ import annotations

import ipaddress
import re

from attrs import frozen

from pymail_tx.core import duration
from pymail_tx.core.address import ascii_domain, before_port, refuse_controls
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.routes import TLSPolicy, shown
from pymail_tx.core.saslprep import saslprep
from pymail_tx.core.verifier import ScramVerifier, Verifier

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MIN_MESSAGE_OCTETS = 65_536
"""Every server must take that much (RFC 5321 §4.5.3.1.7)."""

MAX_MESSAGE_OCTETS = 1_000_000_000
"""What one row of SQLite can hold."""

MAX_PATTERN_CHARACTERS = 1_000
"""Of a regular expression. It is searched for in every reply that is not a yes."""

_SIZES = {"kB": 1_000, "MB": 1_000_000, "KiB": 1_024, "MiB": 1_048_576}
_SIZE = re.compile(r"([1-9][0-9]{0,8}) ?(kB|MB|KiB|MiB)")
_SERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")


@frozen
class Server:
    """
    A DNS server.

    @ivar host: its address.
    """

    host: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> Server:
        """
        @param text: an address, an IPv6 one in brackets, and a port if it is
            not 53.
        @raise BadArgument: it is something else.
        """
        found = _SERVER.fullmatch(text)
        try:
            if not found:
                raise ValueError
            host = str(ipaddress.IPv6Address(found[1]) if found[1] else ipaddress.IPv4Address(found[2]))
        except ValueError:
            raise BadArgument("servers", f"{text!r} is no address with or without a port") from None
        port = int(found[3] or 53)
        if not 1 <= port <= 65_535:
            raise BadArgument("servers", f"{text!r} has no port between 1 and 65535")
        return cls(host, port)

    def __str__(self) -> str:
        return f"{before_port(self.host)}:{self.port}"


def domain(name: str) -> str:
    try:
        return ascii_domain("hostname", name)
    except BadArgument:
        raise BadArgument("hostname", f"{name!r} is no domain") from None


def spool_url(url: str) -> str:
    scheme, _, path = url.partition(":")
    if scheme in ("postgresql", "postgres"):
        raise BadArgument("url", f"{shown(url)!r}: PostgreSQL is not built yet")
    if scheme != "sqlite" or not path or "\0" in path:
        raise BadArgument("url", f"{shown(url)!r} is not known")
    return url


def line(words: str) -> str:
    """For endpoints and paths, which are looked at when the relay starts."""
    refuse_controls("text", words)
    if not words.strip():
        raise BadArgument("text", "there is nothing in it")
    return words


def network(words: str) -> Network:
    try:
        return ipaddress.ip_network(words)
    except ValueError as problem:
        raise BadArgument("relay_from", f"{words!r} is no network: {problem}") from None


def size(words: str) -> int:
    found = _SIZE.fullmatch(words)
    if not found:
        raise BadArgument("size", f"{words!r} is no size, such as 50 MiB")
    octets = int(found[1]) * _SIZES[found[2]]
    if not MIN_MESSAGE_OCTETS <= octets <= MAX_MESSAGE_OCTETS:
        raise BadArgument("size", f"{words!r} is not from {MIN_MESSAGE_OCTETS} to {MAX_MESSAGE_OCTETS} octets")
    return octets


def user_name(name: str) -> str:
    return saslprep("name", name, stored=True)


def verifier_kind(kept: Verifier) -> str:
    return "SCRAM-SHA-256" if isinstance(kept, ScramVerifier) else "scrypt"


def delay(words: str) -> int:
    return duration.parse("delay", words, most_s=30 * 86_400)


def regular_expression(words: str) -> re.Pattern[str]:
    if len(words) > MAX_PATTERN_CHARACTERS:
        raise BadArgument("match", f"a regular expression of more than {MAX_PATTERN_CHARACTERS} characters")
    try:
        return re.compile(words)
    except re.error as problem:
        raise BadArgument("match", f"{words!r} is no regular expression: {problem}") from None


def source(pattern: re.Pattern[str]) -> str:
    return pattern.pattern


def tls_policy(words: str) -> TLSPolicy:
    try:
        return TLSPolicy(words)
    except ValueError:
        raise BadArgument("tls", f"{words!r} is none of {', '.join(one.value for one in TLSPolicy)}") from None


def tls_word(policy: TLSPolicy) -> str:
    return policy.value
