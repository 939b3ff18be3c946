"""
Which address is connected to, and from which: RFC 8305 over loopback.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Outcome
from pymail_tx.net.agent import SMTPAgent
from pymail_tx.net.connector import CONNECT_TIMEOUT_S
from pymail_tx.net.eyeballs import ATTEMPT_DELAY_S, by_turns
from tests.net.loopback import HOST, LoopbackTestCase, Script
from tests.net.test_agent import CONTENT, LETTER


@contextlib.contextmanager
def blackhole(address: str, port: int) -> Iterator[None]:
    """Connections there get no answer: nobody accepts them, and the kernel's queue for them is full."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening, contextlib.ExitStack() as waiting:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket(family))
            one.setblocking(False)
            one.connect_ex((address, port))
        yield


def has_ipv6() -> bool:
    """Whether ::1 is there."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Eyeballs(LoopbackTestCase):
    """A name with addresses of both families."""

    def setUp(self) -> None:
        super().setUp()
        if not has_ipv6():
            raise SkipTest("NOT TESTED: this machine has no IPv6, not even on loopback")
        self.server, self.port = self.serve(Script())
        self.agent = SMTPAgent(self.reactor, f"smtp://{HOST}:{self.port}")

    async def turns(self) -> None:
        """The real reactor has done what there was to do."""
        for _ in range(5):
            await deferLater(IReactorTime(reactor), 0.01)

    async def sends(self, after_s: float) -> Outcome:
        """One message, with the clock moved so far once the first address is tried."""
        sending = self.agent.send(LETTER, CONTENT)
        await self.turns()
        self.assertEqual(self.server.sessions, [])
        self.clock.advance(after_s)
        (outcome,) = (await sending).outcomes
        await self.agent.close()
        return outcome

    async def test_an_ipv6_address_that_does_not_answer_costs_an_attempt_delay(self) -> None:
        self.reactor.nameResolver.loopback = ("::1", "127.0.0.1")
        with blackhole("::1", self.port):
            outcome = await self.sends(ATTEMPT_DELAY_S)
        self.assertEqual(outcome.status.value, "delivered")

    async def test_an_ipv4_address_that_does_not_answer_costs_an_attempt_delay(self) -> None:
        self.reactor.nameResolver.loopback = ("127.0.0.2", "127.0.0.1")
        with blackhole("127.0.0.2", self.port):
            outcome = await self.sends(ATTEMPT_DELAY_S)
        self.assertEqual(outcome.status.value, "delivered")

    async def test_many_of_a_family_that_does_not_answer_cost_no_more(self) -> None:
        self.reactor.nameResolver.loopback = ("::1", "::1", "::1", "127.0.0.1")
        with blackhole("::1", self.port):
            outcome = await self.sends(ATTEMPT_DELAY_S)
        self.assertEqual(outcome.status.value, "delivered")

    async def test_an_address_that_refuses_costs_nothing(self) -> None:
        self.reactor.nameResolver.loopback = ("::1", "::1", "127.0.0.1")
        (outcome,) = (await self.agent.send(LETTER, CONTENT)).outcomes
        self.assertEqual(outcome.status.value, "delivered")
        await self.agent.close()

    async def test_the_second_attempt_does_not_begin_earlier(self) -> None:
        self.reactor.nameResolver.loopback = ("::1", "127.0.0.1")
        with blackhole("::1", self.port):
            sending = self.agent.send(LETTER, CONTENT)
            self.clock.advance(ATTEMPT_DELAY_S - 0.01)
            await self.turns()
            self.assertEqual(self.server.sessions, [])
            self.clock.advance(0.01)
            await sending
        await self.agent.close()

    async def test_a_cancel_during_an_attempt_leaves_nothing_behind(self) -> None:
        self.reactor.nameResolver.loopback = ("::1", "127.0.0.2", "127.0.0.1")
        with blackhole("::1", self.port), blackhole("127.0.0.2", self.port):
            sending = self.agent.send(LETTER, CONTENT)
            self.clock.advance(ATTEMPT_DELAY_S)
            sending.cancel()
            self.failureResultOf(sending, CancelledError)
            await self.agent.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.server.sessions, [])

    async def test_ipv6_is_used_where_it_answers(self) -> None:
        port = IReactorTCP(reactor).listenTCP(self.port, self.server, interface="::1")
        self.addCleanup(port.stopListening)
        self.reactor.nameResolver.loopback = ("::1", "127.0.0.1")
        (outcome,) = (await self.agent.send(LETTER, CONTENT)).outcomes
        self.assertEqual(outcome.status.value, "delivered")
        self.assertEqual(self.server.sessions[0].transport.getHost().host, "::1")
        await self.agent.close()

    async def test_when_no_address_answers_30_s_are_all_it_takes(self) -> None:
        self.reactor.nameResolver.loopback = ("::1", "127.0.0.2")
        with blackhole("::1", self.port), blackhole("127.0.0.2", self.port):
            sending = self.agent.send(LETTER, CONTENT)
            self.clock.advance(ATTEMPT_DELAY_S)
            self.clock.advance(CONNECT_TIMEOUT_S)
            (outcome,) = (await sending).outcomes
        self.assertTrue(outcome.reason.startswith("4.4.1 no connection to"), outcome.reason)
        await self.agent.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Turns(SynchronousTestCase):
    def test_the_families_take_turns_beginning_with_the_first(self) -> None:
        for given, expected in (
            (["::1", "::2", "::3", "10.0.0.1"], ["::1", "10.0.0.1", "::2", "::3"]),
            (["10.0.0.1", "10.0.0.2", "::1", "::2"], ["10.0.0.1", "::1", "10.0.0.2", "::2"]),
            (["10.0.0.1", "10.0.0.2"], ["10.0.0.1", "10.0.0.2"]),
        ):
            addresses = [(IPv6Address if ":" in host else IPv4Address)("TCP", host, 25) for host in given]
            self.assertEqual([address.host for address in by_turns(addresses)], expected)


class SourceAddress(LoopbackTestCase):
    async def delivered_from(self, source: str, host: str = HOST, addresses: tuple[str, ...] = ("127.0.0.1",)) -> str:
        """Send a message from there; whom the server sees."""
        server, port = self.serve(Script())
        self.reactor.nameResolver.loopback = addresses
        agent = SMTPAgent(self.reactor, f"smtp://{host}:{port}", source_address=source)
        sending = agent.send(LETTER, CONTENT)
        self.clock.advance(ATTEMPT_DELAY_S)
        (outcome,) = (await sending).outcomes
        self.assertEqual(outcome.status.value, "delivered", outcome)
        await agent.close()
        return str(server.sessions[0].transport.getPeer().host)

    async def test_a_name_is_connected_to_from_it(self) -> None:
        self.assertEqual(await self.delivered_from("127.0.0.3"), "127.0.0.3")

    async def test_an_address_is_connected_to_from_it(self) -> None:
        self.assertEqual(await self.delivered_from("127.0.0.3", host="127.0.0.1"), "127.0.0.3")

    async def test_of_a_name_the_addresses_of_the_other_family_are_passed_over(self) -> None:
        self.assertEqual(await self.delivered_from("127.0.0.3", addresses=("::1", "127.0.0.1")), "127.0.0.3")

    async def test_one_that_is_not_ours_defers(self) -> None:
        _, port = self.serve(Script())
        agent = SMTPAgent(self.reactor, f"smtp://127.0.0.1:{port}", source_address="192.0.2.1")
        (outcome,) = (await agent.send(LETTER, CONTENT)).outcomes
        self.assertEqual(outcome.status.value, "deferred")
        self.assertTrue(outcome.reason.startswith("4.4.1 no connection to 127.0.0.1"), outcome.reason)
        await agent.close()

    def test_what_is_no_address_is_refused(self) -> None:
        for source in ("localhost", "127.0.0.1:25", "", "[::1]"):
            with self.assertRaises(BadArgument) as caught:
                SMTPAgent(MemoryReactorClock(), "smtp://mx.example.org", source_address=source)
            self.assertEqual(caught.exception.field, "source_address")
