"""
The agent against a real Exim.
"""

from __future__ import annotations

from tests.peers.deliveries import MESSAGES, DeliveryCase
from tests.peers.exim import Exim


class AgentToExim(DeliveryCase):
    def setUp(self) -> None:
        self.exim = Exim.start(self)

    async def test_one_message_is_found_as_it_was_sent(self) -> None:
        await self.one_is_delivered(self.agent(f"smtp://127.0.0.1:{self.exim.port}"), self.exim)

    async def test_fifty_in_a_row_by_data_are_found_as_they_were_sent(self) -> None:
        await self.fifty_are_delivered(self.agent(f"smtp://127.0.0.1:{self.exim.data_port}"), self.exim)
        self.assertEqual((self.said("DATA"), self.said("BDAT")), (MESSAGES, 0))

    async def test_fifty_in_a_burst_by_bdat_are_found_as_they_were_sent(self) -> None:
        await self.fifty_are_delivered(self.agent(f"smtp://127.0.0.1:{self.exim.port}"), self.exim)
        self.assertEqual((self.said("DATA"), self.said("BDAT")), (0, MESSAGES))
        self.assertGreater(self.said("EHLO"), 1)
        self.assertEqual(str(self.transcript).count("PIPECONNECT"), 1)  # the replies differ

    async def test_a_message_over_its_size_limit_is_refused_and_the_next_is_not(self) -> None:
        await self.one_too_large_is_refused(self.agent(f"smtp://127.0.0.1:{self.exim.port}"), self.exim)

    async def test_over_starttls(self) -> None:
        server = f"smtp://localhost:{self.exim.starttls_port}?tls=verified"
        report = await self.one_is_delivered(self.agent(server, trust_root=str(self.exim.ca_file)), self.exim)
        self.assertTrue(report.outcomes[0].tls and report.outcomes[0].tls.verified)
