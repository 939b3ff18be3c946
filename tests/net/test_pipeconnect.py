"""
Hosts that offered PIPECONNECT take a message's commands before they greet. Where they do no more, nothing is lost or
doubled.
"""

from __future__ import annotations

from itertools import product

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.extensions import Extensions
from pymail_tx.core.outcome import Outcome, Report
from pymail_tx.core.state import State
from pymail_tx.net import opening
from pymail_tx.net.agent import SMTPAgent
from tests.net.loopback import LoopbackTestCase, Script, Server
from tests.net.memory import TARGET, Line, Network
from tests.net.model_receiver import OPENING_REPLIES, Fate, Fault, Kind
from tests.net.scripted import ScriptedCase, ehlo_lines, outcomes

PIPELINING, EIGHT_BIT, SIZE, PIPECONNECT = b"PIPELINING", b"8BITMIME", b"SIZE 1000", b"PIPECONNECT"

OFFERS = (PIPELINING, EIGHT_BIT, SIZE, PIPECONNECT)

CHANGES: dict[str, tuple[bytes, ...]] = {
    "no PIPELINING": (EIGHT_BIT, SIZE, PIPECONNECT),
    "no 8BITMIME": (PIPELINING, SIZE, PIPECONNECT),
    "no SIZE": (PIPELINING, EIGHT_BIT, PIPECONNECT),
    "a smaller SIZE": (PIPELINING, EIGHT_BIT, b"SIZE 500", PIPECONNECT),
    "a larger SIZE": (PIPELINING, EIGHT_BIT, b"SIZE 2000", PIPECONNECT),
    "no PIPECONNECT": (PIPELINING, EIGHT_BIT, SIZE),
    "CHUNKING": (*OFFERS, b"CHUNKING"),
    "STARTTLS": (*OFFERS, b"STARTTLS"),
    "nothing at all": (),
}

WORDS = [keyword.decode() for keyword in OFFERS]

DELIVERED = [("delivered", "2.0.0")]

CONTENT = (
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"Sch\xc3\xb6ne Gr\xc3\xbc\xc3\x9fe\r\n"
)

ORDINARY = "EHLO MAIL RCPT DATA . QUIT"
WITHOUT_CONTENT = "EHLO MAIL RCPT DATA"

MAX_TIMERS = 20


def letter(number: int) -> Envelope:
    return Envelope(f"m{number}@example.org", ["ann@example.com"])


class EarlyCase(SynchronousTestCase):
    """An agent that keeps no connection, and has delivered message 0 to a host that offered PIPECONNECT."""

    offers: tuple[bytes, ...] = OFFERS

    def setUp(self) -> None:
        self.begins(self.offers)

    def begins(self, offers: tuple[bytes, ...], *, target: str = TARGET, connections: int = 1) -> None:
        self.network = Network()
        self.receiver = self.network.receiver
        self.receiver.offers = offers
        self.agent = SMTPAgent(self.network.reactor, target, max_connections=connections, idle_timeout_s=0)
        self.addCleanup(self.nothing_is_left, self.agent, self.network)
        self.sends(0)

    def nothing_is_left(self, agent: SMTPAgent, network: Network) -> None:
        closing = agent.close()
        network.all_replies_arrive()
        self.successResultOf(closing)
        self.assertEqual((network.open_lines, network.reactor.getDelayedCalls()), ([], []))

    def gives(self, number: int, content: bytes = CONTENT) -> Deferred[Report]:
        """A message whose connection is there, and has said nothing yet."""
        self.network.replies = 0
        sent = self.agent.send(letter(number), content)
        self.network.run()
        self.network.replies = None
        return sent

    def sends(self, number: int, content: bytes = CONTENT) -> Outcome:
        sent = self.agent.send(letter(number), content)
        self.network.run()
        return self.outcome(sent)

    def outcome(self, sent: Deferred[Report]) -> Outcome:
        [outcome] = self.successResultOf(sent).outcomes
        return outcome

    def ends(self, sent: Deferred[Report]) -> Outcome:
        """Everything arrives, and whatever does not is waited for."""
        self.network.all_replies_arrive()
        for _ in range(MAX_TIMERS):
            if sent.called:
                break
            self.network.passes_until_the_next_timer()
        return self.outcome(sent)

    def stored(self, number: int) -> int:
        """How many times."""
        return [one.sender for one in self.receiver.stored].count(letter(number).sender.encode())

    def heard(self) -> list[str]:
        """The verbs of each connection."""
        return [" ".join(session.verbs) for session in self.receiver.sessions]

    @property
    def last(self) -> Line:
        return self.network.lines[-1]


