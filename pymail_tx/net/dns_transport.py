"""
One question to one name server: over UDP, and over TCP when the reply does not
fit (RFC 7766 §5).

Every question has a socket of its own at a port of chance and an id of chance,
and takes a reply from that server's address and port only, for that question
(RFC 5452 §9): whoever cannot see the question has to guess 32 bits. What else
comes is not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError, ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IListeningPort, IReactorTime, IReactorUDP, ITCPTransport, IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Factory, connectionDone
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure

from pymail_tx.core.address import before_port
from pymail_tx.core.dns_message import Question, is_truncated

PORTS = range(1_024, 65_536)
"""RFC 6056 §3.2: all that need no privilege."""

PORT_TRIES = 10
"""Before a question fails: were half of all ports taken, one in 1,000 would."""


MAX_DATAGRAM_OCTETS = 8_192
"""More than we ask for; what is longer is cut off and so unreadable."""


class NoReply(Exception):
    """A server did not answer; the text says why."""


@frozen
class Server:
    """
    @ivar host: an address, IPv4 or IPv6, in its canonical form.
    @ivar is_trusted: whether it is believed that it validates.
    """

    host: str
    port: int
    is_trusted: bool

    @property
    def is_ipv6(self) -> bool:
        """Whether its address is one."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"{before_port(self.host)}:{self.port}"


@define(eq=False)
class Transports:
    """
    Asks, and closes what it opened.

    @ivar _closing: what is being closed.
    """

    _reactor: IReactorTime
    _randomness: random.Random
    _closing: set[Deferred[object]] = field(factory=set)

    async def ask(self, server: Server, question: Question, *, timeout_s: float, checked: bool = True) -> bytes:
        """
        @param timeout_s: for UDP, and again for TCP if it comes to that.
        @param checked: see L{Question.query}.
        @return: a whole reply that belongs to the question.
        @raise NoReply: there is none.
        """
        number = self._randomness.getrandbits(16)
        query = question.query(number, checked=checked)

        def belongs(reply: bytes) -> bool:
            return question.is_answered_by(reply, number)

        try:
            reply = await self._over_udp(server, query, belongs).addTimeout(timeout_s, self._reactor)
            if not is_truncated(reply):
                return reply
            over_tcp = Deferred.fromCoroutine(self._over_tcp(server, query, belongs, timeout_s))
            reply = await over_tcp.addTimeout(timeout_s, self._reactor)
        except DeferredTimeout:
            raise NoReply(f"no answer within {timeout_s:g} s") from None
        except (ConnectError, ConnectionClosed, OSError, CannotListenError) as problem:
            raise NoReply(str(problem) or type(problem).__name__) from None
        if is_truncated(reply):
            raise NoReply("truncated over TCP as well")
        return reply

    def closed(self) -> Deferred[None]:
        """Fires when nothing that was opened is open; the questions have ended before."""
        return DeferredList(list(self._closing)).addCallback(lambda _: None)

    def _over_udp(self, server: Server, query: bytes, belongs: Callable[[bytes], bool]) -> Deferred[bytes]:
        asking = _Asking(server, belongs)
        port = self._listen(asking)
        asking.reply.addBoth(self._stop, port)
        transport = asking.transport
        assert transport is not None
        try:
            transport.connect(server.host, server.port)
            transport.write(query, None)
        except OSError as problem:  # no way to that network
            asking.fail(NoReply(problem.strerror or str(problem)))
        return asking.reply

    def _listen(self, asking: _Asking) -> IListeningPort:
        listen = IReactorUDP(self._reactor).listenUDP
        interface = "::" if asking.server.is_ipv6 else ""
        for _ in range(PORT_TRIES - 1):
            try:
                return listen(self._randomness.choice(PORTS), asking, interface, MAX_DATAGRAM_OCTETS)
            except CannotListenError:
                continue
        return listen(self._randomness.choice(PORTS), asking, interface, MAX_DATAGRAM_OCTETS)

    def _stop(self, result: bytes | Failure, port: IListeningPort) -> bytes | Failure:
        self._close(maybeDeferred(port.stopListening))
        return result

    async def _over_tcp(
        self, server: Server, query: bytes, belongs: Callable[[bytes], bool], timeout_s: float
    ) -> bytes:
        kind = TCP6ClientEndpoint if server.is_ipv6 else TCP4ClientEndpoint
        endpoint = kind(self._reactor, server.host, server.port, timeout_s)
        try:
            stream = await endpoint.connect(Factory.forProtocol(_Stream))
        except ConnectingCancelledError:
            raise CancelledError from None
        assert isinstance(stream, _Stream)
        self._close(stream.lost)
        try:
            stream.transport.write(len(query).to_bytes(2, "big") + query)
            reply = await stream.reply
        finally:
            stream.transport.abortConnection()
        if not belongs(reply):
            raise NoReply("the reply over TCP is not to the question")
        return reply

    def _close(self, closing: Deferred[object]) -> None:
        self._closing.add(closing)
        closing.addBoth(lambda _: self._closing.discard(closing))


class _Asking(DatagramProtocol):
    """
    A question under way over UDP.

    @ivar reply: fires with the first datagram that is one.
    """

    noisy = False
    transport: IUDPTransport | None

    def __init__(self, server: Server, belongs: Callable[[bytes], bool]) -> None:
        self.server = server
        self.reply: Deferred[bytes] = Deferred()
        self._belongs = belongs

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """See L{DatagramProtocol <twisted.internet.protocol.DatagramProtocol>}."""
        is_from_server = addr[:2] == (self.server.host, self.server.port)
        if is_from_server and self._belongs(datagram) and not self.reply.called:
            self.reply.callback(datagram)

    def connectionRefused(self) -> None:
        """Nobody listens there, says the kernel."""
        self.fail(NoReply("nobody listens there"))

    def stopProtocol(self) -> None:
        """See L{DatagramProtocol <twisted.internet.protocol.DatagramProtocol>}."""
        self.fail(NoReply("the socket was closed"))

    def fail(self, problem: NoReply) -> None:
        """There will be no reply."""
        if not self.reply.called:
            self.reply.errback(problem)


class _Stream(Int16StringReceiver):
    """
    A question under way over TCP (RFC 1035 §4.2.2).

    @ivar reply: fires with the first message; fails with the connection.
    @ivar lost: fires when the connection is gone.
    """

    transport: ITCPTransport

    def __init__(self) -> None:
        self.reply: Deferred[bytes] = Deferred()
        self.lost: Deferred[object] = Deferred()

    def stringReceived(self, string: bytes) -> None:
        """See L{Int16StringReceiver <twisted.protocols.basic.Int16StringReceiver>}."""
        if not self.reply.called:
            self.reply.callback(string)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Int16StringReceiver <twisted.protocols.basic.Int16StringReceiver>}."""
        if not self.reply.called:
            self.reply.errback(reason)
        self.lost.callback(None)
