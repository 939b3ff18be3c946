"""
What a mail transaction will say, decided before it says anything.

L{plan} holds an envelope and a content against what the server offers: which
parameters MAIL and RCPT carry (L{pymail_tx.core.parameters} has a row for
each), whether the content must be made 7bit first, and who cannot be served at
all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from attrs import frozen

from pymail_tx.core.content import Content, encoded, encoded_whole
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.mime import CannotDowngrade, seven_bit
from pymail_tx.core.outcome import TLSFacts
from pymail_tx.core.parameters import CONTENT_PARAMETERS, ENVELOPE_PARAMETERS, RCPT_PARAMETERS, Body, Outgoing, said

MAX_MENDED_OCTETS = 52_428_800
"""Content that is re-encoded is in memory, more than once. 50 MiB, as the relay takes."""


@frozen(kw_only=True)
class Plan:
    """
    @ivar mail_parameters: MAIL's (RFC 5321 §4.1.1.11).
    @ivar rcpt_parameters: RCPT's, by the index of each recipient who has some.
    @ivar content: as it is to be sent, line ends and dots not yet seen to.
    @ivar is_binary: nothing of it may be mended (RFC 3030 §3).
    @ivar refused: by the recipient's index, why it is failed unsent; begins
        with an enhanced status code.
    @ivar next_host: everybody is refused here for want of something that
        another host may have; they fail if none has it (RFC 8689 §4.2.1).
    @ivar dropped: extensions that the envelope asks for, that the server does
        not offer and that the message goes without. With C{"DSN"} among them
        nobody behind this server notifies of success, and a relay has to say
        C{relayed} itself to a sender who asked for that (RFC 3461 §5.2.2).
    """

    mail_parameters: tuple[str, ...] = ()
    rcpt_parameters: Mapping[int, tuple[str, ...]] = MappingProxyType({})
    content: Content
    refused: Mapping[int, str]
    is_binary: bool = False
    next_host: bool = False
    dropped: frozenset[str] = frozenset()

    @property
    def chunk_octets(self) -> int:
        """What BDAT is to announce."""
        return self.content.survey.raw_bytes if self.is_binary else self.content.survey.size_bytes

    def blocks(self, *, double_dots: bool) -> Iterator[bytes]:
        """The content in blocks, line ends and, for DATA, dots seen to."""
        blocks = self.content.blocks()
        return blocks if self.is_binary else encoded(blocks, double_dots=double_dots)

    def octets(self, *, double_dots: bool) -> bytes:
        """All L{blocks}, of content in memory."""
        return self.content.read() if self.is_binary else encoded_whole(self.content, double_dots=double_dots)


def plan(
    envelope: Envelope, content: Content, offers: Extensions, *, chunking: bool = False, tls: TLSFacts | None = None
) -> Plan:
    """
    Decide how a message goes to a server.

    @param offers: the server's EHLO reply; empty after HELO.
    @param chunking: whether the content goes with BDAT.
    @param tls: the session's TLS, C{None} for plain text.
    """
    wishes = _NO_WISHES
    if not envelope.is_plain:
        wishes = _wishes(envelope, offers, tls_verified=tls is not None and tls.verified)
    try:
        outgoing = _outgoing(content, offers, chunking=chunking)
    except (CannotDowngrade, _TooLarge) as problem:
        return Plan(content=content, refused=_everybody(envelope, str(problem), wishes.refused))
    mail = said(CONTENT_PARAMETERS, outgoing, offers)
    return Plan(
        mail_parameters=mail.parameters + wishes.mail_parameters,
        rcpt_parameters=wishes.rcpt_parameters,
        content=outgoing.content,
        refused=_everybody(envelope, mail.refused, wishes.refused) if mail.refused else wishes.refused,
        is_binary=outgoing.body is Body.BINARY,
        next_host=wishes.next_host,
        dropped=wishes.dropped,
    )


@frozen(kw_only=True)
class _Wishes:
    """What the envelope asks of a server, and what becomes of it; see L{Plan}."""

    mail_parameters: tuple[str, ...] = ()
    rcpt_parameters: Mapping[int, tuple[str, ...]] = MappingProxyType({})
    refused: Mapping[int, str] = MappingProxyType({})
    next_host: bool = False
    dropped: frozenset[str] = frozenset()


_NO_WISHES = _Wishes()


def _wishes(envelope: Envelope, offers: Extensions, *, tls_verified: bool) -> _Wishes:
    mail = said(ENVELOPE_PARAMETERS, envelope, offers, tls_verified=tls_verified)
    rcpt = [said(RCPT_PARAMETERS, one, offers, tls_verified=tls_verified) for one in envelope.recipients]
    refused = {index: one.refused for index, one in enumerate(rcpt) if one.refused}
    if mail.refused:
        return _Wishes(refused=_everybody(envelope, mail.refused, refused), next_host=mail.next_host)
    return _Wishes(
        mail_parameters=mail.parameters,
        rcpt_parameters={index: one.parameters for index, one in enumerate(rcpt) if one.parameters},
        refused=refused,
        dropped=mail.dropped.union(*(one.dropped for one in rcpt)),
    )


def _everybody(envelope: Envelope, reason: str, refused: Mapping[int, str]) -> Mapping[int, str]:
    """Everybody is refused, those for a reason of their own who have one."""
    return {**dict.fromkeys(range(len(envelope.recipients)), reason), **refused}


class _TooLarge(Exception):
    """The server said that it does not take messages of this size."""


def _outgoing(content: Content, offers: Extensions, *, chunking: bool) -> Outgoing:
    if chunking and "BINARYMIME" in offers and content.survey.is_binary:
        outgoing = Outgoing(content, content.survey.raw_bytes, Body.BINARY)
    else:
        outgoing = _in_lines(content, offers)
    limit_bytes = offers.size_limit_bytes
    if limit_bytes and outgoing.size_bytes > limit_bytes:
        raise _TooLarge(f"5.3.4 the message has {outgoing.size_bytes} octets, the server takes {limit_bytes}")
    return outgoing


def _in_lines(content: Content, offers: Extensions) -> Outgoing:
    must = content.survey.is_8bit and "8BITMIME" not in offers
    if must or content.survey.has_long_lines:
        content = _mended(content, must=must)
    body = Body.EIGHT_BIT if content.survey.is_8bit else Body.SEVEN_BIT
    return Outgoing(content, content.survey.size_bytes, body)


def _mended(content: Content, *, must: bool) -> Content:
    """Made 7bit; where only lines are too long and nothing may be changed, as it is."""
    try:
        if content.survey.raw_bytes > MAX_MENDED_OCTETS:
            raise CannotDowngrade("5.6.3", f"more than {MAX_MENDED_OCTETS} octets are not re-encoded")
        return Content.of(seven_bit(content.read()))
    except CannotDowngrade:
        if must:
            raise
        return content