class Early(EarlyCase):
    def test_the_first_message_waits_for_greeting_and_ehlo(self) -> None:
        self.assertEqual([write.split()[0] for write in self.network.lines[0].wire.writes[:2]], [b"EHLO", b"MAIL"])

    def test_the_next_says_all_commands_in_its_first_write_before_the_greeting(self) -> None:
        sent = self.gives(1)
        [write] = self.last.wire.writes
        verbs = [line.split(b" ")[0] for line in write.split(b"\r\n")]
        self.assertEqual(verbs, [b"EHLO", b"MAIL", b"RCPT", b"DATA", b""])
        self.assertEqual(self.ends(sent).status.value, "delivered")
        self.assertEqual((self.heard(), self.stored(1)), ([ORDINARY, ORDINARY], 1))

    def test_no_content_goes_before_the_ehlo_reply(self) -> None:
        for replies in range(OPENING_REPLIES):
            sent = self.gives(replies + 1)
            self.last.replies = replies
            self.network.run()
            self.assertEqual(len(self.last.wire.writes), 1)
            self.assertEqual(self.ends(sent).status.value, "delivered")

    def test_further_messages_go_behind_it_as_ever(self) -> None:
        sent = self.gives(1)
        behind = [self.agent.send(letter(number), CONTENT) for number in (2, 3)]
        for one in (sent, *behind):
            self.assertEqual(self.ends(one).status.value, "delivered")
        self.assertEqual([self.stored(number) for number in (1, 2, 3)], [1, 1, 1])
        self.assertEqual(len(self.network.lines), 2)

    def test_each_connection_does(self) -> None:
        self.begins(OFFERS, connections=2)
        sent = [self.gives(1), self.gives(2)]
        self.assertEqual([len(line.wire.writes) for line in self.network.lines[1:]], [1, 1])
        self.assertEqual([self.ends(one).status.value for one in sent], ["delivered"] * 2)

    def test_refused_recipients_are_refused(self) -> None:
        for code, data_for_nobody in ((550, 554), (550, 354), (450, 554)):
            self.receiver.fates = {b"m1@example.org": Fate(rcpt=(code,), data_for_nobody=data_for_nobody)}
            self.assertEqual(self.sends(1).reply.code, code)  # type: ignore[union-attr]  # there is one
        self.assertEqual(self.stored(1), 0)

    def test_a_message_that_is_cancelled_leaves_nothing(self) -> None:
        sent = self.gives(1)
        sent.addErrback(lambda _: None)
        sent.cancel()
        self.network.run()
        self.assertEqual((self.network.open_lines, self.stored(1)), ([], 0))


class WithoutAMessage(ScriptedCase):
    def test_ehlo_goes_out_when_the_greeting_has_come(self) -> None:
        server = self.server()
        offers = Extensions({"PIPELINING": (), "PIPECONNECT": ()})
        server.client.assume(offers, opening.early_hello("me.example"))
        server.expects()
        server.says("220 mx.example ESMTP")
        server.expects("EHLO me.example")
        server.says(*ehlo_lines("PIPELINING", "PIPECONNECT"))
        self.assertIs(server.client.state, State.READY)
        self.assertEqual((server.client.assumed, server.client.extensions), (None, offers))


class Chunks(EarlyCase):
    offers = (*OFFERS, b"CHUNKING")

    def test_a_chunk_waits_until_the_ehlo_reply_offers_it_again(self) -> None:
        sent = self.gives(1)
        [write] = self.last.wire.writes
        self.assertEqual(write.count(b"\r\n"), 3)
        self.assertNotIn(b"BDAT", write)
        self.assertEqual(self.ends(sent).status.value, "delivered")
        self.assertEqual(self.heard()[-1], "EHLO MAIL RCPT BDAT . EHLO QUIT")

    def test_it_is_not_sent_where_it_does_not(self) -> None:
        self.receiver.offers = OFFERS
        self.assertEqual(self.sends(1).status.value, "delivered")
        self.assertEqual(self.heard()[1:], ["EHLO MAIL RCPT", ORDINARY])
        self.assertEqual(self.stored(1), 1)

    def test_a_violation_before_that_costs_the_host_nothing_else(self) -> None:
        sent = self.gives(1)
        self.last.fault = Fault(Kind.TORN, -OPENING_REPLIES)
        self.assertEqual(self.ends(sent).status.value, "delivered")
        self.assertEqual(self.heard()[1:], ["EHLO MAIL RCPT", "EHLO MAIL RCPT BDAT . EHLO QUIT"])


