"""
The agent keeps connections, and nobody who sends notices.
"""

from __future__ import annotations

import socket
import time

from attrs import asdict
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, ISystemHandle
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import OutOfOrder
from pymail_tx.core.outcome import Report
from pymail_tx.net.agent import SMTPAgent
from tests.net.loopback import LoopbackTestCase, Script, Server
from tests.net.memory import TARGET, Network
from tests.net.model_receiver import OPENING_REPLIES, Fate, Fault, Kind
from tests.net.scripted import outcomes, settled

OPENED = OPENING_REPLIES
"""Replies up to there."""

ENVELOPE = OPENED + 3
"""Replies up to the 354 of a first message with one recipient: its content is sent."""

DELIVERED = [("delivered", "2.0.0")]

CONTENT = b"Subject: Hello\r\n\r\nIt works.\r\n"


def letter(number: int) -> Envelope:
    return Envelope(f"m{number}@example.org", ["ann@example.com"])


class PoolCase(SynchronousTestCase):
    """
    An agent on a network in memory. In the end it is closed, and leaves nothing behind.

    @ivar sent: what it was given to send.
    """

    def setUp(self) -> None:
        self.network = Network()
        self.sent: list[Deferred[Report]] = []

    def has(
        self, max_connections: int = 1, max_messages: int = 500, idle_timeout_s: float = 30, rate: float | None = None
    ) -> None:
        """There is an agent with these limits."""
        self.agent = SMTPAgent(
            self.network.reactor, TARGET, max_connections=max_connections, max_messages_per_connection=max_messages,
            idle_timeout_s=idle_timeout_s, rate=rate,
        )  # fmt: skip
        self.addCleanup(self.nothing_is_left)

    def nothing_is_left(self) -> None:
        closing = self.agent.close()
        self.network.all_replies_arrive()
        self.successResultOf(closing)
        self.assertEqual(self.network.open_lines, [])
        self.assertEqual(self.network.reactor.getDelayedCalls(), [])

    def gives(self, count: int) -> None:
        """So many more messages."""
        for number in range(len(self.sent), len(self.sent) + count):
            self.sent.append(self.agent.send(letter(number), CONTENT))

    def sends(self, count: int) -> None:
        """The same, and whatever can happen now does."""
        self.gives(count)
        self.network.run()

    def found(self) -> list[list[tuple[str, str]]]:
        """What became of each."""
        return [outcomes(self.successResultOf(sent)) for sent in self.sent]

    def all_are_delivered(self) -> None:
        self.assertEqual(self.found(), [DELIVERED] * len(self.sent))
        self.assertEqual(sorted(self.stored()), list(range(len(self.sent))))

    def stored(self) -> list[int]:
        """The numbers of the messages that the receiver has, in its order."""
        return [int(one.sender[1:].partition(b"@")[0]) for one in self.network.receiver.stored]

    def is_deferred(self, number: int, reason: str, *, uncertain: bool = False) -> None:
        [outcome] = self.successResultOf(self.sent[number]).outcomes
        self.assertEqual((outcome.status.value, outcome.uncertain), ("deferred", uncertain), outcome)
        self.assertIn(reason, outcome.reason)

    def heard(self) -> list[str]:
        """The verbs of each connection."""
        return [" ".join(session.verbs) for session in self.network.receiver.sessions]


ONE = "EHLO MAIL RCPT DATA ."
AGAIN = " MAIL RCPT DATA ."


