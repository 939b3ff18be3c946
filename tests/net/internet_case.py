"""
An internet on loopback: hosts at 127.0.0.2 and so on, all at one port, and a
DNS that leads there.

    primary = self.host("mx1.example", "127.0.0.2", Script())
    self.dns.has_mx("example.org", "mx1.example")
    outcome = await self.sends("bob@example.org")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pymail_tx.core.dns import TLSA
from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome, Report
from pymail_tx.core.routing import NOBODY, Ourselves
from pymail_tx.net.agent import SMTPAgent
from tests.net.certificates import Certificate
from tests.net.loopback import LoopbackTestCase, Script, Server
from tests.net.scripted_dns import ScriptedDNS, ScriptedPolicies
from tests.peers import free_port

CONTENT = b"Subject: Hello\r\n\r\nIt works.\r\n"


class InternetCase(LoopbackTestCase):
    """
    In the end the agent is closed, and leaves nothing behind.

    @ivar dns: what it says of the internet.
    @ivar policies: those of MTA-STS.
    @ivar port: of all hosts.
    """

    def setUp(self) -> None:
        super().setUp()
        self.dns = ScriptedDNS(self.clock)
        self.policies = ScriptedPolicies()
        self.port = free_port()
        self.uses()

    def uses(
        self,
        query: str = "",
        *,
        us: Ourselves = NOBODY,
        target: str = "",
        max_connections: int = 10,
        random: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """There is an agent for the internet, or another target."""
        self.agent = SMTPAgent(
            self.reactor,
            target or f"mx:?port={self.port}{query}",
            hostname="client.example.net",
            trust_root=self.trust_root,
            max_connections=max_connections,
            resolver=self.dns,
            policies=self.policies,
            ourselves=us,
            random=random,
        )

    async def nothing_is_left(self, server: Server) -> None:
        """See L{LoopbackTestCase.nothing_is_left}."""
        await self.agent.close()
        await super().nothing_is_left(server)

    def host(self, name: str, address: str, script: Script | None = None) -> Server:
        """A host with its address in DNS."""
        server, _ = self.serve(script or Script(), address=address, port=self.port)
        self.dns.has_addresses(name, address)
        return server

    def nobody_at(self, name: str, address: str) -> None:
        """A host that refuses connections."""
        self.dns.has_addresses(name, address)

    def letter(self, *recipients: str, content: bytes = CONTENT, requiretls: bool = False) -> Deferred[Report]:
        """A message is given to the agent."""
        return self.agent.send(Envelope("ann@example.net", recipients, requiretls=requiretls), content)

    async def send(
        self, *recipients: str, content: bytes = CONTENT, requiretls: bool = False, closes: bool = True
    ) -> tuple[Outcome, ...]:
        """One message, and good-bye unless there is more to come."""
        report = await self.letter(*recipients, content=content, requiretls=requiretls)
        if closes:
            await self.agent.close()
        else:
            await deferLater(IReactorTime(reactor), 0)  # the connection is at rest when its report is out
        self.assertEqual(tuple(outcome.recipient for outcome in report.outcomes), recipients)
        return report.outcomes

    def is_found(self, outcomes: tuple[Outcome, ...], *expected: tuple[str, str, str | None]) -> None:
        """Each outcome's status, the beginning of its reason, and its host."""
        found = [
            (outcome.status.value, outcome.reason[: len(reason)], outcome.host)
            for outcome, (_, reason, _) in zip(outcomes, expected, strict=True)
        ]
        self.assertEqual(found, list(expected), [outcome.reason for outcome in outcomes])

    def tlsa_name(self, host: str) -> str:
        """Where the TLSA records of a host are."""
        return f"_{self.port}._tcp.{host}"


def record_of(certificate: Certificate) -> TLSA:
    """3 1 1: the end entity's key, by its SHA-256."""
    key = certificate.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TLSA(3, 1, 1, hashlib.sha256(key).digest())


OTHER_RECORD = TLSA(3, 1, 1, bytes(32))
"""Of a key that nobody has."""
