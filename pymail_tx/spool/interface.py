"""
What a spool promises, whichever database stands behind it.

A spool keeps messages (an envelope and its content) and one delivery for each
recipient. A delivery waits, is claimed for an attempt, and ends; states only
move forward, but for what goes back to waiting::

    accept --> waiting --claim--> claimed --record--> delivered | failed
                ^  ^                 |
                |  +-record deferred-+   (also release: the attempt was interrupted;
                |                         and give_back: it never began)
                +--> held                by an operator, and back; from waiting and held
                                         also to cancelled (spool.administration)

The promises:

  1. L{Spool.accept} fires after the commit that made the message durable.
     Whoever says 250 says it then. L{Spool.accept_and_claim} does the same and
     claims the message in that commit, for it to go out from memory.
  2. A claim stores the attempt and the time of the next one before it hands a
     delivery out. A crash costs a delay, never a storm of retries.
  3. L{Spool.record} writes states, next times, events and notices of one
     attempt in one transaction: a bounce is there exactly if its cause is.
  4. A claim names its owner, the relay's name, and the epoch: each opening of
     the spool by a relay has a number of its own, larger than any before.
     L{Spool.record} and L{Spool.give_back} do nothing for a delivery that is
     not claimed under this owner and epoch: to repeat them changes nothing, and
     whoever lost a claim cannot undo what its new owner did. A spool shared by
     relays takes the claims of one that has vanished, and a relay that comes
     back from that goes on under a new epoch. A spool of one relay gives back
     at its start what an earlier process left claimed: L{Spool.release}.
  5. A message handed in under a key is accepted once, see L{IdempotencyKey}.
  6. A finished message is removed. What became of it is kept for
     L{HISTORY_S}, and of the last L{MAX_HISTORY} attempts at most.
  7. Content larger than L{PART_OCTETS} goes in and comes out in parts: no call
     holds more than a few of them in memory. What of it belongs to no message
     when a process ends is removed at the next opening.

Each delivery remembers its lane: a name that the scheduler gives it, such as
that of the courier that it last went to, C{""} at first. A lane is a hint.
While there is no room for what goes there, its lane is named busy, and what
waits in it does not stand in the way of the rest.

Times are seconds since the epoch, as C{time.time} gives them; the clock is the
caller's. Every method returns a Deferred that fires in the caller's thread and
fails with L{SpoolError}: the spool itself is broken (disk, lock, file), nothing
of that call was stored, and the caller may try again. L{SpoolLost} alone leaves
no such hope. The Deferreds cannot be cancelled: work in a database is done or
not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import BinaryIO, Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred

from pymail_tx.core.envelope import Envelope
from pymail_tx.core.errors import BadArgument
from pymail_tx.core.outcome import Outcome

FIRST_INTERRUPTION_S = 10
"""Soon enough for mail that a restart held up, and a breath for whatever ended the process."""

LONGEST_INTERRUPTION_S = 3_600
"""A message that takes the relay down each time does so once an hour, not in a loop, and is still noticed."""

PART_OCTETS = 65_536
"""Of content in one piece. Most mail is smaller and stays whole; a larger message is in memory a part at a time."""

KEY_LIFE_S = 86_400
"""Of a key behind the end of its message: whoever repeats a hand-in that he is not sure of does so within a day."""

MAX_KEY_CHARACTERS = 255
"""Of a key. Longer ones are no tokens; hash them."""

HISTORY_S = 7 * 86_400
"""How long one can ask what became of a message that is gone: until people miss an answer."""

MAX_HISTORY = 100_000
"""Attempts of messages that are gone: some 30 MB, and within a day's mail of a small company."""


class SpoolError(Exception):
    """The spool cannot be opened, read or written; the text says which file, and what to do."""


class SpoolLost(SpoolError):
    """
    What was written may not be on the disk, and nobody can know: the system
    reported that it failed to bring it there. To ask it again would be answered
    well, and wrongly (https://wiki.postgresql.org/wiki/Fsync_Errors), so the
    spool does nothing any more. The process has to end; the next one reads what
    the disk really holds.
    """


