"""
The agent against Dovecot's LMTP server.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from tests.peers.dovecot import Dovecot

CONTENT = b"Subject: Hello\r\n\r\n.It works.\r\n"


class AgentToDovecot(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.dovecot = Dovecot.start(self)

    async def test_a_message_is_in_the_mailbox_over_tcp_and_over_a_unix_socket(self) -> None:
        for count, url in enumerate((self.dovecot.url, self.dovecot.unix_url), 1):
            report = await self.sent(url, "ann@example.com")
            self.assertEqual(self.told(report), [("delivered", 250)])
            messages = self.dovecot.messages("ann")
            self.assertEqual(len(messages), count, self.dovecot.log)
            self.assertTrue(messages[-1].replace(b"\r\n", b"\n").endswith(b"\n\n.It works.\n"), messages[-1])

    async def test_an_unknown_user_is_refused_and_the_others_are_not(self) -> None:
        for count, url in enumerate((self.dovecot.url, self.dovecot.unix_url), 1):
            report = await self.sent(url, "ann@example.com", "eve@example.com", "bob@example.com")
            self.assertEqual(self.told(report), [("delivered", 250), ("failed", 550), ("delivered", 250)])
            self.assertEqual([len(self.dovecot.messages(user)) for user in ("ann", "bob")], [count] * 2)

    async def test_messages_in_a_row_go_over_one_connection(self) -> None:
        agent = SMTPAgent(reactor, self.dovecot.unix_url, max_connections=1)
        letters = [Envelope("joe@example.org", ["ann@example.com", "eve@example.com"]) for _ in range(5)]
        reports: list[Report] = await gatherResults([agent.send(letter, CONTENT) for letter in letters])
        self.assertEqual([self.told(report) for report in reports], [[("delivered", 250), ("failed", 550)]] * 5)
        self.assertEqual(agent.statistics().opened, 1)
        await agent.close()
        self.assertEqual(len(self.dovecot.messages("ann")), 5)

    async def test_nobody_known_is_refused_and_nothing_more(self) -> None:
        report = await self.sent(self.dovecot.unix_url, "eve@example.com")
        self.assertEqual(self.told(report), [("failed", 550)])

    def told(self, report: Report) -> list[tuple[str, int]]:
        """Status and reply code of each recipient."""
        return [(one.status.value, one.reply.code if one.reply else 0) for one in report.outcomes]

    async def sent(self, url: str, *recipients: str) -> Report:
        agent = SMTPAgent(reactor, url, hostname="client.example.net")
        report = await agent.send(Envelope("joe@example.org", recipients), CONTENT)
        await agent.close()
        return report
