"""
An agent, and at the other end of each of its connections a scripted server.

    self.has(max_connections=1)
    sent = self.sends()
    server = self.connected("PIPELINING")
    server.expects("MAIL FROM:<joe@example.org>", "RCPT TO:<ann@example.com>", "DATA")
"""

from __future__ import annotations

from email.message import EmailMessage
from typing import BinaryIO

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.transcript import Transcript
from tests.net.memory import TARGET
from tests.net.scripted import ScriptedCase, ScriptedPeer, ehlo_lines, envelope, outcomes

HELLO = b"Subject: Hello\r\n\r\nHow are you?\r\n"
ANN, BOB, CAT = "ann@example.com", "bob@example.com", "cat@example.com"


class AgentCase(ScriptedCase):
    """
    In the end the agent is closed, and leaves nothing behind.

    @ivar servers: one for each connection there was.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.servers: list[ScriptedPeer] = []

    def has(self, server: str = TARGET, *, max_connections: int = 1, transcript: Transcript | None = None) -> None:
        """There is an agent for it."""
        self.agent = SMTPAgent(
            self.reactor, server, hostname="me.example", max_connections=max_connections, transcript=transcript
        )
        self.hello = "LHLO" if server.startswith("lmtp") else "EHLO"
        self.addCleanup(self.nothing_is_left, self.agent, self.reactor, self.servers)

    def sends(
        self, *recipients: str, content: bytes | EmailMessage | BinaryIO = HELLO, letter: Envelope | None = None
    ) -> Deferred[Report]:
        """A message is given to the agent."""
        return self.agent.send(letter or envelope(*recipients), content)

    def connected(self, *keywords: str) -> ScriptedPeer:
        """The server's end of the agent's next connection; it has answered EHLO, or LHLO, with these keywords."""
        server = self.greeted()
        server.says(*ehlo_lines(*keywords))
        return server

    def greeted(self) -> ScriptedPeer:
        """The same, and the server has only greeted so far."""
        factory = self.reactor.tcpClients[len(self.servers)][2]
        protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.25", 25))
        assert protocol
        server = ScriptedPeer(self, protocol, self.reactor)
        self.servers.append(server)
        server.says("220 mx.example ESMTP")
        server.expects(f"{self.hello} me.example")
        return server

    @property
    def connections(self) -> int:
        """How many the agent has asked for."""
        return len(self.reactor.tcpClients)

    def found(self, sent: Deferred[Report]) -> list[tuple[str, str]]:
        """What became of a message."""
        return outcomes(self.successResultOf(sent))

    def nothing_is_left(self, agent: SMTPAgent, reactor: MemoryReactorClock, servers: list[ScriptedPeer]) -> None:
        closing = agent.close()
        for server in servers:
            server.loses_connection(ConnectionDone())
        self.successResultOf(closing)
        self.assertEqual(len(reactor.tcpClients), len(servers))
        self.assertEqual(reactor.getDelayedCalls(), [])
