"""
Which connection sends which message, and when to open or close one.

A L{Pool} decides and does nothing: it is told what happened, and L{Pool.decide}
says what is to be done about it. It knows connections and messages only as
names, whatever they are to its owner.

The rules of the house:

  1. Messages are served in the order in which they came.
  2. A message goes to a connection that is idle, the one used last, so that
     the others can grow old; else to a new one; else it waits.
  3. A connection that is sending may take further messages behind its present
     one, as long as its own limit and the rate allow.
  4. When no connection comes about, and none is left that could serve them,
     all waiting messages hear of it. As long as one is left, they wait for it,
     and no further one is tried before it is done: the server may be telling
     us that it has enough of us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from attrs import define, field, frozen

from pymail_tx.core.errors import BadArgument

C = TypeVar("C", bound=Hashable)
M = TypeVar("M", bound=Hashable)


MAX_CONNECTIONS = 10
"""To one server. As receivers, Postfix and Exim allow 50 and 20 by default."""

MAX_MESSAGES_PER_CONNECTION = 500
"""As Exim has it. Servers end sessions that never end."""

IDLE_TIMEOUT_S = 30
"""Receivers close after 300 s, busy ones sooner."""


@frozen(kw_only=True)
class Limits:
    """
    @ivar max_connections: at a time, those being opened and those that say
        good-bye included.
    @ivar max_messages_per_connection: then a new one is opened.
    @ivar idle_timeout_s: how long a connection is kept without a message.
    @ivar rate: messages a second over all connections; C{None} for no limit.
    @raise BadArgument: a limit that nothing could pass.
    """

    max_connections: int = MAX_CONNECTIONS
    max_messages_per_connection: int = MAX_MESSAGES_PER_CONNECTION
    idle_timeout_s: float = IDLE_TIMEOUT_S
    rate: float | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("max_connections", "max_messages_per_connection"):
            if getattr(self, name) < 1:
                raise BadArgument(name, "must be 1 or more")
        if self.idle_timeout_s < 0:
            raise BadArgument("idle_timeout_s", "must not be negative")
        if self.rate is not None and self.rate <= 0:
            raise BadArgument("rate", "must be more than 0, or None for no limit")


@frozen
class Decisions(Generic[C, M]):
    """
    What is to be done.

    @ivar use: a message for each of these idle connections.
    @ivar open: how many connections to open.
    @ivar close: connections to say good-bye to.
    @ivar look_again_s: when to decide anew if nothing happens; C{None}: never.
    """

    use: tuple[tuple[C, M], ...] = ()
    open: int = 0
    close: tuple[C, ...] = ()
    look_again_s: float | None = None


@define
class _Use:
    """One connection: messages it was given, and since when it has none."""

    messages: int = 0
    idle_since_s: float = 0.0


@define
class Pool(Generic[C, M]):
    """See the module's head. Times are seconds of one clock, the owner's."""

    limits: Limits
    _waiting: deque[M] = field(factory=deque)
    _connections: dict[C, _Use] = field(factory=dict)
    _idle: dict[C, _Use] = field(factory=dict)  # of these, the one used last at the end
    _worn_out: list[C] = field(factory=list)
    _leaving: set[C] = field(factory=set)
    _opening: int = 0
    _held_back: bool = False
    _next_start_s: float = float("-inf")

    # What happened

    def submit(self, message: M) -> bool:
        """
        A message is to be sent.

        @return: whether there may be something to decide; else it waits for a
            connection that sends.
        """
        self._waiting.append(message)
        return bool(self._idle) or self._room > 0

    def resubmit(self, message: M) -> None:
        """A message came back untouched; it is the next again."""
        self._waiting.appendleft(message)

    def withdraw(self, message: M) -> bool:
        """
        A message is not to be sent after all.

        @return: whether it was waiting; if not, a connection has it.
        """
        if message not in self._waiting:
            return False
        self._waiting.remove(message)
        return True

    def opened(self, connection: C, now_s: float) -> None:
        """One of the connections being opened is there."""
        self._opening -= 1
        self._held_back = False
        self._idle[connection] = self._connections[connection] = _Use(idle_since_s=now_s)

    def not_opened(self) -> tuple[M, ...]:
        """
        One of the connections being opened did not come about.

        @return: messages that cannot be served now; they wait no longer.
        """
        self._opening -= 1
        self._held_back = bool(self._connections or self._opening)
        if self._held_back:
            return ()
        unserved = tuple(self._waiting)
        self._waiting.clear()
        return unserved

    def free(self, connection: C, now_s: float, *, reusable: bool = True) -> None:
        """A connection is done with its messages, and may not be good for further ones."""
        use = self._connections.get(connection)
        if use and reusable and use.messages < self.limits.max_messages_per_connection:
            use.idle_since_s = now_s
            self._idle[connection] = use
        elif use:
            self._worn_out.append(connection)

    def gone(self, connection: C) -> None:
        """A connection is lost, or not to be used again, or its good-bye is said."""
        self._leaving.discard(connection)
        self._idle.pop(connection, None)
        if connection in self._worn_out:
            self._worn_out.remove(connection)
        if self._connections.pop(connection, None):
            self._held_back = False

    def abandoned(self) -> None:
        """One of the connections being opened is not wanted any more."""
        self._opening -= 1

    # What to do

    def take(self, connection: C, now_s: float) -> M | None:
        """
        The next message for a connection that is sending and has room behind
        its present one; C{None} if there is none for it now. For each
        connection that is being opened one is left.
        """
        use = self._connections.get(connection)
        if (
            use is None
            or len(self._waiting) <= self._opening
            or use.messages >= self.limits.max_messages_per_connection
        ):
            return None
        if self._pause_s(now_s) > 0:
            return None
        return self._start(use, now_s)

    def decide(self, now_s: float) -> Decisions[C, M]:
        """What to do now. It is taken for done: do it."""
        use = tuple(self._assign(now_s))
        close = (*self._worn_out, *self._outlived(now_s))
        for connection in close:
            del self._connections[connection]
            self._idle.pop(connection, None)
        self._worn_out.clear()
        self._leaving.update(close)
        if not (self._connections or self._opening):
            self._held_back = False
        opened = 0 if self._pause_s(now_s) > 0 else self._wanted()
        self._opening += opened
        return Decisions(use, opened, close, self._look_again_s(now_s))

    @property
    def connections(self) -> tuple[C, ...]:
        """All that are open."""
        return tuple(self._connections)

    @property
    def first(self) -> M | None:
        """The message that waits longest."""
        return self._waiting[0] if self._waiting else None

    @property
    def surplus(self) -> int:
        """Connections being opened for which no message waits any more."""
        return max(0, self._opening - len(self._waiting))

    @property
    def waiting(self) -> int:
        """Messages that wait."""
        return len(self._waiting)

    @property
    def opening(self) -> int:
        """Connections being opened."""
        return self._opening

    @property
    def idle(self) -> int:
        """Connections without a message."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections that send."""
        return len(self._connections) - self.idle

    def _assign(self, now_s: float) -> Iterator[tuple[C, M]]:
        while self._idle and self._waiting and self._pause_s(now_s) <= 0:
            connection, use = self._idle.popitem()
            yield connection, self._start(use, now_s)

    def _start(self, use: _Use, now_s: float) -> M:
        use.messages += 1
        if self.limits.rate:
            self._next_start_s = max(self._next_start_s, now_s) + 1 / self.limits.rate
        return self._waiting.popleft()

    def _pause_s(self, now_s: float) -> float:
        """What the rate asks to wait before the next message."""
        return self._next_start_s - now_s

    def _outlived(self, now_s: float) -> list[C]:
        return [connection for connection, use in self._idle.items() if self._time_left_s(use, now_s) <= 0]

    def _time_left_s(self, use: _Use, now_s: float) -> float:
        """How long an idle connection is kept."""
        return use.idle_since_s + self.limits.idle_timeout_s - now_s

    def _wanted(self) -> int:
        if self._held_back:
            return 0
        return max(0, min(self._room, len(self._waiting) - self._opening))

    @property
    def _room(self) -> int:
        """For further connections."""
        return self.limits.max_connections - len(self._connections) - len(self._leaving) - self._opening

    def _look_again_s(self, now_s: float) -> float | None:
        times_s = [self._time_left_s(use, now_s) for use in self._idle.values()]
        if self._waiting and self._pause_s(now_s) > 0:
            times_s.append(self._pause_s(now_s))
        soonest_s = min(times_s, default=float("inf"))
        return None if soonest_s == float("inf") else soonest_s
