"""
A network in memory: an agent's connections lead to a model receiver, and time
passes when a test says so.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.net.model_receiver import Fault, ModelReceiver, ModelSession
from tests.net.scripted import Wire

TARGET = "smtp://192.0.2.25?tls=none"


@define(eq=False)
class Line:
    """
    One connection.

    @ivar wire: the client's end.
    @ivar fault: what happens to the receiver's replies on their way.
    @ivar packet_octets: in how small pieces they arrive; C{None}: one by one,
        and whatever the client writes in between is heard before the next.
    @ivar replies: how many arrive for now, the opening's included; C{None}: all.
    @ivar is_lost: it exists no more.
    """

    client: IProtocol
    session: ModelSession
    fault: Fault | None = None
    packet_octets: int | None = None
    replies: int | None = None
    wire: Wire = field(factory=Wire)
    is_lost: bool = False
    _read: int = 0
    _given: int = 0

    def turn(self) -> bool:
        """
        The receiver hears what was written, and at most one packet arrives.

        @return: whether anything happened.
        """
        if self.is_lost:
            return False
        written = self.wire.value()[self._read :]
        self._read += len(written)
        if written:
            self.session.hears(written)
        packet = self._next_packet()
        if packet:
            self._given += len(packet)
            self.client.dataReceived(packet)
        return self._maybe_lost(packet) or bool(written or packet)

    def says(self, octets: bytes) -> None:
        """Octets that no command asked for arrive."""
        self.client.dataReceived(octets)
        self._maybe_lost(octets)

    def breaks(self) -> None:
        """The network fails."""
        self._lost(ConnectionLost("reset"))

    def _next_packet(self) -> bytes:
        said = self.session.said
        replies = (self.fault.spoil(said) if self.fault else [one.octets for one in said])[: self.replies]
        left = b"".join(replies)[self._given :]
        if self.packet_octets is not None:
            return left[: self.packet_octets]
        position = 0
        for one in replies:
            position += len(one)
            if position > self._given:
                return one
        return b""

    def _maybe_lost(self, packet: bytes) -> bool:
        """A transport that was closed reports the loss after the call, as a reactor's does."""
        if self.is_lost:
            return False
        if self.wire.disconnected:
            return self._lost(ConnectionAborted())
        if self.wire.disconnecting or (self.session.hung_up and not packet and self.replies is None):
            return self._lost(ConnectionDone())
        return False

    def _lost(self, reason: Exception) -> bool:
        self.is_lost = True
        self.client.connectionLost(Failure(reason))
        return True


@define(eq=False)
class Network:
    """
    @ivar reactor: the agent's.
    @ivar receiver: where every connection leads to.
    @ivar fault: what happens to the replies of the first connection.
    @ivar packet_octets: see L{Line}.
    @ivar replies: see L{Line}.
    @ivar answers: whether the receiver's host answers; C{False}: it refuses
        connections, C{None}: it is silent.
    @ivar lines: the connections there were.
    @ivar most_open: how many there were at a time.
    """

    receiver: ModelReceiver = field(factory=ModelReceiver)
    fault: Fault | None = None
    packet_octets: int | None = None
    replies: int | None = None
    answers: bool | None = True
    reactor: MemoryReactorClock = field(factory=MemoryReactorClock)
    lines: list[Line] = field(factory=list)
    most_open: int = 0
    _asked: int = 0

    def run(self) -> None:
        """Until nothing moves any more."""
        while self.step():
            pass

    def step(self) -> bool:
        """
        Each connection has a turn.

        @return: whether anything happened.
        """
        moved = self._connect()
        for line in self.lines:
            moved |= line.turn()
        return moved

    def all_replies_arrive(self) -> None:
        """On every connection, from now on."""
        self.replies = None
        for line in self.lines:
            line.replies = None
        self.run()

    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.reactor.advance(seconds)
        self.run()

    def passes_until_the_next_timer(self) -> None:
        """Time passes."""
        self.passes(min(call.getTime() for call in self.reactor.getDelayedCalls()) - self.reactor.seconds())

    @property
    def open_lines(self) -> list[Line]:
        """Those that exist still."""
        return [line for line in self.lines if not line.is_lost]

    def _connect(self) -> bool:
        """Answer whoever wants to connect."""
        if self.answers is None or self._asked == len(self.reactor.tcpClients):
            return False
        factory, connector = self.reactor.tcpClients[self._asked][2], self.reactor.connectors[self._asked]
        self._asked += 1
        if connector.stoppedConnecting:
            return True
        if self.answers:
            self._make_line(factory)
        else:
            factory.clientConnectionFailed(connector, Failure(ConnectError(string="refused")))
        return True

    def _make_line(self, factory: ClientFactory) -> None:
        client = factory.buildProtocol(IPv4Address("TCP", "192.0.2.25", 25))
        assert client
        fault = self.fault if not self.lines else None
        line = Line(client, self.receiver.session(), fault, self.packet_octets, self.replies)
        self.lines.append(line)
        self.most_open = max(self.most_open, len(self.open_lines))
        client.makeConnection(line.wire)
