"""
A socket for an L{SMTPClient <pymail_tx.net.protocol.SMTPClient>} without a
reactor.

L{BlockingConnection} is event loop and clock of one session, all in the calling
thread: L{BlockingConnection.run} moves octets and keeps deadlines until a
Deferred has fired, then returns its result. Between calls nothing happens; no
thread and no reactor is involved. So it works in any thread, after a fork, and
in a reactor's own thread.

TLS is Twisted's C{TLSMemoryBIOProtocol} between protocol and socket, the
unbuffered one: its buffering variant flushes on the global reactor's clock.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITransport
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from OpenSSL import SSL
    from twisted.protocols.tls import TLSMemoryBIOProtocol

    from pymail_tx.net.protocol import SMTPClient
    from pymail_tx.net.tls import ClientTLS

_T = TypeVar("_T")

READ_OCTETS = 8_192
"""What is read from the socket at a time."""

_READ_AND_WRITE = select.POLLIN | select.POLLOUT


@implementer(IDelayedCall)
@define(eq=False)
class _Call:
    """
    @ivar time_s: when, by the clock.
    @ivar call: what; C{None} once it is called or cancelled.
    """

    clock: BlockingClock
    time_s: float
    call: Callable[[], object] | None

    def getTime(self) -> float:
        return self.time_s

    def cancel(self) -> None:
        self.call = None

    def delay(self, secondsLater: float) -> None:
        self.time_s += secondsLater

    def reset(self, secondsFromNow: float) -> None:
        self.time_s = self.clock.seconds() + secondsFromNow

    def active(self) -> bool:
        return self.call is not None

    def run(self) -> None:
        call, self.call = self.call, None
        if call:
            call()


@implementer(IReactorTime)
class BlockingClock:
    """
    The clock of one session, which has one timer at a time or two: a list will
    do. It runs when it is told to.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def seconds(self) -> float:
        """See L{IReactorTime}; monotonic."""
        return time.monotonic()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> _Call:  # noqa: A002
        """See L{IReactorTime}."""
        call = _Call(self, self.seconds() + delay, lambda: callable(*args, **kwargs))
        self._calls = [*self.getDelayedCalls(), call]
        return call

    def getDelayedCalls(self) -> Sequence[_Call]:
        """See L{IReactorTime}."""
        return [call for call in self._calls if call.active()]

    def until_next_ms(self) -> int | None:
        """Milliseconds to the next call, 0 if it is due, C{None} if there is none."""
        times_s = [call.time_s for call in self._calls if call.call]
        return max(0, math.ceil((min(times_s) - time.monotonic()) * 1_000)) if times_s else None

    def run_due(self) -> None:
        """Make the calls whose time has come."""
        now_s = self.seconds()
        for call in self.getDelayedCalls():
            if call.time_s <= now_s:
                call.run()


@implementer(ITransport)
class _Wire:
    """Octets on their way to the socket: the transport below TLS, or the only one."""

    def __init__(self, connection: BlockingConnection) -> None:
        self.unsent = bytearray()
        self.closing = False
        self._connection = connection

    def write(self, data: bytes) -> None:
        self.unsent += data

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.unsent += b"".join(data)

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self._connection.abortConnection()

    def getPeer(self) -> IAddress:
        return self._connection.getPeer()

    def getHost(self) -> IAddress:
        return self._connection.getHost()