class Reuse(PoolCase):
    def test_messages_one_after_the_other_go_over_one_connection(self) -> None:
        self.has(max_connections=10)
        for _ in range(3):
            self.sends(1)
        self.all_are_delivered()
        self.assertEqual(self.heard(), [ONE + 2 * AGAIN])

    def test_messages_at_once_go_over_at_most_max_connections(self) -> None:
        for count, connections in ((1, 1), (2, 2), (3, 2), (9, 2)):
            self.setUp()
            self.has(max_connections=2)
            self.sends(count)
            self.all_are_delivered()
            self.assertEqual(len(self.network.lines), connections)

    def test_connections_that_were_opened_are_used_again(self) -> None:
        self.has(max_connections=3)
        for _ in range(3):
            self.sends(3)
        self.all_are_delivered()
        self.assertEqual(len(self.network.lines), 3)

    def test_a_connection_takes_at_most_max_messages_then_another_does(self) -> None:
        self.has(max_messages=2)
        self.sends(5)
        self.all_are_delivered()
        self.assertEqual([verbs.count("MAIL") for verbs in self.heard()], [2, 2, 1])
        self.assertEqual([verbs.split()[-1] for verbs in self.heard()[:2]], ["QUIT", "QUIT"])

    def test_it_is_closed_then_even_if_nothing_waits(self) -> None:
        self.has(max_messages=1)
        self.sends(1)
        self.assertEqual(self.heard(), [ONE + " QUIT"])

    def test_a_connection_that_is_closed_makes_room_when_it_is_gone(self) -> None:
        self.has(max_messages=1)
        self.sends(5)
        self.all_are_delivered()
        self.assertEqual((len(self.network.lines), self.network.most_open), (5, 1))

    def test_refusals_leave_the_connection_good(self) -> None:
        self.network.receiver.fates = {b"m0@example.org": Fate(rcpt=(550,)), b"m1@example.org": Fate(content=451)}
        self.has()
        for _ in range(3):
            self.sends(1)
        self.assertEqual(self.found(), [[("failed", "5.0.0")], [("deferred", "4.0.0")], DELIVERED])
        self.assertEqual(len(self.network.lines), 1)


class IdleTimeout(PoolCase):
    def test_an_idle_connection_is_left_with_quit_when_it_is_over_and_not_before(self) -> None:
        self.has(idle_timeout_s=30)
        self.sends(1)
        self.network.passes(29)
        self.assertEqual(self.heard(), [ONE])
        self.network.passes(1)
        self.assertEqual(self.heard(), [ONE + " QUIT"])
        self.assertEqual(self.network.open_lines, [])
        self.assertEqual(self.network.reactor.getDelayedCalls(), [])

    def test_a_message_begins_it_anew(self) -> None:
        self.has(idle_timeout_s=30)
        self.sends(1)
        self.network.passes(29)
        self.sends(1)
        self.network.passes(29)
        self.assertEqual(len(self.network.open_lines), 1)
        self.network.passes(1)
        self.assertEqual(self.network.open_lines, [])

    def test_a_message_afterwards_opens_another(self) -> None:
        self.has(idle_timeout_s=30)
        self.sends(1)
        self.network.passes(30)
        self.sends(1)
        self.all_are_delivered()
        self.assertEqual(len(self.network.lines), 2)

    def test_a_receiver_that_does_not_answer_quit_is_given_5_s(self) -> None:
        self.has(idle_timeout_s=30)
        self.sends(1)
        self.network.lines[0].replies = 0
        self.network.passes(30)
        self.network.passes(4)
        self.assertEqual(len(self.network.open_lines), 1)
        self.network.passes(1)
        self.assertEqual(self.network.open_lines, [])

    def test_zero_keeps_none(self) -> None:
        self.has(idle_timeout_s=0)
        self.sends(1)
        self.assertEqual(self.heard(), [ONE + " QUIT"])


class Rate(PoolCase):
    def test_so_many_messages_begin_in_a_second_over_all_connections(self) -> None:
        self.has(max_connections=3, rate=2)
        self.sends(5)
        stored = []
        for _ in range(9):
            stored.append(len(self.stored()))
            self.network.passes(0.25)
        self.assertEqual(stored, [1, 1, 2, 2, 3, 3, 4, 4, 5])
        self.all_are_delivered()

    def test_messages_that_come_more_slowly_are_not_held_up(self) -> None:
        self.has(rate=2)
        for _ in range(3):
            self.sends(1)
            self.assertEqual(len(self.stored()), len(self.sent))
            self.network.passes(0.5)
        self.all_are_delivered()

    def test_who_waits_for_it_is_sent_before_the_agent_is_closed(self) -> None:
        self.has(rate=1)
        self.sends(2)
        closing = self.agent.close()
        self.network.run()
        self.assertNoResult(closing)
        self.network.passes(1)
        self.successResultOf(closing)
        self.all_are_delivered()


