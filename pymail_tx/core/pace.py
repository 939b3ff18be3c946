"""
How fast mail may go to a destination, and what a reply makes of that: values
for whoever sends.
"""

from __future__ import annotations

import enum
import re

from attrs import frozen

from pymail_tx.core import duration
from pymail_tx.core.errors import BadArgument

MAX_REACTION_S = 7 * 86_400
"""Longer than the default retry plan: mail would expire before the destination is tried again."""

_RATE = re.compile(r"([1-9][0-9]{0,8})/([smhd])")


@frozen
class Rate:
    """
    At most C{count} messages in each C{unit}: s, m, h or d.
    """

    count: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Rate:
        """
        @param text: such as C{100/m}.
        @raise BadArgument: it is no rate.
        """
        found = _RATE.fullmatch(text)
        if not found:
            raise BadArgument("rate", f"{text!r} is no rate, such as 10/s, 100/m, 2000/h or 5000/d")
        return cls(int(found[1]), found[2])

    @property
    def per_s(self) -> int:
        """The unit's length, in seconds."""
        return duration.UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"


class ReactionKind(enum.Enum):
    """What is done about a destination."""

    SUSPEND = "suspend"
    SLOW = "slow"


@frozen
class Reaction:
    """
    What a reply causes: C{suspend 30m}, nothing goes to that destination for
    half an hour; C{slow 10/m 2h}, at most ten messages a minute for two hours.

    @ivar rate: C{None} for suspend.
    """

    kind: ReactionKind
    duration_s: int
    rate: Rate | None

    @classmethod
    def parse(cls, text: str) -> Reaction:
        """
        @raise BadArgument: it is neither.
        """
        match text.split():
            case ["suspend", length]:
                return cls(ReactionKind.SUSPEND, _length(length), None)
            case ["slow", rate, length]:
                return cls(ReactionKind.SLOW, _length(length), Rate.parse(rate))
        raise BadArgument("action", f"{text!r} is neither 'suspend DURATION' nor 'slow RATE DURATION'")

    def __str__(self) -> str:
        words = (self.kind.value, self.rate, duration.written(self.duration_s))
        return " ".join(str(word) for word in words if word is not None)


def _length(text: str) -> int:
    return duration.parse("action", text, most_s=MAX_REACTION_S)
