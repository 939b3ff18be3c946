"""
The parameters of MAIL and RCPT, one row each (RFC 5321 §4.1.1.11).

A row says which extension a parameter belongs to, when a content, an envelope
or a recipient has it and with which value, and what becomes of the message at a
server that does not offer the extension. A further extension is a further row.

A row without a keyword puts nothing on the wire: it is a need, which another
row's parameter meets for the whole message.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Generic, TypeVar

from attrs import frozen

from pymail_tx.core import xtext
from pymail_tx.core.content import Content
from pymail_tx.core.envelope import Envelope, Recipient, orcpt_value
from pymail_tx.core.extensions import Extensions


class Body(enum.Enum):
    """What kind of data the content is as it goes out (RFC 6152 §2, RFC 3030 §3)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"
    BINARY = "BINARYMIME"


@frozen
class Outgoing:
    """
    A content as the server can take it.

    @ivar size_bytes: what goes out, as SIZE counts it.
    """

    content: Content
    size_bytes: int
    body: Body


class Unmet(enum.Enum):
    """What to do where the extension is not offered."""

    LEAVE_OUT = "the parameter is left out, and nothing is lost"
    DROP = "the parameter is left out, and the plan says that a wish is not met"
    FAIL = "it fails"
    NEXT_HOST = "this host will not do, another may; it fails if there is none"


_Of = TypeVar("_Of")


@frozen(kw_only=True)
class Parameter(Generic[_Of]):
    """
    One row.

    @ivar keyword: as it stands on the wire, C{""} if nothing does.
    @ivar extension: its keyword in the EHLO reply.
    @ivar value: the parameter's value for a content, an envelope or a
        recipient, C{""} for one without; C{None} if it is not needed.
    @ivar unmet: what if the server does not offer the extension.
    @ivar reason: why it fails then; begins with an enhanced status code.
    @ivar over_verified_tls: it counts as offered only in a session under TLS
        whose certificate verified.
    """

    keyword: str
    extension: str
    value: Callable[[_Of], str | None]
    unmet: Unmet
    reason: str = ""
    over_verified_tls: bool = False

    def written(self, value: str) -> tuple[str, ...]:
        """As it stands on the wire, if it does."""
        if not self.keyword:
            return ()
        return (f"{self.keyword}={value}" if value else self.keyword,)


_NO_UTF8_ADDRESS = "5.6.7 the address needs SMTPUTF8, which the server does not offer"
_NO_UTF8_SENDER = "5.6.7 the sender's address or the header needs SMTPUTF8, which the server does not offer"
_NO_8BIT = "5.6.3 the content is 8bit, and the server does not offer 8BITMIME"
_NO_BINARY = "5.6.3 the content is binary, and the server does not offer BINARYMIME"
_NO_REQUIRETLS = "5.7.30 the message requires REQUIRETLS over TLS with a verified certificate, and the server lacks it"


def _if_needed(need: bool) -> str | None:
    return "" if need else None


def _is(body: Body) -> Callable[[Outgoing], str | None]:
    return lambda outgoing: body.value if outgoing.body is body else None


CONTENT_PARAMETERS: tuple[Parameter[Outgoing], ...] = (
    Parameter(
        keyword="SIZE", extension="SIZE", unmet=Unmet.LEAVE_OUT,  # RFC 1870 §5
        value=lambda outgoing: str(outgoing.size_bytes),
    ),
    Parameter(
        keyword="BODY", extension="8BITMIME", unmet=Unmet.FAIL, reason=_NO_8BIT,  # RFC 6152 §3
        value=_is(Body.EIGHT_BIT),
    ),
    Parameter(
        keyword="BODY", extension="BINARYMIME", unmet=Unmet.FAIL, reason=_NO_BINARY,  # RFC 3030 §3
        value=_is(Body.BINARY),
    ),
)  # fmt: skip
"""MAIL's, by the content."""

ENVELOPE_PARAMETERS: tuple[Parameter[Envelope], ...] = (
    Parameter(
        keyword="", extension="SMTPUTF8", unmet=Unmet.FAIL, reason=_NO_UTF8_SENDER,  # RFC 6531 §3.5
        value=lambda envelope: _if_needed(envelope.sender_needs_smtputf8),
    ),
    Parameter(
        keyword="SMTPUTF8", extension="SMTPUTF8", unmet=Unmet.LEAVE_OUT,  # RFC 6531 §3.4; who needs it fails alone
        value=lambda envelope: _if_needed(envelope.needs_smtputf8),
    ),
    Parameter(
        keyword="RET", extension="DSN", unmet=Unmet.DROP,  # RFC 3461 §4.3
        value=lambda envelope: envelope.ret,
    ),
    Parameter(
        keyword="ENVID", extension="DSN", unmet=Unmet.DROP,  # RFC 3461 §4.4
        value=lambda envelope: xtext.encode(envelope.envid) if envelope.envid else None,
    ),
    Parameter(
        keyword="REQUIRETLS", extension="REQUIRETLS", unmet=Unmet.NEXT_HOST, reason=_NO_REQUIRETLS,  # RFC 8689 §4.2.1
        over_verified_tls=True, value=lambda envelope: _if_needed(envelope.requiretls),
    ),
)  # fmt: skip
"""MAIL's, by the envelope. A plain one (L{Envelope.is_plain}) has none of them, nor do its recipients."""

RCPT_PARAMETERS: tuple[Parameter[Recipient], ...] = (
    Parameter(
        keyword="", extension="SMTPUTF8", unmet=Unmet.FAIL, reason=_NO_UTF8_ADDRESS,  # RFC 6531 §3.5
        value=lambda recipient: _if_needed(recipient.mailbox.needs_smtputf8),
    ),
    Parameter(
        keyword="NOTIFY", extension="DSN", unmet=Unmet.DROP,  # RFC 3461 §4.1
        value=lambda recipient: ",".join(recipient.notify) if recipient.notify else None,
    ),
    Parameter(
        keyword="ORCPT", extension="DSN", unmet=Unmet.DROP,  # RFC 3461 §4.2
        value=lambda recipient: orcpt_value(recipient.orcpt) if recipient.orcpt else None,
    ),
)  # fmt: skip


@frozen(kw_only=True)
class Said:
    """
    What a command will say.

    @ivar parameters: as they stand on the wire.
    @ivar dropped: the extensions whose parameters were wanted and are left out.
    @ivar refused: why it cannot be said at all; C{""} if it can.
    @ivar next_host: another host may do all the same.
    """

    parameters: tuple[str, ...] = ()
    dropped: frozenset[str] = frozenset()
    refused: str = ""
    next_host: bool = False


NOTHING = Said()
"""No parameter, and nothing missing."""


def said(rows: tuple[Parameter[_Of], ...], what: _Of, offers: Extensions, *, tls_verified: bool = False) -> Said:
    """
    Go through the rows for one MAIL or RCPT.

    @param what: the content, the envelope or the recipient.
    @param offers: the server's EHLO reply; empty after HELO.
    @param tls_verified: whether the session has TLS whose certificate verified.
    """
    parameters: tuple[str, ...] = ()
    dropped: frozenset[str] = frozenset()
    for row in rows:
        value = row.value(what)
        if value is None:
            continue
        if row.extension in offers.keywords and (tls_verified or not row.over_verified_tls):
            parameters += row.written(value)
        elif row.reason:
            return Said(refused=row.reason, next_host=row.unmet is Unmet.NEXT_HOST)
        elif row.unmet is Unmet.DROP:
            dropped |= {row.extension}
    return Said(parameters=parameters, dropped=dropped) if parameters or dropped else NOTHING
