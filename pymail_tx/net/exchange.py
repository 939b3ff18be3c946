"""
The words between those who say and L{pymail_tx.net.dialogue}: one exchange, its
answer, and the write in which several go out together.
"""

from __future__ import annotations

from collections.abc import Callable

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

    def answer(self, answer: Answer) -> None:
        """Tell it, once."""
        answered, self.answered = self.answered, None
        if answered:
            answered(answer)


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
