"""
What became of a message, one L{Outcome} for each recipient.
"""

from __future__ import annotations

import enum

from attrs import frozen

from pymail_tx.core.errors import NotAllDelivered
from pymail_tx.core.reply import Reply, printable

MAX_NAMED = 10
"""Recipients in the text of one exception, which people read; all are in its report."""


class Status(enum.Enum):
    """What to do with a recipient next: nothing, another try, a bounce."""

    __hash__ = object.__hash__  # each member is one object, and Enum's own, in Python, shows in profiles

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


@frozen
class TLSFacts:
    """
    The TLS a session ran under.

    @ivar version: such as C{"TLSv1.3"}.
    @ivar cipher: OpenSSL's name of the cipher suite.
    @ivar verified: whether chain and name of the certificate verified, or a
        TLSA record vouches for it.
    @ivar problem: why not; C{""} if verified.
    @ivar peer_names: the names and addresses that the certificate says it is
        for, none if it cannot be read. Unless C{verified}, its word only.
    @ivar policy: who asked for TLS, a value of L{PolicySource
        <pymail_tx.core.tlspolicy.PolicySource>}; C{""}, and so for the next two,
        where no policy was weighed.
    @ivar level: what was asked for, a value of L{TLSLevel
        <pymail_tx.core.tlspolicy.TLSLevel>}.
    @ivar policy_reason: why, in words.
    @ivar proof: what verified the certificate: C{"PKIX"}, or C{"TLSA"} and the
        record; C{""} if nothing did.
    """

    version: str
    cipher: str
    verified: bool
    problem: str
    peer_names: tuple[str, ...] = ()
    policy: str = ""
    level: str = ""
    policy_reason: str = ""
    proof: str = ""


@frozen(kw_only=True)
class Outcome:
    """
    What became of one recipient.

    @ivar recipient: the address as given.
    @ivar status: delivered, deferred or failed.
    @ivar reply: the server's reply that decided, if one did.
    @ivar reason: for people; begins with an enhanced status code (RFC 3463),
        the server's or ours.
    @ivar uncertain: deferred, but it may have been delivered all the same: the
        connection ended after the end of data was sent and before its reply.
    @ivar host: the server's name as the caller gave it, C{None} before any.
    @ivar port: its port.
    @ivar tls: the session's TLS, C{None} for plain text.
    """

    recipient: str
    status: Status
    reason: str
    reply: Reply | None = None
    uncertain: bool = False
    host: str | None = None
    port: int | None = None
    tls: TLSFacts | None = None


@frozen
class Report:
    """
    What became of a message.

    @ivar outcomes: one for each recipient, in the envelope's order.
    """

    outcomes: tuple[Outcome, ...]

    def raise_for_failures(self) -> None:
        """
        Do nothing if everybody has the message.

        @raise NotAllDelivered: somebody is deferred or failed; it names them,
            the first L{MAX_NAMED} of them, with their reasons.
        """
        missing = [outcome for outcome in self.outcomes if outcome.status is not Status.DELIVERED]
        if not missing:
            return
        named = "; ".join(f"{each.recipient} {each.status.value}: {each.reason}" for each in missing[:MAX_NAMED])
        more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise NotAllDelivered(f"{len(missing)} of {len(self.outcomes)} not delivered: {named}{more}", self)


@frozen(kw_only=True)
class Peer:
    """Whom a session is with, for its outcomes; see L{Outcome}."""

    host: str | None = None
    port: int | None = None
    tls: TLSFacts | None = None


_STATUS = {2: Status.DELIVERED, 4: Status.DEFERRED, 5: Status.FAILED}
_ENHANCED = {2: "2.0.0", 4: "4.0.0", 5: "5.0.0"}


def by_reply(recipient: str, reply: Reply, peer: Peer) -> Outcome:
    """The outcome that a final reply (2yz, 4yz, 5yz) makes."""
    words = reply.text
    if reply.enhanced is None:
        words = f"{_ENHANCED[reply.severity]} {words}".rstrip()
    return Outcome(
        recipient=recipient, status=_STATUS[reply.severity], reason=f"{words} (reply {reply.code})", reply=reply,
        host=peer.host, port=peer.port, tls=peer.tls,
    )  # fmt: skip


def by_reason(recipient: str, status: Status, reason: str, peer: Peer, *, uncertain: bool = False) -> Outcome:
    """An outcome of our own making; C{reason} begins with an enhanced status code."""
    return Outcome(
        recipient=recipient, status=status, reason=printable(reason), uncertain=uncertain,
        host=peer.host, port=peer.port, tls=peer.tls,
    )  # fmt: skip