class Stale(PoolCase):
    """Whatever happened to an idle connection, the next message goes over another."""

    def idles(self) -> None:
        self.has()
        self.sends(1)

    def next_is_delivered_elsewhere(self) -> None:
        self.sends(1)
        self.all_are_delivered()
        self.assertEqual(self.heard(), [ONE, ONE])

    def test_a_reply_that_nobody_asked_for(self) -> None:
        self.idles()
        self.network.lines[0].says(b"250 2.0.0 by the way\r\n")
        self.next_is_delivered_elsewhere()

    def test_an_octet(self) -> None:
        self.idles()
        self.network.lines[0].says(b"2")
        self.next_is_delivered_elsewhere()

    def test_a_421(self) -> None:
        self.idles()
        self.network.lines[0].says(b"421 4.3.2 good night\r\n")
        self.next_is_delivered_elsewhere()

    def test_a_close(self) -> None:
        self.idles()
        self.network.lines[0].breaks()
        self.next_is_delivered_elsewhere()

    def test_a_close_that_comes_when_mail_is_sent_already(self) -> None:
        self.idles()
        self.gives(1)
        self.network.lines[0].breaks()
        self.network.run()
        self.all_are_delivered()
        self.assertEqual(self.heard(), [ONE, ONE])

    def test_but_a_message_meets_that_once_only(self) -> None:
        self.has(max_connections=2)
        self.sends(2)
        self.gives(1)
        self.network.lines[1].breaks()
        self.network.lines[0].breaks()
        self.network.run()
        self.is_deferred(2, "connection lost")
        self.assertEqual(len(self.network.lines), 2)

    def test_on_a_fresh_connection_it_is_the_servers_word(self) -> None:
        self.network.replies = OPENED
        self.has()
        self.sends(1)
        self.network.lines[0].breaks()
        self.is_deferred(0, "connection lost")
        self.network.run()
        self.assertEqual(len(self.network.lines), 1)


class StaleUnread(LoopbackTestCase):
    """The same where nobody has read it yet when the next message comes."""

    async def idles(self) -> Server:
        server, port = self.serve(Script())
        self.agent = SMTPAgent(self.reactor, f"smtp://127.0.0.1:{port}?tls=none", max_connections=2)
        self.assertEqual(outcomes(await self.agent.send(letter(0), CONTENT)), DELIVERED)
        await deferLater(IReactorTime(reactor), 0)  # the report goes out before the connection is at rest
        return server

    async def next_is_delivered_elsewhere(self, server: Server) -> None:
        self.assertEqual(outcomes(await self.agent.send(letter(1), CONTENT)), DELIVERED)
        await self.agent.close()
        self.assertEqual(server.conversations, [ONE, ONE + " QUIT"])

    def arrives(self) -> None:
        """What was sent reaches the client's socket, and the reactor has no turn to read it."""
        time.sleep(0.05)

    def sockets_of(self, server: Server) -> list[socket.socket]:
        """The server's ends of its connections."""
        handles = [ISystemHandle(session.transport).getHandle() for session in server.sessions]
        return [handle for handle in handles if isinstance(handle, socket.socket)]

    async def test_octets(self) -> None:
        for octets in (b"2", b"250 2.0.0 by the way\r\n", b"421 4.3.2 good night\r\n"):
            server = await self.idles()
            self.sockets_of(server)[0].send(octets)
            self.arrives()
            await self.next_is_delivered_elsewhere(server)

    async def test_a_close(self) -> None:
        server = await self.idles()
        self.sockets_of(server)[0].shutdown(socket.SHUT_WR)
        self.arrives()
        await self.next_is_delivered_elsewhere(server)

    async def test_several_at_once_keep_the_order_of_the_messages(self) -> None:
        server, port = self.serve(Script())
        self.agent = SMTPAgent(self.reactor, f"smtp://127.0.0.1:{port}?tls=none", max_connections=2)
        for sending in [self.agent.send(letter(number), CONTENT) for number in (0, 1)]:
            await sending
        await deferLater(IReactorTime(reactor), 0)
        for one in self.sockets_of(server):
            one.send(b"2")
        self.arrives()
        sendings = [self.agent.send(letter(number), CONTENT) for number in (2, 3)]
        for sending in sendings:
            self.assertEqual(outcomes(await sending), DELIVERED)
        await self.agent.close()
        self.assertEqual(server.conversations[:2], [ONE, ONE])
        senders = [line for line in server.lines if line.startswith(b"MAIL")]
        self.assertEqual([int(line[12:13]) for line in senders], [0, 1, 2, 3])


