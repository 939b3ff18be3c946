"""
What a mail transaction will say, decided before it says anything.

L{plan} holds an envelope and a content against what the server offers: which
parameters MAIL carries, whether the content must be made 7bit first, and who
cannot be served at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from pymail_tx.core.content import survey
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.mime import CannotDowngrade, seven_bit


@frozen(kw_only=True)
class Plan:
    """
    @ivar parameters: MAIL's (RFC 5321 §4.1.1.11).
    @ivar content: as it is to be sent, line ends and dots not yet seen to.
    @ivar refused: by the recipient's index, why it is failed unsent; begins
        with an enhanced status code.
    """

    parameters: tuple[str, ...]
    content: bytes
    refused: Mapping[int, str]


def plan(envelope: Envelope, content: bytes, offers: Extensions) -> Plan:
    """
    Decide how a message goes to a server.

    @param offers: the server's EHLO reply; empty after HELO.
    """
    everybody = range(len(envelope.recipients))
    need_utf8 = [index for index in everybody if envelope.recipients[index].mailbox.needs_smtputf8]
    sender_needs_utf8 = envelope.reverse_path is not None and envelope.reverse_path.needs_smtputf8
    refused = {}
    if "SMTPUTF8" not in offers:
        whom = everybody if sender_needs_utf8 else need_utf8
        refused = dict.fromkeys(whom, "5.6.7 the address needs SMTPUTF8, which the server does not offer")
    try:
        content, parameters = _fitted(content, offers)
    except (CannotDowngrade, _TooLarge) as problem:
        return Plan(parameters=(), content=b"", refused=dict.fromkeys(everybody, str(problem)))
    if not refused and (need_utf8 or sender_needs_utf8):
        parameters = (*parameters, "SMTPUTF8")
    return Plan(parameters=parameters, content=content, refused=refused)


class _TooLarge(Exception):
    """The server said that it does not take messages of this size."""


def _fitted(content: bytes, offers: Extensions) -> tuple[bytes, tuple[str, ...]]:
    """The content as the server can take it, and the parameters that say so."""
    parameters: tuple[str, ...] = ()
    found = survey([content])
    if found.has_long_lines or (found.is_8bit and "8BITMIME" not in offers):
        content = _mended(content, must=found.is_8bit and "8BITMIME" not in offers)
        found = survey([content])
    if offers.size_limit_bytes and found.size_bytes > offers.size_limit_bytes:
        raise _TooLarge(f"5.3.4 the message has {found.size_bytes} octets, the server takes {offers.size_limit_bytes}")
    if "SIZE" in offers:
        parameters = (f"SIZE={found.size_bytes}",)
    if found.is_8bit:
        parameters = (*parameters, "BODY=8BITMIME")
    return content, parameters


def _mended(content: bytes, *, must: bool) -> bytes:
    """Made 7bit; where only lines are too long and nothing may be changed, as it is."""
    try:
        return seven_bit(content)
    except CannotDowngrade:
        if must:
            raise
        return content
