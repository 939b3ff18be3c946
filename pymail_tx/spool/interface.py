"""
What a spool promises, whichever database stands behind it.

A spool keeps messages (an envelope and its content) and one delivery for each
recipient. A delivery waits, is claimed for an attempt, and ends delivered or
failed; states only move forward, a deferred attempt back to waiting is the one
exception::

    accept --> waiting --claim--> claimed --record--> delivered | failed
                  ^                  |
                  +--record deferred-+   (also release: the attempt was interrupted;
                                          and give_back: it never began)

The promises:

  1. L{Spool.accept} fires after the commit that made the message durable.
     Whoever says 250 says it then.
  2. L{Spool.claim} stores the attempt and the time of the next one before it
     hands a delivery out. A crash costs a delay, never a storm of retries.
  3. L{Spool.record} writes states, next times, events and bounces of one
     attempt in one transaction: a bounce is there exactly if its cause is.
  4. A claim carries the epoch of the process that made it. What an earlier
     process left claimed, L{Spool.release} gives back when the next one
     starts. L{Spool.record} and L{Spool.give_back} pass over deliveries that
     are not claimed in this epoch: to repeat them changes nothing.

Each delivery remembers its lane: the name of the courier that it last went to,
C{""} at first. A lane is a hint. While a courier has all it can take, its lane
is named busy, and what waits there does not stand in the way of the rest.

Times are seconds since the epoch, as C{time.time} gives them; the clock is the
caller's. Every method returns a Deferred that fires in the caller's thread and
fails with L{SpoolError}: the spool itself is broken (disk, lock, file), nothing
of that call was stored, and the caller may try again. The Deferreds cannot be
cancelled: work in a database is done or not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome

FIRST_INTERRUPTION_S = 10
"""Soon enough for mail that a restart held up, and a breath for whatever ended the process."""

LONGEST_INTERRUPTION_S = 3_600
"""A message that takes the relay down each time does so once an hour, not in a loop, and is still noticed."""


class SpoolError(Exception):
    """The spool cannot be opened, read or written; the text says which file, and what to do."""


@frozen(kw_only=True)
class NewMessage:
    """
    A message to accept.

    @ivar sender: the reverse-path's mailbox, C{""} for a bounce.
    @ivar recipients: forward-paths' mailboxes, at least one.
    @ivar content: as it came, lines ending in CRLF, dots not doubled.
    @raise BadArgument: an address is none, or there is no recipient.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=lambda content: f"<{len(content)} octets>")

    def __attrs_post_init__(self) -> None:
        Envelope(self.sender, self.recipients)  # what could never be sent is never stored


@frozen(kw_only=True)
class Due:
    """
    One message's deliveries, claimed for one attempt.

    @ivar message_id: the spool's number of the message.
    @ivar envelope: the sender and those recipients that are due.
    @ivar delivery_ids: the spool's number of each recipient's delivery, in the
        envelope's order.
    @ivar attempts: for each delivery which attempt this is, the first being 1.
    @ivar due_at: when the earliest of them was due.
    @ivar accepted_at: when the message was accepted.
    """

    message_id: int
    envelope: Envelope
    delivery_ids: tuple[int, ...]
    attempts: tuple[int, ...]
    due_at: float
    accepted_at: float
    content: bytes = field(repr=lambda content: f"<{len(content)} octets>")


@frozen(kw_only=True)
class Result:
    """
    How one delivery's attempt ended.

    @ivar delivery_id: from L{Due.delivery_ids}.
    @ivar outcome: the agent's word.
    @ivar next_attempt_at: for a deferred outcome when to try again; C{None}
        ends the delivery: as delivered or failed, or, deferred with the retry
        plan at its end, as failed.
    """

    delivery_id: int
    outcome: Outcome
    next_attempt_at: float | None


class Acceptor(Protocol):
    """What the relay's SMTP server needs of a spool."""

    def accept(self, message: NewMessage, *, now: float) -> Deferred[int]:
        """Store a message, due at once. Fires with its number."""
        ...


class Spool(Acceptor, Protocol):
    """See the module's head for what each method promises."""

    def claim(self, *, now: float, limit: int, max_octets: int, busy: Collection[str] = ()) -> Deferred[Sequence[Due]]:
        """
        Claim what is due at C{now}, earliest first, none of it in a lane that
        is C{busy}: C{limit} messages at most, and C{max_octets} of content, but
        one message in any case. Fewer than C{limit} may come while more is due;
        none comes only if nothing is.
        """
        ...

    def record(
        self, results: Sequence[Result], *, now: float, lane: str = "", bounce: NewMessage | None = None
    ) -> Deferred[None]:
        """
        Store how an attempt ended, and the bounce it caused, in one
        transaction. Deferred deliveries wait in C{lane}.
        """
        ...

    def give_back(self, due: Due, *, lane: str) -> Deferred[None]:
        """Undo the claim of an attempt that never began: due as before, in C{lane}."""
        ...

    def release(self, *, now: float) -> Deferred[int]:
        """
        Give back every claim: deliveries whose attempt was interrupted are due
        L{FIRST_INTERRUPTION_S} from C{now}, doubling with each interruption in
        a row up to L{LONGEST_INTERRUPTION_S}. The attempt does not count: the
        retry plan is for what the world does, not for what we do. Fires with how
        many there were.
        """
        ...

    def next_due_at(self, *, busy: Collection[str] = ()) -> Deferred[float | None]:
        """When the earliest delivery that waits in no C{busy} lane is due; C{None} if there is none."""
        ...

    def close(self) -> Deferred[None]:
        """Finish what was handed in and close the files."""
        ...