class Order(PoolCase):
    def test_waiting_messages_are_served_in_the_order_in_which_they_came(self) -> None:
        for offers in ((b"PIPELINING",), (b"SIZE",)):
            self.setUp()
            self.network.receiver.offers = offers
            self.has()
            self.sends(7)
            self.assertEqual(self.stored(), list(range(7)))
            self.all_are_delivered()

    def test_one_that_comes_later_waits_behind_them(self) -> None:
        self.network.replies = OPENED
        self.has()
        self.sends(3)
        self.gives(2)
        self.network.all_replies_arrive()
        self.assertEqual(self.stored(), [0, 1, 2, 3, 4])


class Cancelled(PoolCase):
    def cancels(self, number: int) -> None:
        """It is told at once."""
        sent = self.sent[number]
        sent.cancel()
        self.failureResultOf(sent, CancelledError)

    def others_are_delivered(self, *cancelled: int) -> None:
        """Each once, and those that were cancelled never."""
        self.network.all_replies_arrive()
        others = [number for number in range(len(self.sent)) if number not in cancelled]
        for number in others:
            self.assertEqual(outcomes(self.successResultOf(self.sent[number])), DELIVERED)
        self.assertEqual(self.stored(), others)

    def test_one_that_waits_is_not_sent(self) -> None:
        self.network.replies = OPENED
        self.has()
        self.sends(4)
        self.cancels(2)
        self.others_are_delivered(2)
        self.assertEqual(len(self.network.lines), 1)

    def test_one_whose_connection_is_being_opened_gives_that_up(self) -> None:
        self.network.answers = None
        self.has()
        self.sends(1)
        self.cancels(0)
        self.assertTrue(self.network.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.agent.statistics().opening, 0)

    def test_the_connections_that_others_need_are_opened(self) -> None:
        self.network.answers = None
        self.has(max_connections=3)
        self.sends(3)
        self.cancels(0)
        self.assertEqual(self.agent.statistics().opening, 2)
        self.network.answers = True
        self.others_are_delivered(0)
        self.assertEqual(len(self.network.lines), 2)

    def test_one_whose_envelope_is_sent_is_aborted(self) -> None:
        for replies in range(OPENED, ENVELOPE):
            self.setUp()
            self.network.replies = replies
            self.has()
            self.sends(3)
            self.cancels(0)
            self.others_are_delivered(0)

    def test_one_whose_content_is_sent_may_be_delivered(self) -> None:
        self.network.replies = ENVELOPE
        self.has()
        self.sends(1)
        self.cancels(0)
        self.sends(1)
        self.network.all_replies_arrive()
        self.assertEqual(outcomes(self.successResultOf(self.sent[1])), DELIVERED)

    def test_one_whose_content_is_sent_and_that_has_others_behind_it_harms_none_of_them(self) -> None:
        self.network.replies = ENVELOPE
        self.has()
        self.sends(3)
        self.cancels(0)
        self.network.all_replies_arrive()
        for sent in self.sent[1:]:
            self.assertEqual(outcomes(self.successResultOf(sent)), DELIVERED)
        self.assertEqual(self.stored()[-2:], [1, 2])

    def test_one_behind_another_harms_neither_that_nor_those_behind(self) -> None:
        for replies in range(ENVELOPE, ENVELOPE + 3):
            self.setUp()
            self.network.replies = replies
            self.has()
            self.sends(4)
            self.cancels(1)
            self.others_are_delivered(1)

    def test_all_at_once(self) -> None:
        for replies in range(ENVELOPE + 2):
            self.setUp()
            self.network.replies = replies
            self.has(max_connections=2)
            self.sends(5)
            for number in range(5):
                self.cancels(number)
            self.network.all_replies_arrive()
            self.sends(1)
            self.assertEqual(outcomes(self.successResultOf(self.sent[-1])), DELIVERED)


