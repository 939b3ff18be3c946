"""
How much a server takes at a time, by its own words (RFC 9422) and ours.

A message for more recipients than one transaction may have goes in several.
L{transaction_of} says whom the next one is for; whoever has no verdict after it
is asked about again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

from attrs import frozen

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.extensions import Extensions

MAX_RECIPIENTS = 1_000
"""
In one transaction, whatever the server says. RFC 5321 §4.5.3.1.8 has servers
take 100 and refuse more with 452 one by one, which clients must expect. But
RCPTs go out in one write, and a server that counts each 452 as an error may
hang up in the middle of them. Postfix takes 1,000 by default and forgives as
many again, so this is where its 452 would begin anyway.
"""


@frozen(kw_only=True)
class ServerLimits:
    """
    @ivar rcpt_max: recipients in one transaction.
    @ivar mail_max: transactions in one session, refused ones included; C{None}
        if unsaid.
    @ivar rcpt_domain_max: different domains of recipients in one session;
        C{None} if unsaid.
    """

    rcpt_max: int = MAX_RECIPIENTS
    mail_max: int | None = None
    rcpt_domain_max: int | None = None

    @classmethod
    def of(cls, offers: Extensions) -> ServerLimits:
        """What the server's EHLO reply announces (RFC 9422 §4); its latest holds."""
        if "LIMITS" not in offers:
            return _UNSAID
        return cls(
            rcpt_max=min(offers.limit("RCPTMAX") or MAX_RECIPIENTS, MAX_RECIPIENTS),
            mail_max=offers.limit("MAILMAX"),
            rcpt_domain_max=offers.limit("RCPTDOMAINMAX"),
        )


_UNSAID = ServerLimits()


def transaction_of(
    open_places: Sequence[int], envelope: Envelope, limits: ServerLimits, *, domains: Set[str] = frozenset()
) -> list[int]:
    """
    The recipients of the next transaction.

    @param open_places: the index of each recipient without a verdict.
    @param domains: those that RCPTs of this session named before, see
        L{domains_of}.
    @return: some of these indexes, in their order; none if only another session
        may name a further domain (RFC 9422 §4.3).
    """
    if limits.rcpt_domain_max is None:
        return list(open_places[: limits.rcpt_max])
    taken: list[int] = []
    named = set(domains)
    for place in open_places:
        domain = _domain(envelope, place)
        if len(taken) < limits.rcpt_max and (domain in named or len(named) < limits.rcpt_domain_max):
            named.add(domain)
            taken.append(place)
    return taken


def domains_of(places: Collection[int], envelope: Envelope) -> frozenset[str]:
    """The domains of these recipients, as a server compares them."""
    return frozenset(_domain(envelope, place) for place in places)


def _domain(envelope: Envelope, place: int) -> str:
    return envelope.recipients[place].mailbox.domain.lower()