@implementer(ITransport)
class BlockingConnection:
    """
    Transport of an L{SMTPClient} around a connected socket.

    @ivar socket: the connected socket, not to be read or written by others.
    @ivar clock: to be the client's.
    """

    def __init__(self, connected: socket.socket, clock: BlockingClock) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clock = clock
        self.socket = connected
        self._poll = select.poll()  # unlike select, it takes descriptors beyond 1,023
        self._watched = 0
        self._wire = _Wire(self)
        self._tls: TLSMemoryBIOProtocol | None = None
        self._client: SMTPClient | None = None
        self._lost: Exception | None = None

    def attach(self, client: SMTPClient) -> None:
        """Begin the session."""
        self._client = client
        client.makeConnection(self)  # type: ignore[no-untyped-call]

    def run(self, deferred: Deferred[_T]) -> _T:
        """
        Go on with the session until C{deferred}, which depends on nothing else,
        has fired.

        @return: its result.
        @raise Exception: its failure's.
        """
        results: list[_T | Failure] = []
        deferred.addBoth(results.append)
        while not results:
            self._send()
            self._wait()
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def drain(self, octets: int) -> None:
        """Go on until at most C{octets} are unsent, or the connection is lost."""
        self._send()
        while len(self._wire.unsent) > octets and self._client:
            self._wait()
            self._send()

    def listen(self) -> None:
        """Take in what has come already, without waiting."""
        if not self._lost and self._readable(timeout_ms=0):
            self._receive()
        if self._lost and self._client:
            self._report_loss()

    def close(self) -> None:
        """Send what can be sent at once, and close."""
        self._send()
        self._lose(ConnectionDone())
        if self._client:
            self._report_loss()

    # What the protocol asks of a transport

    def write(self, data: bytes) -> None:
        """See L{ITransport}."""
        (self._tls or self._wire).write(data)

    def loseConnection(self) -> None:
        """See L{ITransport}."""
        (self._tls or self._wire).loseConnection()

    def abortConnection(self) -> None:
        """Close at once. The protocol is told at the next turn, never from inside this call."""
        self._lose(ConnectionAborted())

    def startTLS(self, contextFactory: ClientTLS) -> None:
        """See L{twisted.internet.interfaces.ITLSTransport}."""
        from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol  # OpenSSL takes 60 ms to import

        factory = TLSMemoryBIOFactory(contextFactory, True, Factory(), self.clock)
        self._tls = TLSMemoryBIOProtocol(factory, self._client, _connectWrapped=False)
        self._tls.makeConnection(self._wire)

    def getHandle(self) -> SSL.Connection:
        """See L{twisted.internet.interfaces.ISSLTransport}."""
        assert self._tls
        connection: SSL.Connection = self._tls.getHandle()
        return connection

    def getPeer(self) -> IAddress:
        """See L{ITransport}."""
        return _address(self.socket.getpeername())

    def getHost(self) -> IAddress:
        """See L{ITransport}."""
        return _address(self.socket.getsockname())

    @property
    def disconnecting(self) -> bool:
        """LineReceiver looks here: lines that follow the end are not for anybody."""
        return self._wire.closing or self._lost is not None

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See L{ITransport}."""
        self.write(b"".join(data))

    # The loop

    def _wait(self) -> None:
        """Wait until the socket or the clock has something to do. What the clock has, and what came, is done."""
        timeout_ms = self.clock.until_next_ms()
        if timeout_ms == 0:
            self.clock.run_due()
        if self._lost:
            self._report_loss()
        elif self._readable(timeout_ms):
            self._receive()

    def _readable(self, timeout_ms: int | None) -> bool:
        """Wait until the socket can be read or is broken, or else can be written, where there is something to."""
        watched = _READ_AND_WRITE if self._wire.unsent else select.POLLIN
        if watched != self._watched:
            self._poll.register(self.socket, watched)
            self._watched = watched
        events = self._poll.poll(timeout_ms)
        return bool(events) and events[0][1] != select.POLLOUT

    def _send(self) -> None:
        unsent = self._wire.unsent
        try:
            while unsent and not self._lost:
                del unsent[: self.socket.send(unsent)]
        except BlockingIOError:
            return
        except OSError as problem:
            while self._receive():
                pass  # what the server said before it went counts
            self._lose(ConnectionLost(problem))
        if self._wire.closing and not unsent:
            self._lose(ConnectionDone())

    def _receive(self) -> bool:
        """
        @return: whether there was something.
        """
        try:
            data = self.socket.recv(READ_OCTETS)
        except BlockingIOError:
            return False
        except OSError as problem:
            self._lose(ConnectionLost(problem))
            return False
        if not data:
            self._lose(ConnectionDone())
        elif self._client:
            (self._tls or self._client).dataReceived(data)
        return bool(data)

    def _lose(self, reason: Exception) -> None:
        if self._lost is None:
            self._lost = reason
            self._wire.unsent.clear()
            self.socket.close()

    def _report_loss(self) -> None:
        client, self._client = self._client, None
        if client is None:
            raise RuntimeError("the session is over, and what was waited for has not come")
        (self._tls or client).connectionLost(Failure(self._lost))


def _address(name: tuple[str, int]) -> IAddress:
    host, port = name[:2]
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)
