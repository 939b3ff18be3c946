"""
What a spool keeps of MTA-STS policies (RFC 8461): a row for each domain that has
one, so that a restart asks nobody and forgets nothing (§10.2).

It knows nothing of what a policy says. Errors are as in
L{pymail_tx.spool.interface}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred


@frozen(kw_only=True)
class StoredPolicy:
    """
    @ivar domain: whose policy it is, in A-labels, lower case.
    @ivar policy_id: what the domain's TXT record had for an id.
    @ivar fetched_at: when it was fetched; all times are seconds since the epoch.
    @ivar used_at: when there was mail for the domain.
    @ivar refresh_at: when to fetch it again.
    @ivar policy: its text.
    """

    domain: str
    policy_id: str
    fetched_at: float
    used_at: float
    refresh_at: float
    policy: str


class KeepsPolicies(Protocol):
    """A spool as a store of policies."""

    def load_policy(self, domain: str) -> Deferred[StoredPolicy | None]:
        """The domain's policy, expired or not; C{None} if there is none."""
        ...

    def save_policy(self, policy: StoredPolicy) -> Deferred[None]:
        """Keep a policy, in the place of the one that was its domain's."""
        ...

    def forget_policy(self, domain: str) -> Deferred[None]:
        """Keep the domain's policy no longer; there may be none."""
        ...

    def policies_due(self, now: float) -> Deferred[Sequence[str]]:
        """The domains whose policy is to be fetched again by now, the longest due first."""
        ...