class Lost(PoolCase):
    """A connection ends with messages under way on it."""

    def test_messages_behind_it_go_over_another_once(self) -> None:
        self.network.replies = ENVELOPE
        self.has()
        self.sends(4)
        self.assertEqual(self.heard(), [ONE + " RSET MAIL RCPT DATA"])
        self.network.replies = None
        self.network.lines[0].breaks()
        self.network.run()
        self.is_deferred(0, "may have been delivered", uncertain=True)
        for sent in self.sent[1:]:
            self.assertEqual(outcomes(self.successResultOf(sent)), DELIVERED)
        self.assertEqual(self.stored(), [0, 1, 2, 3])

    def test_so_do_they_if_the_receiver_hangs_up(self) -> None:
        self.network.receiver.fates = {b"m1@example.org": Fate(hangs_up=True)}
        self.has()
        self.sends(4)
        self.is_deferred(1, "may have been delivered", uncertain=True)
        for number in (0, 2, 3):
            self.assertEqual(outcomes(self.successResultOf(self.sent[number])), DELIVERED)
        self.assertEqual(self.stored(), [0, 1, 2, 3])

    def test_if_none_can_be_opened_they_are_told(self) -> None:
        self.network.replies = ENVELOPE
        self.has()
        self.sends(3)
        self.network.answers = False
        self.network.lines[0].breaks()
        self.network.run()
        for number in (1, 2):
            self.is_deferred(number, "4.4.1 no connection")

    def test_a_message_on_another_connection_is_not_harmed(self) -> None:
        self.network.replies = ENVELOPE
        self.has(max_connections=2)
        self.sends(2)
        self.network.lines[0].breaks()
        self.network.all_replies_arrive()
        self.is_deferred(0, "may have been delivered", uncertain=True)
        self.assertEqual(outcomes(self.successResultOf(self.sent[1])), DELIVERED)


class NotOpened(PoolCase):
    def test_all_who_wait_are_told_with_the_reason(self) -> None:
        self.network.answers = False
        self.has(max_connections=2)
        self.sends(5)
        for number in range(5):
            self.is_deferred(number, "4.4.1 no connection to 192.0.2.25 port 25: ")
        self.assertEqual(len(self.network.reactor.tcpClients), 2)

    def test_while_another_serves_they_wait_for_it(self) -> None:
        self.network.replies = OPENED
        self.has(max_connections=3)
        self.sends(1)
        self.network.answers = False
        self.sends(4)
        self.assertEqual(self.agent.statistics().waiting, 4)
        self.network.all_replies_arrive()
        self.all_are_delivered()

    def test_once_that_is_closed_another_is_opened_for_the_next(self) -> None:
        self.network.replies = OPENED
        self.has(max_connections=3, idle_timeout_s=30)
        self.sends(1)
        self.network.answers = False
        self.sends(1)
        self.network.all_replies_arrive()
        self.network.passes(30)
        self.assertEqual(self.network.open_lines, [])
        self.network.answers = True
        self.sends(1)
        self.all_are_delivered()

    def test_who_is_told_may_send_again(self) -> None:
        self.network.answers = False
        self.has()
        self.gives(1)
        again: list[Deferred[Report]] = []
        self.sent[0].addCallback(lambda _: again.append(self.agent.send(letter(1), CONTENT)))
        self.network.run()
        self.assertEqual(outcomes(self.successResultOf(again[0])), [("deferred", "4.4.1")])


