"""
What an operator may ask of a spool, and do to what is in it.

It works beside a running relay, from another process or from the relay's own.
A delivery that waits is changed at once. One whose attempt is under way is not
disturbed: what is wanted of it is noted, and done if the attempt ends deferred
or is interrupted. A relay sees changes when it next asks the spool.

What an action does, from which states::

    retry    waiting                  due now
    hold     waiting                  held: stays until it is released
    release  held                     waiting, due now
    cancel   waiting, held            cancelled: gone, and nobody is told
    bounce   waiting, held            waiting, due now, to go back to the sender
    route    waiting, held            to another target from now on

The actions work through a selection in slices, one transaction each, so that a
relay is never kept waiting long; what is accepted meanwhile may be missed.

Errors and times are as in L{pymail_tx.spool.interface}.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen
from attrs.converters import optional
from twisted.internet.defer import Deferred

from pymail_tx.core.envelope import Envelope

DEFAULT_LIMIT = 100
"""Rows that a person looks through."""


class State(enum.Enum):
    """Of a delivery."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    HELD = "held"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Action(enum.Enum):
    """What an operator can do; see the module's head."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    CANCEL = "cancel"
    BOUNCE = "bounce"
    ROUTE = "route"


@frozen(kw_only=True)
class Selection:
    """
    Which deliveries. What is C{None} does not matter; all that is given must
    hold.

    @ivar message_ids: of these messages.
    @ivar domain: to recipients of this domain, in A-labels; case does not
        matter.
    @ivar state: in this state.
    @ivar accepted_before: of messages accepted before this time.
    @ivar lane: that wait in this lane.
    """

    message_ids: tuple[int, ...] | None = None
    domain: str | None = None
    state: State | None = None
    accepted_before: float | None = None
    lane: str | None = None


@frozen(kw_only=True)
class Entry:
    """
    One delivery as an operator sees it.

    @ivar due_at: when it is tried next, unless it is held; while claimed,
        when it would be tried if this attempt is interrupted; C{None} once it
        has ended.
    @ivar attempt: how many were made, the one under way included.
    @ivar why: the last attempt's reason, C{""} before any.
    @ivar target: where an operator routed it, C{""} if nobody did.
    @ivar wish: what is still to be done about it.
    @ivar owner: the relay that has it under way, C{""} if none.
    """

    message_id: int
    delivery_id: int
    sender: str
    recipient: str
    state: State = field(converter=State)
    accepted_at: float
    due_at: float | None
    attempt: int
    lane: str
    why: str
    target: str
    wish: Action | None = field(converter=optional(Action))
    owner: str
    size_bytes: int


@frozen(kw_only=True)
class Event:
    """
    Something that happened to a delivery.

    @ivar what: C{"delivered"}, C{"deferred"}, C{"failed"}, or what an operator
        did: C{"held"}, C{"released"}, C{"retried"}, C{"cancelled"},
        C{"returned"}, C{"routed"}.
    @ivar attempt: how many were made by then.
    @ivar host: whom the attempt ended with, C{None} if nobody was reached.
    @ivar tls: in words, such as C{"TLSv1.3, verified"}; C{""} for plain text.
    @ivar words: the outcome's reason, or the operator's.
    @ivar uncertain: it may have been delivered all the same.
    """

    at: float
    recipient: str
    what: str
    attempt: int
    host: str | None
    port: int | None
    tls: str
    words: str
    uncertain: bool = field(converter=bool)


@frozen(kw_only=True)
class Shown:
    """
    A message in all detail.

    @ivar envelope: with all its recipients; C{None} for a message that is gone
        and of which only events are left.
    @ivar entries: one for each recipient.
    @ivar events: in order of time.
    """

    message_id: int
    envelope: Envelope | None
    submitter: str
    entries: tuple[Entry, ...]
    events: tuple[Event, ...]


@frozen(kw_only=True)
class Destination:
    """
    What waits for one domain.

    @ivar waiting: deliveries waiting or under way.
    @ivar held: deliveries held by an operator.
    @ivar oldest_at: when the oldest of them was accepted.
    @ivar next_due_at: when the next of those that wait is tried.
    @ivar why: the last reason of the one that was tried most often.
    """

    domain: str
    waiting: int = field(converter=int)
    held: int = field(converter=int)
    oldest_at: float
    next_due_at: float | None
    why: str


@frozen(kw_only=True)
class Changed:
    """
    @ivar done: deliveries that were changed.
    @ivar under_way: deliveries whose attempt is under way, and that follow.
    """

    done: int = 0
    under_way: int = 0


class Administration(Protocol):
    """See the module's head."""

    def entries(self, selection: Selection, *, limit: int = DEFAULT_LIMIT, after: int = 0) -> Deferred[Sequence[Entry]]:
        """
        The selected deliveries in the order in which they were accepted.

        @param after: L{Entry.delivery_id} of the last one seen, for the next page.
        """
        ...

    def show(self, message_id: int) -> Deferred[Shown | None]:
        """One message; C{None} if nothing is known of it, any more or at all."""
        ...

    def destinations(self, *, limit: int = DEFAULT_LIMIT) -> Deferred[Sequence[Destination]]:
        """Where mail waits for, the domain with the most first."""
        ...

    def apply(self, action: Action, selection: Selection, *, now: float, words: str = "") -> Deferred[Changed]:
        """
        Do something to the selected deliveries.

        @param words: for C{BOUNCE}, why, which the sender is told; for
            C{ROUTE}, the target, C{""} to follow the routes again.
        """
        ...

    def close(self) -> Deferred[None]:
        """Close the files."""
        ...
