"""
The envelope of a message: who it is from, to whom it goes (RFC 5321 §2.3.1),
and what the sender wants to hear of it (RFC 3461).

An L{Envelope} that exists can go out: each argument is checked when it is made,
and what is wrong with one says the argument's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import field, frozen

from pymail_tx.core import xtext
from pymail_tx.core.address import Mailbox, refuse_controls
from pymail_tx.core.errors import BadArgument

if TYPE_CHECKING:
    from email.message import EmailMessage
from functools import cached_property

MAX_ENVID_OCTETS = 100
"""C{ENVID}'s value, encoded (RFC 3461 §4.4)."""

MAX_ORCPT_OCTETS = 500
"""C{ORCPT}'s value, encoded (RFC 3461 §4.2)."""

NEVER = "NEVER"
NOTIFY = ("SUCCESS", "FAILURE", "DELAY")
"""What a notification can be asked for (RFC 3461 §4.1), unless it is for nothing, L{NEVER}."""

RET = ("FULL", "HDRS")
"""How much of the message comes back with a notification of failure (RFC 3461 §4.3)."""

_ADDRESS_TYPE = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,31});")


def _notify(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Upper case, in the RFC's order, each once: two that mean the same are equal."""
    if given is None:
        return None
    words = {word.strip(" ").upper() for word in (given.split(",") if isinstance(given, str) else given)}
    if words == {NEVER}:
        return (NEVER,)
    if not words or not words <= set(NOTIFY):
        raise BadArgument("notify", f"NEVER alone, or some of {', '.join(NOTIFY)}")
    return tuple(word for word in NOTIFY if word in words)


def _orcpt(given: str | None) -> str | None:
    """With its type in front, which a plain address gets here."""
    if given is None:
        return None
    refuse_controls("orcpt", given)
    typed = given if _ADDRESS_TYPE.match(given) else f"{'rfc822' if given.isascii() else 'utf-8'};{given}"
    address_type, _, address = typed.partition(";")
    if not address.strip():
        raise BadArgument("orcpt", "an address is wanted")
    if not address.isascii() and address_type.lower() != "utf-8":
        raise BadArgument("orcpt", f"{typed!r} is not ASCII; the type of such an address is utf-8")
    if len(orcpt_value(typed)) > MAX_ORCPT_OCTETS:
        raise BadArgument("orcpt", f"longer than {MAX_ORCPT_OCTETS} octets")
    return typed


def orcpt_value(orcpt: str) -> str:
    """
    An original recipient as the value of C{ORCPT} (RFC 3461 §4.2, RFC 6533 §3).

    @param orcpt: C{type;address}.
    """
    address_type, _, address = orcpt.partition(";")
    encode = xtext.encode_internationalized if address_type.lower() == "utf-8" else xtext.encode
    return f"{address_type};{encode(address)}"


@frozen
class Recipient:
    """
    One forward-path (RFC 5321 §4.1.1.3).

    @ivar address: the mailbox, C{local-part@domain}, without angle brackets.
    @ivar notify: what the sender is to be notified of: C{"NEVER"}, or any of
        C{"SUCCESS"}, C{"FAILURE"} and C{"DELAY"}, in a collection or in one
        string with commas. C{None} leaves it to the servers, which mostly
        notify of failure.
    @ivar orcpt: the address that the sender gave, where C{address} came of it
        by forwarding or a list: C{"rfc822;joe@example.org"}, C{"utf-8;…"}
        (RFC 6533), or the address alone, whose type then shows.
    @raise BadArgument: an argument that cannot go out on the wire.
    """

    address: str
    notify: tuple[str, ...] | None = field(default=None, converter=_notify, kw_only=True)
    orcpt: str | None = field(default=None, converter=_orcpt, kw_only=True)
    mailbox: Mailbox = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "mailbox", Mailbox.parse("recipient", self.address))

    @property
    def is_plain(self) -> bool:
        """See L{Envelope.is_plain}."""
        return self.notify is None and self.orcpt is None and not self.mailbox.needs_smtputf8


