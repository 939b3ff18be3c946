"""
What the internet's way needs of those whom it asks: seams, so that it knows
neither the resolver's sockets nor where policies are kept.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from pymail_tx.core.dns import Answer, RecordType
from pymail_tx.core.tlspolicy import STSFound


class Resolves(Protocol):
    """Who asks DNS, as L{Resolver <pymail_tx.net.dns.Resolver>} does."""

    def resolve(self, name: str, kind: RecordType) -> Deferred[Answer]:
        """
        Ask one question.

        @param name: in A-labels, lower case, without a trailing dot.
        @return: fires with the answer and never fails, but when cancelled.
        """
        ...


class Knows(Resolves, Protocol):
    """A resolver that remembers."""

    def cached(self, name: str, kind: RecordType) -> Answer | None:
        """
        What L{resolve} would answer at once: the same object for as long as it
        holds. C{None} if that has to be asked.
        """
        ...


class FindsPolicies(Protocol):
    """Who knows the policies of MTA-STS (RFC 8461)."""

    def find(self, domain: str) -> Deferred[STSFound]:
        """
        The policy in force for mail to a domain, from a cache or fetched.

        @param domain: the recipients', in A-labels, lower case.
        @return: fires with it, or with the problem, and never fails, but when
            cancelled.
        """
        ...
