"""
The agent against a real Exim.
"""

from __future__ import annotations

from itertools import groupby, takewhile

from pymail_tx.core.envelope import Envelope
from pymail_tx.net.transcript import Direction
from tests.peers.deliveries import MESSAGES, REFUSED_EVERY, DeliveryCase, letter
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
        with_two = MESSAGES // REFUSED_EVERY  # recipients, and so with an empty last chunk
        self.assertEqual((self.said("DATA"), self.said("BDAT")), (0, MESSAGES + with_two))
        self.assertGreater(self.said("EHLO"), 1)
        self.assertEqual(str(self.transcript).count("PIPECONNECT"), 1)  # the replies differ

    async def test_a_host_that_offered_pipeconnect_gets_everything_but_the_content_before_it_greets(self) -> None:
        agent = self.agent(f"smtp://127.0.0.1:{self.exim.port}", max_messages_per_connection=1)
        for _ in range(3):
            report = await agent.send(Envelope("ann@example.net", ["bob@example.org"]), letter(1))
            self.assertEqual(report.outcomes[0].status.value, "delivered", report)
        self.are_found(self.exim, [letter(1)] * 3)
        self.assertEqual(self.said_before_greeting(), [[], ["EHLO", "MAIL", "RCPT"], ["EHLO", "MAIL", "RCPT"]])

    async def test_a_message_over_its_size_limit_is_refused_and_the_next_is_not(self) -> None:
        await self.one_too_large_is_refused(self.agent(f"smtp://127.0.0.1:{self.exim.port}"), self.exim)

    async def test_over_starttls(self) -> None:
        server = f"smtp://localhost:{self.exim.starttls_port}?tls=verified"
        report = await self.one_is_delivered(self.agent(server, trust_root=str(self.exim.ca_file)), self.exim)
        self.assertTrue(report.outcomes[0].tls and report.outcomes[0].tls.verified)

    def said_before_greeting(self) -> list[list[str]]:
        """The verbs of each session."""
        events = sorted(self.transcript, key=lambda event: event.session)
        sessions = [list(several) for _, several in groupby(events, key=lambda event: event.session)]
        early = (takewhile(lambda event: event.direction is not Direction.SERVER, several) for several in sessions)
        return [[one.text.split()[0] for one in several if one.direction is Direction.CLIENT] for several in early]
