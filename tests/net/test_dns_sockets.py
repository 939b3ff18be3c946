"""
The resolver over real sockets: both families, and how long a datagram may be.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReactorTime, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SkipTest, TestCase

from pymail_tx.core.dns import Answer, RecordType, Verdict
from pymail_tx.net.dns import Resolver
from pymail_tx.net.dns_transport import MAX_DATAGRAM_OCTETS
from tests.net.name_servers import reply
from tests.net.test_eyeballs import has_ipv6


class Server(DatagramProtocol):
    """
    Answers with one text, so long that the reply has that size.
    """

    noisy = False
    transport: IUDPTransport

    def __init__(self, size_octets: int) -> None:
        self._size_octets = size_octets

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """See L{DatagramProtocol}."""
        head = bytearray(reply(datagram).to_wire())
        head[6:8], head[10:12] = b"\0\1", b"\0\0"
        del head[len(datagram) - 11 :]
        length = self._size_octets - len(head) - 12
        strings = b"".join(
            bytes([min(255, length - at - 1)]) + b"x" * min(255, length - at - 1) for at in range(0, length, 256)
        )
        record = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c" + length.to_bytes(2, "big")
        self.transport.write(bytes(head) + record + strings, addr)


class Sockets(TestCase):
    timeout = 20

    async def answer(self, size_octets: int = 200, interface: str = "127.0.0.1") -> Answer:
        """Of a server at that address."""
        port = IReactorUDP(reactor).listenUDP(0, Server(size_octets), interface, MAX_DATAGRAM_OCTETS)
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, IPv4Address | IPv6Address)
        resolver = Resolver(IReactorTime(reactor), [(interface, address.port)])
        answer = await resolver.resolve("example.test", RecordType.TXT)
        await resolver.close()
        return answer

    async def test_a_server_is_asked_over_ipv4(self) -> None:
        self.assertEqual((await self.answer()).verdict, Verdict.DATA)

    async def test_a_server_is_asked_over_ipv6(self) -> None:
        if not has_ipv6():
            raise SkipTest("NOT TESTED: this machine has no IPv6, not even on loopback")
        self.assertEqual((await self.answer(interface="::1")).verdict, Verdict.DATA)

    async def test_the_longest_datagram_is_read(self) -> None:
        self.assertEqual((await self.answer(MAX_DATAGRAM_OCTETS)).verdict, Verdict.DATA)

    async def test_a_longer_one_is_unreadable(self) -> None:
        answer = await self.answer(MAX_DATAGRAM_OCTETS + 1)
        self.assertEqual(answer.verdict, Verdict.FAILED)
        self.assertIn("unreadable reply", answer.reason)
