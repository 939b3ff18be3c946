"""
LMTP: a reply to the content for each recipient (RFC 2033), over sockets that are real.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import TestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.net.agent import SMTPAgent
from tests.net.scripted import outcomes

DELIVERED = [("delivered", "2.0.0")]

CONTENT = b"Subject: Hello\r\n\r\n.\r\n"

_RECIPIENTS = {b"nobody": b"550 5.1.1 nobody"}
_DELIVERIES = {b"full": b"452 4.2.2 full", b"spam": b"550 5.7.1 no"}


class _Session(LineReceiver):
    """Replies to the end of data once for each recipient that it accepted, by its local part."""

    delimiter = b"\r\n"

    def __init__(self, verbs: list[str]) -> None:
        self._verbs = verbs
        self._in_content = False
        self._accepted: list[bytes] = []

    def connectionMade(self) -> None:
        self.sendLine(b"220 mailboxes.example LMTP")

    def lineReceived(self, line: bytes) -> None:
        if self._in_content:
            self._take(line)
            return
        verb, _, argument = line.partition(b" ")
        self._verbs.append(verb.decode())
        if verb == b"RCPT":
            self._recipient(argument.partition(b"<")[2].partition(b"@")[0])
        elif verb == b"LHLO":
            self.sendLine(b"250-mailboxes.example\r\n250-CHUNKING\r\n250 PIPELINING")
        elif verb == b"DATA":
            self._in_content = bool(self._accepted)
            self.sendLine(b"354 go on" if self._accepted else b"503 5.5.1 nobody to deliver to")
        else:
            self.sendLine(b"250 2.0.0 ok")

    def _recipient(self, mailbox: bytes) -> None:
        refusal = _RECIPIENTS.get(mailbox)
        if not refusal:
            self._accepted.append(mailbox)
        self.sendLine(refusal or b"250 2.1.5 ok")

    def _take(self, line: bytes) -> None:
        if line != b".":
            return
        self._in_content = False
        for mailbox in self._accepted:
            self.sendLine(_DELIVERIES.get(mailbox, b"250 2.0.0 kept"))
        self._accepted = []


class ToMailboxes(TestCase):
    """An agent, and a server that delivers into mailboxes."""

    async def listens(self, endpoint: str) -> IAddress:
        """
        @return: where.
        """
        self.verbs: list[str] = []
        sessions = Factory.forProtocol(partial(_Session, self.verbs))
        port: IListeningPort = await serverFromString(reactor, endpoint).listen(sessions)
        self.addCleanup(port.stopListening)
        return port.getHost()

    def agent(self, server: str) -> SMTPAgent:
        agent = SMTPAgent(IReactorTime(reactor), server, max_connections=1)
        self.addCleanup(agent.close)
        return agent

    async def agent_over_tcp(self) -> SMTPAgent:
        where = await self.listens("tcp:0:interface=127.0.0.1")
        assert isinstance(where, IPv4Address)
        return self.agent(f"lmtp://127.0.0.1:{where.port}")

    async def test_each_accepted_recipient_has_a_reply_of_its_own(self) -> None:
        agent = await self.agent_over_tcp()
        everybody = [f"{mailbox}@example.org" for mailbox in ("ann", "nobody", "full", "spam", "bob")]
        report = await agent.send(Envelope("joe@example.org", everybody), CONTENT)
        self.assertEqual(
            outcomes(report),
            [*DELIVERED, ("failed", "5.1.1"), ("deferred", "4.2.2"), ("failed", "5.7.1"), *DELIVERED],
        )
        self.assertEqual(self.verbs[:1], ["LHLO"])

    async def test_messages_in_a_row_end_with_lhlo_and_nobody_hears_another_ones_verdict(self) -> None:
        agent = await self.agent_over_tcp()
        mailboxes = [("ann", "full"), ("nobody",), ("spam", "bob"), ("nobody", "eve")]
        sent = [
            agent.send(Envelope("joe@example.org", [f"{one}@example.org" for one in several]), CONTENT)
            for several in mailboxes
        ]
        found = [[status for status, _ in outcomes(await report)] for report in sent]
        self.assertEqual(
            found, [["delivered", "deferred"], ["failed"], ["failed", "delivered"], ["failed", "delivered"]]
        )
        self.assertGreater(self.verbs.count("LHLO"), 1)

    async def test_over_a_unix_socket_as_well(self) -> None:
        # A path of its own: sun_path holds 108 octets, and a checkout may lie deep.
        directory = Path(tempfile.mkdtemp(prefix="lmtp-of-a-test-"))
        self.addCleanup(shutil.rmtree, directory)
        path = directory / "socket"
        await self.listens(f"unix:{path}")
        agent = self.agent(f"lmtp+unix://{path}")
        report = await agent.send(Envelope("joe@example.org", ["ann@example.org"]), CONTENT)
        self.assertEqual(outcomes(report), DELIVERED)
        self.assertEqual(report.outcomes[0].host, str(path))