class Broken(EarlyCase):
    """The host does no more what it did: the connection is closed without content, and the ordinary way is gone."""

    def goes_the_ordinary_way(self, number: int = 1) -> None:
        outcome = self.sends(number)
        self.assertEqual((outcome.status.value, self.stored(number)), ("delivered", 1), outcome)
        early, ordinary = self.network.lines[-2:]
        self.assertEqual(len(early.wire.writes), 1)
        self.assertNotIn(CONTENT.splitlines()[0], early.wire.value())
        self.assertEqual([write.split()[0] for write in ordinary.wire.writes[:2]], [b"EHLO", b"MAIL"])

    def test_keywords_that_changed_in_whichever_way(self) -> None:
        for change, offers in CHANGES.items():
            self.begins(OFFERS)
            self.receiver.offers = offers
            self.goes_the_ordinary_way()
            self.assertEqual(self.heard()[1], WITHOUT_CONTENT, change)

    def test_it_is_known_anew_when_it_offers_it_again(self) -> None:
        self.receiver.offers = CHANGES["a smaller SIZE"]
        self.goes_the_ordinary_way()
        sent = self.gives(2)
        self.assertEqual(self.last.wire.writes[0].count(b"\r\n"), 4)
        self.assertEqual(self.ends(sent).status.value, "delivered")

    def test_it_is_not_where_it_does_not(self) -> None:
        self.receiver.offers = CHANGES["no PIPECONNECT"]
        self.goes_the_ordinary_way()
        self.gives(2)
        self.assertEqual(self.last.wire.writes, [])

    def test_a_refused_greeting_is_met_twice_and_decides(self) -> None:
        for number, code in enumerate((421, 451, 554), 1):
            self.begins(OFFERS)
            self.receiver.greeting = code
            outcome = self.sends(number)
            self.assertEqual((outcome.status.value, outcome.reply and outcome.reply.code), ("deferred", code))
            self.assertFalse(outcome.uncertain)
            self.assertEqual((len(self.network.lines), self.stored(number)), (3, 0))

    def test_a_connection_that_is_lost_before_the_ehlo_reply_came(self) -> None:
        for replies in range(OPENING_REPLIES):
            self.begins(OFFERS)
            sent = self.gives(1)
            self.last.replies = replies
            self.network.run()
            self.last.breaks()
            self.assertEqual(self.ends(sent).status.value, "delivered")
            self.assertEqual((len(self.network.lines), self.stored(1)), (3, 1))

    def test_a_connection_that_is_lost_later_defers_as_ever(self) -> None:
        sent = self.gives(1)
        self.last.replies = OPENING_REPLIES + 1
        self.network.run()
        self.last.breaks()
        self.assertEqual((self.outcome(sent).status.value, self.stored(1)), ("deferred", 0))

    def test_a_host_that_says_nothing_is_left_after_five_minutes(self) -> None:
        sent = self.gives(1)
        self.last.replies = 0
        self.network.passes(299)
        self.assertNoResult(sent)
        self.network.passes(1)
        self.assertEqual((self.outcome(sent).status.value, self.stored(1)), ("delivered", 1))

    def test_a_message_is_not_failed_by_what_was_offered_before(self) -> None:
        self.receiver.offers = CHANGES["a larger SIZE"]
        outcome = self.sends(1, CONTENT + b"x" * 1_500)
        self.assertEqual((outcome.status.value, self.stored(1)), ("delivered", 1))
        self.assertEqual(self.heard()[1:], ["", ORDINARY])

    def test_it_is_by_what_is_offered_still(self) -> None:
        self.assertEqual(outcomes(Report((self.sends(1, CONTENT + b"x" * 1_500),))), [("failed", "5.3.4")])

    def test_many_messages_meet_it_at_once_and_each_is_delivered_once(self) -> None:
        self.begins(OFFERS, connections=3)
        self.receiver.offers = CHANGES["STARTTLS"]
        sent = [self.gives(number) for number in range(1, 10)]
        self.assertEqual([self.ends(one).status.value for one in sent], ["delivered"] * 9)
        self.assertEqual([self.stored(number) for number in range(1, 10)], [1] * 9)


