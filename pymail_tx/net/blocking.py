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

READ_OCTETS = 65_536
"""What is read from the socket at a time."""

SEND_OCTETS = 262_144
"""What is offered to the socket at a time; its buffer seldom takes more."""


@implementer(IDelayedCall)
@define(eq=False)
class _Call:
    _clock: BlockingClock
    _time_s: float
    _call: Callable[[], object] | None

    def getTime(self) -> float:
        return self._time_s

    def cancel(self) -> None:
        self._call = None

    def delay(self, secondsLater: float) -> None:
        self._time_s += secondsLater

    def reset(self, secondsFromNow: float) -> None:
        self._time_s = self._clock.seconds() + secondsFromNow

    def active(self) -> bool:
        return self._call is not None

    def run(self) -> None:
        call, self._call = self._call, None
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

    def until_next_s(self) -> float | None:
        """Seconds to the next call, 0 if it is overdue, C{None} if there is none."""
        times_s = [call.getTime() for call in self.getDelayedCalls()]
        return max(0.0, min(times_s) - self.seconds()) if times_s else None

    def run_due(self) -> None:
        """Make the calls whose time has come."""
        now_s = self.seconds()
        for call in self.getDelayedCalls():
            if call.getTime() <= now_s:
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

    @ivar clock: to be the client's.
    """

    def __init__(self, connected: socket.socket, clock: BlockingClock) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clock = clock
        self._socket = connected
        self._peer = _address(connected.getpeername())
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
        self._send()
        while not results:
            self._turn()
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def drain(self, octets: int) -> None:
        """Go on until at most C{octets} are unsent, or the connection is lost."""
        self._send()
        while len(self._wire.unsent) > octets and self._client:
            self._turn()

    def close(self) -> None:
        """Send what can be sent at once, and close."""
        self._send()
        self._lose(ConnectionDone())
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
        return self._peer

    def getHost(self) -> IAddress:
        """See L{ITransport}."""
        return _address(self._socket.getsockname())

    @property
    def disconnecting(self) -> bool:
        """LineReceiver looks here: lines that follow the end are not for anybody."""
        return self._wire.closing or self._lost is not None

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See L{ITransport}."""
        self.write(b"".join(data))

    # The loop

    def _turn(self) -> None:
        """Wait until the socket or the clock has something to do, and do it."""
        if self._lost:
            self._report_loss()
            return
        if _wait(self._socket, to_write=bool(self._wire.unsent), timeout_s=self.clock.until_next_s()):
            self._receive()
        self._send()
        self.clock.run_due()

    def _send(self) -> None:
        unsent = self._wire.unsent
        try:
            while unsent and not self._lost:
                with memoryview(unsent) as view:
                    sent = self._socket.send(view[:SEND_OCTETS])
                del unsent[:sent]
        except BlockingIOError:
            return
        except OSError as problem:
            self._lose(ConnectionLost(problem))
        if self._wire.closing and not unsent:
            self._lose(ConnectionDone())

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_OCTETS)
        except BlockingIOError:
            return
        except OSError as problem:
            self._lose(ConnectionLost(problem))
            return
        if not data:
            self._lose(ConnectionDone())
        elif self._client:
            (self._tls or self._client).dataReceived(data)

    def _lose(self, reason: Exception) -> None:
        if self._lost is None:
            self._lost = reason
            self._wire.unsent.clear()
            self._socket.close()

    def _report_loss(self) -> None:
        client, self._client = self._client, None
        if client is None:
            raise RuntimeError("the session is over, and what was waited for has not come")
        (self._tls or client).connectionLost(Failure(self._lost))


def _address(name: tuple[str, int]) -> IAddress:
    host, port = name[:2]
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


def _wait(waited: socket.socket, *, to_write: bool, timeout_s: float | None) -> bool:
    """
    Wait until the socket can be read, or written where there is something to.

    @return: whether it can be read, or is broken.
    """
    poll = select.poll()  # unlike select, it takes descriptors beyond 1,023
    poll.register(waited, select.POLLIN | (select.POLLOUT if to_write else 0))
    events = poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1_000))
    return any(event & ~select.POLLOUT for _, event in events)
