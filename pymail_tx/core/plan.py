"""
What a mail transaction will say, decided before it says anything.

L{plan} holds an envelope and a content against what the server offers: which
parameters MAIL carries, whether the content must be made 7bit first, and who
cannot be served at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from pymail_tx.core.content import Content, encoded, encoded_whole
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.mime import CannotDowngrade, seven_bit

MAX_MENDED_OCTETS = 52_428_800
"""Content that is re-encoded is in memory, more than once. 50 MiB, as the relay takes."""


@frozen(kw_only=True)
class Plan:
    """
    @ivar parameters: MAIL's (RFC 5321 §4.1.1.11).
    @ivar content: as it is to be sent, line ends and dots not yet seen to.
    @ivar is_binary: nothing of it may be mended (RFC 3030 §3).
    @ivar refused: by the recipient's index, why it is failed unsent; begins
        with an enhanced status code.
    """

    parameters: tuple[str, ...]
    content: Content
    refused: Mapping[int, str]
    is_binary: bool = False

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
        octets = self.content.read()
        return octets if self.is_binary else encoded_whole(octets, double_dots=double_dots)


def plan(envelope: Envelope, content: Content, offers: Extensions, *, chunking: bool = False) -> Plan:
    """
    Decide how a message goes to a server.

    @param offers: the server's EHLO reply; empty after HELO.
    @param chunking: whether the content goes with BDAT.
    """
    everybody = range(len(envelope.recipients))
    need_utf8 = [index for index in everybody if envelope.recipients[index].mailbox.needs_smtputf8]
    sender_needs_utf8 = envelope.reverse_path is not None and envelope.reverse_path.needs_smtputf8
    refused = {}
    if "SMTPUTF8" not in offers:
        whom = everybody if sender_needs_utf8 else need_utf8
        refused = dict.fromkeys(whom, "5.6.7 the address needs SMTPUTF8, which the server does not offer")
    try:
        is_binary = chunking and "BINARYMIME" in offers and content.survey.is_binary
        content, parameters = _as_it_is(content, offers) if is_binary else _fitted(content, offers)
        _refuse_too_large(content.survey.raw_bytes if is_binary else content.survey.size_bytes, offers)
    except (CannotDowngrade, _TooLarge) as problem:
        return Plan(parameters=(), content=content, refused=dict.fromkeys(everybody, str(problem)))
    if not refused and (need_utf8 or sender_needs_utf8):
        parameters = (*parameters, "SMTPUTF8")
    return Plan(parameters=parameters, content=content, refused=refused, is_binary=is_binary)


class _TooLarge(Exception):
    """The server said that it does not take messages of this size."""


def _as_it_is(content: Content, offers: Extensions) -> tuple[Content, tuple[str, ...]]:
    size = (f"SIZE={content.survey.raw_bytes}",) if "SIZE" in offers else ()
    return content, (*size, "BODY=BINARYMIME")


def _fitted(content: Content, offers: Extensions) -> tuple[Content, tuple[str, ...]]:
    """The content as the server can take it, and the parameters that say so."""
    must = content.survey.is_8bit and "8BITMIME" not in offers
    if must or content.survey.has_long_lines:
        content = _mended(content, must=must)
    size = (f"SIZE={content.survey.size_bytes}",) if "SIZE" in offers else ()
    return content, (*size, "BODY=8BITMIME") if content.survey.is_8bit else size


def _refuse_too_large(octets: int, offers: Extensions) -> None:
    if offers.size_limit_bytes and octets > offers.size_limit_bytes:
        raise _TooLarge(f"5.3.4 the message has {octets} octets, the server takes {offers.size_limit_bytes}")


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
