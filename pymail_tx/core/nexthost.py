"""
What hosts, one after the other, made of the recipients of one delivery: who is
done, who goes on to the next host, and what is told when there is none left.

The rules of the house:

  1. Delivered is delivered. A 5yz about a recipient or the message is the
     domain's word, whichever of its hosts says it (RFC 5321 §4.2.1).
  2. What may have been delivered is not tried at the next host: it could arrive
     twice within seconds. It waits, and is tried again as always.
  3. Whoever is deferred otherwise goes on to the next host.
  4. So does whoever is refused for what the host is: it takes no mail at all
     (RFC 7504), or lacks what the message must have (RFC 8689 §4.2.1). They
     fail only where every host was like that.
  5. At the end the most telling verdict is reported: a server's reply before a
     policy that was not met, and that before silence; of equals the first one's,
     which comes from the host that the domain prefers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import define, field

from pymail_tx.core.outcome import Outcome, Status

_POLICY = "4.7."
"""Security or policy status (RFC 3463 §3.8)."""


@define
class Tries:
    """
    The hosts tried so far. Recipients go by their index.

    @ivar recipients: how many there are.
    """

    recipients: int
    _done: dict[int, Outcome] = field(factory=dict)
    _heard: dict[int, list[Outcome]] = field(factory=dict)

    @property
    def left(self) -> list[int]:
        """Whom the next host may serve."""
        return [place for place in range(self.recipients) if place not in self._done]

    def heard(self, places: Sequence[int], outcomes: Sequence[Outcome], *, about_host: Collection[int] = ()) -> None:
        """
        A host was tried.

        @param places: the recipients it was tried for.
        @param outcomes: one for each of them.
        @param about_host: whose outcome is about the host and not about them or
            the message, by the index in C{outcomes}.
        """
        for index, (place, outcome) in enumerate(zip(places, outcomes, strict=True)):
            if _is_final(outcome) and index not in about_host:
                self._done[place] = outcome
            else:
                self._heard.setdefault(place, []).append(outcome)

    def outcomes(self) -> tuple[Outcome, ...]:
        """One for each recipient, in order. At least one host was tried."""
        return tuple(
            self._done[place] if place in self._done else min(self._heard[place], key=_rank)
            for place in range(self.recipients)
        )


def _is_final(outcome: Outcome) -> bool:
    return outcome.uncertain or outcome.status is not Status.DEFERRED


def _rank(outcome: Outcome) -> int:
    """Lower tells more. What is failed here is so for what the host is, and counts if there is nothing else."""
    if outcome.status is Status.FAILED:
        return 3
    if outcome.reply is not None:
        return 0
    return 1 if outcome.reason.startswith(_POLICY) else 2
