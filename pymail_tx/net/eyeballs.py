"""
Connects to a host: to the first of its addresses that answers (Happy Eyeballs,
RFC 8305).

The addresses are tried one after the other, the families by turns. The next one
is tried when the one before has failed or has not answered for a quarter of a
second. Whichever connects first is kept, and the other attempts are given up:
a family that leads nowhere costs that quarter of a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from attrs import Factory, define
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

ATTEMPT_DELAY_S = 0.25
"""RFC 8305 §8."""

ATTEMPT_TIMEOUT_S = 30
"""What each address has at most."""

Address = IPv4Address | IPv6Address


async def connect(
    reactor: IReactorTime, host: str, port: int, factory: IProtocolFactory, *, source: str | None
) -> IProtocol:
    """
    @param host: a name in ASCII, or an address.
    @param source: our address to connect from.
    @return: the protocol that C{factory} made. How long that takes is the
        caller's to limit.
    @raise OSError: the name has no address.
    @raise ConnectError: no address answered; that of the last attempt.
    """
    return await connect_to(reactor, await _addresses(reactor, host, port), factory, source=source)


async def connect_to(
    reactor: IReactorTime, addresses: Iterable[Address], factory: IProtocolFactory, *, source: str | None
) -> IProtocol:
    """
    The same with addresses that are known, to be tried in their order.

    @param addresses: at least one.
    @raise ConnectError: as in L{connect}.
    """
    bind_address = None if source is None else (source, 0)
    endpoints: list[IStreamClientEndpoint] = []
    for address in addresses:
        kind = TCP6ClientEndpoint if isinstance(address, IPv6Address) else TCP4ClientEndpoint
        endpoints.append(kind(reactor, address.host, address.port, ATTEMPT_TIMEOUT_S, bind_address))
    return await _Race(reactor, factory, deque(endpoints)).run()


def is_address(host: str) -> bool:
    """Whether that is an address, and no name."""
    return isIPAddress(host) or isIPv6Address(host)


def address_of(address: str, port: int) -> Address:
    """As Twisted has it."""
    return (IPv6Address if ":" in address else IPv4Address)("TCP", address, port)


def by_turns(addresses: Sequence[Address]) -> list[Address]:
    """The same with a change of family as often as possible, beginning with the first's (RFC 8305 §4)."""
    first = [address for address in addresses if type(address) is type(addresses[0])]
    other = [address for address in addresses if type(address) is not type(addresses[0])]
    return [address for address in chain.from_iterable(zip_longest(first, other)) if address]


async def _addresses(reactor: IReactorTime, host: str, port: int) -> Iterable[Address]:
    if is_address(host):
        return [address_of(host, port)]
    look_up = _LookUp()
    IReactorPluggableNameResolver(reactor).nameResolver.resolveHostName(look_up, host, port)
    addresses = await look_up.done
    if not addresses:
        raise DNSLookupError(f"{host} has no address")
    return by_turns(addresses)


@implementer(IResolutionReceiver)
@define(eq=False)
class _LookUp:
    """
    @ivar done: fires with the addresses, in the order in which they came.
    """

    done: Deferred[list[Address]] = Factory(Deferred)
    _addresses: list[Address] = Factory(list)

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See L{IResolutionReceiver}."""

    def addressResolved(self, address: IAddress) -> None:
        """See L{IResolutionReceiver}."""
        if isinstance(address, IPv4Address | IPv6Address):
            self._addresses.append(address)

    def resolutionComplete(self) -> None:
        """See L{IResolutionReceiver}."""
        self.done.callback(self._addresses)


@define(eq=False)
class _Race:
    """
    Attempts side by side.

    @ivar _winner: fires with the first that connects, fails with the last that
        does not, and when cancelled leaves nothing behind.
    """

    _reactor: IReactorTime
    _factory: IProtocolFactory
    _untried: deque[IStreamClientEndpoint]
    _winner: Deferred[IProtocol] = Factory(lambda race: Deferred(lambda _: race._stop()), takes_self=True)
    _under_way: list[Deferred[IProtocol]] = Factory(list)
    _next: IDelayedCall | None = None
    _is_over: bool = False

    def run(self) -> Deferred[IProtocol]:
        self._try()
        return self._winner

    def _try(self) -> None:
        attempt = self._untried.popleft().connect(self._factory)
        self._under_way.append(attempt)
        self._next = self._reactor.callLater(ATTEMPT_DELAY_S, self._try) if self._untried else None
        attempt.addCallbacks(self._connected, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _connected(self, protocol: IProtocol, attempt: Deferred[IProtocol]) -> None:
        self._under_way.remove(attempt)
        self._stop()
        self._winner.callback(protocol)

    def _failed(self, failure: Failure, attempt: Deferred[IProtocol]) -> None:
        self._under_way.remove(attempt)
        if self._is_over:
            return
        if self._next:
            self._wait_no_longer()
            self._try()
        elif not self._under_way:
            self._winner.errback(failure)

    def _stop(self) -> None:
        self._is_over = True
        self._wait_no_longer()
        for attempt in list(self._under_way):
            attempt.cancel()

    def _wait_no_longer(self) -> None:
        if self._next and self._next.active():
            self._next.cancel()
        self._next = None
