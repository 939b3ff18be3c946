"""
A network with name servers and no sockets: datagrams wait in a list, time is a
L{Clock <twisted.internet.task.Clock>}'s, and a test says what comes back.
"""

from __future__ import annotations

from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocol, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from zope.interface import implementer

from pymail_tx.core.dns import RecordType

Address = tuple[str, int]


@implementer(IListeningPort, IUDPTransport)
class Port:
    """One of our sockets."""

    def __init__(self, network: Network, number: int, protocol: DatagramProtocol, interface: str) -> None:
        self.number = number
        self.protocol = protocol
        self.interface = interface
        self.peer: Address = ("", 0)
        self._network = network

    def startListening(self) -> None:
        """See L{IListeningPort}."""
        self.protocol.makeConnection(self)

    def stopListening(self) -> None:
        """See L{IListeningPort}."""
        self._network.open_ports.remove(self)
        self.protocol.doStop()

    def connect(self, host: str, port: int) -> None:
        """See L{IUDPTransport}."""
        self.peer = host, port

    def write(self, packet: bytes, addr: Address | None = None) -> None:
        """See L{IUDPTransport}."""
        if self.peer in self._network.unreachable:
            raise OSError(101, "Network is unreachable")
        self._network.asked.append(Asked(self, packet))

    def getHost(self) -> IPv4Address:
        """See L{IListeningPort}."""
        return IPv4Address("UDP", "127.0.0.1", self.number)

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """See L{IUDPTransport}."""

    def getBroadcastAllowed(self) -> bool:
        """See L{IUDPTransport}."""
        return False


@define(eq=False)
class Asked:
    """
    A query that went out.

    @ivar port: the socket that waits for its reply.
    """

    port: Port
    packet: bytes

    @property
    def server(self) -> Address:
        """Who is asked."""
        return self.port.peer

    @property
    def query(self) -> dns.message.Message:
        """What is asked."""
        return dns.message.from_wire(self.packet)

    def answer(self, packet: bytes, source: Address | None = None) -> None:
        """A datagram comes to the socket, by default from the server."""
        self.port.protocol.datagramReceived(packet, source or self.server)


@implementer(IReactorUDP)
class Network(MemoryReactorClock):
    """
    A reactor.

    @ivar asked: the queries over UDP so far.
    @ivar open_ports: our sockets.
    @ivar taken: UDP ports that others have; C{None} for all.
    @ivar unreachable: servers that there is no way to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.open_ports: list[Port] = []
        self.taken: set[int] | None = set()
        self.unreachable: set[Address] = set()

    def listenUDP(
        self, port: int, protocol: DatagramProtocol, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        """See L{IReactorUDP}."""
        if self.taken is None or port in self.taken:
            raise CannotListenError(interface, port, OSError("in use"))
        opened = Port(self, port, protocol, interface)
        self.open_ports.append(opened)
        opened.startListening()
        return opened

    def stream(self) -> tuple[IProtocol, StringTransport]:
        """The connection that is being made over TCP is made."""
        factory = self.tcpClients.pop()[2]
        protocol, transport = factory.buildProtocol(None), StringTransport()
        assert protocol is not None
        protocol.makeConnection(transport)
        return protocol, transport


def reply(
    packet: bytes,
    answer: Sequence[str] = (),
    *,
    authority: Sequence[str] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = 0,
) -> dns.message.Message:
    """
    A recursive server's reply to a query.

    @param answer: records as in a zone file, each with name, TTL, class, type.
    @param flags: besides QR, RD and RA.
    """
    message = dns.message.make_response(dns.message.from_wire(packet), recursion_available=True)
    for section, lines in ((message.answer, answer), (message.authority, authority)):
        for line in lines:
            name, ttl, rdclass, kind, data = line.split(None, 4)
            section.append(dns.rrset.from_text(name, int(ttl), rdclass, kind, data))
    message.set_rcode(rcode)
    message.flags |= flags
    return message


def asked_kind(asked: Asked) -> RecordType:
    """The type that is asked for."""
    return RecordType(asked.query.question[0].rdtype)
