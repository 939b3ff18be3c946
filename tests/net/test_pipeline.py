"""
Messages in a row: whatever happens to the replies, no outcome is untrue.

Five messages are given at once to an agent with one connection. The receiver is
a model that knows what it stored; one of its replies is spoilt on the way:
surplus, doubled, missing, late, torn, broken up, changed. What is promised then:

  - Each message gets one report.
  - What is reported as delivered is stored, octet for octet.
  - What is stored is reported as delivered or as uncertain, never as certainly
    not delivered, and is stored once.
  - Replies that are only cut into packets or lines differently change nothing.

The replies to commands that are sent in one group (RFC 2920 §3.1) are told apart
by their order and by nothing else, so there is what no client can know:

  - A changed reply is what the server said. If it is to RCPT, it is the verdict
    on that recipient, if it is to the content, on that message.
  - The replies to two RCPTs of one message, swapped, are two verdicts swapped.
  - A reply too many right before the one to the content of a message with
    nothing behind it (a single one, and every one where the server does not
    pipeline) is taken for it, as by any client: nothing comes that could show
    the mistake in time.
  - With LMTP the same is true of every change in the number of replies to such
    a content. A server that counts other recipients than it said counts their
    replies as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome, Report, Status
from pymail_tx.net.agent import SMTPAgent
from tests.net.memory import TARGET, Network
from tests.net.model_receiver import CONTENT, HARMLESS, OPENING_REPLIES, Fate, Fault, Kind, ModelReceiver, Said, Stored

PIPELINES, ONE_BY_ONE = (b"PIPELINING",), (b"SIZE",)
CHUNKS = (b"PIPELINING", b"CHUNKING")

ALL_AT_ONCE = 1_000_000
"""As octets in a packet."""

_TAKEN = Fate()
_REFUSED = Fate(content=550)
_TO_NOBODY = Fate(rcpt=(550,))
_LOST = Fate(hangs_up=True, content=451)
_STORED_AND_LOST = Fate(hangs_up=True)

BURSTS: dict[str, Sequence[Fate]] = {
    "all taken": (_TAKEN,) * 5,
    "every other one refused": (_TAKEN, _REFUSED, _TAKEN, _REFUSED, _TAKEN),
    "no valid recipients": (_REFUSED, _TO_NOBODY, _TAKEN, _TO_NOBODY, _REFUSED),
    "354 for nobody": (_TAKEN, evolve(_TO_NOBODY, data_for_nobody=354), _REFUSED, _TAKEN, _TAKEN),
    "senders refused": (_TAKEN, Fate(mail=550), _REFUSED, Fate(mail=451), _TAKEN),
    "data refused": (Fate(data=451), _REFUSED, Fate(data=554), _TAKEN, _REFUSED),
    "some recipients refused": (
        Fate(rcpt=(250, 550)),
        Fate(rcpt=(550, 250), content=450),
        Fate(rcpt=(550, 550), data_for_nobody=354),
        Fate(rcpt=(450, 250)),
        Fate(rcpt=(250, 250)),
    ),
    "stored, and the connection lost": (_TAKEN, _STORED_AND_LOST, _TAKEN, _REFUSED, _TAKEN),
    "lost with the connection": (_TAKEN, _REFUSED, _TAKEN, _LOST, _TAKEN),
}

_CODES = {Kind.SURPLUS: (250, 354, 550), Kind.CHANGED: (250, 421, 550)}
"""Kinds of fault that have one."""

_SHIFTS = frozenset({Kind.SURPLUS, Kind.DUPLICATE, Kind.MISSING, Kind.BROKEN_UP})
"""Kinds after which the number of replies is another."""

LMTP_TARGET = "lmtp://192.0.2.25:24?tls=none"

MAILBOXES: dict[str, Sequence[Fate]] = {
    "all taken": (Fate(rcpt=(250, 250)),) * 5,
    "some full": (
        Fate(rcpt=(250, 250), deliveries=(250, 452)),
        Fate(rcpt=(250, 250), deliveries=(550, 250)),
        Fate(rcpt=(550, 250)),
        Fate(rcpt=(250, 250), deliveries=(452, 550)),
        Fate(deliveries=(550,)),
    ),
    "nobody there": (
        Fate(rcpt=(250, 250), deliveries=(550, 550)),
        Fate(rcpt=(550, 550)),
        Fate(rcpt=(250, 250), deliveries=(250, 550)),
        Fate(rcpt=(550,), data_for_nobody=354),
        Fate(rcpt=(250, 250)),
    ),
    "lost with the connection": (
        Fate(rcpt=(250, 250), deliveries=(250, 550)),
        Fate(rcpt=(250, 250), deliveries=(250, 451), hangs_up=True),
        Fate(),
    ),
}
"""As L{BURSTS}, for LMTP."""


def _sender(number: int) -> bytes:
    return b"m%d@example.org" % number


def _recipient(number: int, place: int) -> bytes:
    return b"m%dr%d@example.com" % (number, place)


def _content(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n.line\r\n" % number


@define
class Burst:
    """
    Messages given at once, and what came of them.

    @ivar fates: of each message.
    @ivar fault: what happens to the replies of the first connection.
    @ivar packet_octets: in how small pieces replies come; C{None}: one by one.
    @ivar lmtp: whether it is by LMTP that they go.
    @ivar reports: for each message those that it got.
    """

    fates: Sequence[Fate]
    fault: Fault | None = None
    packet_octets: int | None = None
    offers: Sequence[bytes] = PIPELINES
    lmtp: bool = False
    network: Network = field(init=False)
    reports: list[list[Report]] = field(init=False)

    def run(self) -> Burst:
        """Until the agent is closed."""
        receiver = ModelReceiver(
            {_sender(number): fate for number, fate in enumerate(self.fates)}, self.offers, self.lmtp
        )
        self.network = Network(receiver, self.fault, self.packet_octets)
        self.reports = [[] for _ in self.fates]
        agent = SMTPAgent(self.network.reactor, LMTP_TARGET if self.lmtp else TARGET, max_connections=1)
        for number, fate in enumerate(self.fates):
            recipients = [_recipient(number, place).decode() for place in range(len(fate.rcpt))]
            sent = agent.send(Envelope(_sender(number).decode(), recipients), _content(number))
            sent.addCallback(self.reports[number].append)
        closing = agent.close()
        self.network.run()
        while not closing.called:
            self.network.passes_until_the_next_timer()
        return self

    @property
    def said(self) -> list[Said]:
        """What the receiver said on the first connection, the opening left out."""
        return self.network.receiver.sessions[0].said[OPENING_REPLIES:]

    def untruths(self) -> list[str]:
        """Sentences about what should not be; none, it is hoped."""
        found = [f"message {number} got {len(got)} reports" for number, got in enumerate(self.reports) if len(got) != 1]
        unknowable = self._unknowable()
        for number, got in enumerate(self.reports):
            for place, outcome in enumerate(got[0].outcomes if got else ()):
                if _recipient(number, place) not in unknowable:
                    found += [
                        f"{lie}: recipient {place} of message {number}, {outcome}"
                        for lie in self._lies(number, place, outcome)
                    ]
        return found

    def _lies(self, number: int, place: int, outcome: Outcome) -> Iterator[str]:
        truth = Stored(_sender(number), _recipient(number, place), _content(number))
        stored = self.network.receiver.stored.count(truth)
        if outcome.status is Status.DELIVERED and not stored:
            yield "delivered, but not stored"
        if stored and outcome.status is not Status.DELIVERED and not outcome.uncertain:
            yield "stored, but certainly not delivered"
        if stored > 1:
            yield f"stored {stored} times"
        if self.fault is None or self.fault.kind in HARMLESS:
            expected = self._expected(self.fates[number], place)
            if (outcome.status, outcome.uncertain) != expected:
                yield f"not {expected}"

    def _unknowable(self) -> set[bytes]:
        """Recipients of whom no client can know what became of them; see the module's head."""
        if self.fault is None or self.fault.position >= len(self.said):
            return set()
        kind, place = self.fault.kind, self.fault.position
        one, next_one = (*self.said, Said(b"", ""))[place : place + 2]
        message = {one.sender.replace(b"@example.org", b"r%d@example.com" % at) for at in (0, 1)}
        if self.lmtp and one.verb == CONTENT:
            return self._unknowable_of_lmtp(one, next_one, message)
        if self.lmtp and kind is Kind.CHANGED and one.verb == "RCPT":
            return message
        if kind is Kind.CHANGED:
            return {"RCPT": {one.recipient}, CONTENT: message}.get(one.verb, set())
        if kind is Kind.SURPLUS and OPENING_REPLIES + place in self.network.receiver.sessions[0].alone:
            return message
        if kind is Kind.SWAPPED and one.verb == CONTENT and self._is_never_asked_for(next_one):
            return message
        if kind is Kind.SWAPPED and one.verb == next_one.verb == "RCPT":
            return {one.recipient, next_one.recipient}
        return set()

    def _unknowable_of_lmtp(self, one: Said, next_one: Said, message: set[bytes]) -> set[bytes]:
        """The same where one of several replies to the content is spoilt."""
        assert self.fault
        kind, place = self.fault.kind, OPENING_REPLIES + self.fault.position
        if kind is Kind.CHANGED:
            return {one.recipient}
        if kind is Kind.SWAPPED and next_one.verb == CONTENT:
            return {one.recipient, next_one.recipient}
        if kind is Kind.SWAPPED and self._is_never_asked_for(next_one):
            return message
        return message if kind in _SHIFTS and place in self.network.receiver.sessions[0].alone else set()

    def _expected(self, fate: Fate, place: int) -> tuple[Status, bool]:
        """What becomes of a recipient if nothing is spoilt, and whether that is uncertain."""
        if self.offers == CHUNKS:
            fate = evolve(fate, data=354)  # nobody asks
            if any(other.hangs_up and other.mail == 250 and 250 in other.rcpt for other in self.fates):
                return Status.DEFERRED, True  # everything was sent, and nothing could be proved
        refusals = [code for code in (fate.mail, fate.rcpt[place], fate.data) if code >= 400]
        if fate.hangs_up and not refusals:
            return Status.DEFERRED, True
        accepted_before = sum(code < 400 for code in fate.rcpt[:place])
        code = (*refusals, fate.delivery(accepted_before) if self.lmtp else fate.content)[0]
        return {2: Status.DELIVERED, 4: Status.DEFERRED, 5: Status.FAILED}[code // 100], False

    def _is_never_asked_for(self, mail: Said) -> bool:
        """Whether the message that begins with this reply to MAIL gets no 354."""
        asked_for = [said.sender for said in self.said if said.verb == "DATA" and said.octets.startswith(b"354")]
        return mail.verb == "MAIL" and mail.sender not in asked_for


def _faults(positions: int) -> Iterator[Fault]:
    """Of every kind, at every position."""
    for kind in Kind:
        for code in _CODES.get(kind, (250,)):
            for position in range(positions):
                yield Fault(kind, position, code)


class Bursts(SynchronousTestCase):
    def is_true(self, burst: Burst) -> None:
        found = burst.run().untruths()
        self.assertEqual(found, [], f"{burst.fates}, {burst.fault}, {burst.packet_octets}, {burst.offers}")

    def every_fault_is_harmless(self, fates: Sequence[Fate], *, offers: Sequence[bytes] = PIPELINES) -> None:
        """At every position, however the replies are cut."""
        positions = len(Burst(fates, offers=offers).run().said)
        for fault in _faults(positions):
            self.is_true(Burst(fates, fault, None, offers))
            self.is_true(Burst(fates, fault, ALL_AT_ONCE, offers))


class Unspoilt(Bursts):
    def test_everybody_hears_what_is_true(self) -> None:
        for fates in BURSTS.values():
            for offers in (PIPELINES, ONE_BY_ONE, CHUNKS):
                self.is_true(Burst(fates, offers=offers))

    def test_replies_cut_into_octets_are_the_same_replies(self) -> None:
        for fates in BURSTS.values():
            for packet_octets in (1, 2, 7, 100, ALL_AT_ONCE):
                for offers in (PIPELINES, CHUNKS):
                    self.is_true(Burst(fates, packet_octets=packet_octets, offers=offers))


class OneSpoiltReply(Bursts):
    """Of every kind, at every position, and no outcome is untrue."""

    def test_where_everything_goes_out_in_chunks(self) -> None:
        for fates in BURSTS.values():
            self.every_fault_is_harmless(fates, offers=CHUNKS)

    def test_where_less_than_five_messages_go_out_in_chunks(self) -> None:
        for count in range(1, 5):
            for fates in BURSTS.values():
                self.every_fault_is_harmless(fates[:count], offers=CHUNKS)

    def test_where_all_messages_are_taken(self) -> None:
        self.every_fault_is_harmless(BURSTS["all taken"])

    def test_where_every_other_message_is_refused(self) -> None:
        self.every_fault_is_harmless(BURSTS["every other one refused"])

    def test_where_messages_have_no_valid_recipients(self) -> None:
        self.every_fault_is_harmless(BURSTS["no valid recipients"])

    def test_where_content_is_asked_for_that_nobody_would_get(self) -> None:
        self.every_fault_is_harmless(BURSTS["354 for nobody"])

    def test_where_senders_are_refused(self) -> None:
        self.every_fault_is_harmless(BURSTS["senders refused"])

    def test_where_data_is_refused(self) -> None:
        self.every_fault_is_harmless(BURSTS["data refused"])

    def test_where_some_recipients_are_refused(self) -> None:
        self.every_fault_is_harmless(BURSTS["some recipients refused"])

    def test_where_a_stored_message_never_gets_its_reply(self) -> None:
        self.every_fault_is_harmless(BURSTS["stored, and the connection lost"])

    def test_where_a_message_is_lost_with_the_connection(self) -> None:
        self.every_fault_is_harmless(BURSTS["lost with the connection"])

    def test_where_there_are_less_than_five_messages(self) -> None:
        for count in range(1, 5):
            self.every_fault_is_harmless(BURSTS["every other one refused"][:count])
            self.every_fault_is_harmless(BURSTS["no valid recipients"][:count])

    def test_where_the_server_does_not_pipeline(self) -> None:
        self.every_fault_is_harmless(BURSTS["every other one refused"], offers=ONE_BY_ONE)
        self.every_fault_is_harmless(BURSTS["some recipients refused"], offers=ONE_BY_ONE)

    def test_where_the_server_takes_chunks(self) -> None:
        for name, fates in BURSTS.items():
            if name != "data refused":
                self.every_fault_is_harmless(fates, offers=CHUNKS)

    _CODE = st.sampled_from([250, 251, 299, 354, 399, 421, 450, 452, 499, 500, 503, 550, 552, 554])
    _YES_OR_NO = st.sampled_from([250, 250, 450, 550])
    _FATE = st.builds(
        Fate,
        mail=_YES_OR_NO,
        rcpt=st.lists(_YES_OR_NO, min_size=1, max_size=2).map(tuple),
        data=st.sampled_from([354, 354, 354, 451, 554]),
        data_for_nobody=st.sampled_from([354, 503, 554]),
        content=_YES_OR_NO,
        hangs_up=st.integers(0, 9).map(lambda drawn: drawn == 0),
    )

    @given(
        st.lists(_FATE, min_size=1, max_size=5),
        st.builds(Fault, st.sampled_from(Kind), st.integers(0, 30), _CODE),
        st.one_of(st.none(), st.integers(1, 300)),
        st.sampled_from([PIPELINES, PIPELINES, ONE_BY_ONE, CHUNKS, CHUNKS]),
    )
    @settings(max_examples=800, deadline=None)
    def test_whatever_the_messages_fates(
        self, fates: Sequence[Fate], fault: Fault, packet_octets: int | None, offers: Sequence[bytes]
    ) -> None:
        if offers is CHUNKS:
            fates = [evolve(fate, data=354) for fate in fates]  # nobody asks
        self.is_true(Burst(fates, fault, packet_octets, offers))


class OneSpoiltReplyOfLMTP(Bursts):
    """With a reply to the content for each recipient."""

    def test_at_every_position_of_messages_in_a_row(self) -> None:
        for fates in MAILBOXES.values():
            for count in range(1, len(fates) + 1):
                self.every_fault_of_lmtp_is_harmless(fates[:count], PIPELINES)

    def test_where_the_server_does_not_pipeline(self) -> None:
        for fates in MAILBOXES.values():
            self.every_fault_of_lmtp_is_harmless(fates, ONE_BY_ONE)

    def every_fault_of_lmtp_is_harmless(self, fates: Sequence[Fate], offers: Sequence[bytes]) -> None:
        unspoilt = Burst(fates, offers=offers, lmtp=True)
        self.is_true(unspoilt)
        for fault in _faults(len(unspoilt.said)):
            for packet_octets in (None, ALL_AT_ONCE):
                self.is_true(Burst(fates, fault, packet_octets, offers, lmtp=True))


class Swapped(SynchronousTestCase):
    """
    The replies to one message's content and to the next one's MAIL.

    The number of replies is right, so that the EHLO at the end shows nothing.
    The RSET between them does: nobody refuses that.
    """

    def statuses(self, position: int, *fates: Fate) -> list[tuple[str, bool]]:
        """What is reported if the reply at that position, from 0, and the next are swapped."""
        burst = Burst(fates, Fault(Kind.SWAPPED, position)).run()
        outcomes = [report.outcomes[0] for [report] in burst.reports]
        return [(outcome.status.value, outcome.uncertain) for outcome in outcomes]

    def test_a_refused_message_does_not_become_delivered_by_the_yes_to_the_sender_behind_it(self) -> None:
        self.assertEqual(self.statuses(3, _REFUSED, _TO_NOBODY)[0], ("deferred", True))

    def test_a_stored_message_does_not_become_failed_by_the_refusal_of_the_sender_behind_it(self) -> None:
        self.assertEqual(self.statuses(4, _TAKEN, Fate(mail=550))[0], ("deferred", True))


class SwappedChunks(SynchronousTestCase):
    """The same with whole transactions in one write, whose replies may all come in one packet."""

    def test_a_refused_message_does_not_become_delivered_by_the_yes_to_the_reset_behind_it(self) -> None:
        burst = Burst((_REFUSED, _TAKEN), Fault(Kind.SWAPPED, 2), ALL_AT_ONCE, CHUNKS).run()
        [outcome] = burst.reports[0][0].outcomes
        self.assertEqual((outcome.status.value, outcome.uncertain), ("deferred", True), outcome)
