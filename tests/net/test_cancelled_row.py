"""
Of messages in a row one is cancelled, at every moment in turn: the others are delivered, each once.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Report, Status
from pymail_tx.net.agent import SMTPAgent
from tests.net.memory import TARGET, Network
from tests.net.model_receiver import ModelReceiver

MESSAGES = 3


def _content(number: int) -> bytes:
    return b"Subject: message %d\r\n\r\ntext\r\n" % number


@define
class Row:
    """
    Messages given at once to an agent with one connection.

    @ivar ends: of each, its report or why there is none.
    """

    offers: tuple[bytes, ...]
    network: Network = field(init=False)
    sent: list[Deferred[Report]] = field(init=False)
    ends: dict[int, Report | Failure] = field(factory=dict)
    _agent: SMTPAgent = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.network = Network(ModelReceiver({}, self.offers))
        self._agent = SMTPAgent(self.network.reactor, TARGET, max_connections=1)
        self.sent = []
        for number in range(MESSAGES):
            one = self._agent.send(Envelope("ann@example.org", [f"m{number}@example.com"]), _content(number))
            self.sent.append(one)
            one.addBoth(self._ended, number)

    def content_is_written(self, number: int) -> bool:
        return any(_content(number) in line.wire.value() for line in self.network.lines)

    def stored(self, number: int) -> int:
        """How many times."""
        return [one.content for one in self.network.receiver.stored].count(_content(number))

    def close(self) -> None:
        """Let everything come to its end."""
        closing = self._agent.close()
        self.network.run()
        while not closing.called:
            self.network.passes_until_the_next_timer()

    def _ended(self, end: Report | Failure, number: int) -> None:
        self.ends[number] = end


class InARow(SynchronousTestCase):
    def test_with_pipelining(self) -> None:
        self.at_every_moment(b"PIPELINING")

    def test_with_chunking(self) -> None:
        self.at_every_moment(b"PIPELINING", b"CHUNKING")

    def test_one_by_one(self) -> None:
        self.at_every_moment(b"SIZE")

    def at_every_moment(self, *offers: bytes) -> None:
        for number in range(MESSAGES):
            steps = 0
            while self.is_cancelled_in_time(Row(offers), number, steps):
                steps += 1
            self.assertGreater(steps, 5)

    def is_cancelled_in_time(self, row: Row, number: int, steps: int) -> bool:
        """
        @return: whether it had no report after so many steps.
        """
        for _ in range(steps):
            row.network.step()
        if number in row.ends:
            return False
        written = row.content_is_written(number)
        row.sent[number].cancel()
        row.close()
        words = f"message {number} of {row.network.receiver.offers} cancelled after {steps} steps"
        cancelled = row.ends[number]
        assert isinstance(cancelled, Failure), words
        self.assertIsInstance(cancelled.value, CancelledError, words)
        self.assertLessEqual(row.stored(number), int(written), words)
        for other in {*range(MESSAGES)} - {number}:
            end = row.ends[other]
            assert isinstance(end, Report), words
            self.assertEqual(end.outcomes[0].status, Status.DELIVERED, f"{words}: {other}, {end.outcomes[0]}")
            self.assertEqual(row.stored(other), 1, f"{words}: {other}")
        return True