def _recipients(given: Iterable[str | Recipient]) -> tuple[Recipient, ...]:
    if isinstance(given, str):
        raise BadArgument("recipients", "a list of addresses is wanted, not one string")
    recipients = tuple(Recipient(one) if isinstance(one, str) else one for one in given)
    if not recipients:
        raise BadArgument("recipients", "at least one is needed")
    return recipients


def _envid(given: str | None) -> str | None:
    if given is None:
        return None
    refuse_controls("envid", given)
    if not given or not given.isascii():
        raise BadArgument("envid", f"{given!r} is not one or more printable ASCII characters")
    if len(xtext.encode(given)) > MAX_ENVID_OCTETS:
        raise BadArgument("envid", f"longer than {MAX_ENVID_OCTETS} octets")
    return given


def _ret(given: str | None) -> str | None:
    if given is not None and given not in RET:
        raise BadArgument("ret", f"one of {', '.join(RET)}")
    return given


@frozen
class Envelope:
    """
    Sender and recipients of one message.

    @ivar sender: the reverse-path's mailbox, C{""} for the null reverse-path
        of bounces (RFC 5321 §4.5.5).
    @ivar recipients: at least one; strings become L{Recipient}s.
    @ivar envid: what notifications call this message, for the sender to know
        it again (RFC 3461 §4.4); printable ASCII.
    @ivar ret: whether a notification of failure brings back the whole message,
        C{"FULL"}, or its header, C{"HDRS"}.
    @ivar requiretls: whether the message may only go over TLS whose certificate
        verifies, on this way and on all further ones (RFC 8689); rather than
        that it fails.
    @ivar smtputf8: whether its header holds UTF-8 (RFC 6532) and so needs
        SMTPUTF8 even where no address does. Nobody looks into the header for
        this: mail with raw 8-bit headers is older than RFC 6531, and servers
        without SMTPUTF8 take it.
    @raise BadArgument: an argument that cannot go out on the wire.
    """

    sender: str
    recipients: tuple[Recipient, ...] = field(converter=_recipients)
    envid: str | None = field(default=None, converter=_envid, kw_only=True)
    ret: str | None = field(default=None, converter=_ret, kw_only=True)
    requiretls: bool = field(default=False, kw_only=True)
    smtputf8: bool = field(default=False, kw_only=True)
    reverse_path: Mailbox | None = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        parsed = Mailbox.parse("sender", self.sender) if self.sender else None
        object.__setattr__(self, "reverse_path", parsed)

    @classmethod
    def of(cls, message: EmailMessage) -> Envelope:
        """
        The envelope that a message's header makes: from Sender, or else From;
        to To, Cc and Bcc, each address once.

        @raise BadArgument: there is not one sender or no recipient, an address
            cannot go out, or the message has Resent- fields.
        """
        from pymail_tx.core.message import correspondents, has_utf8_addresses  # email's parser takes 20 ms to import

        found = correspondents(message)
        return cls(found.sender, found.recipients, smtputf8=has_utf8_addresses(message))

    @cached_property
    def is_plain(self) -> bool:
        """Whether it asks nothing of a server but to take it."""
        return (
            not (self.requiretls or self.smtputf8)
            and self.envid is None
            and self.ret is None
            and (self.reverse_path is None or not self.reverse_path.needs_smtputf8)
            and all(recipient.is_plain for recipient in self.recipients)
        )

    @property
    def sender_needs_smtputf8(self) -> bool:
        """Whether the reverse-path or the header can only go to a server with SMTPUTF8, whoever the recipients are."""
        return self.smtputf8 or (self.reverse_path is not None and self.reverse_path.needs_smtputf8)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether it can only go to a server with SMTPUTF8, for some recipient at least."""
        return self.sender_needs_smtputf8 or any(one.mailbox.needs_smtputf8 for one in self.recipients)
