"""
What stands behind MAIL and RCPT: a path and parameters (RFC 5321 §4.1.2).

L{MAIL_PARAMETERS} has a row for each parameter of an extension that the relay
offers. What cannot be read is answered, never guessed: L{Refused} carries the
reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from attrs import define, field, frozen

from pymail_tx.relay.incoming import MAX_MESSAGE_OCTETS


@define
class Transaction:
    """A mail transaction under way."""

    sender: str
    utf8: bool
    recipients: dict[str, None] = field(factory=dict)


@frozen
class Refused(Exception):
    """A command's answer is this reply."""

    reply: bytes
    is_bad_command: bool = True


_PATH = re.compile(
    rb"""
    (FROM|TO) : [ ]*
    < (?: @[^:>]*: )? ( (?: "(?:[^"\\]|\\.)*" | [^">] )* ) >
    (?: [ ]+ (.*) )? \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)


def path_and_parameters(argument: bytes, keyword: bytes, code: bytes) -> tuple[bytes, Mapping[bytes, bytes | None]]:
    """
    What stands behind MAIL or RCPT: the path without brackets and source route
    (RFC 5321 §4.1.1.3), and the parameters, their keys in capitals.
    """
    found = _PATH.match(argument)
    if not found or found[1].upper() != keyword:
        raise Refused(code + b" " + keyword + b":<address> must follow")
    parameters: dict[bytes, bytes | None] = {}
    for parameter in (found[3] or b"").split():
        key, equals, value = parameter.partition(b"=")
        if key.upper() in parameters:
            raise Refused(b"501 5.5.4 a parameter twice")
        parameters[key.upper()] = value if equals else None
    return found[2], parameters


def no_argument(argument: bytes) -> None:
    if argument:
        raise Refused(b"501 5.5.4 nothing may follow")


def _size_parameter(transaction: Transaction, value: bytes | None) -> None:
    """RFC 1870 §4: up to 20 digits."""
    if value is None or not value.isdigit() or len(value) > 20:
        raise Refused(b"501 5.5.4 SIZE=octets")
    if int(value) > MAX_MESSAGE_OCTETS:
        reply = b"552 5.3.4 more than %d octets are not taken" % MAX_MESSAGE_OCTETS
        raise Refused(reply, is_bad_command=False)


def _body_parameter(transaction: Transaction, value: bytes | None) -> None:
    """RFC 6152 §2. What the next server can take is the client's business there, so nothing is noted."""
    if value is None or value.upper() not in (b"7BIT", b"8BITMIME"):
        raise Refused(b"501 5.5.4 BODY=7BIT or BODY=8BITMIME")


def _utf8_parameter(transaction: Transaction, value: bytes | None) -> None:
    """RFC 6531 §3.4."""
    if value is not None:
        raise Refused(b"501 5.5.4 SMTPUTF8 has no value")
    transaction.utf8 = True


MAIL_PARAMETERS: Mapping[bytes, Callable[[Transaction, bytes | None], None]] = {
    b"SIZE": _size_parameter,
    b"BODY": _body_parameter,
    b"SMTPUTF8": _utf8_parameter,
}
