"""
A C{EmailMessage} on its way out: its octets, and
the envelope that its header makes (RFC 5322 §3.6).

Addresses are taken from the header as the parser understood it, never from its
text: a display name may hold whatever looks like a further address.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8

from attrs import frozen

from pymail_tx.core.errors import BadArgument

_SENDER, _RECIPIENTS = ("sender", "from"), ("to", "cc", "bcc")
_SHOWN = ("from", "sender", "reply-to", "to", "cc")
_NOT_SHOWN = ("bcc", "resent-bcc")


def message_octets(message: EmailMessage, *, smtputf8: bool = False) -> bytes:
    """
    A message as it goes out: lines end in CRLF, and Bcc is left out (RFC 5322
    §3.6.3). The message itself stays as it is.

    @param smtputf8: write the header in UTF-8 (RFC 6532) rather than in encoded
        words; for an envelope that needs SMTPUTF8.
    @raise BadArgument: it cannot be written, or only in UTF-8.
    """
    if not smtputf8 and has_utf8_addresses(message):
        raise BadArgument("content", "an address in its header needs SMTPUTF8; say so with Envelope(…, smtputf8=True)")
    shown = copy.copy(message)  # deleting a field makes a new list of fields, and the parts are not touched
    for name in _NOT_SHOWN:
        del shown[name]
    try:
        return shown.as_bytes(policy=SMTPUTF8 if smtputf8 else SMTP)
    except Exception as problem:  # noqa: BLE001 - MessageError, UnicodeError, AttributeError, and what comes next
        raise BadArgument("content", f"a message that cannot be written: {problem}") from None


def has_utf8_addresses(message: EmailMessage) -> bool:
    """Whether a local part in the header that goes out is not ASCII, which only UTF-8 can write (RFC 6532 §3.2)."""
    return any(not address.username.isascii() for address in _addresses(message, _SHOWN))


@frozen
class Correspondents:
    """
    @ivar sender: the mailbox that sent it.
    @ivar recipients: everybody whom it is for, each once.
    """

    sender: str
    recipients: tuple[str, ...]


def correspondents(message: EmailMessage) -> Correspondents:
    """
    Sender or From, and To, Cc and Bcc.

    @raise BadArgument: there is not one sender; or the message was resent, and
        its header does not tell to whom by which (RFC 5322 §3.6.6).
    """
    if any(name.lower().startswith("resent-") for name in message):
        raise BadArgument("message", "a resent one does not tell sender and recipients; name them")
    senders = next(filter(None, (list(_addresses(message, (name,))) for name in _SENDER)), [])
    if len(senders) != 1:
        raise BadArgument("message", f"Sender, or From, must name one sender and names {len(senders)}")
    recipients = dict.fromkeys(address.addr_spec for address in _addresses(message, _RECIPIENTS))
    return Correspondents(senders[0].addr_spec, tuple(recipients))


def _addresses(message: EmailMessage, names: tuple[str, ...]) -> Iterator[Address]:
    """
    Of the fields with one of these names in lower case, whatever policy the message was made with.

    @raise BadArgument: a field is beyond Python's parser, which raises what it likes then.
    """
    for name, value in message.raw_items():
        if name.lower() in names:
            try:
                found = SMTP.header_fetch_parse(name, value).addresses
            except Exception:  # noqa: BLE001 - IndexError, AttributeError, HeaderParseError, and what comes next
                raise BadArgument("message", f"its {name} cannot be read") from None
            yield from found