class KeyTaken(Exception):
    """Under this key something else was handed in; that is the caller's mistake, and the new message is refused."""


@frozen(kw_only=True)
class IdempotencyKey:
    """
    What makes a repeated hand-in the same message.

    Under the same key by the same submitter, the same sender, recipients and
    content are the message that was accepted before: L{Spool.accept} fires with
    its number and stores nothing. Anything else is refused with L{KeyTaken}. A
    key lives as long as its message and L{KEY_LIFE_S} more.

    @ivar text: the key as given, at most L{MAX_KEY_CHARACTERS}.
    @ivar digest: of the content as it was handed in, such as SHA-256's: trace
        lines that we add differ each time, and are no part of it.
    @raise BadArgument: the key is empty or too long.
    """

    text: str
    digest: bytes

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.text) <= MAX_KEY_CHARACTERS:
            raise BadArgument("key", f"1 to {MAX_KEY_CHARACTERS} characters are wanted, there are {len(self.text)}")


class ContentWriter(Protocol):
    """
    Content on its way into the spool. It ends with the message that takes it,
    L{NewMessage.content}, or with L{abandon}.
    """

    @property
    def size_bytes(self) -> int:
        """How much was written."""
        ...

    def write(self, block: bytes) -> Deferred[None]:
        """
        Add to the content. Fires when the next block may come: write no other
        before, and what is held in memory is less than L{PART_OCTETS} and a
        block. Fails with L{SpoolError}; then abandon it.
        """
        ...

    def abandon(self) -> None:
        """It will be no message. Nothing happens if it is one already, or abandoned."""
        ...


class StoredContent(Protocol):
    """Content that is larger than a part, to be read from the spool."""

    @property
    def size_bytes(self) -> int:
        """Its length."""
        ...

    def open(self) -> BinaryIO:
        """
        The content as a file, which can be sought and must be closed. It may be
        read in any thread, by one at a time, and holds a part or two in memory.

        @raise OSError: it cannot be read; so do the file's methods.
        """
        ...


@frozen(kw_only=True)
class NewMessage:
    """
    A message to accept.

    @ivar envelope: all of it is kept.
    @ivar content: as it came, lines ending in CRLF, dots not doubled; or the
        writer that took it, from the same spool.
    @ivar submitter: who hands it in, such as C{"user:ann"} or
        C{"192.0.2.1"}; C{""} for the relay itself. Keys are his own.
    @ivar key: see L{IdempotencyKey}.
    """

    envelope: Envelope
    content: bytes | ContentWriter = field(repr=lambda content: f"<{content_octets(content)} octets>")
    submitter: str = ""
    key: IdempotencyKey | None = None


@frozen(kw_only=True)
class Delivery:
    """
    One delivery that is claimed.

    @ivar id: the spool's number of it.
    @ivar attempt: which attempt this is, the first being 1.
    @ivar warned: whether its sender was told of a delay, see L{Result.warned}.
    @ivar target: where an operator wants it to go instead of its route's
        target, as L{Target.parse <pymail_tx.core.routes.Target.parse>} reads it.
    @ivar returned: why an operator wants it to go back to the sender, with no
        attempt made; C{""} if nobody does.
    """

    id: int
    attempt: int = 1
    warned: bool = False
    target: str = ""
    returned: str = ""


@frozen(kw_only=True)
class Due:
    """
    One message's deliveries, claimed for one attempt.

    @ivar message_id: the spool's number of the message.
    @ivar envelope: as it was accepted, but only with those recipients that are
        due.
    @ivar deliveries: one for each recipient, in the envelope's order.
    @ivar due_at: when the earliest of them was due.
    @ivar accepted_at: when the message was accepted.
    @ivar content: octets if it is one part, else to be read from the spool.
    """

    message_id: int
    envelope: Envelope
    deliveries: tuple[Delivery, ...]
    due_at: float
    accepted_at: float
    content: bytes | StoredContent = field(repr=lambda content: f"<{content_octets(content)} octets>")
    submitter: str = ""

    @property
    def held_octets(self) -> int:
        """What its content takes in memory: of one that is read from the spool, a part."""
        return min(content_octets(self.content), PART_OCTETS)


