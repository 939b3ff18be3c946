"""
A network of a given delay on loopback: a TCP proxy that holds every octet back for so long, in each direction.

    python benchmarks/delay_proxy.py --to PORT --delay-ms 50

It prints the port it listens on, and serves until it is ended. Octets go on in order, each as long after it came as
every other, in the blocks they came in. The opening of a connection carries no octets and is not held back: TCP's
handshake would cost a real network another round trip and a half before the greeting sets out.
"""

from __future__ import annotations

import argparse
import typing
from collections import deque

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IReactorTime
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

MAX_HELD_OCTETS = 16 * 1024 * 1024
"""As much as one direction may hold; then its sender is stopped. 2.5 Gbit/s at 50 ms."""


class End(typing.Protocol):
    """What a direction needs of the transports at its ends."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


class Connection(End, typing.Protocol):
    """What the proxy needs of a transport; Twisted's TCP connections have it."""

    def abortConnection(self) -> None: ...
    def setTcpNoDelay(self, enabled: bool) -> None: ...


class DelayLine:
    """
    One direction of one connection.
    """

    def __init__(self, clock: IReactorTime, delay_s: float, source: End, sink: End) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._source = source
        self._sink = sink
        self._held: deque[tuple[float, bytes | None]] = deque()
        self._held_octets = 0

    def put(self, block: bytes | None) -> None:
        """Take a block; C{None} is the end of the connection, and comes as late as everything else."""
        self._held.append((self._clock.seconds() + self._delay_s, block))
        self._held_octets += len(block or b"")
        if self._held_octets > MAX_HELD_OCTETS:
            self._source.pauseProducing()
        if len(self._held) == 1:
            self._clock.callLater(self._delay_s, self._release)

    def _release(self) -> None:
        """One timer at a time: two that fall due together run in no particular order."""
        while self._held and self._held[0][0] <= self._clock.seconds():
            _, block = self._held.popleft()
            if block is None:
                self._sink.loseConnection()
                continue
            self._held_octets -= len(block)
            self._sink.write(block)
        if self._held_octets <= MAX_HELD_OCTETS:
            self._source.resumeProducing()
        if self._held:
            self._clock.callLater(max(0, self._held[0][0] - self._clock.seconds()), self._release)


class _Side(Protocol):
    """One end of a proxied connection; what it receives goes to C{line}, as soon as there is one."""

    transport: Connection  # type: ignore[assignment]  # narrower than ITransport, and there once connected
    line: DelayLine | None = None

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        assert self.line
        self.line.put(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.line:
            self.line.put(None)


class _Client(_Side):
    """Reads nothing before the server is there."""

    def __init__(self, reactor: PosixReactorBase, to_port: int, delay_s: float) -> None:
        self._reactor = reactor
        self._to_port = to_port
        self._delay_s = delay_s

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.pauseProducing()
        connecting = connectProtocol(TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._to_port), _Side())
        connecting.addCallbacks(self._join, lambda _: self.transport.abortConnection())

    def _join(self, server: _Side) -> None:
        there, back = (self.transport, server.transport), (server.transport, self.transport)
        self.line = DelayLine(self._reactor, self._delay_s, *there)
        server.line = DelayLine(self._reactor, self._delay_s, *back)
        self.transport.resumeProducing()


async def _serve(reactor: PosixReactorBase, options: argparse.Namespace) -> None:
    factory = ServerFactory.forProtocol(lambda: _Client(reactor, options.to, options.delay_ms / 1_000))
    address = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost()
    assert isinstance(address, IPv4Address)
    print(address.port, flush=True)
    await Deferred()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=int, required=True, metavar="PORT", help="of 127.0.0.1")
    parser.add_argument("--delay-ms", type=float, default=50, help="each way (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_serve(reactor, _options())))
