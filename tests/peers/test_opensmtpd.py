"""
The agent against a real OpenSMTPD, which offers no pipelining.
"""

from __future__ import annotations

from tests.peers.deliveries import DeliveryCase
from tests.peers.opensmtpd import OpenSMTPD


class AgentToOpenSMTPD(DeliveryCase):
    def setUp(self) -> None:
        self.server = OpenSMTPD.start(self)

    async def test_one_message_is_found_as_it_was_sent(self) -> None:
        await self.one_is_delivered(self.agent(f"smtp://127.0.0.1:{self.server.port}"), self.server)

    async def test_fifty_over_one_connection_are_found_as_they_were_sent(self) -> None:
        await self.fifty_are_delivered(self.agent(f"smtp://127.0.0.1:{self.server.port}"), self.server)

    async def test_a_message_over_its_size_limit_is_refused_and_the_next_is_not(self) -> None:
        await self.one_too_large_is_refused(self.agent(f"smtp://127.0.0.1:{self.server.port}"), self.server)
