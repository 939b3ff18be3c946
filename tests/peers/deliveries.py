"""
What the agent sends to a real server and what is found in its mailbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.transcript import Transcript

MESSAGES = 50
"""As many as the agent sends in one burst."""

REFUSED_EVERY = 10
"""One in so many messages has a recipient who is refused."""

_HEADER = (
    b"From: <ann@example.net>\r\nTo: <bob@example.org>\r\nSubject: %d\r\n"
    b"Date: Wed, 25 Nov 2026 02:21:02 +0000\r\nMessage-ID: <%d@example.net>\r\n\r\n"
)
"""Nothing that a server would add."""

_BODIES = (
    b"It works.\r\n",
    b".\r\n..\r\n.dots\r\nlead.\r\n.\r\n",
    b"Sch\xc3\xb6ne Gr\xc3\xbc\xc3\x9fe\r\n",
    b"lines\nthat end\nin LF\n",
    b"no end of the last line",
    b"\r\n\r\nempty lines around\r\n\r\n\r\n",
    b"a line of 998 octets: " + b"x" * 976 + b"\r\n",
    b"".join(b"line %d\r\n" % number for number in range(5_000)),
)


class Mailbox(Protocol):
    """What is asked of a server."""

    def await_messages(self, count: int) -> list[bytes]: ...


def letter(number: int) -> bytes:
    """A message's content, with one of the bodies that are worth a look."""
    return _HEADER % (number, number) + _BODIES[number % len(_BODIES)]


def in_mailbox(content: bytes) -> bytes:
    """As a maildir has it, with lines that end in LF, the last one too."""
    lines = content.replace(b"\r\n", b"\n")
    return lines if lines.endswith(b"\n") else lines + b"\n"


class DeliveryCase(TestCase):
    """
    @ivar transcript: of the agent that L{agent} made.
    """

    timeout = 60

    def agent(self, server: str, *, trust_root: str | None = None, max_messages_per_connection: int = 500) -> SMTPAgent:
        """An agent with one connection; it is closed when the test ends."""
        self.transcript = Transcript()
        agent = SMTPAgent(
            reactor, server, hostname="client.example.net", max_connections=1, trust_root=trust_root,
            transcript=self.transcript, max_messages_per_connection=max_messages_per_connection,
        )  # fmt: skip
        self.addCleanup(agent.close)
        return agent

    async def one_is_delivered(self, agent: SMTPAgent, mailbox: Mailbox) -> Report:
        """One message, found as it was sent."""
        report = await agent.send(Envelope("ann@example.net", ["bob@example.org"]), letter(1))
        self.assertEqual([outcome.status.value for outcome in report.outcomes], ["delivered"], report)
        self.are_found(mailbox, [letter(1)])
        return report

    async def fifty_are_delivered(self, agent: SMTPAgent, mailbox: Mailbox) -> None:
        """Given at once, each found as it was sent; and every recipient has the outcome that is his."""
        sent = [agent.send(_envelope(number), letter(number)) for number in range(MESSAGES)]
        for number, report in enumerate(await gatherResults(sent)):
            statuses = [outcome.status.value for outcome in report.outcomes]
            self.assertEqual(statuses, ["delivered", "failed"][: len(statuses)], (number, report))
        self.are_found(mailbox, [letter(number) for number in range(MESSAGES)])

    async def one_too_large_is_refused(self, agent: SMTPAgent, mailbox: Mailbox) -> None:
        """By the SIZE that was announced, and the next is none the worse for it."""
        sent: list[Deferred[Report]] = [
            agent.send(Envelope("ann@example.net", ["bob@example.org"]), content)
            for content in (letter(1), letter(2) + b"x" * 100 * 1_024, letter(3))
        ]
        reasons = [report.outcomes[0].reason[:5] for report in await gatherResults(sent)]
        self.assertEqual(reasons[1], "5.3.4")
        self.are_found(mailbox, [letter(1), letter(3)])

    def are_found(self, mailbox: Mailbox, contents: Sequence[bytes]) -> None:
        """These, octet for octet behind the lines that the server puts on top, and no others."""
        found = mailbox.await_messages(len(contents))
        self.assertEqual(len(found), len(contents))
        self.assertEqual(sorted(_as_sent(one) for one in found), sorted(in_mailbox(one) for one in contents))

    def said(self, verb: str) -> int:
        """How often the agent said so."""
        return sum(str(event).startswith(f"C: {verb}") for event in self.transcript)


def _envelope(number: int) -> Envelope:
    refused = [] if number % REFUSED_EVERY else ["eve@elsewhere.example"]
    return Envelope("ann@example.net", ["bob@example.org", *refused])


def _as_sent(found: bytes) -> bytes:
    _, first, rest = found.partition(_HEADER[: _HEADER.index(b"\r\n")] + b"\n")
    return first + rest
