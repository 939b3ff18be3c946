"""
What all SASL mechanisms have in common (RFC 4422, RFC 4954): credentials, base64,
limits, and which words of a server give a secret away.

The mechanisms are L{pymail_tx.core.mechanisms}', one authentication from its
first line to its last is L{pymail_tx.core.authentication}'s.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from attrs import evolve, frozen

from pymail_tx.core.errors import BadArgument, ProtocolViolation
from pymail_tx.core.reply import Reply
from pymail_tx.core.secret import Secret

MAX_ROUNDS = 8
"""Challenges in one exchange. The longest mechanism, SCRAM, needs three."""

MAX_INITIAL_LINE_OCTETS = 512
"""An AUTH command with its initial response and CRLF; a longer response waits for its 334 (RFC 4954 §4)."""

WITHHELD = "(words that hold a secret are withheld)"
"""In the place of a server's words that quote what it was told in confidence."""

_GIVES_AWAY_CHARACTERS = 8
"""So much of an encoded response gives it away: servers cut what they quote. PLAIN's begins with the user's name."""


@frozen
class Credentials:
    """
    @ivar user: the authentication identity.
    @ivar password: never shown, not even in a repr.
    @raise BadArgument: NUL (RFC 4616 §2) or a lone surrogate, which has no
        octets, stands in one of them.
    """

    user: str
    password: Secret

    def __attrs_post_init__(self) -> None:
        for name, value in (("user", self.user), ("password", self.password.reveal())):
            if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
                raise BadArgument(name, "NUL and lone surrogates cannot be sent")


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


def told_in(response: bytes, secrets: Iterable[Secret]) -> tuple[Secret, ...]:
    """
    What gives a response away, for L{gives_away}: the secrets that it tells, as
    they are and in base64, and its own beginning on the wire.
    """
    texts = [secret.reveal() for secret in secrets]
    encoded = [_base64(text.encode()) for text in texts]
    beginning = _base64(response)[:_GIVES_AWAY_CHARACTERS] if texts else ""
    return tuple(Secret(form) for form in (*texts, *encoded, beginning) if form)


def _base64(octets: bytes) -> str:
    return encode(octets).decode("ascii").rstrip("=")


def gives_away(text: str, secrets: Sequence[Secret]) -> bool:
    """Whether one of the secrets is in the text, in capitals or not: some servers repeat a command in capitals."""
    folded = text.casefold() if secrets else ""
    return any(secret.reveal().casefold() in folded for secret in secrets)


def without_secrets(reply: Reply, secrets: Sequence[Secret]) -> Reply:
    """
    The reply, with nothing left of its words but the enhanced status code if
    they give a secret away, also one that goes on from line to line.
    """
    if not secrets or not any(gives_away(joint.join(reply.lines), secrets) for joint in ("", " ")):
        return reply
    return evolve(reply, lines=(f"{reply.enhanced} {WITHHELD}" if reply.enhanced else WITHHELD,))