class Spoilt(EarlyCase):
    """
    Whatever happens to a reply to what was said early, no recipient's outcome is wrong. (A reply in its place that says
    something else is believed, as by any client.)
    """

    def test_at_every_place(self) -> None:
        places = range(-OPENING_REPLIES, 3)
        for kind, place, code, rcpt in product(Kind, places, (220, 250, 354, 451, 550), (250, 550)):
            if kind is not Kind.CHANGED or place < 0:
                self.is_true(Fault(kind, place, code), Fate(rcpt=(rcpt,)))

    def is_true(self, fault: Fault, fate: Fate) -> None:
        self.begins(self.offers)
        self.receiver.fates = {b"m1@example.org": fate}
        sent = self.gives(1)
        self.last.fault = fault
        outcome = self.ends(sent)
        found = self.stored(1)
        if not outcome.uncertain:
            self.assertEqual(found, int(outcome.status.value == "delivered"), (fault, fate, outcome))
        self.assertLessEqual(found, 1)


class SpoiltWithChunks(Spoilt):
    """The same, where the content goes by BDAT."""

    offers = (*OFFERS, b"CHUNKING")


class NotEarly(EarlyCase):
    """Hosts with which something is to be agreed on first are waited for."""

    def test_a_host_without_pipelining(self) -> None:
        self.waits((PIPECONNECT,))

    def test_a_host_without_pipeconnect(self) -> None:
        self.waits((PIPELINING,))

    def waits(self, offers: tuple[bytes, ...]) -> None:
        self.begins(offers)
        self.gives(1)
        self.assertEqual(self.last.wire.writes, [])


class Negotiated(LoopbackTestCase):
    def agent_for(self, script: Script, query: str = "") -> tuple[SMTPAgent, Server]:
        server, port = self.serve(script)
        target = f"smtp://127.0.0.1:{port}{query}"
        return SMTPAgent(self.reactor, target, max_messages_per_connection=1), server

    async def two_are_heard(self, script: Script, query: str = "") -> list[str]:
        """The verbs of each connection, for two messages."""
        agent, server = self.agent_for(script, query)
        for number in range(2):
            self.assertEqual(outcomes(await agent.send(letter(number), CONTENT)), DELIVERED)
        await agent.close()
        return server.conversations

    async def test_a_host_that_offers_starttls_is_asked_for_it_each_time(self) -> None:
        script = Script(offers=[*WORDS, "STARTTLS"], replies={"STARTTLS": b"454 4.7.0 not now"})
        self.assertEqual(await self.two_are_heard(script), ["EHLO STARTTLS QUIT", ORDINARY] * 2)

    async def test_but_not_where_no_tls_is_wanted(self) -> None:
        script = Script(offers=[*WORDS, "STARTTLS"])
        self.assertEqual(await self.two_are_heard(script, "?tls=none"), [ORDINARY] * 2)

    async def test_inside_tls_everything_is_as_ever(self) -> None:
        certificate = self.authority.issue("127.0.0.1")
        script = Script(offers=["STARTTLS"], offers_in_tls=WORDS, certificate=certificate)
        self.assertEqual(await self.two_are_heard(script), [f"EHLO STARTTLS (TLS) {ORDINARY}"] * 2)

    async def test_a_host_that_knows_no_ehlo_any_more_gets_helo_the_ordinary_way(self) -> None:
        agent, server = self.agent_for(Script(offers=WORDS))
        self.assertEqual(outcomes(await agent.send(letter(0), CONTENT)), DELIVERED)
        server.script = Script(replies={"EHLO": b"502 5.5.1 what?"})
        self.assertEqual(outcomes(await agent.send(letter(1), CONTENT)), DELIVERED)
        await agent.close()
        self.assertEqual(server.conversations[2], "EHLO HELO MAIL RCPT DATA . QUIT")

    async def test_a_host_that_begins_to_offer_starttls_gets_no_content_without(self) -> None:
        agent, server = self.agent_for(Script(offers=WORDS))
        self.assertEqual(outcomes(await agent.send(letter(0), CONTENT)), DELIVERED)
        certificate = self.authority.issue("127.0.0.1")
        server.script = Script(offers=[*WORDS, "STARTTLS"], offers_in_tls=WORDS, certificate=certificate)
        self.assertEqual(outcomes(await agent.send(letter(1), CONTENT)), DELIVERED)
        await agent.close()
        self.assertEqual(server.conversations[2], f"EHLO STARTTLS (TLS) {ORDINARY}")
