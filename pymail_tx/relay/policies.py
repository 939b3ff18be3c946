"""
The spool as the place where policies of MTA-STS are kept: what a domain has once
asked for outlives a restart (RFC 8461 §5.1, §10.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pymail_tx.core.mtasts import BadPolicy, CachedPolicy, read_policy
from pymail_tx.net.policy_store import PolicyStoreError
from pymail_tx.spool.interface import SpoolError
from pymail_tx.spool.policies import KeepsPolicies, StoredPolicy

_T = TypeVar("_T")


@frozen
class SpooledPolicies:
    """
    A L{PolicyStore <pymail_tx.net.policy_store.PolicyStore>}.

    @ivar _spool: the spool, which is opened after this is made.
    """

    _spool: Callable[[], KeepsPolicies]

    def load(self, domain: str) -> Deferred[CachedPolicy | None]:
        """See L{PolicyStore <pymail_tx.net.policy_store.PolicyStore>}."""
        return _told(self._spool().load_policy(domain).addCallback(_read))

    def save(self, cached: CachedPolicy) -> Deferred[None]:
        """See L{PolicyStore <pymail_tx.net.policy_store.PolicyStore>}."""
        row = StoredPolicy(
            domain=cached.domain,
            policy_id=cached.id,
            fetched_at=cached.fetched_at,
            used_at=cached.used_at,
            refresh_at=cached.refresh_at,
            policy=cached.policy.text(),
        )
        return _told(self._spool().save_policy(row))

    def forget(self, domain: str) -> Deferred[None]:
        """See L{PolicyStore <pymail_tx.net.policy_store.PolicyStore>}."""
        return _told(self._spool().forget_policy(domain))

    def due(self, now: float) -> Deferred[Sequence[str]]:
        """See L{PolicyStore <pymail_tx.net.policy_store.PolicyStore>}."""
        return _told(self._spool().policies_due(now))


def _read(row: StoredPolicy | None) -> CachedPolicy | None:
    """
    @raise PolicyStoreError: it is no policy any more.
    """
    if row is None:
        return None
    try:
        policy = read_policy(row.policy.encode())
    except BadPolicy as problem:
        raise PolicyStoreError(f"the policy of {row.domain} in the spool: {problem}") from None
    return CachedPolicy(
        domain=row.domain, id=row.policy_id, fetched_at=row.fetched_at, used_at=row.used_at, policy=policy
    )


def _told(waiting: Deferred[_T]) -> Deferred[_T]:
    """Errors of the spool, as a store's."""

    def tell(failure: Failure) -> Failure:
        return Failure(PolicyStoreError(str(failure.value))) if failure.check(SpoolError) else failure

    return waiting.addErrback(tell)
