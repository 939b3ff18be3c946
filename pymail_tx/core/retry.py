"""
When to try again: the retry plan, in the notation C{4*30m 22*1h 4*1d}.

Each step says how often to wait and how long: after each of the first four
failed attempts half an hour, after the next 22 an hour, then four times a day.
When the steps are used up the plan is at its end, and the message goes back.
RFC 5321 §4.5.4.1 asks for at least 30 minutes between attempts at the same
host as a rule, and for 4 to 5 days before giving up.
"""

from __future__ import annotations

import re
from datetime import timedelta

from attrs import frozen

from pymail_tx.core.duration import UNITS
from pymail_tx.core.errors import BadArgument

MAX_ATTEMPTS = 1_000
"""Of a plan. Each leaves an event in the spool; RFC 5321's own rule needs about 240."""

MAX_DELAY_S = 30 * 86_400
"""Of one step. Nobody still waits for an answer to a message that rests longer."""

_STEP = re.compile(r"([0-9]{1,9})\*([0-9]{1,9})([smhd])\Z")


@frozen
class Step:
    """
    @ivar times: how many delays of this length follow each other.
    @ivar amount: the length in C{unit}s.
    @ivar unit: a key of the notation: s, m, h or d.
    """

    times: int
    amount: int
    unit: str

    @property
    def delay_s(self) -> int:
        """One delay of the step."""
        return self.amount * UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.times}*{self.amount}{self.unit}"


@frozen
class RetryPlan:
    """
    @ivar steps: in order; see the module's head.
    """

    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> RetryPlan:
        """
        Read the notation: steps of C{TIMES*AMOUNT} and a unit (s, m, h, d),
        with spaces between them.

        @raise BadArgument: it is something else, or beyond a limit.
        """
        steps = tuple(_step(word) for word in text.split())
        if not steps:
            raise BadArgument("retry plan", f"{text!r} has no step; write something like {str(DEFAULT_PLAN)!r}")
        if sum(step.times for step in steps) > MAX_ATTEMPTS:
            raise BadArgument("retry plan", f"{text!r} has more than {MAX_ATTEMPTS} attempts")
        return cls(steps)

    def delay_after(self, attempt: int) -> float | None:
        """
        How long to wait once the C{attempt}-th attempt failed, the first being 1.

        @return: seconds; C{None} when the plan is at its end.
        """
        left = attempt
        for step in self.steps:
            if left <= step.times:
                return step.delay_s
            left -= step.times
        return None

    def __str__(self) -> str:
        return " ".join(str(step) for step in self.steps)


DEFAULT_PLAN = RetryPlan((Step(4, 30, "m"), Step(22, 1, "h"), Step(4, 1, "d")))
"""Five days in all: often on the first day, when most troubles end, then daily."""


def _step(word: str) -> Step:
    found = _STEP.match(word)
    if not found:
        raise BadArgument("retry plan", f"{word!r} is no step; write one like '4*30m', with s, m, h or d")
    step = Step(int(found[1]), int(found[2]), found[3])
    if not step.times or not step.amount:
        raise BadArgument("retry plan", f"{word!r} does nothing; both numbers are at least 1")
    if step.delay_s > MAX_DELAY_S:
        raise BadArgument("retry plan", f"{word!r} waits longer than {timedelta(seconds=MAX_DELAY_S).days} days")
    return step


_LENGTHS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def in_words(seconds: float) -> str:
    """A length of time for people, by its largest fitting unit: C{5 days}."""
    for length, name in _LENGTHS:
        count = int(seconds // length)
        if count:
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return "0 seconds"