class OutOfStep(PoolCase):
    """A host that answered out of step gets no messages in a row any more."""

    def rows(self) -> list[bool]:
        """For each connection, whether anything ever came behind an end of data."""
        return [len(session.alone) != session.verbs.count(".") for session in self.network.receiver.sessions]

    def test_without_a_fault_they_go_in_a_row(self) -> None:
        self.has()
        self.sends(4)
        self.assertEqual(self.rows(), [True])

    def test_a_reply_too_many_ends_that(self) -> None:
        self.network.fault = Fault(Kind.SURPLUS, 3)
        self.has()
        self.sends(5)
        self.is_deferred(0, "4.5.0", uncertain=True)
        for sent in self.sent[1:]:
            self.assertEqual(outcomes(self.successResultOf(sent)), DELIVERED)
        self.sends(3)
        self.assertEqual(self.rows(), [True, False])
        self.assertEqual(self.stored(), list(range(8)))

    def test_so_does_an_ehlo_that_is_not_answered_as_one(self) -> None:
        self.has()
        self.network.fault = Fault(Kind.CHANGED, 9, 550)
        self.sends(2)
        self.is_deferred(1, "4.5.0", uncertain=True)
        self.sends(3)
        self.assertEqual(self.rows(), [True, False])

    def test_a_connection_that_is_lost_does_not(self) -> None:
        self.network.replies = ENVELOPE
        self.has()
        self.sends(4)
        self.network.replies = None
        self.network.lines[0].breaks()
        self.network.run()
        self.assertEqual(self.rows(), [True, True])


class Closing(PoolCase):
    def test_it_says_good_bye_to_every_connection(self) -> None:
        self.has(max_connections=3)
        self.sends(3)
        closing = self.agent.close()
        self.network.run()
        self.successResultOf(closing)
        self.assertEqual(self.heard(), [ONE + " QUIT"] * 3)
        self.assertEqual(self.network.reactor.getDelayedCalls(), [])

    def test_what_waits_is_sent_and_what_comes_is_refused(self) -> None:
        self.network.replies = OPENED
        self.has()
        self.sends(4)
        closing = self.agent.close()
        self.failureResultOf(self.agent.send(letter(9), CONTENT), OutOfOrder)
        self.network.run()
        self.assertNoResult(closing)
        self.network.all_replies_arrive()
        self.successResultOf(closing)
        self.all_are_delivered()

    def test_a_connection_that_is_opened_for_nobody_is_given_up(self) -> None:
        self.network.answers = None
        self.has(max_connections=2)
        self.sends(2)
        closing = self.agent.close()
        for sent in self.sent:
            sent.cancel()
            self.failureResultOf(sent, CancelledError)
        self.successResultOf(closing)
        self.assertTrue(all(connector.stoppedConnecting for connector in self.network.reactor.connectors))

    def test_who_does_not_answer_quit_is_given_5_s(self) -> None:
        self.has(max_connections=2)
        self.sends(2)
        for line in self.network.lines:
            line.replies = 0
        closing = self.agent.close()
        self.network.passes(4)
        self.assertNoResult(closing)
        self.network.passes(1)
        self.successResultOf(closing)


class Counting(PoolCase):
    def counts(self) -> dict[str, int]:
        """Those that are not 0."""
        return {name: count for name, count in asdict(self.agent.statistics()).items() if count}

    def test_what_it_does_and_has_done(self) -> None:
        self.network.answers = None
        self.has(max_connections=2)
        self.assertEqual(self.counts(), {})
        self.sends(3)
        self.assertEqual(self.counts(), {"waiting": 3, "opening": 2})
        self.network.answers, self.network.replies = True, OPENED
        self.network.run()
        self.assertEqual(self.counts(), {"waiting": 1, "busy": 2, "opened": 2})
        self.network.all_replies_arrive()
        self.assertEqual(self.counts(), {"idle": 2, "opened": 2, "delivered": 3})
        self.network.passes(30)
        self.assertEqual(self.counts(), {"opened": 2, "delivered": 3})

    def test_recipients_by_what_became_of_them(self) -> None:
        self.network.receiver.fates = {b"joe@example.org": Fate(rcpt=(250, 550, 450, 250))}
        self.has()
        everybody = [f"r{place}@example.com" for place in range(4)]
        settled(self.agent.send(Envelope("joe@example.org", everybody), CONTENT))
        self.network.run()
        self.assertEqual(self.counts(), {"idle": 1, "opened": 1, "delivered": 2, "deferred": 1, "failed": 1})
