"""
Where the relay listens, and how that changes while it runs: connections that
are there stay, whatever becomes of the place that they came in by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory

from pymail_tx.core.errors import BadArgument
from pymail_tx.relay.listening import Endpoint, where


@define
class Listeners:
    """
    The places at which we listen.

    @ivar _factory_for: what serves an endpoint's connections.
    """

    _factory_for: Callable[[Endpoint], ServerFactory]
    _open: dict[str, tuple[Endpoint, IListeningPort]] = field(factory=dict, init=False)

    @property
    def places(self) -> Sequence[str]:
        """In words."""
        return [where(port.getHost()) for _, port in self._open.values()]

    def open(self, endpoints: Iterable[Endpoint]) -> None:
        """
        Listen there, too, where we do not yet.

        @raise BadArgument: one cannot be listened at; those before it are.
        """
        for endpoint in endpoints:
            if endpoint.text not in self._open:
                self._open[endpoint.text] = (endpoint, endpoint.listen(self._factory_for(endpoint)))

    async def move(self, endpoints: Sequence[Endpoint]) -> None:
        """
        Listen there, and nowhere else. Where we listen already nothing is
        touched. What is given up is closed first, since a new place may be the
        same port by another name.

        @raise BadArgument: one cannot be listened at; we listen where we did.
        """
        before = [endpoint for endpoint, _ in self._open.values()]
        await self._keep({endpoint.text for endpoint in endpoints})
        try:
            self.open(endpoints)
        except BadArgument:
            await self._keep({endpoint.text for endpoint in before})
            self.open(before)
            raise

    def close(self) -> Deferred[None]:
        """Listen nowhere any more; fires when that is so."""
        return Deferred.fromCoroutine(self._keep(set()))

    async def _keep(self, texts: set[str]) -> None:
        """Close all others."""
        closing = [self._open.pop(text)[1] for text in list(self._open) if text not in texts]
        await DeferredList([maybeDeferred(port.stopListening) for port in closing], consumeErrors=True)
