"""
What a spool promises, whichever database stands behind it.

A spool keeps messages (an envelope and its content) and one delivery for each
recipient. A delivery waits, is claimed for an attempt, and ends delivered or
failed; states only move forward, a deferred attempt back to waiting is the one
exception:

    accept --> waiting --claim--> claimed --record--> delivered | failed
                  ^                  |
                  +--record deferred-+   (and release: the attempt was interrupted)

The promises:

  1. L{Spool.accept} fires after the commit that made the message durable.
     Whoever says 250 says it then.
  2. L{Spool.claim} stores the attempt and the time of the next one before it
     hands a delivery out. A crash costs a delay, never a storm of retries.
  3. L{Spool.record} writes states, next times, events and bounces of one
     attempt in one transaction: a bounce is there exactly if its cause is.
  4. A claim carries the epoch of the process that made it. What an earlier
     process left claimed, L{Spool.release} gives back when the next one
     starts.

Times are seconds since the epoch, as C{time.time} gives them; the clock is the
caller's. Every method returns a Deferred that fires in the caller's thread and
fails with L{SpoolError}: the spool itself is broken (disk, lock, file), nothing
of that call was stored, and the caller may try again. The Deferreds cannot be
cancelled: work in a database is done or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.outcome import Outcome


class SpoolError(Exception):
    """The spool cannot be opened, read or written; the text says which file, and what to do."""


@frozen(kw_only=True)
class NewMessage:
    """
    A message to accept.

    @ivar sender: the reverse-path's mailbox, C{""} for a bounce.
    @ivar recipients: forward-paths' mailboxes, at least one.
    @ivar content: as it came, lines ending in CRLF, dots not doubled.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=lambda content: f"<{len(content)} octets>")


@frozen(kw_only=True)
class Due:
    """
    One message's deliveries, claimed for one attempt.

    @ivar message_id: the spool's number of the message.
    @ivar envelope: the sender and those recipients that are due.
    @ivar delivery_ids: the spool's number of each recipient's delivery, in the
        envelope's order.
    @ivar attempt: 1 for the first; the largest among the deliveries.
    @ivar accepted_at: when the message was accepted.
    """

    message_id: int
    envelope: Envelope
    delivery_ids: tuple[int, ...]
    attempt: int
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


class Spool(Protocol):
    """See the module's head for what each method promises."""

    def accept(self, message: NewMessage, *, now: float) -> Deferred[int]:
        """Store a message, due at once. Fires with its number."""
        ...

    def claim(self, *, now: float, limit: int, exclude: Sequence[int] = ()) -> Deferred[Sequence[Due]]:
        """
        Claim what is due at C{now}, earliest first, C{limit} messages at most,
        none of the messages in C{exclude}.
        """
        ...

    def record(
        self, results: Sequence[Result], *, now: float, bounce: NewMessage | None = None
    ) -> Deferred[None]:
        """Store how an attempt ended, and the bounce it caused, in one transaction."""
        ...

    def release(self, *, now: float) -> Deferred[int]:
        """
        Give back every claim: deliveries whose attempt was interrupted are due
        10 s from C{now}, doubling with each interrupted attempt. Fires with
        how many there were.
        """
        ...

    def next_due_at(self) -> Deferred[float | None]:
        """When the earliest waiting delivery is due; C{None} if none waits."""
        ...

    def close(self) -> Deferred[None]:
        """Finish what was handed in and close the files."""
        ...