def content_octets(content: bytes | ContentWriter | StoredContent) -> int:
    """How long it is, in whichever form."""
    return len(content) if isinstance(content, bytes) else content.size_bytes


@frozen(kw_only=True)
class Accepted:
    """
    @ivar message_id: the spool's number of the message.
    @ivar due: the message, claimed. C{None} if it was accepted before, under
        the same key: then somebody has seen to it.
    """

    message_id: int
    due: Due | None


@frozen(kw_only=True)
class Result:
    """
    How one delivery's attempt ended.

    @ivar delivery_id: L{Delivery.id}.
    @ivar outcome: the agent's word.
    @ivar next_attempt_at: for a deferred outcome when to try again; C{None}
        ends the delivery: as delivered or failed, or, deferred with the retry
        plan at its end, as failed.
    @ivar warned: the sender is told of the delay now, by a notice recorded
        with this; L{Delivery.warned} says so from now on.
    """

    delivery_id: int
    outcome: Outcome
    next_attempt_at: float | None
    warned: bool = False


class Acceptor(Protocol):
    """What those need who hand messages in."""

    def begin_content(self) -> ContentWriter:
        """A writer for content that may be larger than L{PART_OCTETS}. Nothing is stored yet."""
        ...

    def accept(self, message: NewMessage, *, now: float) -> Deferred[int]:
        """
        Store a message, due at once. Fires with its number. Fails with
        L{KeyTaken} too; a writer is left as it was by any failure, to be tried
        again or abandoned.
        """
        ...


class Spool(Acceptor, Protocol):
    """See the module's head for what each method promises."""

    def accept(self, message: NewMessage, *, now: float, lanes: Sequence[str] = ()) -> Deferred[int]:
        """
        See L{Acceptor.accept}.

        @param lanes: one for each recipient, for its delivery to wait in.
        """
        ...

    def accept_and_claim(self, message: NewMessage, *, now: float, lanes: Sequence[str] = ()) -> Deferred[Accepted]:
        """
        L{Acceptor.accept} and a first L{claim} of that message in one commit:
        it is handed out as it came in, without being read again. Claim only
        what there is room for.

        @param lanes: see L{accept}; to wait in if it is released.
        """
        ...

    def claim(self, *, now: float, limit: int, max_octets: int, busy: Collection[str] = ()) -> Deferred[Sequence[Due]]:
        """
        Claim what is due at C{now}, earliest first, none of it in a lane that
        is C{busy}: C{limit} messages at most, and C{max_octets} of content in
        memory (L{Due.held_octets}), but one message in any case. Fewer than
        C{limit} may come while more is due; none comes only if nothing is.
        """
        ...

    def record(
        self, results: Sequence[Result], *, now: float, lane: str = "", notices: Sequence[NewMessage] = ()
    ) -> Deferred[None]:
        """
        Store how an attempt ended, and what is to be told of it (bounces,
        reports, warnings: messages like others), in one transaction. Deferred
        deliveries wait in C{lane}. Where no delivery is claimed by us any more
        there are no notices either.
        """
        ...

    def give_back(self, due: Due, *, now: float, lane: str) -> Deferred[None]:
        """Undo the claim of an attempt that never began: due as before, in C{lane}."""
        ...

    def release(self, *, now: float) -> Deferred[int]:
        """
        Give back every claim of this relay, of earlier epochs too, and of
        relays that are gone; to be called while nothing is under way.
        Deliveries whose attempt was interrupted are due
        L{FIRST_INTERRUPTION_S} from C{now}, doubling with each interruption in
        a row up to L{LONGEST_INTERRUPTION_S}. The attempt does not count: the
        retry plan is for what the world does, not for what we do. Fires with how
        many there were.
        """
        ...

    def next_due_at(self, *, busy: Collection[str] = ()) -> Deferred[float | None]:
        """
        When the earliest delivery that waits in no C{busy} lane is due; C{None}
        if there is none. An operator may change that at any time, from another
        process: ask every few seconds.
        """
        ...

    def close(self) -> Deferred[None]:
        """Finish what was handed in and close the files."""
        ...
