"""
The envelope of a message: who it is from and to whom it goes (RFC 5321 §2.3.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

from pymail_tx.core.address import Mailbox
from pymail_tx.core.errors import BadArgument


@frozen
class Recipient:
    """
    One forward-path (RFC 5321 §4.1.1.3).

    @ivar address: the mailbox, C{local-part@domain}, without angle brackets.
    """

    address: str
    mailbox: Mailbox = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "mailbox", Mailbox.parse("recipient", self.address))


def _recipients(given: Iterable[str | Recipient]) -> tuple[Recipient, ...]:
    if isinstance(given, str):
        raise BadArgument("recipients", "a list of addresses is wanted, not one string")
    recipients = tuple(Recipient(one) if isinstance(one, str) else one for one in given)
    if not recipients:
        raise BadArgument("recipients", "at least one is needed")
    return recipients


@frozen
class Envelope:
    """
    Sender and recipients of one message.

    @ivar sender: the reverse-path's mailbox, C{""} for the null reverse-path
        of bounces (RFC 5321 §4.5.5).
    @ivar recipients: at least one; strings become L{Recipient}s.
    @raise BadArgument: an address that cannot go out on the wire.
    """

    sender: str
    recipients: tuple[Recipient, ...] = field(converter=_recipients)
    reverse_path: Mailbox | None = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        parsed = Mailbox.parse("sender", self.sender) if self.sender else None
        object.__setattr__(self, "reverse_path", parsed)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address can only go to a server with SMTPUTF8."""
        mailboxes = [recipient.mailbox for recipient in self.recipients]
        return any(mailbox.needs_smtputf8 for mailbox in mailboxes + ([self.reverse_path] if self.reverse_path else []))
