"""
What a server does to a connection that the agent keeps for the next message.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pymail_tx.core.outcome import Outcome
from pymail_tx.net.agent import SMTPAgent
from tests.net.loopback import Script
from tests.net.test_agent import CONTENT, LETTER, AgentTestCase


class Idle(AgentTestCase):
    """Between two messages."""

    async def test_a_connection_is_used_again(self) -> None:
        agent = await self.agent_that_sent()
        self.is_delivered(await self.last_message(agent))
        self.assertEqual(len(self.server.sessions), 1)

    async def test_a_reply_that_nobody_asked_for_ends_its_use(self) -> None:
        for words in (b"250 2.0.0 surplus", b"250-half of one", b"550 5.0.0 surplus", b"354 go on", b"no reply at all"):
            await self.ends_its_use(words)

    async def test_421_ends_its_use(self) -> None:
        await self.ends_its_use(b"421 4.4.2 idle for too long")

    async def test_its_end_ends_its_use(self) -> None:
        await self.ends_its_use(b"")

    async def test_a_yes_that_crosses_the_next_message_delivers_nothing_that_was_refused(self) -> None:
        for surplus in range(1, 5):
            agent = await self.agent_that_sent()
            self.server.script.replies["RCPT"] = b"550 5.1.1 nobody of that name"
            for _ in range(surplus):
                self.server.sessions[0].sendLine(b"250 2.0.0 ok")
            await self.next_turn()  # it is in the socket, and nobody has read it
            outcome = await self.last_message(agent)
            self.assertNotEqual(outcome.status.value, "delivered", outcome)

    async def ends_its_use(self, words: bytes) -> None:
        """Said, or the connection closed if it is nothing, the next message is delivered over another connection."""
        agent = await self.agent_that_sent()
        (session,) = self.server.sessions
        if words:
            session.sendLine(words)
        else:
            session.transport.loseConnection()
        while agent.statistics().idle:
            await self.next_turn()
        self.is_delivered(await self.last_message(agent))
        self.assertEqual(len(self.server.sessions), 2)

    async def agent_that_sent(self) -> SMTPAgent:
        """One with an idle connection to C{self.server}."""
        self.server, port = self.serve(Script())
        agent = self.agent(port)
        self.is_delivered((await agent.send(LETTER, CONTENT)).outcomes[0])
        while not agent.statistics().idle:
            await self.next_turn()
        return agent

    async def last_message(self, agent: SMTPAgent) -> Outcome:
        report = await agent.send(LETTER, CONTENT)
        await agent.close()
        return report.outcomes[0]

    async def next_turn(self) -> None:
        """What is written now is in the socket then."""
        await deferLater(IReactorTime(reactor), 0)
