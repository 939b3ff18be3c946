"""
Whom a relay asks where mail goes: one resolver and one keeper of policies for
all its routes, made when the first route needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pymail_tx.core.routing import Ourselves
from pymail_tx.net.dns import Resolver
from pymail_tx.net.internet import Asked
from pymail_tx.net.mtasts import PolicyKeeper
from pymail_tx.net.policy_store import PolicyStore


@define(kw_only=True)
class LookUps:
    """
    @ivar wall_clock: seconds since the epoch.
    @ivar servers: address and port of the name servers to ask; without them,
        those of C{/etc/resolv.conf}.
    @ivar trust_ad: see L{Resolver}.
    @ivar us: by what others know us.
    @ivar store: where policies of MTA-STS are kept.
    """

    reactor: IReactorTime = field(eq=False)
    wall_clock: Callable[[], float] = field(eq=False)
    servers: Sequence[tuple[str, int]] = ()
    trust_ad: bool | None = None
    us: Ourselves
    store: PolicyStore = field(eq=False)
    _resolver: Resolver | None = field(default=None, eq=False)
    _policies: PolicyKeeper | None = field(default=None, eq=False)

    def __call__(self) -> Asked:
        """
        @raise BadArgument: a server that cannot be asked.
        """
        if self._resolver is None or self._policies is None:
            self._resolver = Resolver(self.reactor, self.servers or None, trust_ad=self.trust_ad)
            self._policies = PolicyKeeper(self.reactor, self._resolver, wall_clock=self.wall_clock, store=self.store)
        return Asked(self._resolver, self._policies, self.us)

    def close(self) -> Deferred[None]:
        """To be called when nothing asks any more; fires when nothing is left."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._policies and self._resolver:
            await self._policies.close()
            await self._resolver.close()
