"""
The words between those who say and L{pymail_tx.net.dialogue}: one exchange, its
answer, and the write in which several go out together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field

from pymail_tx.core.command import Verb
from pymail_tx.core.errors import OutOfOrder, SessionError
from pymail_tx.core.reply import Reply

Answer = Reply | SessionError | OutOfOrder
"""What an exchange ends with. What is no reply says that there is none."""

Answered = Callable[[Answer], object]


@define(eq=False)
class Exchange:
    """
    A command, and who hears of its answer.

    @ivar line: the command with its CRLF, empty for a step that is no command.
    """

    verb: Verb
    line: bytes = field(default=b"", repr=False)
    answered: Answered | None = None

    def exchanges(self) -> list[Exchange]:
        """See L{Volley}: there it is more than one."""
        return [self]

    def answer(self, answer: Answer) -> None:
        """Tell it, once."""
        answered, self.answered = self.answered, None
        if answered:
            answered(answer)


@define(eq=False)
class Volley:
    """
    Commands that go out together, and that a server nearly always accepts all:
    while it does, they cost little more than one. In any other case the same is
    said with an exchange for each.

    @ivar verbs: of the commands, in their order.
    @ivar line: all of their lines, and whatever stands behind them.
    @ivar accepted: hears the replies if all are the ones hoped for.
    @ivar exchanges: makes the exchange for each.
    """

    verbs: tuple[Verb, ...]
    line: bytes = field(repr=False)
    accepted: Callable[[Sequence[Reply]], object]
    exchanges: Callable[[], list[Exchange]]

    @property
    def verb(self) -> Verb:
        """The first."""
        return self.verbs[0]


Said = Exchange | Volley


class Group:
    """
    Collects what is to go out in one write. A group inside a group is part of it.

    @ivar octets: what was collected so far; C{None} outside of any group.
    """

    def __init__(self, finish: Callable[[], None], put: Callable[[bytes], None]) -> None:
        """
        @param finish: called at the end, for what can still join.
        @param put: the write.
        """
        self.octets: list[bytes] | None = None
        self._depth = 0
        self._finish = finish
        self._put = put

    def __enter__(self) -> None:
        self._depth += 1
        if self.octets is None:
            self.octets = []

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._finish()
        octets, self.octets = self.octets, None
        if octets:
            self._put(b"".join(octets))
        self._finish()  # who heard that a command does not fit may have said another
