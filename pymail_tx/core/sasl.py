"""
SASL mechanisms, as far as they are arithmetic on octets (RFC 4422, RFC 4954).

A mechanism is a generator: it yields the next response and is sent the
server's challenge, both without base64. The protocol does the rest.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Generator

from attrs import frozen

from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.secret import Secret

MAX_ROUNDS = 8
"""Challenges in one exchange. The longest mechanism, SCRAM, needs three."""

MAX_INITIAL_LINE_OCTETS = 512
"""An AUTH command with its initial response and CRLF; a longer response waits for its 334 (RFC 4954 §4)."""

Mechanism = Generator[bytes, bytes, None]


@frozen
class Credentials:
    """
    @ivar user: the authentication identity.
    @ivar password: never shown, not even in a repr.
    @raise BadArgument: NUL stands in one of them (RFC 4616 §2).
    """

    user: str
    password: Secret

    def __attrs_post_init__(self) -> None:
        for name, value in (("user", self.user), ("password", self.password.reveal())):
            if "\0" in value:
                raise BadArgument(name, "NUL cannot be sent")


def plain(credentials: Credentials) -> Mechanism:
    """PLAIN (RFC 4616): one response, which needs no challenge."""
    yield b"\0".join((b"", credentials.user.encode(), credentials.password.reveal().encode()))


def encode(response: bytes) -> bytes:
    """A response as it stands on the wire."""
    return base64.b64encode(response)


def decode(challenge: str) -> bytes:
    """
    A 334's text.

    @raise ProtocolViolation: it is no base64.
    """
    try:
        return base64.b64decode(challenge.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolViolation("a challenge that is no base64") from None
